"""The photos that a benchmark measures: of a folder, a labelled set or a set with masks, evenly spaced where few."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.data.class_folder import SPLITS
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.data.labelled_sets import LABELLED_SETS, evaluation_split, open_classes
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.data.masked_sets import SETS, open_set
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import settings_fingerprint
from conceptlens.io.folder_files import files_below
from conceptlens.io.image_file import SUFFIXES, quoted
from conceptlens.io.images import find_images, read_image
from conceptlens.io.text_file import readable_names, readable_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64
    from PIL import Image

    from conceptlens.data.masked_set import MaskedSet


@dataclass(frozen=True, eq=False)
class BenchmarkPhotos:
    """Photos by index, with what is annotated of each.

    Args:
        name: What the set and its split are called in results.
        names: What the photos are called, each once.
        photos: The set, or files; `rows` says which of them.
        rows: The index of each photo in the set.
        labels: The annotated class of each; empty where there are none.
        boxes: The annotated box of each, left, top, right, bottom as shares of the photo; `None` without.
    """

    name: str
    names: tuple[str, ...]
    photos: LabelledSet | MaskedSet | Sequence[Path] = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    labels: tuple[str, ...] = field(default=(), repr=False)
    boxes: Float64[np.ndarray, "photo 4"] | None = field(default=None, repr=False)

    def read(self, index: int) -> Image.Image:
        """Read a photo, upright and RGB.

        Args:
            index: Its index, from 0.

        Raises:
            InputError: It cannot be read.
        """
        found = self.photos[self.rows[index]]
        if isinstance(found, Path):
            return read_image(found)
        return found.photo if isinstance(found, MaskedPhoto) else found

    @property
    def fingerprint(self) -> str:
        """Of the names, labels and boxes of the photos: which photos they are, and in which order."""
        boxes = None if self.boxes is None else np.round(self.boxes, 6).tolist()
        return settings_fingerprint([list(self.names), list(self.labels), boxes])


def open_photos(text: str, split: str | None = None, max_photos: int | None = None) -> BenchmarkPhotos:
    """Return the photos that `NAME:DIR` or a folder means.

    Args:
        text: A labelled set such as `cub:DIR`, a set with masks such as `drawn:20`, a folder with a folder of photos
            for each class, or a folder of photos.
        split: A split of the set; by default that of a labelled set that measures, such as `test`.
        max_photos: Take so many at most, evenly spaced in the set; by default all.

    Raises:
        InputError: There is no such set, split or photo, or `max_photos` is below 1.
    """
    folder = Path(text).expanduser()
    if folder.is_dir() and any(one.suffix.lower() in SUFFIXES for one in folder.iterdir()):
        return _of_folder(folder, split, max_photos)
    name = text.partition(":")[0]
    if name in SETS:
        opened = open_set(text, split)
        rows = spaced_rows(len(opened), max_photos)
        return BenchmarkPhotos(opened.name, tuple(opened.names[row] for row in rows), opened, rows)
    if name not in LABELLED_SETS and not folder.is_dir():
        known = (*LABELLED_SETS, *SETS)
        raise InputError(f"no data set {name!r}; {near(name, known, 'data sets')}; or give a folder")
    try:
        opened = open_classes(text, split)
    except InputError:
        _refuse_few_folders(folder)
        raise
    measuring = None if split is not None else evaluation_split(opened)
    return of_labelled(opened if measuring is None else open_classes(text, measuring), max_photos)


def of_labelled(opened: LabelledSet, max_photos: int | None = None) -> BenchmarkPhotos:
    """Return photos of a labelled set, with their classes, and boxes where they are annotated.

    Args:
        opened: The set.
        max_photos: Take so many at most, evenly spaced in the set; by default all.
    """
    rows = spaced_rows(len(opened), max_photos)
    known = opened.annotation
    boxes = None if known is None or known.boxes is None else known.boxes[list(rows)]
    labels = tuple(opened.classes[opened.labels[row]] for row in rows)
    return BenchmarkPhotos(opened.name, tuple(opened.names[row] for row in rows), opened, rows, labels, boxes)


def _refuse_few_folders(folder: Path) -> None:
    """Say both ways in which a folder can be given, where it has photos in fewer than two folders."""
    if not folder.is_dir():
        return
    inside = sorted({path.partition("/")[0] for path in files_below(folder).photos})
    if len(inside) > 1 or set(inside) & set(SPLITS):
        return
    ways = "a folder of photos, or one with a folder of photos for each of two or more classes"
    if not inside:
        raise InputError(f"the folder {quoted(folder)} holds no photo; give {ways}") from None
    raise InputError(
        f"the folder {quoted(folder)} has photos in one folder alone; give {quoted(folder / inside[0])} to measure its "
        f"photos, or {ways}"
    ) from None


def _of_folder(folder: Path, split: str | None, max_photos: int | None) -> BenchmarkPhotos:
    if split is not None:
        raise InputError(f"{folder} is a folder of photos without splits; leave --split out")
    files = find_images(folder)
    rows = spaced_rows(len(files), max_photos)
    names = readable_names(str(files[row].relative_to(folder)) for row in rows)
    return BenchmarkPhotos(readable_text(folder.resolve().name), tuple(names), files, rows)


def spaced_rows(total: int, wanted: int | None) -> tuple[int, ...]:
    """Return indices that are evenly spaced, so that a set sorted by class shows all of them.

    Args:
        total: How many photos there are.
        wanted: How many are taken at most; by default all.

    Raises:
        InputError: There is none, or fewer than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise InputError(f"max_photos is {wanted}; expected at least 1")
    if not total:
        raise InputError("the data set has no photo; choose another one or another split")
    count = total if wanted is None else min(wanted, total)
    return tuple(int(row) for row in np.linspace(0, total - 1, count).round())
