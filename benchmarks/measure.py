"""Peak memory, time and FLOPs of one call, on the processor or on CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

STATUS = Path("/proc/self/status")
MEGABYTE = 2**20


def seconds(call: Callable[[], Any], device: str) -> float:
    """Return how long one call takes.

    On the processor this is processor time of one thread, so that other work on the machine does not count. On CUDA it
    is wall time, with an empty queue before and after.
    """
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def median_seconds(call: Callable[[], Any], device: str, least: float = 2.0) -> float:
    """Median of 1 to 9 calls, as many as begin within `least` seconds."""
    taken: list[float] = []
    while not taken or (len(taken) < 9 and sum(taken) < least):
        taken.append(seconds(call, device))
    return statistics.median(taken)


def in_turns(
    calls: Mapping[str, Callable[[], Any]], device: str, rounds: int, least: float = float("inf")
) -> dict[str, list[float]]:
    """How long each call takes, one after the other in every round; after `least` seconds no further round begins."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + least
    for number in range(rounds):
        if number and time.perf_counter() >= end:
            break
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
    return taken


def flops(call: Callable[[], Any]) -> int:
    """Floating point operations of one call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def growth(call: Callable[[], Any], device: str) -> float:
    """Megabytes by which one call's peak exceeds what was held before it."""
    gc.collect()
    if device.startswith("cuda"):
        _wait(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        _wait(device)
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE
    with _freed_at_once():
        before = _settle()
        call()
        return (_peak() - before) / MEGABYTE


@contextlib.contextmanager
def _freed_at_once() -> Iterator[None]:
    """Let glibc hand every freed block of a megabyte back, so that resident memory is what is held and not what was."""
    threshold = -3  # M_MMAP_THRESHOLD
    library = ctypes.CDLL(None)
    adjust = getattr(library, "mallopt", lambda *_: None)
    adjust(threshold, MEGABYTE)
    try:
        yield
    finally:
        adjust(threshold, 32 * MEGABYTE)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _settle() -> float:
    """Give freed memory back, set the kernel's high-water mark down to now where it can be, and return bytes held."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _field("VmRSS") if STATUS.exists() else _maximum()


def _peak() -> float:
    return _field("VmHWM") if STATUS.exists() else _maximum()


def _field(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return float(line.split()[1]) * 1024


def _maximum() -> float:
    """The process's highest resident memory; bytes on macOS, kilobytes elsewhere."""
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(value if sys.platform == "darwin" else value * 1024)


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows, each a column's value by its name, as a table."""
    from rich.console import Console
    from rich.table import Table

    printed = Table(*rows[0])
    for row in rows:
        printed.add_row(*(str(value) for value in row.values()))
    Console().print(printed)
