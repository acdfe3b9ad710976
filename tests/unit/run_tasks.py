"""Tasks of runs that do something to the process that they run in; workers import them from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

HOME = os.getpid()


@dataclass(frozen=True)
class Squares:
    """A task that squares the numbers of a batch and says which process did so, with how many threads.

    Each process writes itself down in `folder`. A worker that reads the batch at `deadly` is killed on the spot
    (SIGKILL), the first `deaths` times; a batch at `wrong` raises an error.
    """

    folder: Path
    count: int = 12
    deadly: int | None = None
    deaths: int = 1
    wrong: int | None = None
    seconds: float = 0.0
    about: str = "a model or a set"

    @property
    def names(self) -> Sequence[str]:
        return [f"photo {index}" for index in range(self.count)]

    @property
    def batches(self) -> list[range]:
        return [range(start, min(start + 2, self.count)) for start in range(0, self.count, 2)]

    def read(self, batch: range) -> range:
        (self.folder / f"{os.getpid()}.process").touch()
        if batch.start == self.deadly and len(list(self.folder.glob("*.killed"))) < self.deaths:
            (self.folder / f"{os.getpid()}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    def compute(self, read: range) -> dict[str, Any]:
        time.sleep(self.seconds)
        if read.start == self.wrong:
            raise Peculiar("the disk is on fire", 3)
        print("a module prints")
        threads = (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))
        return {"squares": [index**2 for index in read], "process": os.getpid(), "threads": threads}


class Peculiar(OSError):
    """An error that does not survive pickling: it asks for more than its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"{message} ({code})")


@dataclass(frozen=True)
class DiesWhereItIsOpened(Squares):
    """A task whose worker ends before it is at work."""

    @cached_property
    def __dict__(self) -> dict[str, Any]:  # pragma: no cover
        return {}
