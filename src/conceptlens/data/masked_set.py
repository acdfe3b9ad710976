"""Photos whose concepts have known masks: what every data set with masks gives, one photo at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import check_option
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.text_file import readable_names
from conceptlens.record import WHOLE

if TYPE_CHECKING:
    from PIL import Image

Entry = TypeVar("Entry")
# What a loader without exclusions says it left out.
NOTHING_EXCLUDED: Mapping[str, str] = MappingProxyType({})
Coarse = Literal["box", "ellipse"]


@dataclass(frozen=True, eq=False)
class MaskedPhoto:
    """One photo, the concepts in it, and a mask of each.

    Attributes:
        name: What the photo is called, unique in its set.
        photo: The upright photo, RGB.
        concepts: The concept of each mask; a set read by instance names a concept once for each object of it.
        groups: What a table of results sorts each concept under, such as thing, stuff, part or colour.
        masks: Bool `[concept rows columns]`, over the whole photo, at the annotation's own resolution. One that covers
            the whole photo is kept, though metrics that need a rest are undefined for it.
        ignored: Bool `[rows columns]`, pixels that belong neither to a concept nor to the rest; `None` for none.
        n_excluded: How many masks of the annotation are not among these: blank, too small, crowds that are skipped, or
            such as cannot be drawn.
        excluded: Why each of those cannot be drawn that is found when the photo is read; `excluded` of the set has
            what is seen before.

    Raises:
        InputError: The fields speak of different concepts or pixels.
    """

    name: str
    photo: Image.Image
    concepts: tuple[ConceptName, ...]
    groups: tuple[str, ...]
    masks: np.ndarray = field(repr=False)
    ignored: np.ndarray | None = field(default=None, repr=False)
    n_excluded: int = 0
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that every field speaks of the same concepts and pixels."""
        count, pixels = len(self.concepts), self.masks.shape[1:]
        if self.masks.dtype != np.bool_ or self.masks.ndim != 3 or not len(self.masks) == len(self.groups) == count:
            raise InputError(
                f"{self.name} has masks of shape {self.masks.shape} and type {self.masks.dtype} and {len(self.groups)} "
                f"groups for {count} concepts; expected bool concept rows columns, and a group for each concept"
            )
        if self.ignored is not None and self.ignored.shape != pixels:
            raise InputError(f"{self.name} ignores pixels of shape {self.ignored.shape}; expected {pixels}")

    def with_min_area(self, share: float) -> MaskedPhoto:
        """Return this photo with the concepts that cover at least `share` of it (of the pixels not ignored).

        Args:
            share: The smallest area of a mask, as a share of the pixels that are not ignored.

        Returns:
            The photo; `n_excluded` counts the masks that it lost.
        """
        counted = self.masks if self.ignored is None else self.masks & ~self.ignored
        size = self.masks[:1].size if self.ignored is None else int((~self.ignored).sum())
        kept = [i for i, mask in enumerate(counted) if mask.sum() >= share * max(size, 1) and mask.any()]
        return replace(
            self,
            concepts=tuple(self.concepts[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept),
            masks=self.masks[kept],
            n_excluded=self.n_excluded + len(self.masks) - len(kept),
        )


class MaskedSet(Protocol):
    """A data set with masks: every concept that it can name, and a stream of its photos."""

    @property
    def name(self) -> str:
        """What the set and its split are called in results."""
        ...

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """Every concept that the set names, in its own order, whether or not a photo shows it."""
        ...

    @property
    def names(self) -> list[str]:
        """What each photo is called, in the order of the photos: nothing is read for it."""
        ...

    @property
    def excluded(self) -> Mapping[str, str]:
        """What lies there or is listed and is left out, photos and annotations, to the reason."""
        ...

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def __getitem__(self, index: int) -> MaskedPhoto:
        """Read the photo at an index, from 0; an `InputError` about one photo leaves the others readable."""
        ...

    def __iter__(self) -> Iterator[MaskedPhoto]:
        """Read one photo after the other; only one is held at a time."""
        ...


def check_masked_set(given: object) -> None:
    """Raise `InputTypeError` where something else than a data set with masks is given."""
    if not hasattr(given, "concepts") or not hasattr(given, "__getitem__"):
        raise InputTypeError(
            f"a {type(given).__name__} was given as the data; expected a data set with masks: cl.open_set(name)"
        )


def read_named(data: MaskedSet, names: Sequence[str]) -> Iterator[MaskedPhoto]:
    """Read the photos of these names alone, in the order of the set; one that cannot be read is passed over.

    Args:
        data: The set.
        names: The photos' names; one that the set does not have is passed over.

    Yields:
        The photos, one at a time.
    """
    wanted = set(names)
    for index, name in enumerate(data.names):
        if name in wanted:
            with suppress(InputError):
                yield data[index]


class ListedMaskedSet(ABC, Generic[Entry]):
    """A set whose photos are listed when it is opened and read one at a time: what the loaders share.

    A loader sets the fields and reads one photo from its entry in the list.

    `excluded` says what lies there or is listed and is left out, photos and annotations, to the reason. Every other
    photo is read, also one that shows no concept.
    """

    name: str
    concepts: tuple[ConceptName, ...]
    excluded: Mapping[str, str] = NOTHING_EXCLUDED
    _groups: Sequence[str]
    _entries: Sequence[Entry]

    def _name_of(self, entry: Any) -> str:
        """Return what a photo is called, before it is read: the first part of its entry."""
        return entry[0]

    @abstractmethod
    def _read(self, entry: Entry) -> MaskedPhoto:
        """Read one photo and its masks."""

    @property
    def n_excluded(self) -> int:
        """How many photos and annotations are left out before any photo is read: as many as `excluded` names."""
        return len(self.excluded)

    @property
    def names(self) -> list[str]:
        """What each photo is called, in the order of the photos: nothing is read for it."""
        return self._readable_names

    @cached_property
    def _readable_names(self) -> list[str]:
        return readable_names(self._name_of(entry) for entry in self._entries)

    @property
    def choices(self) -> dict[str, str | float]:
        """How this set reads masks, by option: `by`, `crowds`, `shape`, `ignore`, as it has them."""
        other = ("name", "size", "split")
        known = {name.strip("_"): value for name, value in vars(self).items() if isinstance(value, str | float | int)}
        return {name: value for name, value in sorted(known.items()) if name not in other}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        """Read one photo after the other."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> MaskedPhoto:
        """Read the photo at an index."""
        one = self._read(self._entries[index])
        return one if one.name == self.names[index] else replace(one, name=self.names[index])

    def _masked_photo(
        self,
        name: str,
        photo: Image.Image,
        found: Sequence[tuple[int, np.ndarray]],
        shape: tuple[int, ...],
        ignored: np.ndarray | None = None,
        n_excluded: int = 0,
        excluded: Sequence[str] = (),
    ) -> MaskedPhoto:
        """Return what was found in one photo, masks with their concept's number, in the set's order, less the blank."""
        shown = sorted(((number, mask) for number, mask in found if mask.any()), key=lambda pair: pair[0])
        return MaskedPhoto(
            name=name,
            photo=photo,
            concepts=tuple(self.concepts[number] for number, _ in shown),
            groups=tuple(self._groups[number] for number, _ in shown),
            masks=np.stack([mask for _, mask in shown]) if shown else np.zeros((0, *shape), bool),
            ignored=ignored if ignored is not None and ignored.any() else None,
            n_excluded=n_excluded + len(excluded) + len(found) - len(shown),
            excluded=tuple(excluded),
        )


def coarse_mask(box: tuple[float, float, float, float], size: tuple[int, int], shape: Coarse = "box") -> np.ndarray:
    """Return a box, or the ellipse in it, as a mask. A pixel belongs to it where its centre does.

    Args:
        box: Left, top, right, bottom, in pixels.
        size: The photo's rows and columns; what lies beyond them is cut.
        shape: `"box"` or `"ellipse"`.

    Returns:
        Bool `[rows columns]`.

    Raises:
        InputError: The shape is another, or the box has no height or width.
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise InputError(f"the box {box} is empty; expected left < right and top < bottom, in pixels")
    x = np.arange(size[1])[None, :] + 0.5 - (left + right) / 2
    y = np.arange(size[0])[:, None] + 0.5 - (top + bottom) / 2
    a, b = (right - left) / 2, (bottom - top) / 2  # half the sides
    if check_option(shape, "shape", Coarse) == "box":
        return (-a <= x) & (x < a) & (-b <= y) & (y < b)
    return (x * b) ** 2 + (y * a) ** 2 <= (a * b) ** 2


def resize_mask(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return `masks[... rows columns]` at another size `(rows, columns)`: each pixel takes the value at its centre.

    Nothing is blended, so a mask does not grow when it is resized.

    Args:
        masks: `[... rows columns]`.
        size: Rows and columns.

    Returns:
        `[... rows columns]` of the same type.
    """
    return crop_masks(masks, WHOLE, size)


def crop_masks(
    masks: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int], outside: bool = False
) -> np.ndarray:
    """Return `masks[... rows columns]` as a model saw the photo; each pixel takes the value at its centre.

    Args:
        masks: `[... rows columns]`.
        box: The part that the model saw, `ImageInfo.box`: left, top, right, bottom as shares of the photo.
        size: Rows and columns of the result.
        outside: The value of padding beyond the photo; `True` for a mask of ignored pixels.

    Returns:
        `[... rows columns]` of the same type.
    """
    left, top, right, bottom = box
    rows, in_rows = _nearest(top, bottom, size[0], masks.shape[-2])
    columns, in_columns = _nearest(left, right, size[1], masks.shape[-1])
    taken = masks[..., rows[:, None], columns[None, :]]
    return np.where(in_rows[:, None] & in_columns[None, :], taken, np.asarray(outside, masks.dtype))


def _nearest(start: float, end: float, count: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the centres of `count` pixels between two shares of a side fall, and whether they are on it."""
    centres = (start + (np.arange(count) + 0.5) * ((end - start) / count)) * total
    # a centre on an edge belongs to the later pixel, whatever the rounding
    index = np.floor(centres + 1e-6).astype(int)
    return index.clip(0, total - 1), (index >= 0) & (index < total)
