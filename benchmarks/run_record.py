"""What every result of a benchmark says of its run: command, date, seconds, versions, machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# Scripts import this module before they measure anything.
STARTED = time.perf_counter()
RECORD = ("command", "date", "seconds", "versions", "device", "threads")
PLACE = re.compile(r"(?<![\w.])[/~][^\s,:]*")


def run_record(
    packages: Sequence[str] = (), command: str | None = None, device: str = "cpu", threads: int | None = None
) -> dict[str, Any]:
    """Return the record of this run; seconds are those since the script began.

    Args:
        packages: Distributions whose versions it tells, beside Python, ConceptLens and torch.
        command: The command where it is not what was typed.
        device: Where it measured.
        threads: Threads of a process on the processor; by default torch's.
    """
    cuda = device.startswith("cuda")
    return {
        "command": typed_command() if command is None else command,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - STARTED),
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in dict.fromkeys(("conceptlens", "torch", *packages))},
        },
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": None if cuda else threads or torch.get_num_threads(),
    }


def typed_command() -> str:
    """Return the command as it was typed; of a place on this machine its last part alone."""
    words = [PLACE.sub(lambda place: Path(place[0]).name, word) for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def installed(package: str) -> str | None:
    """Return the version of a distribution; `None` where it is missing, which a part says of a peer."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name and number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
