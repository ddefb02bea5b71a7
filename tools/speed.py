"""Speed against torchvision, as the README reports it.

    .venv/bin/python -m benchmarks --busy --out RUN.json       twice, where nothing else runs
    .venv/bin/python tools/speed.py RUN.json OTHER.json        both into results/benchmarks.json
    .venv/bin/python tools/speed.py                            the recorded runs into README.md

The first form with files writes the table into README.md, too. Runs replace those that were there.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from lesson_lib.files import write_whole  # noqa: E402
from tools.marks import put  # noqa: E402

RESULTS, README = ROOT / "results" / "benchmarks.json", ROOT / "README.md"
EQUAL_AP = ROOT / "results" / "equal_ap" / "equal_ap.json"  # as benchmarks/equal_ap.py writes it
MARKS = "<!-- speed: written by tools/speed.py -->", "<!-- end of speed -->"
BUSY = " busy"  # ends the name of a row that was measured beside a busy core


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each row, with the ratio of each run, quiet and beside a busy core.

    runs   as `python -m benchmarks --out` writes them; rows are those of the first
    """
    if not runs:
        return "No run has been recorded yet."
    lines = [
        "| row | of | ours, ms | times faster | beside a busy core | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row in runs[0]["rows"]:
        if not row["name"].endswith(BUSY):
            quiet, busy = (_ratios(runs, row["name"] + end, row["sizes"]) for end in ("", BUSY))
            asked = row["must"]
            shown = " and ".join(f"{x:.2f}" if x >= asked else f"**{x:.2f}**" for x in quiet)
            beside = " and ".join(f"{x:.2f}" if x >= 1 else f"**{x:.2f}**" for x in busy) or "-"
            lines.append(
                f"| {row['name']} | {row['sizes']} | {row['ours_ms']:.1f} | {shown} | {beside} "
                f"| {asked} |"
            )
    machine, dates = runs[0]["hardware"], sorted({run["date"] for run in runs})
    lines += [
        "",
        "How many times faster than torchvision's code for the same result, in one process, in "
        f"{' and in '.join(['one run', 'another'][: len(runs)])}; bold: below what was asked, or "
        f"beside a busy core behind torchvision. {machine}, {' and '.join(dates)}; "
        "`python -m benchmarks`.",
    ]
    return "\n".join(lines)


def _ratios(runs: Sequence[dict[str, Any]], name: str, sizes: str) -> list[float]:
    rows = [row for run in runs for row in run["rows"]]
    return [row["ratio"] for row in rows if (row["name"], row["sizes"]) == (name, sizes)]


def equal_ap(found: dict[str, Any]) -> str:
    """Markdown: how much sooner ours comes to the AP that both come to, seed by seed."""
    seeds = "; ".join(
        f"AP {one['AP']:.2f} after {one['ours_s']:.0f} s and {one['theirs_s']:.0f} s"
        for one in found["seeds"]
    )
    machine = found["runs"][0]["machine"].split(": budget")[0].rstrip(".")
    ratio = f"{found['ratio']:.2f}" if found["holds"] else f"**{found['ratio']:.2f}**"
    return (
        f"**Time to equal AP.** On BCCD's val, from scratch, ours comes {ratio} times sooner than "
        "torchvision's SSD with its reference recipe, on the same backbone, to the highest AP that "
        f"both reach (median of {len(found['seeds'])} seeds; asked: {found['must']}): {seeds}. "
        f"{machine}. Both curves: "
        "[results/equal_ap/equal_ap.svg](results/equal_ap/equal_ap.svg); "
        "`python -m benchmarks.equal_ap`."
    )


def recorded() -> list[dict[str, Any]]:
    """The runs in results/benchmarks.json; none where there is no such file."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def readme(text: str) -> str:
    """The text of README.md with the table of the recorded runs between its marks."""
    parts = [table(recorded())]
    if EQUAL_AP.exists():
        parts += ["", equal_ap(json.loads(EQUAL_AP.read_text(encoding="utf-8")))]
    return put(text, MARKS, "\n".join(parts))


def main(files: Sequence[str]) -> None:
    """Keep the runs in these files, if any, and write the table."""
    if files:
        runs = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
        write_whole(RESULTS, (json.dumps(runs, indent=1) + "\n").encode())
    write_whole(README, readme(README.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
