"""Picture files: found by any name, measured, decoded."""

import pytest
import torch
from PIL import Image
from tiny_data import picture

from lesson_lib.data.pictures import (
    PictureFiles,
    is_picture,
    picture_fault,
    picture_orientation,
    picture_size,
    read_picture,
)

ORIENTATION_AS_TEXT = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "name, file",
    [
        ("a.jpg", "a.jpg"),
        ("deep/a.jpg", "deep/a.jpg"),
        ("deep\\a.jpg", "deep/a.jpg"),
        ("C:\\data\\set\\a.jpg", "a.jpg"),
        ("/home/me/set/a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        (" a.jpg ", "a.jpg"),
        ("a", "a.jpg"),
        ("a.jpg", "a.JPG"),
        ("A.JPG", "a.jpg"),
        ("a.jpg", "a.png"),
        ("a.b", "a.b.jpg"),
        ("data/local-files/?d=set/a.jpg", "a.jpg"),
        ("data/local-files/?d=deep%5Ca%20b.jpg", "a b.jpg"),
        ("https://host.invalid/x/a.jpg?size=3", "a.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("a b.jpg", "a b.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("猫.jpg", "猫.jpg"),
        ("back\\slash.jpg", "back\\slash.jpg"),
    ],
)
def test_a_picture_is_found_by_the_names_that_tools_give(tmp_path, name, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert PictureFiles([tmp_path / "none", tmp_path]).find(name) == tmp_path / file


@pytest.mark.parametrize(
    "name", ["", ".", "..", "b.jpg", "ab", "a.jpg/b.jpg", "x" * 5000, "\0", "a\0.jpg", "x/" * 3000]
)
def test_what_is_not_there_is_not_found(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    assert PictureFiles([tmp_path]).find(name) is None


def test_the_exact_name_comes_before_those_that_are_alike(tmp_path):
    for name in ("a.jpg", "a.JPG", "a.png", "A.jpg", "._b.jpg"):
        (tmp_path / name).touch()
    found = PictureFiles([tmp_path])
    assert [found.find(name).name for name in ("a.JPG", "A.jpg", "a.png")] == [
        "a.JPG",
        "A.jpg",
        "a.png",
    ]
    assert found.find("b") is None, "what macOS leaves is no picture"


@pytest.mark.parametrize(
    "name, wanted",
    [("a.JPG", True), ("a.Tiff", True), ("a.jfif", True), ("._a.jpg", False), ("a.txt", False)],
)
def test_pictures_by_their_name(tmp_path, name, wanted):
    assert is_picture(tmp_path / name) is wanted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(tmp_path / "a.jpg", 40, 20, exif=exif)
    size = (40, 20) if orientation > 4 else (20, 40)
    assert picture_orientation(tmp_path / "a.jpg") == orientation
    assert picture_size(tmp_path / "a.jpg") == tuple(read_picture(tmp_path / "a.jpg").shape[1:])
    assert picture_size(tmp_path / "a.jpg") == size
    assert picture_fault(tmp_path / "a.jpg", size) is None
    assert "but its annotation says" in picture_fault(tmp_path / "a.jpg", (30, 30))
    if orientation > 4:
        assert "before its EXIF orientation" in picture_fault(tmp_path / "a.jpg", size[::-1])


def test_an_orientation_that_is_text_turns_nothing(tmp_path):
    picture(tmp_path / "a.jpg", 40, 20, exif=ORIENTATION_AS_TEXT)
    assert picture_orientation(tmp_path / "a.jpg") == 1
    assert picture_size(tmp_path / "a.jpg") == (20, 40)
    assert read_picture(tmp_path / "a.jpg").shape == (3, 20, 40)


def test_several_frames_and_a_palette_with_transparency(tmp_path):
    pixels = torch.from_numpy(picture(tmp_path / "a.png", seed=1)).permute(2, 0, 1)
    with Image.open(tmp_path / "a.png") as first:
        first.save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("RGB", (20, 10))])
        small = first.convert("P")
        small.info["transparency"] = bytes(range(256))
        small.save(tmp_path / "p.png")
        wanted = torch.tensor([*small.convert("RGBA").convert("RGB").tobytes()])
    assert torch.equal(read_picture(tmp_path / "a.tif"), pixels)
    assert torch.equal(read_picture(tmp_path / "p.png").permute(1, 2, 0).flatten(), wanted)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_picture_is_found_as_it_would_be_when_it_is_read(tmp_path, ending, kept):
    file = tmp_path / f"a.{ending}"
    picture(file, 200, 160)
    assert picture_fault(file) is None
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"cannot be read") as error:
        read_picture(file)
    assert picture_fault(file) == str(error.value)


def test_a_missing_picture_and_a_link_to_nowhere(tmp_path):
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    for name in ("gone.jpg", "link.jpg"):
        assert f"{name} is missing" in picture_fault(tmp_path / name)
    assert PictureFiles([tmp_path]).find("link") is None
