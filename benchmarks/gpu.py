"""Everything that a GPU is measured for, in one command: maps, concepts, local embeddings, a data set, options.

`python benchmarks/gpu.py --json [--device cuda] [--small] [--minutes 8]`. Random weights, no network. See README.md in
this folder for what is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

import gpu_concepts
import gpu_maps
import loce
from cam import PACKAGES
from gpu_part import GpuSettings, Part
from measure import show
from run_record import run_record

USED = 0.95  # of the minutes: the rest is for the start and the end of Python
BROKEN_OFF = 1.5  # times its share of the time, a part is broken off
# A part, its name, and how much of the time it may take beside the others; in order of importance.
Planned = tuple[str, Callable[[Part], None], float]


def main() -> None:
    """Measure one part after the other; print what was found, and end with 1 where a part went wrong."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--small", action="store_true", help="tiny networks and batches, for a processor")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is measured")
    asked = parser.parse_args()
    if asked.minutes <= 0:
        parser.error(f"--minutes {asked.minutes}; give a number above 0")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {asked.device}: torch finds no CUDA device; give --device cpu --small without a GPU")
    prepare(asked.device)
    settings = GpuSettings(asked.device, asked.small)
    parts = run(planned(settings), started + 60 * USED * asked.minutes)
    result = {
        "name": "gpu",
        "figures": {name: value for part in parts for name, value in part.figures.items()},
        "details": {
            "parts": [{key: value for key, value in asdict(part).items() if key != "end"} for part in parts],
            "setting": setting(settings, asked.minutes, time.perf_counter() - started),
        },
    }
    print(json.dumps(result, indent=2)) if asked.json else printed(result)
    sys.exit(any(part.error for part in parts))


def prepare(device: str) -> None:
    """One thread on the processor, whose time is counted; the asked GPU is the current one, whose memory is read.

    What was imported is not looked through for garbage before every measurement of memory.
    """
    gc.freeze()
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device).index or 0)
    else:
        torch.set_num_threads(1)


def planned(settings: GpuSettings) -> list[Planned]:
    """Return every part: first the maps of each network, then concepts, embeddings, a data set, options."""
    networks = list(settings.networks)
    kinds = {
        "maps": (gpu_maps.questions, 3.0),
        "ce_fam": (gpu_concepts.many_concepts, 1.0),
        "embed": (gpu_concepts.whole_set, 1.0),
        "options": (gpu_maps.options, 1.0),
    }
    found = {
        kind: [(f"{kind} {name}", partial(call, settings=settings, name=name), weight) for name in networks]
        for kind, (call, weight) in kinds.items()
    }
    vectors: list[Planned] = [
        (f"loce {case.name}", partial(gpu_concepts.local_embeddings, settings=settings, case=case), 1.0)
        for case in loce.CASES
    ]
    return [*found["maps"], *found["ce_fam"], *vectors, *found["embed"], *found["options"]]


def run(plans: list[Planned], end: float) -> list[Part]:
    """Measure every part; each has its share of the time that those before it left."""
    parts: list[Part] = []
    for number, (name, call, weight) in enumerate(plans):
        part, left = Part(name), end - time.perf_counter()
        parts.append(part)
        if left <= 1:
            part.skip(name, "the time was over before it began")
            continue
        share = left * weight / sum(one[2] for one in plans[number:])
        print(f"{name}: at most {min(left, BROKEN_OFF * share):.0f} s", file=sys.stderr, flush=True)
        part.measure(call, share, min(left, BROKEN_OFF * share))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return parts


def setting(settings: GpuSettings, minutes: float, seconds: float) -> dict[str, Any]:
    """Return what is needed to read the numbers: command, versions, machine."""
    cuda = settings.device.startswith("cuda")
    words = ["python", "benchmarks/gpu.py", "--json", "--device", settings.device, "--minutes", f"{minutes:g}"]
    found: dict[str, Any] = {
        **run_record(PACKAGES, " ".join([*words, *(["--small"] if settings.small else [])]), settings.device),
        "seconds": round(seconds, 1),
        "networks": {name: network.name for name, network in settings.networks.items()},
        "clock": "wall time, an empty queue before and after" if cuda else "processor time of one thread",
        "memory": "allocated on the GPU" if cuda else "resident",
    }
    if cuda:
        found |= {
            "gigabytes": round(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30, 1),
            "driver": driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
            "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        }
    return found


def driver() -> str | None:
    """Return the version of the GPU's driver, where nvidia-smi says it."""
    call = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def printed(result: dict[str, Any]) -> None:
    """Print the numbers as a table, and what is missing below it."""
    show([{"figure": name, "value": value} for name, value in result["figures"].items()] or [{"figure": "none"}])
    for part in result["details"]["parts"]:
        for kind in ("skipped", "failed"):
            for one in part[kind]:
                print(f"{part['name']}, {kind}: {one['what']}: {one['reason']}")
        if part["error"]:
            print(f"{part['name']}, error: {part['error']}")


if __name__ == "__main__":
    main()
