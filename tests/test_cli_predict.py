"""predict: whatever lies in a folder, one bad file costs no other; names and ids are the user's."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import coco_file, picture

from lesson_lib import cli
from lesson_lib.cli import drawing
from lesson_lib.cli.pictures import find_pictures
from lesson_lib.cli.predict import Predictions
from lesson_lib.data import pictures

ENDINGS = ["a.BMP", "b.TIF", "c.gif", "d.Png", "e.jfif", "f.WEBP", "g.jpeg", "h.PPM"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on a COCO file whose category ids are 3, 7 and 20."""
    root = tmp_path_factory.mktemp("run")
    file = coco_file(root)
    small = ["norm=group", "backbone=tiny-8", "batch=2", "size=64", "epochs=1"]
    command = ["train", "--data", f"coco:{file}", "--train-split", "train", "--budget", "ci"]
    settings = [f"--set={setting}" for setting in small]
    assert cli.main([*command, "--val-split", "train", "--out", str(root / "run"), *settings]) == 0
    return root / "run"


def predict(run, *what, score="0.02"):
    """Exit status and predictions.json of predict in the working folder."""
    code = cli.main(["predict", str(run), *map(str, what), "--out", "found", "--score", score])
    file = Path("found/predictions.json")
    return code, json.loads(file.read_text()) if file.is_file() else None


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(tree):
    return [image["file_name"] for image in tree["images"]]


def test_a_folder_as_people_have_it(run, capsys):
    for name in ENDINGS:
        picture(Path("pics", name))
    picture(Path("pics/deep/er/z.png"))
    Path("pics/._a.BMP").write_bytes(b"\0\5\x16\7")
    Path("pics/notes.TXT").write_text("x")
    Path("pics/loop").symlink_to(Path("pics").absolute())
    code, tree = predict(run, "pics")
    assert code == 0 and names(tree) == [*ENDINGS, "deep/er/z.png"]
    assert {image["drawing"] for image in tree["images"]} | {"predictions.json"} == set(
        os.listdir("found")
    )
    err = capsys.readouterr().err
    assert "1 files that are no pictures (1 .txt" in err and "1 hidden" in err


def test_modes_and_frames(run):
    pixels = Image.fromarray(picture(Path("pics/z.png")))
    for mode, ending in {"L": "png", "LA": "png", "RGBA": "png", "CMYK": "jpg", "P": "gif"}.items():
        pixels.convert(mode).save(f"pics/{mode}.{ending}")
    pixels.convert("1").save("pics/bits.png")
    pixels.save("pics/many.tif", save_all=True, append_images=[pixels])
    code, tree = predict(run, "pics")
    assert code == 0 and len(tree["images"]) == 8


def test_bad_files_are_named_and_cost_no_other(run, capsys):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(Path("pics", name))
    whole = Path("pics/b.png").read_bytes()
    Path("pics/b.png").write_bytes(whole[:80])
    Path("pics/c2.jpg").symlink_to("gone.jpg")
    Path("pics/c3.jpg").write_bytes(b"")
    code, tree = predict(run, "pics", "nowhere.png")
    assert code == 1 and names(tree) == ["a.png", "c.png", "d.png"]
    err = capsys.readouterr().err
    assert all(name in err for name in ("b.png", "c2.jpg", "c3.jpg", "nowhere.png"))
    assert "4 files or folders could not be read" in err and "Traceback" not in err


def test_nothing_to_look_at_is_an_error(run, capsys):
    Path("pics").mkdir()
    Path("pics/notes.txt").write_text("x")
    assert predict(run, "pics") == (1, None)
    assert "no picture in pics" in (err := capsys.readouterr().err) and "1 .txt" in err


def test_names_that_clash_are_told_apart(run):
    for place in ("a", "b/x", "c/x"):
        picture(Path(place, "img.png"))
    code, tree = predict(run, "a", "b", "c", "a/img.png", "a")  # the first one thrice
    assert code == 0 and names(tree) == ["img.png", "b/x/img.png", "c/x/img.png"]
    assert len({image["drawing"] for image in tree["images"]}) == 3


def test_names_are_distinct_whatever_is_given():
    for place in ("a", "a/a", "b/a"):
        picture(Path(place, "i.png"))
    found = find_pictures([Path("a"), Path("b"), Path("a/i.png"), Path("a/a")], Path("found"))
    assert len(found.files) == 3 and max(Counter(found.files.values()).values()) == 1


def test_long_names_are_shortened_in_drawings_only(run):
    long = "é" * 120 + ".png"
    picture(Path("pics", long))
    picture(Path("pics", "a" * 250 + ".png"))
    code, tree = predict(run, "pics")
    assert code == 0 and names(tree) == ["a" * 250 + ".png", long]
    assert all(len(os.fsencode(name)) < 120 for name in os.listdir("found"))


def test_drawings_that_cannot_be_written_are_named(run, capsys):
    for name in ("a.png", "b.png"):
        picture(Path("pics", name))
    Path("found/0000-a.png").mkdir(parents=True)
    code, tree = predict(run, "pics")
    assert code == 1 and names(tree) == ["a.png", "b.png"]
    assert "drawing" not in tree["images"][0] and tree["images"][1]["drawing"] == "0001-b.png"
    err = capsys.readouterr().err
    assert "0000-a.png could not be written" in err and "1 drawings could not" in err


def test_earlier_drawings_are_told(run, capsys):
    for name in ("a.png", "b.png"):
        picture(Path("pics", name))
    predict(run, "pics")
    assert "earlier" not in capsys.readouterr().err
    assert predict(run, "pics/b.png")[0] == 0
    assert "holds 2 drawings of an earlier run" in capsys.readouterr().err
    assert cli.main(["predict", str(run), "pics", "--out", "none", "--no-drawings"]) == 0
    assert os.listdir("none") == ["predictions.json"]


def test_drawings_inside_the_folder_are_not_looked_at_again(run):
    picture(Path("a.png"))
    assert predict(run, ".")[0] == 0
    assert names(predict(run, ".")[1]) == ["a.png"]


@pytest.mark.parametrize("score", ["1", "40", "-0.1", "nan"])
def test_a_score_that_is_none_is_refused(run, score, capsys):
    picture(Path("a.png"))
    assert predict(run, "a.png", score=score) == (1, None)
    assert "--score is" in capsys.readouterr().err


def test_out_that_is_a_file_is_refused(run, capsys):
    picture(Path("a.png"))
    Path("found").write_text("")
    assert cli.main(["predict", str(run), "a.png", "--out", "found"]) == 1
    assert "--out found cannot be made a folder" in capsys.readouterr().err


def test_ids_are_those_of_the_training_file(run):
    picture(Path("a.png"))
    _, tree = predict(run, "a.png")
    ids = {category["name"]: category["id"] for category in tree["categories"]}
    assert ids == {"bus": 3, "fox": 7, "cup": 20}
    assert [a["id"] for a in tree["annotations"]] == list(range(1, len(tree["annotations"]) + 1))
    assert {a["category_id"] for a in tree["annotations"]} <= set(ids.values())


def test_names_without_characters_in_the_font(capsys):
    words, told = drawing.words_for(["cat", "猫", "a\nb", ""], [3, 7, 9, 11])
    assert words == ["cat", "category 7", "a b", "category 11"]
    assert "'category 7' for 猫" in told
    assert drawing.words_for(["cat", "dog 2"], [1, 2]) == (["cat", "dog 2"], "")


def test_what_was_found_before_a_stop_is_written(run, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        picture(Path("pics", name))
    original, calls = Predictions.add, []

    def stop(self, *arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(original(self, *arguments))

    monkeypatch.setattr(Predictions, "add", stop)
    code, tree = predict(run, "pics")
    assert code == 130 and names(tree) == ["a.png"]
    assert "Stopped" in capsys.readouterr().err


def test_consoles_without_the_characters(run, capsys):
    for name in ("猫.png", "b.png"):
        picture(Path("pics", name))
    Path("pics/猫.png").write_bytes(b"x")
    command = ["predict", str(run), "pics", "--out", "found"]
    result = subprocess.run(
        [sys.executable, "-m", "lesson_lib", *command],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert result.returncode == 1 and b"\\u732b.png" in result.stderr
    assert b"Traceback" not in result.stderr


# ---- videos ----
av = pytest.importorskip("av")


def film(file, frames=5, width=65, height=48, rate=10):
    """A white square that moves over black."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height, "yuv420p"
        for number in range(frames):
            pixels = np.zeros((height, width + width % 2, 3), np.uint8)
            pixels[10:30, 5 * number : 5 * number + 20] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_gives_a_row_a_frame_and_a_video(run):
    picture(Path("a.png"))
    film("b.MP4")
    film("c.avi", frames=3)
    code, tree = predict(run, "b.MP4", "a.png", "c.avi")
    frames = [image for image in tree["images"] if "video" in image]
    assert code == 0 and len(frames) == 8 and len(tree["images"]) == 9
    assert [(f["video"], f["frame"]) for f in frames[4:6]] == [("b.MP4", 4), ("c.avi", 0)]
    assert [f["seconds"] for f in frames[:3]] == [0, 0.1, 0.2]
    assert set(os.listdir("found")) == {
        "0000-b.mp4",
        "0001-a.png",
        "0002-c.mp4",
        "predictions.json",
    }
    with av.open("found/0000-b.mp4") as drawn:
        shown = [frame.to_ndarray(format="rgb24") for frame in drawn.decode(video=0)]
    assert len(shown) == 5 and shown[0].shape == (48, 66, 3)
    assert shown[0][12:28, 4:16].mean() > 150  # the square itself, below whatever is drawn


def test_a_broken_video_is_named(run, capsys):
    film("b.mp4")
    Path("c.mp4").write_bytes(b"\0" * 500)
    picture(Path("a.png"))
    code, tree = predict(run, "c.mp4", "b.mp4", "a.png")
    assert code == 1 and len(tree["images"]) == 6
    assert "The video c.mp4 cannot be read after 0 frames" in capsys.readouterr().err


def test_a_video_that_cannot_be_written_is_named_once(run, capsys):
    film("b.mp4")
    Path("found/0000-b.mp4").mkdir(parents=True)
    code, tree = predict(run, "b.mp4")
    assert code == 1 and len(tree["images"]) == 5
    assert capsys.readouterr().err.count("could not be written") == 2  # it, and the count


def test_without_the_extra_it_is_named(run, monkeypatch, capsys):
    film("b.mp4")
    picture(Path("a.png"))
    monkeypatch.setitem(sys.modules, "av", None)
    code, tree = predict(run, "b.mp4", "a.png")
    assert code == 1 and names(tree) == ["a.png"]
    assert "b.mp4: Videos need PyAV" in capsys.readouterr().err


def test_every_ending_that_the_readers_know_is_looked_at(tmp_path):
    """One list: what `train` reads, `predict` finds."""
    for number, ending in enumerate(pictures.ENDINGS):
        (tmp_path / f"{number}{ending.upper()}").touch()
    (tmp_path / "a.txt").touch()
    found = find_pictures([tmp_path], tmp_path / "out")
    assert {path.suffix.lower() for path in found.files} == set(pictures.ENDINGS)
    assert found.others == {".txt": 1}
