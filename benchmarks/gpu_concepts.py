"""Regions of many concepts, local embeddings and the embedding of a data set on a GPU."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ce_fam
import conceptlens as cl
import loce
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.embed_run import embed_batches
from conceptlens.store import Store
from embed import forward_pass
from gpu_part import GpuSettings, Part
from measure import growth, median_seconds

# The published optimiser holds enlarged activations and a few tensors as large as they are.
SHARE_OF_MEMORY = 8


def many_concepts(part: Part, settings: GpuSettings, name: str) -> None:
    """Measure CE-FAM's regions of 500 concepts in one image, beside the published way."""
    case = ce_fam.Case(settings.networks[name].name, f"timm:{settings.networks[name].name}")
    row = ce_fam.measure(case, settings.concepts, settings.device, settings.size)
    part.rows.append(row)
    for figure, key in (
        ("forwards", "ours_in_forwards"), ("speedup", "speedup"), ("speedup_released", "speedup_released"),
        ("megabytes", "megabytes"), ("difference", "map_difference"),
    ):  # fmt: skip
        part.figures[f"ce_fam_{name}_{figure}"] = row[key]


def local_embeddings(part: Part, settings: GpuSettings, case: loce.Case) -> None:
    """Measure vectors of 64 masks of drawn scenes in every mode, beside the published optimiser."""
    memory = loce.ENLARGED_BYTES
    if settings.device.startswith("cuda"):
        memory = torch.cuda.mem_get_info()[0] // SHARE_OF_MEMORY
    row = loce.measure(case, f"drawn:{settings.masks}", "val", settings.masks, settings.device, settings.rounds, memory)
    part.rows.append(row)
    if row["masks"] < settings.masks:
        part.skip(
            f"{settings.masks - row['masks']} of {settings.masks} masks",
            "the published optimiser's enlarged activations do not fit into memory",
        )
    for mode in loce.MODES:
        part.figures[f"loce_{case.name}_{mode}_milliseconds"] = row[f"{mode}_ms"]
        part.figures[f"loce_{case.name}_{mode}_speedup"] = round(row["published_ms"] / max(row[f"{mode}_ms"], 1e-3), 1)
        part.figures[f"loce_{case.name}_{mode}_megabytes"] = row[f"{mode}_megabytes"]
    part.figures[f"loce_{case.name}_paper_cosine"] = row["cosine"]


def whole_set(part: Part, settings: GpuSettings, name: str) -> None:
    """Measure photos a second of `embed` on drawn scenes, in turns with a loop that reads and runs the network."""
    model = cl.load_model(
        f"timm:{settings.networks[name].name}", pretrained=False, crop_mode="squash", device=settings.device
    )
    plan = EmbedPlan(model.default_layers, batch_size=settings.batch, max_photos=settings.photos)
    data = cl.open_set(f"drawn:{settings.photos}", "val")
    megabytes = growth(lambda: embedded(data, model, plan), settings.device)
    bare_loop(data, model, plan)
    taken: list[tuple[float, float, float]] = []
    while not taken or (len(taken) < min(3, settings.rounds) and 2 * sum(taken[-1]) < part.left()):
        taken.append((*embedded(data, model, plan), bare_loop(data, model, plan)))
    scales, run, loop = (median(column) for column in zip(*taken, strict=True))
    images = torch.zeros(settings.batch, 3, settings.size, settings.size, device=settings.device)
    network = median_seconds(lambda: torch.no_grad()(model.module)(images), settings.device)
    rates = {
        "photos_per_second": settings.photos / run,
        "with_scales": settings.photos / (scales + run),
        "loop": settings.photos / loop,
        "network_alone": settings.batch / network,
    }
    part.rows.append(
        {
            "network": settings.networks[name].name, "layers": list(plan.layers), "photos": settings.photos,
            "batch": settings.batch, "rounds": len(taken), "megabytes": round(megabytes, 1),
            **{key: round(value, 2) for key, value in rates.items()},
        }
    )  # fmt: skip
    part.figures[f"embed_{name}_photos_per_second"] = round(rates["photos_per_second"], 2)
    part.figures[f"embed_{name}_loop_photos_per_second"] = round(rates["loop"], 2)
    part.figures[f"embed_{name}_network_photos_per_second"] = round(rates["network_alone"], 2)
    part.figures[f"embed_{name}_over_loop"] = round(run / loop, 3)
    part.figures[f"embed_{name}_megabytes"] = round(megabytes, 1)


def embedded(data: Any, model: cl.Backbone, plan: EmbedPlan) -> tuple[float, float]:
    """Return wall seconds of a run into a new store: until the channels' scales are known, and from there on."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run = embed_batches(data, model, plan, Store(Path(folder) / "store", create=True))
        next(run)
        known = time.perf_counter()
        for _ in run:
            pass
        return known - begin, time.perf_counter() - known


def bare_loop(data: Any, model: cl.Backbone, plan: EmbedPlan) -> float:
    """Return wall seconds of reading the same photos in the same batches and running the network on them."""
    begin = time.perf_counter()
    for start in range(0, len(data), plan.batch_size):
        forward_pass(data, model, range(start, min(start + plan.batch_size, len(data))))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
