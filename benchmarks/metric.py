"""Metrics of a map and a model: ROAD beside grad-cam, deletion and insertion beside torch-cam and Quantus.

`python benchmarks/metric.py [--json] [--quick] [--device cuda]`. All get the same maps, images and network, and their
values are compared in the same run. Quantus is measured where it is installed (it is no part of `conceptlens[bench]`:
its licence is the GPL). Time is processor time of one thread, or wall time on CUDA; see README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from conceptlens.metrics import road
from measure import growth, seconds, show
from metric_tools import (
    DELETION,
    PHOTOS,
    QUANTUS,
    ROAD,
    SMALL,
    Case,
    bare,
    grad_cams_road,
    grad_cams_road_without_noise,
    prepare,
    shares_of,
)
from run_record import run_record

# Deletion is measured on as many parts of each photo: with few images, the passes of Quantus are small by chance.
PARTS = 4
REPEATS = {"road": 3, "deletion": 2}
BARE = 64
PACKAGES = ("conceptlens", "torch", "grad-cam", "torchcam")


def main() -> None:
    """Run all in turn, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="one photo, each call once")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)  # grad-cam hands tensors to NumPy
    photos, parts = (1, 2) if asked.quick else (len(PHOTOS), PARTS)
    details = {
        "road": road_details(prepare(photos, 1, asked.device), asked),
        "deletion": deletion_details(prepare(photos, parts, asked.device), asked),
        "megabytes": memory(photos, parts, asked.device),
        "setting": setting(asked, photos, parts),
    }
    whole = {"name": "metric", "figures": figures(details), "details": details}
    if asked.json:
        print(json.dumps(whole, indent=2))
    else:
        show([{"figure": name, "value": value} for name, value in whole["figures"].items()])


def measured(
    case: Case, calls: dict[str, Callable[[Case], Any]], repeats: int, device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what each tool took and its last result; tools take turns, so that a busy spell meets all.

    Seconds are medians. Passes are images that went through the network. `bare_seconds` are those of as many passes of
    the network alone: `BARE` of them, taken in the same turn, scaled to their number.
    """
    passes = dict.fromkeys(calls, 0)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    alone: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}

    def keep(name: str) -> None:
        results[name] = calls[name](case)

    bare(case, SMALL)
    for _ in range(repeats):
        for name in calls:
            ran: list[int] = []
            hook = case.module.register_forward_pre_hook(lambda _, given, ran=ran: ran.append(len(given[0])))
            taken[name].append(seconds(partial(keep, name), device))
            hook.remove()
            passes[name] = sum(ran)
            alone[name].append(seconds(partial(bare, case, BARE), device) / BARE * sum(ran))
    return {
        "seconds": {name: round(statistics.median(several), 3) for name, several in taken.items()},
        "bare_seconds": {name: round(statistics.median(several), 3) for name, several in alone.items()},
        "passes": passes,
    }, results


def road_details(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the time of both tools, and how far values are apart: without noise, and with each tool's own."""
    found, results = measured(case, ROAD, 1 if asked.quick else REPEATS["road"], asked.device)
    ours = road(case.maps, case.scored, "inpaint", shares=shares_of(case)).values[:, 0].numpy()
    noisy, again = results["ours"].values[:, 0].numpy() - results["grad-cam"], grad_cams_road(case)
    return {
        **found,
        "largest_difference_without_noise": float(np.abs(ours - grad_cams_road_without_noise(case)).max()),
        "largest_difference_with_noise": float(np.abs(noisy).max()),
        "grad_cams_own_largest_difference_from_run_to_run": float(np.abs(again - results["grad-cam"]).max()),
    }


def deletion_details(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the time of each tool, and how far areas are from torch-cam's, curves from Quantus' at whole pixels."""
    found, results = measured(case, DELETION, 1 if asked.quick else REPEATS["deletion"], asked.device)
    apart = np.abs(np.subtract(results["ours"], results["torchcam"]))
    found["largest_difference_from_torchcam"] = float(apart.max())
    if QUANTUS:
        ours, theirs = results["ours, curve"].numpy()[:, 1:], np.array(results["quantus, 48 steps"])[:, 2::3]
        found["largest_difference_from_quantus"] = float(np.abs(ours - theirs).max())
    return found


def memory(photos: int, parts: int, device: str) -> dict[str, float]:
    """Return the growth of memory of each tool in megabytes, in a process of its own."""
    calls = {f"road, {name}": (call, photos, 1, device) for name, call in ROAD.items()}
    calls |= {f"deletion, {name}": (call, photos, parts, device) for name, call in DELETION.items()}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return {name: pool.submit(grown, *given).result() for name, given in calls.items()}


def grown(call: Callable[[Case], Any], photos: int, parts: int, device: str) -> float:
    """Return how much one call's peak exceeds what is held after a plain forward pass of one photo."""
    torch.set_num_threads(1)
    case = prepare(photos, parts, device)
    with torch.no_grad():
        case.module(case.images[:1])
    return round(growth(partial(call, case), device), 1)


def figures(details: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    road_seconds, taken, grew = details["road"]["seconds"], details["deletion"]["seconds"], details["megabytes"]
    found = {
        "road_speedup": road_seconds["grad-cam"] / road_seconds["ours"],
        "road_over_bare": road_seconds["ours"] / details["road"]["bare_seconds"]["ours"],
        "road_difference": details["road"]["largest_difference_without_noise"],
        "road_megabytes": grew["road, ours"],
        "road_megabytes_grad_cam": grew["road, grad-cam"],
        "deletion_over_bare": taken["ours"] / details["deletion"]["bare_seconds"]["ours"],
        "deletion_speedup_torchcam": taken["torchcam"] / taken["ours"],
        "deletion_speedup_torchcam_small": taken["torchcam, small passes"] / taken["ours"],
        "deletion_difference_torchcam": details["deletion"]["largest_difference_from_torchcam"],
        "deletion_megabytes": grew["deletion, ours"],
        "deletion_megabytes_torchcam": grew["deletion, torchcam"],
    }
    if QUANTUS:
        theirs, small = taken["quantus, 48 steps"], taken["quantus, 48 steps, small passes"]
        found |= {
            "deletion_speedup_quantus": theirs / taken["ours, curve"],
            "deletion_speedup_quantus_small": small / taken["ours, curve"],
            "deletion_speedup_quantus_as_many_passes": theirs / taken["ours, 48 steps"],
            "deletion_difference_quantus": details["deletion"]["largest_difference_from_quantus"],
            "deletion_megabytes_quantus": grew["deletion, quantus, 48 steps"],
        }
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def setting(asked: argparse.Namespace, photos: int, parts: int) -> dict[str, Any]:
    """Return what is needed to read the numbers: command, versions, machine."""
    words = ["python", "benchmarks/metric.py", "--json", *(["--quick"] if asked.quick else [])]
    names = (*PACKAGES, *(["quantus"] if QUANTUS else []))
    command = " ".join(words + (["--device", asked.device] if asked.device != "cpu" else []))
    return {
        **run_record(names, command, asked.device, threads=1),
        "network": "timm:tf_efficientnet_lite0, embedded weights, 224 x 224",
        "photos": list(PHOTOS[:photos]),
        "parts_of_each_for_deletion": parts,
    }


if __name__ == "__main__":
    main()
