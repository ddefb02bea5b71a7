"""How fast the book is on this machine: prints medians. Beside other work they say little.

    python tests/browser/measure_book.py            after `python3 lab.py book`

Beside each stands what the page's main thread worked, which other work does not lengthen.
A drag lasts from the mouse's move to the frame with the new sentence and boxes on the screen; a
page is interactive when its last figure has come to life. Each page is opened in a fresh profile.
"""

import shutil
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from live_lab import BROWSERS, FLAGS, Playground  # noqa: E402
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402
from serving import served  # noqa: E402

import lab  # noqa: E402

SITE = lab.ROOT / "build" / "book"
#: The lesson whose playground has all of SSD300's default boxes.
ANCHORS = "03"
OPENED, MOVES = 5, 50

#: Milliseconds from the request for the page to the moment when each of its figures lives.
INTERACTIVE = """() => {
    const all = document.querySelectorAll(".lesson-figure").length;
    const live = document.querySelectorAll(".lesson-figure[data-live]").length;
    return document.readyState !== "loading" && all && all === live ? performance.now() : null;
}"""


class Worked:
    """How long a page's main thread has worked, by its own clock."""

    def __init__(self, page: Page) -> None:
        self.session = page.context.new_cdp_session(page)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def milliseconds(self) -> float:
        found = self.session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in found if one["name"] == "TaskDuration")


class Taken(NamedTuple):
    """Milliseconds that went by, one for each time, and those that the page's thread worked."""

    passed: list[float]
    worked: list[float]


def opened(browser: Browser, address: str) -> tuple[Page, Worked, float]:
    """A page in a fresh profile, its clock, and the milliseconds until it was interactive."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    clock = Worked(page)
    page.goto(address, wait_until="commit")
    return page, clock, page.wait_for_function(INTERACTIVE).json_value()


def interactive(browser: Browser, address: str) -> Taken:
    """`opened`, a few times."""
    taken = Taken([], [])
    for _ in range(OPENED):
        page, clock, milliseconds = opened(browser, address)
        taken.passed.append(milliseconds)
        taken.worked.append(clock.milliseconds())
        page.context.close()
    return taken


def drags(browser: Browser, address: str) -> dict[str, Taken]:
    """The moves of a drag, by the rule that decides whose the anchors are."""
    page, clock, _ = opened(browser, address)
    rule = page.locator(".lesson-figure:has(.box-playground) select").first
    times = {}
    for number, name in enumerate(rule.locator("option").all_text_contents()):
        rule.select_option(index=number)
        before = clock.milliseconds()
        passed = Playground(page.locator(".box-playground")).milliseconds(1, MOVES)
        times[name] = Taken(passed, [(clock.milliseconds() - before) / MOVES])
    page.context.close()
    return times


def main() -> int:
    """Measure, and print a table."""
    if not (SITE / "index.html").exists():
        sys.exit("There is no book in build/book: build it with python3 lab.py book.")
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not chromium:
        sys.exit(f"There is no browser to measure with: install one of {', '.join(BROWSERS)}.")
    stems = {path.name[:2]: path.stem for path in lab.lessons()}
    with served(SITE) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        first = interactive(browser, f"{site}/notebooks/{stems['00']}.html")
        dragged = drags(browser, f"{site}/notebooks/{stems[ANCHORS]}.html")
        browser.close()
    rows = {"lesson 0 interactive": first}
    rows |= {f"drag, {name}, 8,732 anchors": times for name, times in dragged.items()}
    for name, (passed, worked) in rows.items():
        middle, work = statistics.median(passed), statistics.median(worked)
        print(f"{name:45} median of {len(passed)}: {middle:6.1f} ms, of these at work {work:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
