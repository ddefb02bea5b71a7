"""Synthetic smears: the same bytes everywhere, statistics near BCCD's, a cache that is harmless."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from smear_statistics import BCCD_TRAIN, bccd_folder, describe

from lesson_lib import files
from lesson_lib.config import CELL_CLASSES
from lesson_lib.data import smears
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import SPLITS, Smears, draw_smear, left_out_boxes
from lesson_lib.data.voc import VocFolder

TEN = [
    (seed, index, split, size)
    for seed, index, split in (
        (0, 0, "train"),
        (0, 1, "train"),
        (0, 0, "val"),
        (0, 7, "test"),
        (5, 3, "train"),
    )
    for size in (256, (120, 200))
]
SHA256 = "73f824f459096704c8bf7a3bcd7e3511389d62375a53359e41494998b89787b5"


def digest(picture: tuple) -> bytes:
    sample = draw_smear(*picture)
    boxes, labels = sample.boxes.numpy().astype("<f4"), sample.labels.numpy().astype("<i8")
    return b"".join(part.tobytes() for part in (sample.image.numpy(), boxes, labels))


def same(a: Sample, b: Sample) -> bool:
    return a.id == b.id and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("image", "boxes", "labels", "difficult", "crowd")
    )


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LESSON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def painted(monkeypatch) -> list:
    """The pictures that had to be painted since, as (seed, index, split, size)."""
    calls = []
    monkeypatch.setattr(
        smears, "draw_smear", lambda *picture: calls.append(picture) or draw_smear(*picture)
    )
    return calls


def test_ten_pictures_have_these_bytes():
    """A change of the painter must raise VERSION, and then this sum."""
    assert hashlib.sha256(b"".join(map(digest, TEN))).hexdigest() == SHA256, (
        "The smears' bytes changed: raise smears.VERSION and record the new sum here."
    )


def test_bytes_do_not_depend_on_the_processor():
    """numpy without its newer instruction sets, in a process of its own, paints the same."""
    program = (
        "import hashlib; from lesson_lib.data.smear_painter import paint_smear as paint\n"
        "painted = [paint((3, 'val', i), 300, 320, .5) for i in range(6)]\n"
        "whole = b''.join(image.tobytes() + repr(found).encode() for image, found in painted)\n"
        "print(hashlib.sha256(whole).hexdigest())"
    )
    newer = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    sums = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | extra,
        ).stdout
        for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": newer})
    ]
    assert len(sums[0]) == 65 and sums[0] == sums[1]


def test_drawing_leaves_no_trace():
    """A picture depends on its key alone: not on what was drawn before, nor on the global
    generators.
    """
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = draw_smear(2, 9)
    draw_smear(2, 10, size=96)
    assert same(first, draw_smear(2, 9, "train", (256, 256)))
    assert (
        torch.equal(torch.random.get_rng_state(), state)
        and (np.random.get_state()[1] == numpy_state).all()
    )


def test_cells_left_out_have_no_box_and_are_to_be_seen():
    for index in range(4):
        boxed, others = draw_smear(0, index, "val", 300).boxes, left_out_boxes(0, index, "val", 300)
        assert len(others) > 3 and (others >= 0).all() and (others <= 300).all()
        assert (others[:, 2:] > others[:, :2]).all()
        same = (others[:, None] == boxed).all(dim=2)
        assert not same.any()


def test_no_two_pictures_are_alike():
    """Split, seed and index all enter the key; no digits of one can pass for those of another."""
    keys = [(seed, index, split) for seed in (0, 1, 11) for index in (0, 1, 11) for split in SPLITS]
    assert len({draw_smear(*key, 64).image.numpy().tobytes() for key in keys}) == len(keys)
    assert len({draw_smear(*key, 64).id for key in keys}) == len(keys)


@pytest.mark.parametrize("size", [32, 96, 128, 256, (64, 300), (333, 150), (480, 640)])
def test_any_size(size):
    height, width = (size, size) if isinstance(size, int) else size
    labels = set()
    for index in range(6):
        sample = draw_smear(0, index, "val", size)
        labels |= set(sample.labels.tolist())
        assert sample.size == (height, width) and sample.image.is_contiguous()
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x2 - x1 >= 2).all() and (y2 - y1 >= 2).all()
        assert sample.image.float().std() > 5 and 60 < sample.image.float().mean() < 215
    assert {0, 1} <= labels <= {0, 1, 2} or size == 32


def test_small_pictures_show_fewer_cells_not_smaller_ones():
    """From 138 px down the scale stays: a red cell is 26 px wide, at 256 px 48."""

    def median_side(size):
        boxes = torch.cat(
            [(s := draw_smear(0, i, "train", size)).boxes[s.labels == 0] for i in range(30)]
        )
        return (boxes[:, 2] - boxes[:, 0]).median().item(), len(boxes)

    (side_96, count_96), (side_138, count_138), (side_256, count_256) = map(
        median_side, (96, 138, 256)
    )
    assert abs(side_96 - 26) <= 3 and abs(side_138 - 26) <= 3 and abs(side_256 - 48) <= 4
    assert count_96 < 0.65 * count_138 and abs(count_138 / count_256 - 1) < 0.25


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(split="training"), "no split 'training'"),
        (dict(size=31), "31 x 31 pixels is too small"),
        (dict(size=(200, 8)), "200 x 8 pixels is too small"),
    ],
)
def test_what_cannot_be_painted_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        draw_smear(0, 0, **wrong)
    with pytest.raises(ValueError, match=words):
        Smears(**wrong)


# --- the pictures show what the boxes say


def test_labels_follow_the_classes_and_boxes_the_pixels():
    """Colour inside the boxes: red cells red, nuclei of white cells violet, background neither."""
    assert CELL_CLASSES == Smears.classes == ("RBC", "WBC", "Platelets")
    shown = [[], [], []]
    for index in range(40):
        sample = draw_smear(1, index, "train", 256)
        image = sample.image.float()
        outside = torch.ones(256, 256, dtype=torch.bool)
        for (x1, y1, x2, y2), label in zip(sample.boxes.int().tolist(), sample.labels.tolist()):
            outside[y1:y2, x1:x2] = False
            w, h = (x2 - x1) // 4, (y2 - y1) // 4
            inner = image[:, y1 + h : y2 - h, x1 + w : x2 - w].mean((1, 2))
            shown[label].append((inner[2] - inner[0]).item())  # blue over red
        lit = image[1][outside].quantile(0.75)
        for x1, y1, x2, y2 in sample.boxes[sample.labels == 0].int().tolist():
            for line in (
                image[1, y1 + 1, x1:x2],
                image[1, y2 - 2, x1:x2],
                image[1, y1:y2, x1 + 1],
                image[1, y1:y2, x2 - 2],
            ):
                assert line.min() < lit - 3  # each side of a box meets its cell
    red, white, platelet = (sum(values) / len(values) for values in shown)
    assert red < -8 and white > 15 and platelet > 3


BANDS = {  # how far the smears may lie from BCCD: each number times or divided by this at most
    "RBC a picture: mean, sd": 1.2,
    "WBC a picture: mean, sd": 1.3,
    "Platelets a picture: mean, sd": 1.3,
    "RBC side: 5, 50, 95 %": 1.1,
    "WBC side: 5, 50, 95 %": 1.15,
    "Platelets side: 5, 50, 95 %": 1.15,
    "RBC width/height: 5, 50, 95 %": 1.12,
    "WBC width/height: 5, 50, 95 %": 1.25,
    "Platelets width/height: 5, 50, 95 %": 1.3,
    "colour, mean: R, G, B": 1.03,
    "colour, sd in a picture: R, G, B": 1.15,
    "colour, sd between pictures: R, G, B": 2.2,
    "sharpness: mean, sd": 1.9,
}
AT_MOST = {
    "RBC overlap: 50, 90 %": (0.09, 0.24),
    "WBC overlap: 50, 90 %": (0.06, 0.1),
    "Platelets overlap: 50, 90 %": (0.02, 0.12),
}


@pytest.fixture(scope="module")
def statistics() -> dict[str, tuple[float, ...]]:
    return describe(Smears("val", 200, 256, seed=0, cache=False))


def test_every_row_has_a_band():
    assert set(BANDS) | set(AT_MOST) == set(BCCD_TRAIN)


@pytest.mark.parametrize("row", BANDS)
def test_statistics_are_near_those_of_bccd(statistics, row):
    for ours, theirs in zip(statistics[row], BCCD_TRAIN[row], strict=True):
        assert theirs / BANDS[row] < ours < theirs * BANDS[row], (
            f"{row}: {ours:.3f}, BCCD {theirs:.3f}"
        )


@pytest.mark.parametrize("row", AT_MOST)
def test_cells_touch_and_overlap_as_in_bccd(statistics, row):
    assert all(ours < most for ours, most in zip(statistics[row], AT_MOST[row], strict=True))
    if row.startswith("RBC"):
        assert statistics[row][0] > 0.03 and statistics[row][1] > 0.17


def test_the_card_shows_these_numbers_side_by_side(statistics):
    card = (Path(__file__).parent.parent / "lesson_lib" / "data" / "cards" / "smears.md").read_text(
        encoding="utf-8"
    )
    for row, theirs in BCCD_TRAIN.items():
        cells = next(
            line.split("|")[2:4] for line in card.splitlines() if line.startswith(f"| {row} |")
        )
        assert [float(x) for x in cells[0].split()] == pytest.approx(theirs, abs=6e-4)
        assert [float(x) for x in cells[1].split()] == pytest.approx(statistics[row], abs=6e-4)


def test_the_numbers_of_bccd_are_bccds():
    if not bccd_folder():
        pytest.skip("BCCD is not at hand: set LESSON_DATASETS to the folder that holds bccd/.")
    measured = describe(VocFolder(bccd_folder(), "train", classes=CELL_CLASSES))
    for row, recorded in BCCD_TRAIN.items():
        assert measured[row] == pytest.approx(recorded, abs=2e-3, rel=1e-3), row


# --- the data set and its cache


def test_sequence(cache):
    data = Smears("test", 3, 48, seed=4)
    assert len(data) == 3 and [sample.id for sample in data] == [
        f"smear-4-test-{i:05d}" for i in range(3)
    ]
    assert same(data[-1], data[2]) and same(data[np.int64(1)], draw_smear(4, 1, "test", 48))
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"no smear {index}; the data set has 3"):
            data[index]
    assert list(Smears(count=0)) == []
    with pytest.raises(ValueError, match="-1 smears"):
        Smears(count=-1)


def test_second_reading_paints_nothing(cache, painted):
    data = Smears("train", 2, (40, 56))
    first = list(data)
    assert len(painted) == 2
    again = list(Smears("train", 2, (40, 56)))
    assert len(painted) == 2 and all(map(same, first, again))
    assert sorted(p.suffix for p in cache.rglob("*.*") if p.is_file()) == [".npz", ".npz"]
    for other in (dict(split="val"), dict(size=(56, 40)), dict(seed=1)):
        assert not same(Smears(**dict(split="train", count=2, size=(40, 56)) | other)[0], first[0])
    assert same(data[0], first[0]) and len(painted) == 5  # none of them took its place


def test_another_version_does_not_read_this_ones_files(cache, painted, monkeypatch):
    Smears("train", 1, 40)[0]
    monkeypatch.setattr(smears, "VERSION", smears.VERSION + 1)
    Smears("train", 1, 40)[0]
    assert len(painted) == 2


def test_no_cache_writes_nothing(cache, painted):
    data = Smears("train", 1, 40, cache=False)
    assert same(data[0], data[0]) and len(painted) == 2 and not cache.exists()


def harm(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "flipped":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    elif how == "other index":
        file.write_bytes((file.parent / "00001.npz").read_bytes())
    elif how == "other size":
        sample = draw_smear(0, 0, "train", 50)
        np.savez(file, image=sample.image, boxes=sample.boxes, labels=sample.labels, id=sample.id)
    elif how == "not a sample":
        np.savez(
            file, image=np.zeros((3, 40, 40)), boxes=np.zeros(3), labels=np.zeros(1), id=file.stem
        )
    elif how == "other arrays":
        np.savez(file, something=np.zeros(3))
    else:
        file.write_bytes(
            {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"hello"}[how]
        )


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "truncated",
        "text",
        "flipped",
        "other index",
        "other size",
        "not a sample",
        "other arrays",
    ],
)
def test_a_damaged_or_foreign_file_is_painted_anew(cache, painted, how):
    data = Smears("train", 2, 40)
    first, _ = data[0], data[1]
    file = next(cache.rglob("00000.npz"))
    harm(file, how)
    assert same(data[0], first) and len(painted) == 3
    assert same(data[0], first) and len(painted) == 3  # and the file is whole again


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("trouble", ["disk full", "not writable", "no folder"])
def test_without_a_place_to_write_it_works_and_warns_once(cache, painted, monkeypatch, trouble):
    if trouble == "no folder":
        cache.write_text("a file where the folder should be")
    elif trouble == "not writable":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
    data = Smears("train", 2, 40)
    with pytest.warns(UserWarning, match="painted anew each time.*set LESSON_CACHE"):
        first = data[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(data[0], first) and same(data[1], draw_smear(0, 1, "train", 40))
    assert len(painted) == 3 and not [p for p in cache.rglob("*") if p.is_file()]


def test_a_reader_never_meets_half_a_picture(cache, painted, monkeypatch):
    """While a file is being written its name does not exist yet."""
    seen = []
    monkeypatch.setattr(files.os, "fsync", lambda _: seen.append(list(cache.rglob("*.npz"))))
    Smears("train", 1, 40)[0]
    assert seen == [[]] and len(list(cache.rglob("*.npz"))) == 1


def test_a_slice_is_a_list_of_smears(cache):
    data = Smears("train", 5, 40)
    assert [s.id for s in data[1:4]] == data.ids()[1:4] and data[9:] == []
    assert [s.id for s in data[::-2]] == data.ids()[::-2]
