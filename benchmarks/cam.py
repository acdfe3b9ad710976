"""ConceptLens beside grad-cam, torch-cam and captum: operations, memory and time of class activation maps.

`python benchmarks/cam.py [--json] [--device cpu|cuda] [--quick]`. See README.md in this folder for what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import cases
from run_record import run_record

QUESTIONS = (1, 3, 8)
PEERS = ("grad-cam", "torchcam", "captum")
PHOTOS = ("chelsea", "coffee", "rocket")
PACKAGES = ("conceptlens", "torch", "timm", "grad-cam", "torchcam", "captum")


def main() -> None:
    """Measure everything in fresh processes, then print tables or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="batch 2, small inputs and one photo")
    asked = parser.parse_args()
    found = measure(asked.device, asked.quick)
    details = {**found, "setting": setting(asked.device, asked.quick)}
    result = {"name": "cam", "figures": figures(found), "details": details}
    if asked.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def measure(device: str, quick: bool) -> dict[str, Any]:
    """Run every case in a process of its own; on the processor as many beside each other as there are cores."""
    batch, size = (2, 96) if quick else (8, 224)
    batches = (batch,) if quick else (1, batch)
    counts = QUESTIONS[:2] if quick else QUESTIONS
    jobs = 1 if device.startswith("cuda") else max(1, min(2, os.cpu_count() or 1))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["cases"])
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        score = {tool: pool.submit(cases.score_cam, tool, size, device) for tool in cases.SCORE_CAMS}
        photos = [pool.submit(cases.fast_score_cam, photo, device) for photo in (PHOTOS[:1] if quick else PHOTOS)]
        costs = [
            pool.submit(cases.cost, network, tool, n, q, device)
            for network in cases.NETWORKS
            for tool in cases.TOOLS
            for n in batches
            for q in counts
            if q < 8
            or n == 1
            or tool in ("conceptlens", "torchcam")  # eight passes of a large batch prove nothing more
        ]
        operations = [pool.submit(cases.operations, network, QUESTIONS, device) for network in cases.NETWORKS]
        probes = [pool.submit(cases.probing, network, device) for network in cases.NETWORKS]
        return {
            "operations": [row for part in operations for row in part.result()],
            "cost": gathered(costs),
            "probing": gathered(probes),
            "score_cam": compared({tool: future.result() for tool, future in score.items()}, size),
            "fast_score_cam": gathered(photos),
        }


def gathered(futures: list[Future[Any]]) -> list[Any]:
    """Return the results in the order of the cases."""
    return [future.result() for future in futures]


def compared(score: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the three Score-CAMs on ResNet-50 without their maps, and how far the maps agree.

    grad-cam shifts, scales and enlarges its map; its own function does the same to ours.
    """
    import numpy as np
    from pytorch_grad_cam.utils.image import scale_cam_image

    maps = {tool: np.array(one.pop("map")) for tool, one in score.items()}
    treated = scale_cam_image(scale_cam_image(maps["conceptlens"][None], (size, size)))[0]
    return {
        "network": "resnet50", "images": 1, "questions": 1, "size": size, "tools": list(score.values()),
        "largest_difference_from_grad_cam": float(np.abs(treated - maps["grad-cam"]).max()),
        "correlation_of_fast": round(
            cases.correlation(*(torch.tensor(maps[tool]) for tool in ("conceptlens", "conceptlens, fast"))), 4
        ),
    }  # fmt: skip


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    forwards = {
        (r["network"], r["questions"]): r["forwards"] for r in found["operations"] if r["tool"] == "conceptlens"
    }
    largest = max(row["batch"] for row in found["cost"])
    memory = {
        (row["tool"], row["questions"]): row["megabytes"]
        for row in found["cost"]
        if row["network"] == "vit_b16" and row["batch"] == largest
    }
    score = {row["tool"]: row for row in found["score_cam"]["tools"]}
    ours, theirs, photos = score["conceptlens"], score["grad-cam"], found["fast_score_cam"]
    numbers = {
        **{f"vit_b16_forwards_{q}": forwards["vit_b16", q] for q in QUESTIONS},
        "resnet50_forwards_8": forwards["resnet50", 8],
        **{
            f"memory_vs_{peer.replace('-', '_')}{suffix}": memory[peer, q] / memory["conceptlens", q]
            for q, suffix in ((1, ""), (3, "_3"))
            for peer in PEERS
        },
        "score_cam_memory": theirs["megabytes"] / ours["megabytes"],
        "score_cam_time_ratio": ours["seconds"] / theirs["seconds"],
        "score_cam_fast_speedup": sum(p["seconds_exact"] for p in photos) / sum(p["seconds_fast"] for p in photos),
        "score_cam_fast_correlation": min(min(p["correlation"]) for p in photos),
    }
    return {name: round(value, 3) for name, value in numbers.items()}


def setting(device: str, quick: bool) -> dict[str, Any]:
    """Return what is needed to read the numbers: command, versions, machine."""
    words = ["python", "benchmarks/cam.py", "--json", *(["--quick"] if quick else [])]
    command = " ".join(words + (["--device", device] if device != "cpu" else []))
    return run_record(PACKAGES, command, device, threads=1)


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    from rich.console import Console
    from rich.table import Table

    console, details = Console(), result["details"]
    score = details["score_cam"]
    headline = [{"figure": name, "value": value} for name, value in result["figures"].items()]
    tables = {
        "Floating point operations, in plain forward passes of one image": details["operations"],
        "Memory above what was held before, and time, in MB and plain forward passes": details["cost"],
        "Once per model, where no layer is named": details["probing"],
        f"Score-CAM, ResNet-50, one map at {score['size']} x {score['size']}": score["tools"],
        "Score-CAM, tf_efficientnet_lite0 with trained weights": details["fast_score_cam"],
        "Headline": headline,
    }
    for title, rows in tables.items():
        table = Table(*rows[0], title=title, title_justify="left")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    console.print_json(json.dumps(details["setting"]))


if __name__ == "__main__":
    main()
