"""A longer data set from a short one; in a module of its own, where workers of a cluster find it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conceptlens.data.masked_set import MaskedPhoto, MaskedSet


@dataclass(frozen=True, eq=False)
class Repeated:
    """A set read several times over, under other names: a longer run from few photos.

    Each process that reads it leaves a file in `folder` when it begins.
    """

    of: MaskedSet
    times: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.of.name} x {self.times}"

    @property
    def concepts(self) -> Any:
        return self.of.concepts

    @property
    def names(self) -> list[str]:
        return [f"{time} {name}" for time in range(self.times) for name in self.of.names]

    def __len__(self) -> int:
        return self.times * len(self.of)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> MaskedPhoto:
        mark = self.folder / str(os.getpid())
        if not mark.exists():
            mark.touch()
        return replace(self.of[place % len(self.of)], name=self.names[place])
