import json
import math

import pytest

from lesson_lib.course import switches
from lesson_lib.course.switches import BASELINE, SEEDS, SWITCHES, gain, main, missing
from lesson_lib.training.recipes import MODELS, overridden


def record(name: str, seed: int, ap: float) -> dict:
    return {"switch": name, "seed": seed, "AP": ap}


def test_a_gain_is_paired_by_seed_in_points():
    records = [record(BASELINE, s, ap) for s, ap in enumerate((0.10, 0.20, 0.30))]
    records += [record("atss", s, ap) for s, ap in enumerate((0.13, 0.21, 0.32))][::-1]
    found = gain(records, "atss")
    assert found.by_seed == pytest.approx([3, 1, 2]) and found.mean == pytest.approx(2)
    assert found.half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-3)  # Student's t of 2
    later = [record(BASELINE, s, 0.1) for s in (3, 4)] + [record("atss", s, 0.2) for s in (3, 4)]
    assert gain([*records, *later], "atss") == found
    assert gain([*records, *later], "atss", seeds=(3, 4)).by_seed == pytest.approx([10, 10])
    with pytest.raises(ValueError, match="two seeds in common"):
        gain([*records, record("giou", 0, 0.2)], "giou")


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_what_the_command_line_would_make_of_its_settings(name):
    switch = SWITCHES[name]
    before = MODELS["retinanet-tiny"], switches.SHORT
    config, recipe = overridden(*before, switch.settings.split())
    changed = {k: v for k, v in vars(config).items() if v != getattr(before[0], k)}
    assert changed == switch.config
    changed = {k: v for k, v in vars(recipe).items() if v != getattr(before[1], k)}
    assert changed == switch.recipe


def test_runs_are_kept_one_by_one_and_the_rest_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        switches, "run", lambda n, s: record(n, s, 0.5) | {"AP50": 0.7, "seconds": 1}
    )
    file = tmp_path / "switches.json"
    assert missing(file=file) == [(n, s) for s in SEEDS for n in SWITCHES]
    assert main(["--only", BASELINE, "atss", "--most", "3", "--out", str(file)]) == 0
    assert [(r["switch"], r["seed"]) for r in json.loads(file.read_text())] == [
        (BASELINE, 0),
        ("atss", 0),
        (BASELINE, 1),
    ]
    assert missing((BASELINE,), file, seeds=(1, 3)) == [(BASELINE, 3)]
    assert missing((BASELINE, "atss"), file) == [("atss", 1), (BASELINE, 2), ("atss", 2)]
    assert capsys.readouterr().out.splitlines()[0].startswith("1 of 6: baseline, seed 0")


def test_without_the_data_one_sentence_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LESSON_DATASETS", str(tmp_path))
    monkeypatch.setattr(switches, "open_dataset", _not_here)
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "switches.json")])
    assert ended.value.code == 1 and capsys.readouterr().err == "bccd is not here.\n"
    assert not (tmp_path / "switches.json").exists()


def _not_here(name: str, split: str):
    raise ValueError(f"{name} is not here.")
