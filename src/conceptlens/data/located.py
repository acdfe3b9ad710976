"""Photos whose concepts have a known place: what every data set with masks gives, one photo at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from conceptlens.error import InputError
from conceptlens.record import WHOLE
from conceptlens.text.vocabulary import ConceptName

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Located:
    """One photo, the concepts in it, and where each of them is.

    - `name`: what the photo is called, unique in its set.
    - `masks[concept rows columns]`: bool, over the whole upright photo, at the annotation's own resolution.
    - `groups[concept]`: what a table of results sorts each concept under (thing, stuff, part, colour ...).
    - `ignored[rows columns]`: pixels that belong neither to a concept nor to the rest; `None` where there are none.
    """

    name: str
    photo: Image.Image
    concepts: tuple[ConceptName, ...]
    groups: tuple[str, ...]
    masks: np.ndarray = field(repr=False)
    ignored: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check that every field speaks of the same concepts and pixels."""
        count = len(self.concepts)
        if self.masks.dtype != np.bool_ or self.masks.ndim != 3 or len(self.masks) != count:
            raise InputError(
                f"{self.name} has masks of shape {self.masks.shape} and type {self.masks.dtype} for {count} concepts; "
                "expected bool concept rows columns"
            )
        if len(self.groups) != count:
            raise InputError(f"{self.name} has {len(self.groups)} groups for {count} concepts; give one for each")
        if self.ignored is not None and self.ignored.shape != self.masks.shape[1:]:
            raise InputError(
                f"{self.name} ignores pixels of shape {self.ignored.shape}; expected {self.masks.shape[1:]}"
            )

    def at_least(self, share: float) -> Located:
        """Return this photo with the concepts that cover at least `share` of it (of the pixels not ignored)."""
        counted = self.masks if self.ignored is None else self.masks & ~self.ignored
        size = self.masks[:1].size if self.ignored is None else int((~self.ignored).sum())
        kept = [i for i, mask in enumerate(counted) if mask.sum() >= share * max(size, 1) and mask.any()]
        return Located(
            self.name, self.photo, tuple(self.concepts[i] for i in kept), tuple(self.groups[i] for i in kept),
            self.masks[kept], self.ignored,
        )  # fmt: skip


class LocatedSet(Protocol):
    """A data set with masks: every concept that it can name, and a stream of its photos."""

    @property
    def name(self) -> str:
        """What the set and its split are called in results."""
        ...

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """Every concept that the set names, in its own order, whether or not a photo shows it."""
        ...

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def __getitem__(self, place: int) -> Located:
        """Read the photo at a place, from 0; an `InputError` about one photo leaves the others readable."""
        ...

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other; only one is held at a time."""
        ...


def resize_mask(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return `masks[... rows columns]` at another size `(rows, columns)`: each pixel takes the value at its centre.

    Nothing is blended, so a mask does not grow when it is resized. Raises `InputError` for a size below 1 x 1.
    """
    return crop_masks(masks, WHOLE, size)


def crop_masks(
    masks: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int], outside: bool = False
) -> np.ndarray:
    """Return `masks[... rows columns]` as a model saw the photo: the part in `box`, at `size` (rows, columns).

    `box` is `Picture.box`: left, top, right, bottom as shares of the whole photo. What lies beyond the photo is
    padding and takes the value `outside`: give `True` for a mask of ignored pixels. Each pixel takes the value at
    its centre. Raises `InputError` for an empty box or a size below 1 x 1.
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom) or min(size) < 1 or masks.ndim < 2:
        raise InputError(
            f"masks of shape {masks.shape} were to be cut at {box} and sized {tuple(size)}; expected ... rows columns, "
            "a box of left < right and top < bottom, and at least 1 row and 1 column"
        )
    rows, in_rows = _nearest(top, bottom, size[0], masks.shape[-2])
    columns, in_columns = _nearest(left, right, size[1], masks.shape[-1])
    seen = masks[..., rows[:, None], columns[None, :]]
    return np.where(in_rows[:, None] & in_columns[None, :], seen, np.asarray(outside, masks.dtype))


def _nearest(start: float, end: float, count: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the centres of `count` pixels between two shares of a side fall, and whether they are on it."""
    centres = (start + (np.arange(count) + 0.5) * ((end - start) / count)) * total
    index = np.floor(centres + 1e-6).astype(
        int
    )  # a centre on an edge belongs to the later pixel, whatever the rounding
    return index.clip(0, total - 1), (index >= 0) & (index < total)
