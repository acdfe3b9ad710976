"""A folder of photos with a subfolder for each class, as torchvision's `ImageFolder` and ImageNet have it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conceptlens.data.annotation_files import existing_folder, read_text
from conceptlens.data.imagenet_s import NAMES, imagenet_names
from conceptlens.data.labelled_set import ListedPhotos, check_split
from conceptlens.io.errors import InputError
from conceptlens.io.folder_files import FolderFiles, files_below
from conceptlens.io.image_file import SUFFIXES, quoted
from conceptlens.io.text_file import readable_names, readable_text

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
    - Linked folders are entered, each real folder once: what is linked a second time, or leads nowhere, stands in
      `excluded`. A linked photo that leads nowhere cannot be read, and says so.
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
        self.name = readable_text(f"{given.resolve().name} {self.split}")
        listed = {part: self._listed(part) for part in found or [ALL]}
        self.folders, excluded = self._shown(listed)
        if len(self.folders) < 2:
            raise InputError(
                f"{str(given)!r} has {len(self.folders)} class folders with photos; expected at least two: give the "
                "folder whose subfolders are the classes"
            )
        self.classes = _class_names(self.folders, given)
        numbers = {name: number for number, name in enumerate(self.folders)}
        opened = found if self.split == ALL and found else [self.split]
        kept = [(part, photo) for part in opened for photo in listed[part].photos]
        entries, again = self._once(kept)
        self.excluded = excluded | again
        self._photos = [self._path(part, photo) for part, photo in entries]
        self.labels = np.array([numbers[photo.partition("/")[0]] for _, photo in entries], np.int64)

    @staticmethod
    def _path(part: str, name: str = "") -> str:
        """Return where a class of a split lies in the folder."""
        return name if part == ALL else f"{part}/{name}"

    def _listed(self, part: str) -> FolderFiles:
        """List the photos of a split by their paths in it; a link that leads nowhere is no class folder."""
        root = self._root / self._path(part)
        found = files_below(root)
        lost = [path for path in found.photos if "/" not in path and not os.path.splitext(path)[1]]
        astray = next((path for path in found.photos if "/" not in path and path not in lost), None)
        if astray is not None:
            raise InputError(
                f"{quoted(root / astray)} lies in no class folder; expected every photo of {quoted(root)} in a folder "
                "that is called as its class, move it there"
            )
        gone = {name: f"a link to {quoted(os.readlink(root / name))}, which is not there" for name in lost}
        return FolderFiles(tuple(path for path in found.photos if path not in lost), {**found.not_entered, **gone})

    def _once(self, entries: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """Return photos of several splits without the folders of one that a link shows in another again, and those."""
        folders = [self._path(part, photo).rpartition("/")[0] for part, photo in entries]
        real = {folder: os.path.realpath(self._root / folder) for folder in dict.fromkeys(folders)}
        first = {place: folder for folder, place in reversed(real.items())}
        again = {
            readable_text(folder): f"a link to {quoted(first[place])}, whose photos are listed there"
            for folder, place in real.items()
            if first[place] != folder
        }
        return [one for one, folder in zip(entries, folders, strict=True) if first[real[folder]] == folder], again

    def _shown(self, listed: dict[str, FolderFiles]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the class folders that have a photo in any split, sorted, and why others and links are left out."""
        shown = {part: {path.partition("/")[0] for path in files.photos} for part, files in listed.items()}
        every = set().union(*shown.values())
        for part, names in shown.items():
            strange = sorted(names - shown.get("train", every))
            if strange:
                raise InputError(
                    f"the class {strange[0]!r} has photos in {str(self._root / part)!r} and none in "
                    f"{str(self._root / 'train')!r}; add some there, or take its folder away"
                )
        excluded = {
            readable_text(name): "no photo"
            for part in listed
            for name in _subfolders(self._root / self._path(part))
            if name not in every
        }
        for part, files in listed.items():
            excluded |= {readable_text(self._path(part, link)): reason for link, reason in files.not_entered.items()}
        return tuple(sorted(every)), dict(sorted(excluded.items()))


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


def _is_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _class_names(folders: tuple[str, ...], given: Path) -> tuple[str, ...]:
    """Return what classes are called: ImageNet's names for its numbers, else as their folders."""
    if not all(_WNID.fullmatch(name) for name in folders):
        return tuple(readable_names(folders))
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
