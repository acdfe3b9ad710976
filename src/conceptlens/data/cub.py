"""Caltech-UCSD Birds 200-2011: classes, boxes, part points and attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.data.annotation_files import entry_errors, existing_folder, read_text
from conceptlens.data.cub_parts import cub_parts, cub_readings
from conceptlens.data.labelled_set import (
    Annotation,
    ClassAttributes,
    ListedPhotos,
    PhotoAttributes,
    PhotoKeypoints,
    check_split,
)
from conceptlens.io.errors import InputError
from conceptlens.io.image_file import TURNS, opened, orientation
from conceptlens.io.text_file import encoding_of

if TYPE_CHECKING:
    from jaxtyping import Float64

SPLITS = ("train", "test", "all")
NOT_VISIBLE = 1  # certainty 1 of 4: the annotator could not see it
_OUTSIDE = 0.01  # of the visible points: more than this beyond their photos means that they are not of these photos


class Cub(ListedPhotos):
    """CUB-200-2011, or any part of it in its layout; splits `train`, `test` and `all`.

    Expects `images.txt`, `image_class_labels.txt`, `classes.txt`, `train_test_split.txt` and `images/` in the folder or
    in its `CUB_200_2011`. Ids need not follow one another. Photos come in the order of `images.txt`, grey ones too, and
    are called by their line there; a class is called as its folder without number and underscores.

    `annotation` reads what there is: `bounding_boxes.txt`, `parts/`, `attributes/` (`attributes.txt` there, or in the
    folder, or beside it as in the published archive) with `class_attribute_labels_continuous.txt` in per cent, and
    `image_attribute_labels.txt`, of whose lines the first four columns count, for some have stray ones. Points and
    boxes are taken to lie on the pixels as stored; a point beyond them counts as not visible. The header of each photo
    is read for its size.

    A class without any photo is left out.

    Args:
        folder: The folder of the set.
        split: `train`, `test` or `all`.

    Raises:
        InputError: A file is missing, broken or speaks of an unknown id, or where the points lie beyond the photos.
    """

    splits = SPLITS

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        given = existing_folder(folder, "CUB-200-2011")
        self._folder = given if (given / "images.txt").is_file() else given / "CUB_200_2011"
        if not (self._folder / "images.txt").is_file():
            raise InputError(
                f"no file {str(given / 'images.txt')!r}, nor in its 'CUB_200_2011'; give the folder of CUB-200-2011"
            )
        self.split = check_split(split, SPLITS, "CUB-200-2011")
        self.name = f"cub {split}"
        paths = self._named("images.txt")
        classes = self._named("classes.txt")
        of_photo = self._of_photos("image_class_labels.txt", paths)
        in_train = self._of_photos("train_test_split.txt", paths)
        self._check(paths, classes, of_photo)
        shown = set(of_photo.values())
        blank = {name: "no photo" for number, name in classes.items() if number not in shown}
        self.excluded = {**self.excluded, **blank}
        self._listed = list(classes)
        self._kept = [number for number in classes if number in shown]
        self.classes = _readable([classes[number] for number in self._kept])
        self._ids = [photo for photo in paths if split == "all" or (in_train[photo] == 1) == (split == "train")]
        self._root, self._photos = self._folder / "images", [paths[photo] for photo in self._ids]
        indices = {number: index for index, number in enumerate(self._kept)}
        self.labels = np.array([indices[of_photo[photo]] for photo in self._ids], np.int64)
        if not self._ids:
            raise InputError(
                f"{str(self._folder)!r} lists no photo of the split {split!r}; splits: {', '.join(SPLITS)}"
            )

    @property
    def annotation(self) -> Annotation | None:
        """Boxes, keypoints and attributes, as far as their files are there."""
        return self._annotation

    @cached_property
    def _annotation(self) -> Annotation | None:
        read = Annotation(
            attributes=self._class_attributes(),
            photos=self._photo_attributes(),
            keypoints=self._keypoints(),
            boxes=self._boxes(),
        )
        return read if any(value is not None for value in vars(read).values()) else None

    def _named(self, file: str) -> dict[int, str]:
        """Read lines of an id and a name, in their order."""
        return _named(self._folder / file)

    def _of_photos(self, file: str, paths: dict[int, str]) -> dict[int, int]:
        """Read one whole number for each photo."""
        path = self._folder / file
        lines = _numbers(path, 2, np.int64).tolist()
        found = {photo: number for photo, number in lines if photo in paths}
        _check_once(path, [(photo,) for photo, _ in lines], [number for _, number in lines])
        if others := sum(photo not in paths for photo, _ in lines):
            left_out = f"{others} of its lines are of photos that images.txt does not list"
            self.excluded = {**self.excluded, file: left_out}
        missing = [photo for photo in paths if photo not in found]
        if missing:
            raise InputError(f"{str(path)!r} has no line for photo {missing[0]} of images.txt; unpack both again")
        return found

    def _check(self, paths: dict[int, str], classes: dict[int, str], of_photo: dict[int, int]) -> None:
        """Refuse photos that are listed twice, or whose class is not listed."""
        if len(set(paths.values())) < len(paths):
            twice = next(name for name in paths.values() if list(paths.values()).count(name) > 1)
            raise InputError(f"{str(self._folder / 'images.txt')!r} lists {twice!r} twice; unpack it again")
        unknown = set(of_photo.values()) - set(classes)
        if unknown:
            raise InputError(
                f"{str(self._folder / 'image_class_labels.txt')!r} has class {min(unknown)}, which classes.txt does "
                "not list; take both files from one copy"
            )

    @cached_property
    def _attribute_names(self) -> dict[int, str]:
        """Read the attributes by their ids, wherever the file lies."""
        folders = (self._folder / "attributes", self._folder, self._folder.resolve().parent)
        found = [folder / "attributes.txt" for folder in folders if (folder / "attributes.txt").is_file()]
        return _named(found[0]) if found else {}

    def _class_attributes(self) -> ClassAttributes | None:
        """Read the percentages of the classes that have photos."""
        path = self._folder / "attributes" / "class_attribute_labels_continuous.txt"
        names = tuple(self._attribute_names.values())
        if not (names and path.is_file()):
            return None
        shares, concepts = _numbers(path, len(names), np.float64) / 100, cub_readings(names)
        if len(shares) == len(self._listed):
            return ClassAttributes(names, shares[[self._listed.index(number) for number in self._kept]], concepts)
        # A part of CUB may lie beside the table of all its classes.
        if min(self._listed) >= 1 and max(self._listed) <= len(shares):
            return ClassAttributes(names, shares[[number - 1 for number in self._kept]], concepts)
        raise InputError(
            f"{str(path)!r} has {len(shares)} lines for the {len(self._listed)} classes of classes.txt; expected one "
            "for each"
        )

    def _photo_attributes(self) -> PhotoAttributes | None:
        """Read what was seen in each photo, from a line for each photo and attribute."""
        path = self._folder / "attributes" / "image_attribute_labels.txt"
        if not (self._attribute_names and path.is_file()):
            return None
        table = _numbers(path, 4, np.int64)
        names = tuple(self._attribute_names.values())
        photo, attribute = self._indices(table[:, 0]), _indices(table[:, 1], list(self._attribute_names), path)
        table, photo, attribute = table[photo >= 0], photo[photo >= 0], attribute[photo >= 0]
        present, visible = (np.zeros((len(self._ids), len(names)), bool) for _ in range(2))
        present[photo, attribute] = table[:, 2] == 1
        visible[photo, attribute] = table[:, 3] > NOT_VISIBLE
        return PhotoAttributes(names, present & visible, visible)

    def _keypoints(self) -> PhotoKeypoints | None:
        """Read where the parts are, as shares of the upright photos."""
        path = self._folder / "parts" / "part_locs.txt"
        if not path.is_file():
            return None
        parts = _named(self._folder / "parts" / "parts.txt")
        table = _numbers(path, 5, np.float64)
        _check_once(path, table[:, :2].tolist(), table[:, 2:].tolist())
        photo, part = self._indices(table[:, 0]), _indices(table[:, 1], list(parts), path)
        marked = (photo >= 0) & (table[:, 4] == 1)
        xy = np.full((len(self._ids), len(parts), 2), np.nan)
        xy[photo[marked], part[marked]] = table[marked, 2:4]
        xy = self._upright(xy)
        marked = np.isfinite(xy).all(-1)
        visible = np.asarray(marked & ((xy >= 0) & (xy <= 1)).all(-1))
        outside = 1 - visible.sum() / max(marked.sum(), 1)
        if marked.any() and outside > _OUTSIDE:
            raise InputError(
                f"{str(path)!r} has {outside:.0%} of its visible points beyond their photos; use the photos that were "
                "annotated, or resize the points with them"
            )
        xy[~visible] = np.nan
        own = {part.name: part.keypoints for part in cub_parts().values()}
        known = set(parts.values()) >= {name for names in own.values() for name in names}
        return PhotoKeypoints(tuple(parts.values()), xy, visible, own if known else {})

    def _boxes(self) -> Float64[np.ndarray, "photo 4"] | None:
        """Read the boxes, from left, top, width and height in pixels."""
        path = self._folder / "bounding_boxes.txt"
        if not path.is_file():
            return None
        table = _numbers(path, 5, np.float64)
        photo = self._indices(table[:, 0])
        corners = np.full((len(self._ids), 2, 2), np.nan)
        own = photo >= 0
        corners[photo[own], 0], corners[photo[own], 1] = table[own, 1:3], table[own, 1:3] + table[own, 3:5]
        if not np.isfinite(corners).all():
            lacks = self._photos[int(np.argmin(np.isfinite(corners).all((1, 2))))]
            raise InputError(f"{str(path)!r} has no box for {lacks!r}; unpack it again")
        return np.sort(self._upright(corners), axis=1).clip(0, 1).reshape(-1, 4)

    @cached_property
    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Read width and height of each photo as stored, and its EXIF orientation, from its header."""
        read = []
        for name in self._photos:
            with opened(self._root / name) as image:
                read.append((image.size, orientation(image)))
        return np.array([size for size, _ in read], float), np.array([turn for _, turn in read])

    def _upright(self, xy: np.ndarray) -> np.ndarray:
        """Return `xy[photo point 2]` in stored pixels as shares of the upright photos."""
        sizes, turns = self._stored
        shares = xy / sizes[:, None]
        for number in set(turns.tolist()) & set(TURNS):
            turn, own = TURNS[number], turns == number
            upright = shares[own][..., ::-1] if turn.swapped else shares[own]
            shares[own] = np.where([turn.across, turn.down], 1 - upright, upright)
        return shares

    def _indices(self, ids: np.ndarray) -> np.ndarray:
        """Return the index of each photo id in this split; -1 for photos of another."""
        return _lookup(ids, self._ids)


def _indices(ids: np.ndarray, known: list[int], path: Path) -> np.ndarray:
    """Return the index of each id among those known."""
    indices = _lookup(ids, known)
    if (indices < 0).any():
        raise InputError(
            f"{str(path)!r} has id {int(ids[indices < 0][0])} in its second column, expected one of {len(known)} from "
            f"{min(known)} to {max(known)}; take the files from one copy"
        )
    return indices


def _lookup(ids: np.ndarray, known: list[int]) -> np.ndarray:
    """Return the index of each id in `known`, -1 where it is not there."""
    order = np.argsort(known)
    ordered = np.asarray(known)[order]
    index = np.searchsorted(ordered, ids).clip(0, len(known) - 1)
    return np.where(ordered[index] == ids, order[index], -1)


def _named(path: Path) -> dict[int, str]:
    """Read lines of an id and a name, in their order."""
    with entry_errors(path, "lines of an id and a name"):
        pairs = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
        named = {int(number): name.strip() for number, name in pairs}
    if not pairs or len(named) < len(pairs):
        raise InputError(f"{str(path)!r} has {len(pairs)} lines and {len(named)} ids; expected one line for each id")
    return named


def _check_once(path: Path, keys: Sequence[Sequence[float]], values: Sequence[Any]) -> None:
    """Refuse a table that says two things of one photo, or of one part of it, as where tables were joined."""
    known: dict[tuple[float, ...], Any] = {}
    for key, value in zip(map(tuple, keys), values, strict=True):
        if known.setdefault(key, value) != value:
            named = " ".join(f"{number:g}" for number in key)
            raise InputError(
                f"{str(path)!r} has two lines that begin with {named} and differ; keep the one that is right"
            )


def _numbers(path: Path, columns: int, kind: Any) -> np.ndarray:
    """Read the first columns of a table of numbers: `line column`."""
    try:
        with path.open("rb") as opened_file:
            start = opened_file.read(64)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot read {str(path)!r} ({reason}); check the folder's layout or download it") from error
    if not start.strip():
        raise InputError(f"{str(path)!r} is empty; download it again")
    with entry_errors(path, f"{columns} numbers a line"):
        return np.loadtxt(path, dtype=kind, usecols=range(columns), ndmin=2, comments=None, encoding=encoding_of(start))


def _readable(names: list[str]) -> tuple[str, ...]:
    """Return `001.Black_footed_Albatross` as `Black footed Albatross`, unless two classes would be called the same."""
    short = tuple(" ".join(re.sub(r"^\d+\.", "", name).replace("_", " ").split()) for name in names)
    return short if len(set(short)) == len(short) and all(short) else tuple(names)
