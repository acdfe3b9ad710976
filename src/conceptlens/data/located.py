"""Photos whose concepts have a known place: what every data set with masks gives, one photo at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from conceptlens.error import InputError
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
        size = self.masks[0].size if self.ignored is None else int((~self.ignored).sum())
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

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other; only one is held at a time."""
        ...
