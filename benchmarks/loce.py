"""Local concept embeddings: one thread of ConceptLens beside the published optimiser, on real activations.

`python benchmarks/loce.py [--json] [--quick] [--data coco_panoptic:FOLDER] [--device cuda]`. Photos and masks are of a
data set; the model is the embedded EfficientNet-Lite0. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.local_embeddings.modes import FitSettings, channel_scale, embed_masks
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.photo_reader import PhotoReader
from conceptlens.model.layer_cells import layer_cells
from measure import growth, in_turns, seconds
from run_record import run_record

MODEL = "timm:tf_efficientnet_lite0"
MODES = ("paper", "exact", "mean_difference", "mean")
ENLARGED_BYTES = 2**30
ROUNDS = 25  # of all modes in turn, so that none has the machine's better moment
PACKAGES = ("conceptlens", "torch", "timm")


@dataclass(frozen=True)
class Case:
    """Channels and grid, made of layers of one grid side by side, cut to so many channels."""

    channels: int
    grid: int
    layers: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        return f"{self.channels}x{self.grid}"


CASES = (
    Case(256, 28, ("blocks.4", "blocks.4.1", "blocks.3"), 448),
    Case(512, 14, ("blocks.5", "blocks.6"), 448),
    Case(1280, 10, ("bn2",), 320),
)


def main() -> None:
    """Measure every case, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="four masks a case")
    parser.add_argument("--data", default="coco_panoptic", help="NAME or NAME:FOLDER")
    parser.add_argument("--split", default="train2017")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    most = 4 if asked.quick else 64
    cases = [measure(case, asked.data, asked.split, most, asked.device) for case in CASES]
    setting = run_record(PACKAGES, device=asked.device, threads=1)
    result = {"name": "loce", "figures": figures(cases), "details": {"cases": cases, "setting": setting}}
    print(json.dumps(result, indent=2)) if asked.json else show(result)


def measure(
    case: Case,
    data: str,
    split: str,
    most: int,
    device: str,
    rounds: int = ROUNDS,
    enlarged_bytes: int = ENLARGED_BYTES,
) -> dict[str, Any]:
    """Time the published optimiser and each mode on the same cells and masks: as many as fit, enlarged, into memory."""
    count = min(most, enlarged_bytes // (case.channels * 100 * 100 * 4))
    cells, of, truth = activations(case, data, split, count)
    cells, of, truth = cells.to(device), of.to(device), truth.to(device)
    scale = channel_scale(cells)
    large = F.interpolate(cells[of], size=(100, 100), mode="bilinear", align_corners=False)
    theirs: list[Tensor] = []
    took = seconds(lambda: theirs.append(published(large, truth)), device)
    del large
    row: dict[str, Any] = {"case": case.name, "masks": len(of), "published_ms": round(1000 * took / len(of), 2)}
    fits = {mode: partial(embed_masks, cells, of, truth, FitSettings(mode), scale) for mode in MODES}
    for mode, fit in fits.items():
        found = fit()
        row[f"{mode}_megabytes"] = round(growth(fit, device), 1)
        row[f"{mode}_converged"] = round(float(found.converged.float().mean()), 3)
        if mode == "paper":
            row["cosine"] = float(F.cosine_similarity(found.vectors.double(), theirs[0].double()).min())
    taken = in_turns(fits, device, rounds)
    for mode in MODES:
        row[f"{mode}_ms"] = round(1000 * median(taken[mode]) / len(of), 3)
    ratios = [exact / paper for exact, paper in zip(taken["exact"], taken["paper"], strict=True)]
    row["exact_over_paper"] = round(median(ratios), 3)
    return row


@cache
def probed_model() -> cl.Backbone:
    """Return the model of all cases; what is found out about a model once is known."""
    model = cl.load_model(MODEL, crop_mode="squash")
    assert model.anatomy.layers
    return model


def activations(case: Case, data: str, split: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return cells of photos, and soft masks `[mask 100 100]` with the photo each belongs to."""
    model = probed_model()
    plan = EmbedPlan(case.layers, input_size=(case.size, case.size), min_area=0.02, control=False)
    prepared = plan.prepared(model)
    reader = PhotoReader(prepared, plan, cl.open_set(data, split))
    cells, of, truth, place = [], [], [], 0
    while len(of) < count:
        (read,) = reader.read([place])
        place += 1
        if read.image is None or read.truth is None or not len(read.truth):
            continue
        found = layer_cells(prepared, read.image[None], case.layers)
        of += [len(cells)] * len(read.truth)
        truth.append(read.truth)
        cells.append(torch.cat([found[name] for name in case.layers], 1)[0, : case.channels])
    return torch.stack(cells), torch.tensor(of[:count]), torch.cat(truth)[:count]


def published(cells: Tensor, truth: Tensor) -> Tensor:
    """Return vectors as LoCE's own code fits them (section 3 of the paper): a batch, AdamW, 50 steps, autograd.

    `cells[mask channel 100 100]` are enlarged already; that is not timed, since its code does it when it reads photos.
    """
    vectors = torch.zeros(len(cells), cells.shape[1], 1, 1, device=cells.device, requires_grad=True)
    masks = truth[:, None]
    inside = 1 - (masks > 0).float().mean((1, 2, 3), keepdim=True)
    optimiser = torch.optim.AdamW([vectors], lr=0.1)
    for _ in range(50):
        optimiser.zero_grad()
        probability = torch.sigmoid((vectors * cells).sum(1, keepdim=True))
        gain = inside * masks * probability + (1 - inside) * (1 - masks) * (1 - probability)
        loss = -gain.sum((1, 2, 3)) / len(cells)
        loss.mean().backward()
        optimiser.step()
    return vectors.detach()[..., 0, 0]


def figures(cases: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    return {
        **{
            f"paper_speedup_{case.name}": round(row["published_ms"] / row["paper_ms"], 1)
            for case, row in zip(CASES, cases, strict=True)
        },
        "paper_cosine": min(row["cosine"] for row in cases),
        "exact_over_paper": max(row["exact_over_paper"] for row in cases),
        "exact_speedup_least": round(min(row["published_ms"] / row["exact_ms"] for row in cases), 1),
    }


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    columns = ("case", "published_ms", "paper_ms", "exact_ms", "mean_difference_ms", "cosine")
    print("".join(f"{name:>16}" for name in columns))
    for row in result["details"]["cases"]:
        print("".join(f"{row[name]!s:>16.16}" for name in columns))
    for name, value in result["figures"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
