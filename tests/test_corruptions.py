"""Data sets spoilt by chance: no hang, no traceback, no bad box in a batch, sentences only."""

import pytest
import torch

from lesson_lib.data import annotated
from tools import corrupt

SEED, CASES = 10, 300


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_no_corruption_is_met_with_anything_but_a_sentence(kind):
    numbers = range(list(corrupt.KINDS).index(kind), CASES, len(corrupt.KINDS))
    assert len(numbers) >= CASES // len(corrupt.KINDS)
    short = {}
    for k in numbers:
        found_kind, case, found = corrupt.run(SEED, k)
        assert found_kind == kind
        if found:
            short[f"--seed {SEED} --first {k} --count 1", case.file.name, case.how] = found
    assert not short


@pytest.mark.parametrize("form", corrupt.LAYOUTS)
def test_a_clean_set_is_used_whole(form, tmp_path):
    corrupt.lay_out(tmp_path, form)
    case = corrupt.Case(f"{form}:{tmp_path}", tmp_path / "nothing", "nothing")
    assert corrupt.faults(case, tmp_path) == []
    for split, count in (("train", 3), ("test", 2)):
        data = corrupt.open_dataset(case.what, split)
        assert len(data) == count and data.classes == corrupt.NAMES and data.problems == []
        for k in range(count):
            boxes = torch.tensor(corrupt.BOXES, dtype=torch.float32)
            torch.testing.assert_close(data[k].boxes, boxes, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_a_case_can_be_repeated_and_cases_differ(kind, tmp_path):
    def spoilt(k: int, name: str) -> tuple[str, bytes]:
        root = tmp_path / name
        case = corrupt.spoil(root, kind, corrupt.np.random.default_rng([1, k]))
        corrupt.lay_out(tmp_path / f"{name}-clean", case.what.partition(":")[0])
        clean = tmp_path / f"{name}-clean" / case.file.relative_to(root)
        return case.how, case.file.read_bytes() if clean.exists() else b""

    assert spoilt(0, "a") == spoilt(0, "b")
    assert len({spoilt(k, f"c{k}") for k in range(8)}) > 4


def test_the_judge_finds_exceptions_boxes_and_bad_sentences(tmp_path, monkeypatch):
    corrupt.lay_out(tmp_path, "voc")
    case = corrupt.Case(f"voc:{tmp_path}", tmp_path / "Annotations" / "img0.xml", "")

    def broken(*_, **__):
        raise TypeError("no sentence")

    with monkeypatch.context() as patch:
        patch.setattr(annotated, "sort_out", broken)
        found = corrupt.faults(case, tmp_path)
    assert [fault.split(": ")[0] for fault in found] == ["data check", "train", "test"]
    assert all("TypeError in test_corruptions.py" in fault for fault in found)

    good = f"{tmp_path}/Annotations/img0.xml is no XML; correct it."
    assert corrupt.not_a_sentence(good, case, tmp_path) == []
    for bad in ("Something is wrong.", f"{good}\n{good}", f"[Errno 2] No such file: {good}"):
        assert corrupt.not_a_sentence(bad, case, tmp_path)

    boxes = torch.tensor(
        [[0, 0, 9, 9], [0, 0, 11, 9], [3, 3, 3, 9], [-1, 0, 9, 9], [0, 0, 9, 10.5]]
    )
    assert len(corrupt._bad_boxes(boxes, 10, 10)) == 4
    assert len(corrupt._bad_boxes(torch.tensor([[0, 0, float("nan"), 9]]), 10, 10)) == 1


def test_a_hang_is_ended_and_told(monkeypatch):
    def endless(case, root):
        while True:
            pass

    monkeypatch.setattr(corrupt, "LIMIT", 1)
    monkeypatch.setattr(corrupt, "faults", endless)
    _, case, found = corrupt.run(0, 0)
    assert found == ["more than 1 s of CPU"]
    assert not case.file.exists(), "nothing is left behind"


def test_the_command_tells_how_to_repeat_a_case(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["corrupt.py", "--count", "2", "--only", "yaml", "--seed", "3"])
    assert corrupt.main() == 0
    assert capsys.readouterr().out == "0 of 2 cases fall short\n"
    monkeypatch.setattr(corrupt, "faults", lambda case, root: ["is bad"])
    assert corrupt.main() == 1
    said = capsys.readouterr().out
    assert "[--seed 3 --first 1 --count 1 --only yaml]\n    is bad\n" in said
    assert said.endswith("2 of 2 cases fall short\n")
