"""Tasks of runs that do something to the process that they run in; workers import them from here.

As a program, a run of two workers that is to be killed: `python run_tasks.py FOLDER`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import conceptlens as cl


@dataclass(frozen=True)
class Squares:
    """A task that squares the numbers of a batch and says which process did so, with how many threads.

    Each process writes itself down in `folder`. A worker that reads the batch at `deadly` is killed on the spot
    (SIGKILL), the first `deaths` times; the batch at `wrong` raises an error.
    """

    folder: Path
    count: int = 12
    deadly: int | None = None
    deaths: int = 1
    wrong: int | None = None
    seconds: float = 0.0
    about: str = "squares or numbers"

    @property
    def names(self) -> Sequence[str]:
        return [f"photo {index}" for index in range(self.count)]

    @property
    def batches(self) -> list[range]:
        return [range(start, min(start + 2, self.count)) for start in range(0, self.count, 2)]

    def read(self, batch: range) -> range:
        (self.folder / f"{os.getpid()}.process").touch()
        if batch.start == self.deadly and len(self.killed()) < self.deaths:
            (self.folder / f"{os.getpid()}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    def compute(self, read: range) -> dict[str, Any]:
        time.sleep(self.seconds)
        if read.start == self.wrong:
            raise PeculiarError("the disk is on fire", 3)
        print("a module prints")
        return {
            "squares": [index**2 for index in read],
            "threads": (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")),
        }

    def processes(self) -> list[int]:
        return [int(file.stem) for file in self.folder.glob("*.process")]

    def killed(self) -> list[Path]:
        return list(self.folder.glob("*.killed"))


class PeculiarError(OSError):
    """An error that does not survive pickling: it asks for more than its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"{message} ({code})")


class EndsItsWorker(Squares):
    """A task that ends the process that opens it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


class CannotBeOpened(Squares):
    """A task that no other process can open."""

    def __reduce__(self) -> Any:
        return _cannot_be_opened, ()


def _cannot_be_opened() -> None:
    raise cl.InputError("no folder 'photos'")


class CannotBeSent(Squares):
    """A task that cannot leave its process."""

    def __reduce__(self) -> Any:
        raise TypeError("it holds an open file")


class Tied(nn.Module):
    """A network with a buffer and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(values)) + self.shift


@dataclass(frozen=True)
class WithNetwork(Squares):
    """A task with weights."""

    network: nn.Module | None = None


def main() -> None:
    from conceptlens.runs.process_engine import process_engine

    task = Squares(Path(sys.argv[1]), 1000, seconds=0.05)
    for _ in process_engine(2)(task, task.batches):
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
