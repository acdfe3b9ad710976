"""One part of the run on a GPU: what it found, what it left out and why, and how much time it has."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from peers import NETWORKS, Network

LARGE = {**NETWORKS, "convnext_b": Network("convnext_base", "stages.3", "head.fc")}
SMALL = {
    "vit_b16": Network("test_vit", "blocks.5.norm1", "head", tokens=True),
    "resnet50": Network("test_resnet", "layer4", "fc"),
    "convnext_b": Network("test_convnext", "stages.3", "head.fc"),
}


@dataclass(frozen=True)
class GpuSettings:
    """What every part is measured with; `size` in pixels, `photos` of the embedded set, `rounds` at most."""

    device: str = "cuda"
    small: bool = False

    @property
    def networks(self) -> dict[str, Network]:
        return SMALL if self.small else LARGE

    @property
    def batch(self) -> int:
        return 2 if self.small else 64

    @property
    def size(self) -> int:
        return 160 if self.small else 224

    @property
    def questions(self) -> tuple[int, ...]:
        return (1, 2, 4) if self.small else (1, 8, 64)

    @property
    def concepts(self) -> int:
        return 20 if self.small else 500

    @property
    def masks(self) -> int:
        return 2 if self.small else 64

    @property
    def photos(self) -> int:
        return 6 if self.small else 256

    @property
    def rounds(self) -> int:
        return 1 if self.small else 5


class TimeOver(BaseException):
    """Raised in a part whose time is over; no library's `except Exception` takes it."""


@dataclass
class Part:
    """What one part found: figures by name and rows of detail, with what was skipped and which peers failed."""

    name: str
    end: float = float("inf")
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    def left(self) -> float:
        """Seconds until its time is over."""
        return self.end - time.perf_counter()

    def skip(self, what: str, reason: str) -> None:
        """Say what was not measured, and why."""
        self.skipped.append({"what": what, "reason": reason})

    def has_time(self, what: str, expected: float) -> bool:
        """Whether a measurement of so many seconds still fits; where it does not, it is said to be skipped."""
        if expected <= self.left():
            return True
        self.skip(what, f"about {expected:.1f} s are needed and {max(0.0, self.left()):.1f} s of its time are left")
        return False

    @contextlib.contextmanager
    def as_far_as_memory_goes(self, what: str) -> Iterator[None]:
        """Skip what the GPU's memory does not hold."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.skip(what, f"out of memory: {one_line(error)}")

    @contextlib.contextmanager
    def peer(self, what: str) -> Iterator[None]:
        """Go on without a peer that fails, and say why it does."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self.failed.append({"what": what, "reason": one_line(error)})

    def measure(self, call: Callable[[Part], None], seconds: float, at_most: float) -> None:
        """Make the measurement within about so many seconds; what goes wrong is kept, and so is what was found.

        Args:
            call: Measures and fills this part in.
            seconds: Its share of the time, by which it chooses what to leave out.
            at_most: Seconds after which it is broken off; not on Windows, which has no signal for that.
        """
        begin = time.perf_counter()
        self.end = begin + seconds
        try:
            with broken_off(at_most), self.as_far_as_memory_goes(f"the rest of {self.name}"):
                call(self)
        except TimeOver:
            self.skip(f"the rest of {self.name}", f"its time was over after {time.perf_counter() - begin:.1f} s")
        except Exception as error:
            self.error = f"{type(error).__name__}: {one_line(error)}"
        strange = [name for name, value in self.figures.items() if not math.isfinite(value)]
        if strange:
            self.figures = {name: value for name, value in self.figures.items() if name not in strange}
            self.error = f"{self.error or 'measured'}; not finite: {', '.join(strange)}"
        self.seconds = round(time.perf_counter() - begin, 1)


@contextlib.contextmanager
def broken_off(seconds: float) -> Iterator[None]:
    """Raise `TimeOver` in the block after so many seconds."""

    def stop(_number: int, _frame: Any) -> None:
        raise TimeOver

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 300 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:300]
