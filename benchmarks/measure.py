"""Peak memory, time and FLOPs of one call, on the processor or on CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

STATUS = Path("/proc/self/status")
MEGABYTE = 2**20


def seconds(call: Callable[[], Any], device: str) -> float:
    """Wall time of one call; CUDA's queue is empty before and after."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def ratio(call: Callable[[], Any], unit: Callable[[], Any], device: str, least: float = 1.0) -> dict[str, float]:
    """Median seconds of `call` and of `unit`, taken in turns until `least` seconds have passed (2 to 10 turns)."""
    calls, units, start = [], [], time.perf_counter()
    while len(calls) < 2 or (len(calls) < 10 and time.perf_counter() - start < least):
        units.append(seconds(unit, device))
        calls.append(seconds(call, device))
    median, one = statistics.median(calls), statistics.median(units)
    return {"seconds": median, "forward_seconds": one, "forwards": median / one}


def flops(call: Callable[[], Any]) -> int:
    """Floating point operations of one call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def growth(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Megabytes by which one call's peak exceeds what was held before it, and what it returned."""
    gc.collect()
    if device.startswith("cuda"):
        _wait(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        _wait(device)
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE, result
    before = _settle()
    result = call()
    return (_peak() - before) / MEGABYTE, result


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
