"""A folder of photos with a subfolder for each class, as torchvision's `ImageFolder` and ImageNet have it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conceptlens.data.annotation_files import existing_folder, read_text
from conceptlens.data.imagenet_s import NAMES, imagenet_names
from conceptlens.data.labelled_set import ListedPhotos, check_split
from conceptlens.io.errors import InputError
from conceptlens.io.image_file import SUFFIXES

SPLITS = ("train", "val", "valid", "validation", "test")
ALL = "all"
_WNID = re.compile(r"n\d{8}")
_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # where ImageNet's archive of its Kaggle contest has its splits
_SYNSETS = "LOC_synset_mapping.txt"


class ClassFolder(ListedPhotos):
    """Photos whose folder is their class: `CLASS/*.jpg`, or `SPLIT/CLASS/*.jpg` with the splits of `SPLITS`.

    A folder is a split if it has the name of one, holds folders and no photo beside them. Without any, the one split is
    `all`; with some, `all` is all of them. Without `split` it is `train` where there is one, else `all`.

    - Classes are the folders, sorted, with the same numbers in all splits; hidden ones are not seen. Photos are looked
      for all the way down, sorted, and called by their path from the folder that was opened (with the split, if any).
    - A class without any photo is left out and stands in `excluded`. Where there is a `train`, a class that has photos
      in other splits alone is an error: most often its folder is not a class.
    - Folders that are all called as ImageNet numbers its classes (`n01440764`) have ImageNet's names: from
      `LOC_synset_mapping.txt` in the folder, else timm's; of several names the first.

    Args:
        folder: The folder of the classes or splits.
        split: A split, or `all`; by default `train` where there is one.

    Raises:
        InputError: There are fewer than two classes, photos beside class folders, or no such split.
    """

    def __init__(self, folder: str | Path, split: str | None = None) -> None:
        given = existing_folder(folder, "a folder of classes")
        self._root = given / _KAGGLE if (given / _KAGGLE).is_dir() else given
        found = [name for name in SPLITS if _is_split(self._root / name)]
        self.splits = (*found, ALL)
        self.split = check_split(split or ("train" if "train" in found else ALL), self.splits, repr(str(given)))
        self.name = f"{given.resolve().name} {self.split}"
        inner = {name: _subfolders(self._root / name) for name in found} or {ALL: _subfolders(self._root)}
        self.folders, empty = self._shown(inner)
        self.excluded = dict.fromkeys(empty, "no photo")
        if len(self.folders) < 2:
            raise InputError(
                f"{str(given)!r} has {len(self.folders)} class folders with photos; expected at least two: give the "
                "folder whose subfolders are the classes"
            )
        self.classes = _class_names(self.folders, given)
        opened = found if self.split == ALL and found else [self.split]
        entries = [
            (photo, number)
            for part in opened
            for number, name in enumerate(self.folders)
            if name in inner[part]
            for photo in _photos(self._root, self._path(part, name))
        ]
        self._photos = [photo for photo, _ in entries]
        self.labels = np.array([number for _, number in entries], np.int64)

    @staticmethod
    def _path(part: str, name: str = "") -> str:
        """Return where a class of a split lies in the folder."""
        return name if part == ALL else f"{part}/{name}"

    def _shown(self, inner: dict[str, list[str]]) -> tuple[tuple[str, ...], list[str]]:
        """Return the class folders that have a photo in any split, and those that have none, both sorted."""
        shown: dict[str, set[str]] = {}
        for part, names in inner.items():
            root = self._root / self._path(part)
            astray = next((entry for entry in root.iterdir() if _is_photo(entry.name) and entry.is_file()), None)
            if astray is not None:
                raise InputError(
                    f"{str(astray)!r} lies in no class folder; expected every photo of {str(root)!r} in a folder "
                    "that is called as its class, move it there"
                )
            shown[part] = {name for name in names if any(_photos(self._root, self._path(part, name)))}
        every = set().union(*shown.values())
        for part, names in shown.items():
            strange = sorted(names - shown.get("train", every))
            if strange:
                raise InputError(
                    f"the class {strange[0]!r} has photos in {str(self._root / part)!r} and none in "
                    f"{str(self._root / 'train')!r}; add some there, or take its folder away"
                )
        return tuple(sorted(every)), sorted({name for names in inner.values() for name in names} - every)


def open_imagenet(folder: str | Path, split: str = "train") -> ClassFolder:
    """Open ImageNet's `train/WNID/` and `val/WNID/`.

    Args:
        folder: The folder that holds `train/` and `val/`.
        split: `train`, `val` or `all`.

    Returns:
        The labelled photos.

    Raises:
        InputError: A class folder is called otherwise, or there is no such split.
    """
    opened = ClassFolder(folder, split)
    strange = [name for name in opened.folders if not _WNID.fullmatch(name)]
    if strange:
        raise InputError(
            f"{str(folder)!r} has the class folder {strange[0]!r}, expected names such as 'n01440764'; give the folder "
            "of ImageNet that holds train/ and val/, or open it as folder:DIR"
        )
    return opened


def _is_split(folder: Path) -> bool:
    """Whether a folder holds folders and no photo beside them."""
    if not folder.is_dir():
        return False
    return bool(_subfolders(folder)) and not any(_is_photo(entry.name) for entry in folder.iterdir())


def _subfolders(folder: Path) -> list[str]:
    """List the folders in a folder that are not hidden."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _photos(folder: Path, inner: str) -> Iterator[str]:
    """List the photos of a class by their paths in the folder, all the way down."""

    def refuse(error: OSError) -> None:
        raise InputError(f"the folder {str(error.filename)!r} cannot be listed; allow it or leave it out") from error

    start = str(folder / inner)
    for root, below, files in os.walk(start, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        path = inner + root[len(start) :].replace(os.sep, "/")
        yield from (f"{path}/{name}" for name in sorted(files) if _is_photo(name))


def _is_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _class_names(folders: tuple[str, ...], given: Path) -> tuple[str, ...]:
    """Return what classes are called: ImageNet's names for its numbers, else as their folders."""
    if not all(_WNID.fullmatch(name) for name in folders):
        return folders
    listed = given / _SYNSETS
    known = imagenet_names() | (_synsets(listed) if listed.is_file() else {})
    first = [NAMES.get(name) or known.get(name, name).split(",")[0].strip() for name in folders]
    # Two classes are called maillot; both get all their names.
    named = [one if first.count(one) == 1 else known[name] for one, name in zip(first, folders, strict=True)]
    return tuple(named) if len(set(named)) == len(named) else folders


def _synsets(path: Path) -> dict[str, str]:
    """Read lines such as `n01440764 tench, Tinca tinca`."""
    pairs = [line.split(maxsplit=1) for line in read_text(path).splitlines()]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
