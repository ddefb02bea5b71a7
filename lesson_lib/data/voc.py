"""Reader for folders laid out as PASCAL VOC: one XML file a picture, splits as lists of names."""

from collections.abc import Iterable
from math import nan
from pathlib import Path
from xml.etree import ElementTree

from lesson_lib.data.annotated import Annotated, Problem, Thing

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")


class VocFolder(Annotated):
    """root/{Annotations/*.xml, JPEGImages/*, ImageSets/Main/SPLIT.txt} as a sequence of samples.

    split      a list in ImageSets/Main, or "all": every annotation. "trainval" without a list of its own
               is train and val together.
    classes    their order; None: that of root/classes.txt, one a line, if it is there, then alphabetical,
               over all annotations, so that all splits have one order
    one_based  True, as PASCAL VOC defines it: corners are the first and the last pixel inside, counted
               from 1, and the box covers xmin - 1 to xmax on this package's continuous scale. False:
               corners are positions already, as labelImg writes them.
    `difficult` objects are marked; `truncated` and parts of objects are passed over. What `sort_out`
    leaves out or cuts, and pictures whose annotation is missing or broken, stand in .problems.
    Raises FileNotFoundError or ValueError with one sentence when the folder or the split is not there.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        classes: Iterable[str] | None = None,
        one_based: bool = True,
    ):
        self.root = Path(root)
        if not (self.root / "Annotations").is_dir():
            raise FileNotFoundError(
                f"{self.root} has no folder Annotations; give the folder that holds "
                "Annotations, JPEGImages and ImageSets."
            )
        names = split_names(self.root, split)
        trees = {
            name: self._parse(name)
            for name in (names if classes else {*names, *split_names(self.root, "all")})
        }
        found = sorted({t.name for tree in trees.values() for t in _things(tree)})
        super().__init__(classes or dict.fromkeys((*_listed_classes(self.root), *found)))
        for name in names:
            file, tree = f"Annotations/{name}.xml", trees[name]
            if tree is None:
                kind = "unreadable" if (self.root / file).is_file() else "missing"
                self.problems.append(
                    Problem(file, f"annotation {kind}", f"is {kind}; picture left out.")
                )
            else:
                size = _number(tree, "size/height"), _number(tree, "size/width")
                size = (
                    (int(size[0]), int(size[1])) if all(v > 0 for v in size) else None
                )  # some write 0
                self._add(
                    name, self._picture(name, tree), size, _things(tree), file, int(one_based)
                )
        if not self.entries:
            raise ValueError(
                f"{self.root} has no usable picture in split {split!r}; "
                + (f"the first problem: {self.problems[0]}" if names else "its list is empty.")
            )

    def _parse(self, name: str) -> ElementTree.Element | None:
        try:
            return ElementTree.parse(self.root / "Annotations" / f"{name}.xml").getroot()
        except (OSError, ElementTree.ParseError):
            return None

    def _picture(self, name: str, tree: ElementTree.Element) -> Path:
        """A picture goes by its annotation's own name, as in VOC's devkit; <filename> tells the ending."""
        endings = (Path(tree.findtext("filename", "")).suffix or ".jpg", *ENDINGS)
        paths = [self.root / "JPEGImages" / (name + ending) for ending in endings]
        return next((path for path in paths if path.is_file()), paths[0])


def _listed_classes(root: Path) -> list[str]:
    """The lines of classes.txt, with which `data convert` keeps an order that is not alphabetical."""
    file = root / "classes.txt"
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    return [" ".join(line.split()) for line in lines if line.strip()]


def split_names(root: Path, split: str) -> list[str]:
    """The names of the pictures of a split, in the order of its list."""
    if split == "all":
        return sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    file, there = root / "ImageSets" / "Main" / f"{split}.txt", voc_splits(root)
    if file.is_file():
        return [
            line.split()[0]
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    if split == "trainval" and {"train", "val"} <= set(there):
        return split_names(root, "train") + split_names(root, "val")
    raise ValueError(
        f"{root} has no split {split!r} (there: {', '.join(there) or 'none'}); write the names "
        f"of its pictures, one a line, into {file}, or take 'all'."
    )


def voc_splits(root: Path) -> list[str]:
    """The usual splits that have a list; VOC's lists for one class (cat_train.txt ...) are none."""
    lists = root / "ImageSets" / "Main"
    return [s for s in ("train", "val", "trainval", "test") if (lists / f"{s}.txt").is_file()]


def _things(tree: ElementTree.Element | None) -> list[Thing]:
    corners = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
    return [
        Thing(
            o.findtext("name", ""),
            tuple(_number(o, corner) for corner in corners),
            _number(o, "difficult") == 1,
        )
        for o in (() if tree is None else tree.iter("object"))
    ]


def _number(element: ElementTree.Element, path: str) -> float:
    try:
        return float(element.findtext(path, ""))
    except ValueError:
        return nan  # sort_out reports it
