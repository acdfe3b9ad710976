"""Data sets that do something to the process that reads them; workers of a cluster import them from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conceptlens as cl
from conceptlens.data.masked_set import MaskedPhoto, MaskedSet


@dataclass(frozen=True, eq=False)
class Watched:
    """A set that writes down, in a folder, which process reads each photo.

    A process that reads the photo at `deadly` is killed on the spot (SIGKILL), the first `deaths` times; `wrong` is a
    photo that raises a `RuntimeError`, as nothing that a photo does is expected to. `home` is the process that is
    left alone.
    """

    of: MaskedSet
    folder: Path
    deadly: int | None = None
    deaths: int = 1
    wrong: int | None = None
    home: int = os.getpid()

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def concepts(self) -> Any:
        return self.of.concepts

    @property
    def names(self) -> list[str]:
        return self.of.names

    def __len__(self) -> int:
        return len(self.of)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> MaskedPhoto:
        away = os.getpid() != self.home
        if away:
            (self.folder / f"{os.getpid()}.process").touch()
        if away and place == self.wrong:
            raise RuntimeError("the disk is on fire")
        died = len(list(self.folder.glob("*.killed")))
        if away and place == self.deadly and died < self.deaths:
            (self.folder / f"{os.getpid()}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.of[place]

    def processes(self) -> set[str]:
        return {file.stem for file in self.folder.glob("*.process")}

    def killed(self) -> set[str]:
        return {file.stem for file in self.folder.glob("*.killed")}


class Unsendable:
    """A set that cannot be sent to another process."""

    name = "unsendable"

    def __init__(self, of: MaskedSet) -> None:
        self.of, self.names, self.concepts = of, of.names, of.concepts

    def __len__(self) -> int:
        return len(self.of)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return iter(self.of)

    def __getitem__(self, place: int) -> MaskedPhoto:
        return self.of[place]

    def __reduce__(self) -> str:
        raise TypeError("it holds an open file")


class Lost(Unsendable):
    """A set that cannot be opened where it was sent to."""

    def __reduce__(self) -> Any:
        return _lost, ()


def _lost() -> None:
    raise cl.InputError("no folder 'photos'")
