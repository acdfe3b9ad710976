"""Three schedules for CE-FAM's branch on the same cached pairs: validation loss by steps, three seeds.

`python benchmarks/fit.py [--json] [--crops 2] [--seeds 3] [--cache FOLDER] [--photos FOLDER]`. The classifier is
EfficientNet-Lite0, the teacher EfficientNet-Lite2 with its stand-in for a text encoder; the photos are the folder
`nips2017` of CONCEPTLENS_DATA. Both networks see every crop once, before anything is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import conceptlens as cl
from conceptlens.concept_regions.branch import Branch, branch_layers, layer_widths
from conceptlens.concept_regions.fit.pair_shards import CropPlan, StudentTeacher, extract_pairs
from conceptlens.concept_regions.fit.pairs import read_pairs
from conceptlens.concept_regions.fit.train_branch import DistillationLoss, train_branch
from conceptlens.concepts.vocabulary import prompt, vocabulary
from conceptlens.io.cache import cache_folder
from conceptlens.io.images import find_images
from conceptlens.training.loop import TrainingRun
from conceptlens.training.schedule import schedule_named
from run_record import run_record

CASES = {"paper": None, "code": None, "modern": None, "modern, linear": ()}
PACKAGES = ("conceptlens", "torch", "accelerate", "timm")


def main() -> None:
    """Cache the pairs, train every schedule with every seed, then print a table or one JSON object."""
    data = Path(os.environ.get("CONCEPTLENS_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--photos", type=Path, default=data / "nips2017")
    parser.add_argument("--crops", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of `paper` and `code`; `modern` has a fifth of them")
    parser.add_argument("--jobs", type=int, default=max(1, min(2, os.cpu_count() or 1)))
    parser.add_argument("--cache", type=Path, default=cache_folder() / "fit-benchmark")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = measure(options)
    found["setting"] |= {"minutes": round((time.perf_counter() - started) / 60, 1)}
    result = {"name": "fit", "figures": figures(found["runs"]), "details": found}
    print(json.dumps(result, indent=2)) if options.json else show(result)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every run gave, and what it was measured on."""
    model, vlm = cl.load_model("timm:tf_efficientnet_lite0"), cl.load_model("timm:tf_efficientnet_lite2")
    networks = StudentTeacher(model, branch_layers(model), vlm)
    files = list(extract_pairs(networks, find_images(options.photos), CropPlan(options.crops), options.cache))
    texts = vlm.language.encode_text([prompt(concept) for concept in vocabulary()])
    widths = layer_widths(model, networks.layers)
    pairs = read_pairs(files)
    targets = pairs.validation_vectors.take(torch.arange(len(pairs.validation_vectors)))
    mean = pairs.vectors.take(torch.arange(len(pairs.vectors))).mean(0)
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        futures = [
            pool.submit(
                trained,
                files,
                networks.layers,
                widths,
                DistillationLoss(vlm.language, texts, 0.001),
                case,
                seed,
                options.epochs,
            )
            for case in CASES
            for seed in range(options.seeds)
        ]
        runs = [future.result() for future in futures]
    return {
        "runs": runs,
        "pairs": {
            "photos": pairs.photos, "training": len(pairs.features), "held_out": len(pairs.validation_features),
            "concepts": len(texts), "layers": networks.layers, "width": sum(widths),
            "loss_of_the_mean": round(float((targets - mean).square().mean()), 5),
        },
        "setting": setting(),
    }  # fmt: skip


def trained(
    files: list[Path],
    layers: tuple[str, ...],
    widths: tuple[int, ...],
    goal: DistillationLoss,
    case: str,
    seed: int,
    epochs: int | None,
) -> dict[str, Any]:
    """Train once, in a process of its own."""
    from accelerate import Accelerator

    torch.set_num_threads(1)
    name = case.partition(",")[0]
    schedule = schedule_named(name, epochs if epochs is None or name != "modern" else max(2, epochs // 5))
    pairs = read_pairs(files)
    torch.manual_seed(seed)
    branch = Branch(layers, widths, pairs.vectors.width, CASES[case])
    accelerator = Accelerator(cpu=True, device_placement=False)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(accelerator, Path(folder), {}, seed, 1e9)
        started = time.perf_counter()
        _, done = train_branch(branch, pairs, goal, schedule, run)
    return {
        "case": case, "seed": seed, "steps": done.step, "epochs": len(done.history), "best_epoch": done.best_epoch,
        "validation_loss": round(done.best_loss, 6), "seconds": round(time.perf_counter() - started, 1),
        "layer_widths": [sum(widths), *branch.hidden, branch.dimension], "schedule": asdict(schedule),
        "curve": [[row["step"], round(row["validation"], 6)] for row in done.history],
    }  # fmt: skip


def figures(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the headline numbers: losses, their spread over seeds, and `modern` at a fifth of the others' steps."""
    found: dict[str, float] = {}
    by_case = {case: [run for run in runs if run["case"] == case] for case in CASES}
    for case, some in by_case.items():
        name = case.replace(", ", "_")
        losses = [run["validation_loss"] for run in some]
        found[f"{name}_loss"] = round(statistics.mean(losses), 5)
        found[f"{name}_loss_spread"] = round(max(losses) - min(losses), 5)
        found[f"{name}_steps"] = round(statistics.mean(run["steps"] for run in some), 1)
    for other in ("paper", "code"):
        early = [
            min([loss for step, loss in mine["curve"] if step <= run["steps"] / 5], default=float("inf"))
            for mine, run in zip(by_case["modern"], by_case[other], strict=True)
        ]
        found[f"modern_loss_at_a_fifth_of_{other}"] = round(max(early), 5)
        lowest = min(run["validation_loss"] for run in by_case[other])
        reached = [
            min([step for step, loss in mine["curve"] if loss < lowest], default=float("inf"))
            for mine in by_case["modern"]
        ]
        steps = statistics.mean(run["steps"] for run in by_case[other])
        found[f"steps_{other}_needs_for_one_of_modern"] = round(steps / max(reached), 2)
    return found


def setting() -> dict[str, Any]:
    """Say where and with what this was measured."""
    return run_record(PACKAGES, threads=1)


def show(result: dict[str, Any]) -> None:
    """Print a table of runs and the figures."""
    for run in result["details"]["runs"]:
        said = f"{run['case']:<16} seed {run['seed']}  {run['steps']:>5} steps  loss {run['validation_loss']:.5f}"
        print(f"{said}  (epoch {run['best_epoch']}, {run['seconds']:.0f} s)")
    for name, value in result["figures"].items():
        print(f"{name:<44} {value}")


if __name__ == "__main__":
    main()
