"""Data sets by name: opening them; bringing them here past broken transfers, wrong files and bad
archives.
"""

import errno
import hashlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import coco_file, picture, voc_folder

from lesson_lib.config import CELL_CLASSES
from lesson_lib.data import catalog, transfer
from lesson_lib.data.catalog import download, facts, find_dataset, names, open_dataset
from lesson_lib.data.splits import NoSplit
from lesson_lib.data.transfer import fetch, sha256, tree_digest, unpack

CARDS = catalog.CARDS
VOC_FILES = {
    "*/Annotations/*.xml": "Annotations",
    "*/JPEGImages/*.png": "JPEGImages",
    "*/ImageSets/Main/*.txt": "ImageSets/Main",
}
TINY = {
    "title": "tiny",
    "licence": "none",
    "format": "voc",
    "one_based": True,
    "classes": ["cat", "dog"],
    "pictures": {"train": 1, "val": 1, "test": 1},
    "files": VOC_FILES,
}


class Server(ThreadingHTTPServer):
    """Files by path.

    ranges: False for a server without them. breaks: after how many bytes each of the next answers
    breaks off. etag: what it calls the version of its files. asked: each request's Range header.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.ranges, self.breaks, self.etag, self.asked = {}, True, [], '"one"', []
        self.status, self.chunked = None, False

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        server, data = self.server, self.server.files.get(self.path.lstrip("/"))
        server.asked.append(self.headers.get("Range"))
        if data is None or server.status:
            self.send_error(server.status or 404)
            return
        start = 0
        if (
            self.headers.get("Range")
            and server.ranges
            and self.headers.get("If-Range") == server.etag
        ):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if not server.chunked:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = start + server.breaks.pop(0) if server.breaks else len(data)
        self.wfile.write(data[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A catalogue of its own, nothing downloaded yet; home.card(name, **facts) adds a data set."""

    class Home:
        cards, downloads = tmp_path / "cards", tmp_path / "downloads"

        def card(self, name, **change):
            (self.cards / f"{name}.json").write_text(json.dumps({**TINY, **change}))

        def left(self):
            return sorted(path.name for path in self.downloads.iterdir())

    Home.cards.mkdir()
    monkeypatch.setattr(catalog, "CARDS", Home.cards)
    monkeypatch.setattr(catalog, "DOWNLOADS", Home.downloads)
    monkeypatch.setattr(catalog, "dataset_roots", lambda: [tmp_path / "named", Home.downloads])
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
    return Home()


def tar_of(folder: Path, top: str = "repo-1/data", compress: str = "gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compress}") as archive:
        archive.add(folder, top)
    return stream.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------ opening


def test_the_catalogue_names_the_data_sets_of_the_course():
    assert names() == (
        "smears",
        "aquarium",
        "bccd",
        "coco128",
        "coco2017",
        "voc0712",
        "voc2007",
        "voc2012",
    )


@pytest.mark.parametrize("name", ["aquarium", "bccd", "coco128", "voc2007", "voc2012"])
def test_every_card_is_complete(name):
    about = facts(name)
    assert {"title", "licence", "format", "classes", "pictures", "sources", "files"} <= about.keys()
    assert all(source["url"].startswith("https://") for source in about["sources"])
    checks = [
        about.get("digest", {}).get("sha256"),
        *(source["sha256"] for source in about["sources"]),
    ]
    assert all(check is None or len(bytes.fromhex(check)) == 32 for check in checks)
    assert any(checks) or name == "coco128", "only coco128 has no published checksum"
    card = (catalog.CARDS / f"{name}.md").read_text()
    assert about["title"] in card and "licence" in card.lower()
    assert all(source["url"] in card for source in about["sources"])


def test_the_order_of_the_classes():
    assert tuple(facts("bccd")["classes"]) == CELL_CLASSES
    assert (
        facts("voc2007")["classes"]
        == facts("voc2012")["classes"]
        == sorted(facts("voc2007")["classes"])
    )
    assert [len(facts(name)["classes"]) for name in ("voc2007", "coco128", "aquarium")] == [
        20,
        80,
        7,
    ]


def test_the_classes_of_coco128_are_cocos():
    from torchvision.models import detection

    weights = detection.SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    assert facts("coco128")["classes"] == [c for c in weights if c not in ("N/A", "__background__")]


def test_smears_are_always_at_hand():
    smears = open_dataset("smears", "val", count=2, size=64)
    assert len(smears) == 2 and tuple(smears.classes) == CELL_CLASSES and smears[1].size == (64, 64)


def test_an_unknown_name_meets_the_nearest_one():
    with pytest.raises(
        ValueError, match="'bcdd'; did you mean 'bccd'.* voc:DIR, coco:FILE and yolo:DIR"
    ):
        open_dataset("bcdd")
    with pytest.raises(ValueError, match="There are smears, aquarium"):
        open_dataset("zzzzzzzz")


def test_a_data_set_that_is_not_here_tells_all_three_ways_out(home):
    home.card("tiny")
    with pytest.raises(
        FileNotFoundError,
        match="tiny is not on this machine: `python -m lesson_lib data "
        "download tiny` .*`--from DIR` .*'smears' needs no download",
    ):
        open_dataset("tiny")


def test_data_sets_are_found_below_the_roots_the_first_first(home, tmp_path):
    home.card("tiny", also=["devkit/TINY"])
    assert find_dataset("tiny") is None
    voc_folder(tmp_path / "downloads" / "tiny")
    assert find_dataset("tiny") == tmp_path / "downloads" / "tiny"
    voc_folder(tmp_path / "named" / "devkit" / "TINY")
    assert find_dataset("tiny") == tmp_path / "named" / "devkit" / "TINY"
    assert [sample.id for sample in open_dataset("tiny", "trainval")] == ["a", "b"]
    assert open_dataset("tiny").boxes(0).tolist()[0] == [1, 2, 11, 9]
    home.card("tiny", one_based=False, also=["devkit/TINY"])
    assert open_dataset("tiny").boxes(0).tolist()[0] == [2, 3, 11, 9]
    assert open_dataset("tiny", one_based=True).boxes(0).tolist()[0] == [1, 2, 11, 9]


def test_your_own_voc_folder(tmp_path):
    assert [s.id for s in open_dataset(f"voc:{voc_folder(tmp_path)}", "val")] == ["b"]
    assert open_dataset(f"voc:{tmp_path}", classes=["dog", "cat"]).classes == ("dog", "cat")


def test_your_own_coco_file_or_folder(tmp_path):
    for split in ("train", "val"):
        file = coco_file(tmp_path, split)
    assert [s.id for s in open_dataset(f"coco:{tmp_path}/annotations/train.json")] == [
        "train0",
        "train1",
    ]
    for place in (tmp_path, tmp_path / "annotations" / "{split}.json"):
        assert [s.id for s in open_dataset(f"coco:{place}", "val")] == ["val0", "val1"]
        both = open_dataset(f"coco:{place}", "trainval")
        assert [s.id for s in both] == ["train0", "train1", "val0", "val1"] and len(
            both.targets()
        ) == 4
        with pytest.raises(ValueError, match=r"has no split 'test' .*there is no \S+/test\.json"):
            open_dataset(f"coco:{place}", "test")
    with pytest.raises(ValueError, match="is one split, whatever its name"):
        open_dataset(f"coco:{file}", "val")
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "categories": data["categories"][:2]}))
    with pytest.raises(ValueError, match="train and val of .* have different classes"):
        open_dataset(f"coco:{tmp_path}", "trainval")


def renamed(file, *names):
    """The three categories of a tiny file under other names, by rising id."""
    data = json.loads(file.read_text())
    data["categories"] = [{"id": k, "name": n} for k, n in zip((3, 7, 20), names, strict=True)]
    file.write_text(json.dumps(data))


def test_train_and_val_of_another_order_are_joined_by_name(tmp_path):
    coco_file(tmp_path, "train")
    renamed(coco_file(tmp_path, "val"), "cup", "bus", "fox")
    both = open_dataset(f"coco:{tmp_path}", "trainval")
    assert both.classes == ("bus", "fox", "cup")
    assert [t["labels"].tolist() for t in both.targets()] == [[2, 0], [], [1, 2], []]


def test_a_split_that_is_broken_is_no_split_that_is_missing(tmp_path):
    coco_file(tmp_path, "train")
    with pytest.raises(NoSplit, match="no split 'trainval'"):
        open_dataset(f"coco:{tmp_path}", "trainval")
    (tmp_path / "annotations" / "val.json").write_text("{")
    with pytest.raises(ValueError, match="val.json is no JSON") as error:
        open_dataset(f"coco:{tmp_path}", "trainval")
    assert not isinstance(error.value, NoSplit)
    with pytest.raises(NoSplit):
        open_dataset(f"voc:{voc_folder(tmp_path / 'voc')}", "valid")


def test_splits_that_a_data_set_has(tmp_path):
    assert catalog.splits(f"voc:{voc_folder(tmp_path / 'voc')}") == ["train", "val", "test"]
    for split in ("train", "valid"):
        file = coco_file(tmp_path / "coco", split)
    assert catalog.splits(f"coco:{tmp_path / 'coco'}") == ["train", "val"]
    assert catalog.splits(f"coco:{file}") == ["train"]
    assert catalog.splits("bccd") == ["train", "val", "test"]


def test_a_split_for_the_classes_of_a_model(tmp_path):
    file = coco_file(tmp_path)
    data = catalog.open_for_classes(f"coco:{file}", "train", ["cup", "bus"])
    assert data.classes == ("cup", "bus") and data[0].labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="knows the classes cat, dog; .* has bus, fox, cup"):
        catalog.open_for_classes(f"coco:{file}", "train", ["cat", "dog"])
    assert len(catalog.open_for_classes("smears", "test", CELL_CLASSES)) > 0
    with pytest.raises(ValueError, match="knows the classes cat; smears test has RBC"):
        catalog.open_for_classes("smears", "test", ["cat"])


# ---------------------------------------------------------------------------------------- transfers


def test_a_full_transfer(server, tmp_path):
    server.files["x.bin"] = data = bytes(range(256)) * 4000
    fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"] and server.asked == [None]


@pytest.mark.parametrize("breaks", [[1000], [0], [1000, 50, 1]])
def test_a_broken_transfer_goes_on_where_it_broke(server, tmp_path, breaks):
    server.files["x.bin"], server.breaks = bytes(range(256)) * 40, list(breaks)
    fetch(server.url("x.bin"), tmp_path / "x.bin", pause=0)
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"]
    sums = [sum(breaks[: k + 1]) for k in range(len(breaks))]
    assert server.asked == [None, *(f"bytes={n}-" if n else None for n in sums)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_a_transfer_goes_on_in_the_next_call(server, tmp_path):
    server.files["x.bin"], server.breaks = bytes(range(256)) * 40, [700, 20]
    with pytest.raises(
        OSError,
        match=r"No full transfer of http.*x\.bin in 2 tries .*Run the same command "
        "again.*--from DIR.*'smears'",
    ):
        fetch(server.url("x.bin"), tmp_path / "x.bin", tries=2, pause=0)
    assert (tmp_path / "x.bin.part").stat().st_size == 720 and not (tmp_path / "x.bin").exists()
    fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"] and server.asked[
        -1
    ] == "bytes=720-"


@pytest.mark.parametrize(
    "change", ["no ranges", "another file", "no name for versions", "a weak name"]
)
def test_it_starts_again_when_the_rest_may_not_fit(server, tmp_path, change):
    server.files["x.bin"], server.breaks = b"old" * 1000, [700]
    server.etag = {"no name for versions": "", "a weak name": 'W/"one"'}.get(change, '"one"')
    server.ranges = change != "no ranges"
    with pytest.raises(OSError):
        fetch(server.url("x.bin"), tmp_path / "x.bin", tries=1)
    if change == "another file":
        server.files["x.bin"], server.etag = b"new" * 900, '"two"'
    fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"]
    assert server.asked[-1] == ("bytes=700-" if change in ("no ranges", "another file") else None)


def test_a_part_that_is_longer_than_the_file_is_dropped(server, tmp_path):
    server.files["x.bin"] = b"short"
    (tmp_path / "x.bin.part").write_bytes(b"much longer")
    (tmp_path / "x.bin.mark").write_text(server.etag)
    fetch(server.url("x.bin"), tmp_path / "x.bin", pause=0)
    assert (tmp_path / "x.bin").read_bytes() == b"short" and server.asked == ["bytes=11-", None]


def test_a_file_of_unknown_length(server, tmp_path):
    server.files["x.bin"], server.chunked = b"data" * 100, True
    fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"]


def test_what_is_not_there_is_told_at_once(server, tmp_path):
    with pytest.raises(
        OSError, match=r"http\S+/x\.bin answers 404 \(Not Found\); try .* --from DIR"
    ):
        fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert len(server.asked) == 1


def test_a_troubled_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(OSError, match="in 3 tries .*503"):
        fetch(server.url("x.bin"), tmp_path / "x.bin", tries=3, pause=0)
    assert len(server.asked) == 3


def test_nobody_answers(tmp_path):
    with pytest.raises(
        OSError, match="No full transfer of http://127.0.0.1:9/x in 2 tries .*refused"
    ):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", tries=2, pause=0)


def test_a_disk_without_room_is_told_before_and_midway(server, tmp_path, monkeypatch):
    server.files["x.bin"] = b"x" * 100_000
    usage, spare = shutil.disk_usage(tmp_path), transfer.SPARE
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: usage._replace(free=spare + 99_999)
    )
    with pytest.raises(OSError, match="0 MB are to be written but .* has 64 MB free; make room"):
        fetch(server.url("x.bin"), tmp_path / "x.bin")
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: usage._replace(free=spare + 100_000)
    )

    class Full(transfer.tqdm):
        def update(self, n=1):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "tqdm", Full)
        with pytest.raises(
            OSError, match="The disk is full, with 100000 bytes of .*goes on from there"
        ):
            fetch(server.url("x.bin"), tmp_path / "x.bin")
    assert len(server.asked) == 2, "no second try on a full disk"
    assert (tmp_path / "x.bin.part").stat().st_size == 100_000


# ----------------------------------------------------------------------------------------- archives


def archive_of(kind: str, path: Path, files: dict[str, bytes | None]) -> Path:
    """A zip or tar of name -> bytes; None makes a link to /etc/hostname."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as z:
            for name, data in files.items():
                z.writestr(name, data or b"/etc/hostname")
        return path
    with tarfile.open(path, "w:gz") as t:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            member.size = len(data or b"")
            t.addfile(member, io.BytesIO(data or b""))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpacking_takes_what_matches_and_puts_it_where_it_belongs(tmp_path, kind):
    archive = archive_of(
        kind,
        tmp_path / "a",
        {"top/in/a.txt": b"a", "top/in/deep/b.txt": b"b", "top/c.md": b"c", "top/d.exe": b"d"},
    )
    count = unpack(archive, tmp_path / "out", {"*/in/*.txt": "x/y", "*.md": "", "*.txt": "never"})
    out = tmp_path / "out"
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}
    assert count == 3 and found == {"x/y/a.txt": b"a", "x/y/b.txt": b"b", "c.md": b"c"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "in/../../evil.txt",
        "/evil.txt",
        "..\\evil.txt",
        "C:/evil.txt",
        "C:\\evil.txt",
    ],
)
def test_a_path_that_leads_out_is_refused_whole(tmp_path, kind, name):
    archive = archive_of(kind, tmp_path / "a", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(ValueError, match="which leads out of it; none unpacked"):
        unpack(archive, tmp_path / "out" / "deep", {"*.txt": ""})
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


def test_a_link_instead_of_a_file_is_refused_and_other_links_are_passed_over(tmp_path):
    archive = archive_of("tar", tmp_path / "a", {"good.txt": b"good", "link.md": None})
    assert unpack(archive, tmp_path / "out", {"*.txt": ""}) == 1
    with pytest.raises(
        ValueError, match=r"holds a link, 'link\.md', instead of a file; none unpacked"
    ):
        unpack(archive, tmp_path / "more", {"*": ""})
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("kind, keep", [("tar", 60), ("tar", 0), ("zip", 60), ("tar", -30)])
def test_a_broken_archive_is_one_sentence(tmp_path, kind, keep):
    noise = np.random.default_rng(0).bytes(5000)
    archive = archive_of(kind, tmp_path / "a", {"good.txt": noise})
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"^\S+/a is no archive that can be read \(.*\); delete it\.$"
    ):
        unpack(archive, tmp_path / "out", {"*": ""})


def test_unpacking_asks_for_room_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: usage._replace(free=transfer.SPARE + 9)
    )
    archive = archive_of("zip", tmp_path / "a", {"a.txt": b"12345", "b.txt": b"67890"})
    with pytest.raises(OSError, match="make room"):
        unpack(archive, tmp_path / "out", {"*": ""})
    assert not (tmp_path / "out").exists()


def test_the_digest_of_a_tree_is_sha256sums(tmp_path):
    (tmp_path / "e").mkdir()
    for name in ("d.txt", "e/x.txt", "a.txt", "f.txt", "c.txt", "b.txt", "other.md"):
        (tmp_path / name).write_text(name)
    names = ("a.txt", "b.txt", "c.txt", "d.txt", "e/x.txt", "f.txt")
    lines = "".join(f"{digest(name.encode())}  {name}\n" for name in names)
    assert tree_digest(tmp_path, ["e/*.txt", "*.txt", "e/x*"]) == digest(lines.encode())


# ---------------------------------------------------------------------------------------- downloads


def test_a_download_is_built_verified_and_left_tidy(server, home, tmp_path):
    tree = voc_folder(tmp_path / "source")
    server.files["tiny.tar.gz"] = data = tar_of(tree)
    home.card(
        "tiny",
        sources=[{"url": server.url("tiny.tar.gz"), "sha256": digest(data)}],
        digest={"of": ["*/*.*"], "sha256": tree_digest(tree, ["*/*.*"])},
    )
    server.breaks = [1000]
    assert download("tiny") == home.downloads / "tiny"
    assert home.left() == ["tiny"] and len(server.asked) == 2
    assert [
        s.id for split in ("train", "val", "test") for s in open_dataset("tiny", split)
    ] == list("abc")
    assert download("tiny") == home.downloads / "tiny" and len(server.asked) == 2, (
        "it is not fetched twice"
    )


def test_two_archives_make_one_data_set(server, home, tmp_path):
    voc_folder(tmp_path / "source")
    (tmp_path / "second").mkdir()
    for part in ("JPEGImages/c.png", "Annotations/c.xml", "ImageSets/Main/test.txt"):
        (tmp_path / "second" / part).parent.mkdir(parents=True)
        (tmp_path / "source" / part).rename(tmp_path / "second" / part)
    server.files = {
        "1.tar": tar_of(tmp_path / "source", compress=""),
        "2.tar": tar_of(tmp_path / "second"),
    }
    home.card(
        "tiny",
        sources=[{"url": server.url(k), "sha256": digest(v)} for k, v in server.files.items()],
    )
    assert [sample.id for sample in open_dataset(f"voc:{download('tiny')}", "all")] == [
        "a",
        "b",
        "c",
    ]


def test_a_wrong_checksum_is_one_sentence_and_the_file_is_kept_aside(server, home, tmp_path):
    server.files["tiny.tar.gz"] = tar_of(voc_folder(tmp_path / "source"))
    home.card("tiny", sources=[{"url": server.url("tiny.tar.gz"), "sha256": "0" * 64}])
    found = digest(server.files["tiny.tar.gz"])
    with pytest.raises(
        ValueError,
        match=rf"tiny-tiny\.tar\.gz is not the file it should be \(SHA-256 "
        rf"{found}, expected 0{{64}}\); nothing "
        r"was unpacked, it is kept as tiny-tiny\.tar\.gz\.bad\.",
    ):
        download("tiny")
    assert home.left() == ["tiny-tiny.tar.gz.bad"]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"pictures": {"train": 2}}, "has 1 usable pictures in train instead of 2"),
        (
            {"digest": {"of": ["Annotations/*.xml"], "sha256": "0" * 64}},
            "not the tiny that is known: SHA-256",
        ),
        (
            {"files": {"*/nothing/*": ""}},
            r"holds no tiny: nothing there is called like \*/nothing/\*",
        ),
        (
            {"files": {**VOC_FILES, "*/JPEGImages/*.png": "elsewhere"}},
            "has 0 usable pictures in train",
        ),
    ],
)
def test_what_does_not_fit_its_card_does_not_look_done(server, home, tmp_path, change, sentence):
    server.files["tiny.tar.gz"] = tar_of(voc_folder(tmp_path / "source"))
    home.card("tiny", sources=[{"url": server.url("tiny.tar.gz"), "sha256": None}], **change)
    for _ in range(2):
        with pytest.raises(ValueError, match=sentence):
            download("tiny")
        assert home.left() == ["tiny-tiny.tar.gz"] and find_dataset("tiny") is None
    assert len(server.asked) == 1, "an archive that is here is not fetched again"


def test_a_traversal_archive_leaves_nothing(server, home, tmp_path):
    files = {"r/d/Annotations/a.xml": b"<a/>", "../../out.xml": b"evil"}
    archive = archive_of("tar", tmp_path / "a.tgz", files)
    server.files["tiny.tgz"] = archive.read_bytes()
    home.card("tiny", sources=[{"url": server.url("tiny.tgz"), "sha256": sha256(archive)}])
    with pytest.raises(ValueError, match="leads out of it"):
        download("tiny")
    assert home.left() == ["tiny-tiny.tgz"] and not list(tmp_path.rglob("out.xml"))


def test_a_name_that_is_taken(server, home):
    home.card("tiny", sources=[])
    (home.downloads / "tiny").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="is there but is no tiny; move it away"):
        download("tiny")


def test_smears_cannot_be_downloaded():
    with pytest.raises(ValueError, match="drawn by this package"):
        download("smears")


@pytest.mark.parametrize("layout", ["as here", "as its home", "archives"])
def test_a_copy_on_this_disk_is_verified_and_copied(home, tmp_path, layout):
    home.card(
        "tiny",
        sources=[{"url": "https://nowhere.invalid/x/tiny.tar.gz", "sha256": None}],
        digest={"of": ["*/*.*"], "sha256": tree_digest(voc_folder(tmp_path / "copy"), ["*/*.*"])},
    )
    source = tmp_path / "copy"
    if layout == "as its home":
        source = source.rename(tmp_path / "sub").parent
    elif layout == "archives":
        (tmp_path / "has").mkdir()
        (tmp_path / "has" / "tiny.tar.gz").write_bytes(tar_of(source))
        source = tmp_path / "has"
    before = sorted(source.rglob("*"))
    assert [sample.id for sample in open_dataset(f"voc:{download('tiny', source)}")] == ["a"]
    after = [
        path for path in sorted(source.rglob("*")) if home.downloads not in (path, *path.parents)
    ]
    assert after == before, "the copy itself stays as it is"
    assert home.left() == ["tiny"]


def test_a_copy_that_is_no_copy(home, tmp_path):
    home.card("tiny", sources=[{"url": "https://nowhere.invalid/tiny.zip", "sha256": "0" * 64}])
    with pytest.raises(
        NotADirectoryError, match="is no folder; --from takes a folder with a copy of tiny"
    ):
        download("tiny", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"empty holds no tiny: nothing there is called like \*/Annotations"
    ):
        download("tiny", tmp_path / "empty")
    (tmp_path / "empty" / "tiny.zip").write_bytes(b"another file")
    with pytest.raises(
        ValueError, match=r"tiny\.zip is not the file it should be .* kept as tiny\.zip\."
    ):
        download("tiny", tmp_path / "empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["tiny.zip"], (
        "the user's file stays"
    )


@pytest.fixture
def yolo_upstream(home, tmp_path):
    """A data set "tiny" whose home has YOLO's labels: the folder of a copy, as it is there."""
    upstream = tmp_path / "upstream"
    for k in range(6):
        picture(upstream / "valid" / "images" / f"valid_{'gcfdhe'[k]}.jpg", 20, 40, seed=3 + k)
    for split in ("train", "valid"):
        picture(upstream / split / "images" / f"{split}_b_jpg.rf.{'ab' * 16}.jpg", 40, 20, seed=1)
        picture(upstream / split / "images" / f"{split}_a.jpg", 20, 40, seed=2)
        (upstream / split / "labels").mkdir()
        (upstream / split / "labels" / f"{split}_b_jpg.rf.{'ab' * 16}.txt").write_text(
            "1 0.5 0.5 0.5 1\n0 0.05 0.1 0.1 0.2\n"
        )
    files = {
        f"*/{u}/{k}/*": f"raw/{s}/{k}"
        for s, u in (("train", "train"), ("val", "valid"))
        for k in ("images", "labels")
    }
    home.card(
        "tiny",
        format="coco",
        sources=[{"url": "https://nowhere.invalid/t.zip", "sha256": None}],
        pictures={"train": 2, "val": 8},
        files=files,
        longest=20,
        digest={"of": ["annotations/*.json"], "sha256": "0" * 64},
    )
    return upstream


def test_yolo_labels_become_coco(home, yolo_upstream):
    download("tiny", yolo_upstream)
    assert (
        home.left() == ["tiny", "tiny.first.json"]
        and not (home.downloads / "tiny" / "raw").exists()
    )
    data = open_dataset("tiny", "val")
    assert [entry.id for entry in data.entries] == [f"valid_{letter}" for letter in "abcdefgh"]
    assert data.classes == ("cat", "dog")
    assert data[0].size == (20, 10) and data[1].size == (10, 20)
    assert data[1].boxes.tolist() == [[5, 0, 15, 10], [0, 0, 2, 2]]
    assert data[1].labels.tolist() == [1, 0]
    assert data[1].area.tolist() == [100, 4] and data[0].boxes.shape == (0, 4)


def test_the_first_download_of_converted_labels_is_the_measure(home, yolo_upstream):
    download("tiny", yolo_upstream)
    shutil.rmtree(home.downloads / "tiny")
    download("tiny", yolo_upstream)
    shutil.rmtree(home.downloads / "tiny")
    (yolo_upstream / "train" / "labels" / f"train_b_jpg.rf.{'ab' * 16}.txt").write_text(
        "1 0.5 0.5 0.5 0.9\n"
    )
    with pytest.raises(ValueError, match="not the tiny that is known"):
        download("tiny", yolo_upstream)


def test_without_a_longest_side_pictures_are_copied_as_they_are(home, tmp_path):
    picture(tmp_path / "up" / "images" / "train2017" / "1.jpg")
    files = {
        "*/images/train2017/*.jpg": "raw/train/images",
        "*/labels/train2017/*.txt": "raw/train/labels",
    }
    home.card(
        "tiny",
        format="coco",
        sources=[{"url": "https://nowhere.invalid/t.zip", "sha256": None}],
        pictures={"train": 1},
        files=files,
    )
    folder = download("tiny", tmp_path / "up")
    assert sha256(folder / "images" / "train" / "1.jpg") == sha256(
        tmp_path / "up/images/train2017/1.jpg"
    )


def test_bccd_is_the_one_that_its_card_knows(real_datasets, home):
    source = real_datasets("bccd")
    shutil.copyfile(CARDS / "bccd.json", home.cards / "bccd.json")
    download("bccd", source)
    splits = ("train", "val", "trainval", "test")
    assert [len(open_dataset("bccd", split)) for split in splits] == [205, 87, 292, 72]
    assert open_dataset("bccd").classes == CELL_CLASSES
    written = open_dataset(f"voc:{source}", one_based=False, classes=CELL_CLASSES)
    assert open_dataset("bccd").boxes(0).tolist() == written.boxes(0).tolist(), (
        "positions as written"
    )
    assert (home.downloads / "bccd" / "LICENSE").is_file()


def test_aquarium_is_the_one_that_its_card_knows(real_datasets, home):
    source = real_datasets("aquarium")
    shutil.copyfile(CARDS / "aquarium.json", home.cards / "aquarium.json")
    download("aquarium", source)
    assert [len(open_dataset("aquarium", split)) for split in ("train", "trainval", "test")] == [
        448,
        575,
        63,
    ]
    assert home.left() == ["aquarium"], "nothing was converted, nothing taken on trust"


def test_the_converter_repeats_aquariums_annotations_to_the_byte(real_datasets, tmp_path):
    from lesson_lib.data.yolo import yolo_to_coco

    file = real_datasets("aquarium") / "annotations" / "test.json"
    data = json.loads(file.read_text())
    for part in ("images", "labels"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for image in data["images"]:
        name, width, height = image["file_name"][:-4], image["width"], image["height"]
        Image.new("L", (2 * width, 2 * height)).save(
            tmp_path / "raw" / "images" / f"{name}_jpg.rf.0a.jpg"
        )
        rows = [
            (a["category_id"] - 1, a["bbox"])
            for a in data["annotations"]
            if a["image_id"] == image["id"]
        ]
        (tmp_path / "raw" / "labels" / f"{name}_jpg.rf.0a.txt").write_text(
            "".join(
                f"{k} {(x + w / 2) / width!r} {(y + h / 2) / height!r} "
                f"{w / width!r} {h / height!r}\n"
                for k, (x, y, w, h) in rows
            )
        )
    yolo_to_coco(tmp_path / "raw", tmp_path / "out", "test", facts("aquarium")["classes"], 512)
    assert (tmp_path / "out" / "annotations" / "test.json").read_bytes() == file.read_bytes()
