"""Places365: photos of scenes, as its file lists name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conceptlens.data.annotation_files import entry_errors, existing_folder, once_each_entry, read_text
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.labelled_set import ListedPhotos, check_split
from conceptlens.io.errors import InputError

_CATEGORIES = "categories_places365.txt"
# The list of each split, and the folders where torchvision or the archives put its photos, the small ones first.
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("places365_train_standard.txt", ("data_256_standard", "data_256", "data_large_standard", "data_large")),
    "val": ("places365_val.txt", ("val_256", "val_large")),
}


class Places(ListedPhotos):
    """Places365-Standard from its lists, as torchvision lays it out; splits `train` and `val`.

    Expects `categories_places365.txt`, `places365_train_standard.txt` with `data_256_standard` or
    `data_large_standard`, and `places365_val.txt` with `val_256` or `val_large`; where both sizes are there, the small
    one is read. The test split has no labels. A photo is called as in its list, and `/a/apartment_building/outdoor` is
    the class `apartment building, outdoor`.

    Args:
        folder: The folder of the lists and photos.
        split: `train` or `val`.

    Raises:
        InputError: A list is missing or broken or names a class that is not in the categories.
    """

    splits = tuple(_FILES)

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self._folder = existing_folder(folder, "Places365")
        self.split = check_split(split, self.splits, "Places365")
        self.name = f"places {split}"
        categories = _lines(self._folder / _CATEGORIES)
        self.classes = tuple(_readable(name) for name, _ in sorted(categories, key=lambda pair: pair[1]))
        if sorted(number for _, number in categories) != list(range(len(categories))):
            raise InputError(
                f"{str(self._folder / _CATEGORIES)!r} does not number its {len(categories)} categories from 0 without "
                "gaps; download it again"
            )
        list_name, folders = _FILES[split]
        lines = ((name.lstrip("/"), number) for name, number in _lines(self._folder / list_name))
        listed, self.excluded = once_each_entry(lines, self._folder / list_name)
        self._photos = list(listed)
        self.labels = np.array(list(listed.values()), np.int64)
        if self.labels.min() < 0 or self.labels.max() >= len(categories):
            raise InputError(
                f"{str(self._folder / list_name)!r} has a class from {self.labels.min()} to {self.labels.max()}, "
                f"expected 0 to {len(categories) - 1}; take it and {_CATEGORIES} from one archive"
            )
        there = [name for name in folders if (self._folder / name).is_dir()]
        if not there:
            raise InputError(
                f"{str(self._folder)!r} has no folder {folders[0]!r} nor {folders[-1]!r}, where the photos of {split} "
                "belong; unpack them there"
            )
        self._root = self._folder / there[0]


def open_places(folder: str | Path, split: str = "train") -> ListedPhotos:
    """Open Places365 from its lists where they are there, else as `SPLIT/CLASS/*.jpg`.

    Args:
        folder: The folder of the lists and photos.
        split: `train` or `val`.
    """
    given = existing_folder(folder, "Places365")
    return Places(given, split) if (given / _CATEGORIES).is_file() else ClassFolder(given, split)


def _lines(path: Path) -> list[tuple[str, int]]:
    """Read lines of a name and a number."""
    with entry_errors(path, "lines of a name and a number"):
        pairs = [line.rsplit(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
        lines = [(name, int(number)) for name, number in pairs]
    if not lines:
        raise InputError(f"{str(path)!r} is empty; download it again")
    return lines


def _readable(category: str) -> str:
    """Return `/a/apartment_building/outdoor` as `apartment building, outdoor`."""
    return ", ".join(category.strip("/").split("/")[1:]).replace("_", " ")
