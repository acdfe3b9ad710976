"""Photos that each have one class: what every labelled data set gives, and photos of it held out."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.masked_set import NOTHING_EXCLUDED
from conceptlens.io.errors import InputError
from conceptlens.io.images import read_image
from conceptlens.io.text_file import readable_names

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float64, Int64
    from PIL import Image


@dataclass(frozen=True, eq=False)
class ClassAttributes:
    """How often the photos of each class show each attribute: `shares[class attribute]`, 0 to 1.

    `concepts` says the attributes in English, one for each name, with the part and property of each where known.

    Raises `InputError` where the shares are not finite, not from 0 to 1, or not one for each name.
    """

    names: tuple[str, ...]
    shares: Float64[np.ndarray, "class attribute"] = field(repr=False)
    concepts: tuple[BottleneckConcept, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Check the shares, and say the attributes by their names where no other words are given."""
        if not self.concepts:
            object.__setattr__(self, "concepts", tuple(BottleneckConcept(name) for name in self.names))
        if not ((self.shares >= 0) & (self.shares <= 1)).all():
            raise InputError("class attributes hold a share that is not from 0 to 1; divide percentages by 100")


@dataclass(frozen=True, eq=False)
class PhotoAttributes:
    """What annotators saw in each photo: `present` and `visible`, both `[photo attribute]`, bool.

    Where an attribute is not `visible`, annotators could not see it or were not asked, and `present` has no meaning.
    """

    names: tuple[str, ...]
    present: Bool[np.ndarray, "photo attribute"] = field(repr=False)
    visible: Bool[np.ndarray, "photo attribute"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PhotoKeypoints:
    """Where the parts of each photo are: `xy[photo part 2]`, as shares of the upright photo's width and height.

    `visible[photo part]` says which parts can be seen; the others are NaN. `parts` names the keypoints
    that count as one part, such as left and right wing; by default each keypoint is a part.
    """

    names: tuple[str, ...]
    xy: Float64[np.ndarray, "photo part 2"] = field(repr=False)
    visible: Bool[np.ndarray, "photo part"] = field(repr=False)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Count each keypoint as a part where parts are not given."""
        if not self.parts:
            object.__setattr__(self, "parts", {name: (name,) for name in self.names})


@dataclass(frozen=True, eq=False)
class Annotation:
    """What a labelled set knows beyond classes; each is `None` where the set does not have it.

    The rows of `photos`, `keypoints` and `boxes` are the photos of the split, in the set's order; those of `attributes`
    its classes. `boxes[photo 4]`: left, top, right, bottom as shares of the upright photo, cut at its edges.
    """

    attributes: ClassAttributes | None = None
    photos: PhotoAttributes | None = None
    keypoints: PhotoKeypoints | None = None
    boxes: Float64[np.ndarray, "photo 4"] | None = field(default=None, repr=False)


class LabelledSet(Protocol):
    """A data set with one class for each photo; the classes and their numbers are the same in all its splits."""

    @property
    def name(self) -> str:
        """What the set and its split are called in results."""
        ...

    @property
    def split(self) -> str:
        """Which split this is."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that can be opened."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called, each once, in the order of their numbers."""
        ...

    @property
    def excluded(self) -> Mapping[str, str]:
        """What lies there or is listed and was left out, to the reason."""
        ...

    @property
    def labels(self) -> Int64[np.ndarray, "photo"]:
        """The number of each photo's class, in the order of the photos: no photo is read for it."""
        ...

    @property
    def names(self) -> list[str]:
        """What each photo is called, unique in the set: no photo is read for it."""
        ...

    @property
    def annotation(self) -> Annotation | None:
        """What else is known; `None` where nothing is. Read at the first use."""
        ...

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def __getitem__(self, index: int) -> Image.Image:
        """Read the photo at an index from 0, upright and RGB, grey ones too; an `InputError` leaves others readable."""
        ...


class ListedPhotos(ABC):
    """A labelled set whose photos are listed when it is opened and read one at a time: what the loaders share.

    A loader sets the fields; `_photos` are the names of the photos, their paths in `_root`. One whose photos are not
    files says itself how a photo is called and read.
    """

    name: str
    split: str
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    excluded: Mapping[str, str] = NOTHING_EXCLUDED
    labels: Int64[np.ndarray, "photo"]

    _root: Path
    _photos: Sequence[str]

    def _name_of(self, index: int) -> str:
        """Return what a photo is called, before it is read."""
        return self._photos[index]

    def _read(self, index: int) -> Image.Image:
        """Read one photo."""
        return read_image(self._root / self._photos[index])

    @property
    def annotation(self) -> Annotation | None:
        """What else is known; `None` where nothing is. Read at the first use."""
        return None

    @property
    def names(self) -> list[str]:
        """What each photo is called, in the order of the photos: no photo is read for it."""
        return self._readable_names

    @cached_property
    def _readable_names(self) -> list[str]:
        return readable_names(self._name_of(index) for index in range(len(self)))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Image.Image]:
        """Read one photo after the other; only one is held at a time."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Image.Image:
        """Read the photo at an index."""
        return self._read(range(len(self))[index])


def check_split(split: str, splits: Sequence[str], what: str) -> str:
    """Return a split that a set has; raises `InputError` naming all of them.

    Args:
        split: The split that was given.
        splits: Those that there are.
        what: What the set is called, for the message.
    """
    if split not in splits:
        raise InputError(f"{what} has no split {split!r}; splits: {', '.join(splits)}")
    return split


def without_photos(labelled: LabelledSet) -> tuple[str, ...]:
    """Return the classes that no photo of this split has: nothing can be learnt, or measured, of them.

    Args:
        labelled: A labelled set.

    Returns:
        Names of classes.
    """
    counts = np.bincount(labelled.labels, minlength=len(labelled.classes))
    return tuple(name for name, count in zip(labelled.classes, counts, strict=True) if not count)


def hold_out(
    labels: Int64[np.ndarray, "photo"], per_class: float, seed: int = 0
) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "held"]]:
    """Return indices of `labels` to keep and to hold out, both ascending: `per_class` photos of every class are held.

    A float below 1 is a share of each class (rounded, at least one photo), an int a number of photos. Which photos of
    a class are drawn depends on the seed and on that class alone. Indices are of the split whose labels are given, so
    no other split can be touched.

    Args:
        labels: The class number of each photo.
        per_class: A share of each class between 0 and 1, or a number of photos.
        seed: Decides which photos.

    Returns:
        Indices of photos to keep and of photos held out, both rising.

    Raises:
        InputError: A class would keep no photo, or an argument is out of range.
    """
    given = np.asarray(labels)
    share = isinstance(per_class, float) and 0 < per_class < 1
    if not (share or (isinstance(per_class, int | np.integer) and per_class > 0)) or seed < 0:
        raise InputError(
            f"{per_class!r} of each class was to be held out with seed {seed}; expected a share between 0 and 1 such "
            "as 0.2, or a number of photos such as 5, and a seed from 0"
        )
    classes, counts = np.unique(given, return_counts=True)
    held_counts = (
        np.maximum(1, np.floor(counts * per_class + 0.5).astype(int))
        if share
        else np.full(len(classes), int(per_class))
    )
    small, sizes = classes[held_counts >= counts], counts[held_counts >= counts]
    if len(small):
        more = f" and {len(small) - 1} more" if len(small) > 1 else ""
        raise InputError(
            f"class {small[0]}{more} would keep no photo: it has {sizes[0]} and {per_class} of each class is held out; "
            "hold out fewer, or leave out classes that are so small"
        )
    held = np.zeros(given.size, bool)
    by_class = np.split(np.argsort(given, kind="stable"), np.cumsum(counts)[:-1])
    for number, count, indices in zip(classes.tolist(), held_counts.tolist(), by_class, strict=True):
        held[np.random.default_rng([seed, number]).permutation(indices)[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
