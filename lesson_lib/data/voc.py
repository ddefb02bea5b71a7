"""Reader for folders laid out as PASCAL VOC: one XML file a picture, splits as lists of names."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from lesson_lib.data.annotated import Annotated, Problem, Thing
from lesson_lib.data.pictures import ENDINGS, PictureFiles
from lesson_lib.data.splits import NoSplit
from lesson_lib.data.text import number, read_text, sides

SPLITS = ("train", "val", "trainval", "test")
DECLARATION = re.compile(r"^\s*<\?xml\b.*?\?>", re.DOTALL)
DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"']")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocFolder(Annotated):
    """root/{Annotations/*.xml, JPEGImages/*, ImageSets/Main/SPLIT.txt} as a sequence of samples.

    split      a list in ImageSets/Main, or "all": every annotation. "trainval" without a list of
               its own is train and val together.
    classes    their order; None: that of root/classes.txt, one a line, if it is there, then
               alphabetical, over all annotations, so that all splits have one order
    one_based  True, as PASCAL VOC defines it: corners are the first and the last pixel inside,
               counted from 1, and the box covers xmin - 1 to xmax on this package's continuous
               scale. False: corners are positions already, counted from 0, as many tools write
               them.
    pictures   the folder of the pictures; None: JPEGImages, else images, else where the annotations
               lie
    `difficult` objects are marked; `truncated` and parts of objects are passed over. What
    `sort_out` leaves out or cuts, and pictures that are missing or whose annotation is missing or
    broken, stand in .problems. Raises FileNotFoundError or ValueError with one sentence when the
    folder is not there, NoSplit when the split is not.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        classes: Iterable[str] | None = None,
        one_based: bool = True,
        pictures: str | Path | None = None,
    ):
        self.root, self.one_based = Path(root), one_based
        self.files = {file.stem: file for file in _xml_files(_annotations(self.root))}
        names = split_names(self.root, split)
        everything = names if classes else {*names, *split_names(self.root, "all")}
        trees = {name: self._parse(name) for name in everything}
        found = {t.name for tree in trees.values() for t in _things(tree) if t.name}
        super().__init__(dict.fromkeys((*_listed_classes(self.root), *sorted(found))), classes)
        files = PictureFiles(_picture_folders(self.root, pictures))
        for name in names:
            self._read(name, trees[name], files)
        self._look_for_zeros(trees[name] for name in names)
        self.require_pictures(f"{self.root}, split {split!r},")

    def _read(self, name: str, tree: ElementTree.Element | str, files: PictureFiles) -> None:
        """Add one picture of the split, or leave it out. tree: its annotation, or why there is
        none.
        """
        file, things = f"Annotations/{name}.xml", _things(tree)
        if isinstance(tree, str):
            kind = "missing" if tree == "missing" else "unreadable"
            self.leave_out(file, f"annotation {kind}", f"is {tree}; picture left out.")
            return
        path = files.find(name + PurePosixPath(_text(tree, "filename")).suffix)
        path = path or files.find(name) or files.find(_text(tree, "filename"))
        if path is None:
            why = f"its picture {name} is missing in {files.folders[0]}; left out."
            self.leave_out(file, "picture missing", why, len(things))
            return
        size = sides(_text(tree, "size/height"), _text(tree, "size/width"))
        self.add(name, path, size, things, file, int(self.one_based))

    def _parse(self, name: str) -> ElementTree.Element | str:
        """The annotation of a picture, or why there is none."""
        if name not in self.files:
            return "missing"
        try:
            return read_xml(self.files[name])
        except (OSError, ValueError) as error:
            return f"unreadable ({error})"

    def _look_for_zeros(self, trees: Iterable[ElementTree.Element | str]) -> None:
        """A remark where corners that should count from 1 are 0."""
        things = [thing for tree in trees for thing in _things(tree)]
        zeros = sum(0 <= min(thing.box) < 1 < max(thing.box) for thing in things)
        if self.one_based and zeros:
            detail = (
                f"{zeros} of {len(things)} boxes have a corner at 0, but VOC counts pixels from 1: "
                "if these count from 0, read them with --first-pixel 0."
            )
            self.remarks.append(Problem(str(self.root), "corners from 0", detail))


def read_xml(file: Path) -> ElementTree.Element:
    """The root of an XML file in whatever encoding. Raises OSError, ValueError with what is wrong.

    Entities of its own are refused: no annotation needs them, and a few lines of them can fill all
    memory.
    """
    declared = DECLARED.match(file.read_bytes()[:200])
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    encoding = {"gb2312": "gb18030", "gbk": "gb18030"}.get(encoding, encoding)  # a superset
    if encoding.startswith(("utf-16", "utf16", "ucs")):
        encoding = "utf-8"  # it was read as ASCII: some tools only claim to write UTF-16
    text = DECLARATION.sub("", read_text(file, (encoding,)))
    if "<!ENTITY" in text:
        raise ValueError("it defines entities, which an annotation has no use for")
    try:
        root = ElementTree.fromstring(text.strip())
    except (ElementTree.ParseError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"no XML: {error}") from error
    for element in root.iter() if root.tag.startswith("{") else ():
        element.tag = element.tag.rpartition("}")[2]  # less the namespace
    return root


def _listed_classes(root: Path) -> list[str]:
    """The lines of classes.txt, with which `data convert` keeps an order that is not
    alphabetical.
    """
    file = root / "classes.txt"
    lines = read_text(file).splitlines() if file.is_file() else []
    return [" ".join(line.split()) for line in lines if line.strip()]


def split_names(root: Path, split: str) -> list[str]:
    """The names of the pictures of a split, in the order of its list, each once; NoSplit without a
    list.
    """
    there = {file.stem for file in _xml_files(_annotations(root))}
    if split == "all":
        return sorted(there)
    file = _list_file(root, split)
    if file is not None:
        lines = [line.strip().strip("\ufeff\"'") for line in read_text(file).splitlines()]
        return list(dict.fromkeys(_listed(line, there) for line in lines if line))
    lists = voc_splits(root)
    if split == "trainval" and {"train", "val"} <= set(lists):
        return list(dict.fromkeys(split_names(root, "train") + split_names(root, "val")))
    raise NoSplit(
        f"{root} has no split {split!r} (there: {', '.join(lists) or 'none'}); write the names of "
        f"its pictures, one a line, into {root / 'ImageSets' / 'Main' / split}.txt, or take 'all'."
    )


def voc_splits(root: Path) -> list[str]:
    """The usual splits that have a list; VOC's lists for one class (cat_train.txt ...) are none."""
    return [split for split in SPLITS if _list_file(root, split) is not None]


def _list_file(root: Path, split: str) -> Path | None:
    folders = root / "ImageSets" / "Main", root / "ImageSets", root
    return next((f for f in (folder / f"{split}.txt" for folder in folders) if f.is_file()), None)


def _listed(line: str, there: set[str]) -> str:
    """The name in `there` that a line of a list means: the line itself, or less what may stand
    around a name.

    That is a second column, as in VOC's lists for a class; the folders of a path; the ending of a
    file.
    """
    short = re.sub(r"\s+-?[01]$", "", line)
    names = [line, short]
    for text in (line, short):
        path = PurePosixPath(text.replace("\\", "/"))
        stems = [path.stem] if path.suffix.lower() in (*ENDINGS, ".xml") else []
        names += [path.name, *stems]
    return next((name for name in names if name in there), short)


def _annotations(root: Path) -> Path:
    folder = next((f for f in (root / "Annotations", root / "annotations") if f.is_dir()), None)
    if folder is None or not root.is_dir():
        raise FileNotFoundError(
            f"{root} has no folder Annotations; give the folder that holds "
            "Annotations, JPEGImages and ImageSets."
        )
    return folder


def _xml_files(folder: Path) -> list[Path]:
    """The annotations, less the `._*` that macOS adds."""
    files = (f for f in folder.iterdir() if f.suffix.lower() == ".xml")
    return sorted(file for file in files if not file.name.startswith("."))


def _picture_folders(root: Path, pictures: str | Path | None) -> list[Path]:
    """Where pictures are looked for.

    Raises FileNotFoundError with one sentence where there is no such folder.
    """
    names = ("JPEGImages", "images", "Images", "Annotations", "annotations")
    wanted = [root / name for name in names] if pictures is None else [Path(pictures).expanduser()]
    folders = [folder for folder in wanted if folder.is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"{wanted[0]} is no folder; name the folder of the pictures with --pictures DIR."
        )
    return folders


def _things(tree: ElementTree.Element | str) -> list[Thing]:
    return [
        Thing(
            " ".join(_text(element, "name").split()),
            tuple(number(_text(element, f"bndbox/{corner}")) for corner in CORNERS),
            _text(element, "difficult").strip().lower() in ("1", "true"),
        )
        for element in (() if isinstance(tree, str) else tree.iter("object"))
    ]


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
