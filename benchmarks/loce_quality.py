"""What a local concept embedding is worth: does it find its like in other photos, and does it draw it there?

`python benchmarks/loce_quality.py [--json] [--data coco_panoptic:FOLDER] [--split val2017] [--model NAME]`.
Ridge and embedding were chosen on train photos, with the same script; see README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens import statistics
from conceptlens.local_embeddings.modes import FitSettings, channel_weights, embed_masks
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.photo_reader import PhotoReader
from conceptlens.metrics import ranked_area_corrected
from conceptlens.model.layer_cells import layer_cells
from conceptlens.runs.local_engine import read_ahead
from run_record import run_record

LAYERS = ("blocks.4", "blocks.5", "blocks.6", "bn2")
THREE = ("blocks.4", "blocks.6", "bn2")
MODES = (FitSettings("paper"), FitSettings("exact"), FitSettings("mean_difference"), FitSettings("mean"))
RIDGES = (0.003, 0.01, 0.02, 0.03, 0.04, 0.06)  # for each channel
# Chosen on train photos: the paper's best layer, and what carries most to other photos.
BASE = "blocks.5 paper"
BEST = "4 layers, exact + mean"
SOURCES = 5  # photos that each mask is drawn from
DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of at least 2 % of their photo, with the cells of every layer.

    - `cells[layer]`: `photo channel height width`, in units of `scales`.
    - `photo`, `concept` `[mask]`; `truth`, `control` `[mask 100 100]`.
    """

    cells: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    photo: np.ndarray
    concept: np.ndarray
    truth: Tensor
    control: Tensor

    @cached_property
    def pairs(self) -> np.ndarray:
        """Which mask's embedding is drawn in which mask's photo: up to five others of its concept, drawn once."""
        draw = np.random.default_rng(0)
        found = []
        for place, concept in enumerate(self.concept):
            others = np.flatnonzero((self.concept == concept) & (self.photo != self.photo[place]))
            found += [(other, place) for other in draw.permutation(others)[:SOURCES]]
        return np.array(found)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors `[mask channel]`, the unit vectors that draw them by layer, and how well own and control masks fit."""

    vectors: Tensor
    drawn: Mapping[str, Tensor]
    iou: Tensor | None = None
    control: Tensor | None = None


def main() -> None:
    """Measure every embedding, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="coco_panoptic", help="NAME or NAME:FOLDER")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--ridges", action="store_true", help="every ridge too: for choosing, on train photos")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    masks = collect(asked.data, asked.split, asked.model, asked.size)
    found = embeddings(masks, asked.ridges)
    measured = {name: measure(masks, one) for name, one in found.items()}
    rows = [summary(name, measured, masks) for name in found]
    setting = run_record()
    counts = {
        "photos": len(np.unique(masks.photo)), "masks": len(masks.photo), "concepts": len(np.unique(masks.concept)),
        "pairs": len(masks.pairs), "base": BASE, "best": BEST,
    }  # fmt: skip
    result = {"name": "loce_quality", "counts": counts, "rows": rows, "setting": setting}
    print(json.dumps(result, indent=1)) if asked.json else show(result)


def collect(data: str, split: str, model: str, size: int) -> Masks:
    """Read the photos of a split once, with all layers from one forward pass each."""
    plan = EmbedPlan(LAYERS, input_size=(size, size), min_area=0.02)
    prepared = plan.prepared(cl.load_model(model, crop_mode="squash"))
    reader = PhotoReader(prepared, plan, cl.open_set(data, split))
    scales = reader.scales()
    cells: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    photo, concept, truth, control = [], [], [], []
    for read in (one for reads in read_ahead(reader.read, reader.batches()) for one in reads):
        if read.one is None or read.image is None or read.truth is None or read.control is None or not len(read.truth):
            continue
        photo += [len(cells[LAYERS[0]])] * len(read.truth)
        concept += [name.label for name in read.one.concepts]
        truth.append(read.truth)
        control.append(read.control)
        for name, values in layer_cells(prepared, read.image[None], LAYERS).items():
            cells[name].append(values[0] / scales[name][:, None, None])
    stacked = {name: torch.stack(values) for name, values in cells.items()}
    return Masks(stacked, scales, np.array(photo), np.array(concept), torch.cat(truth), torch.cat(control))


def embeddings(masks: Masks, ridges: bool) -> dict[str, Embedding]:
    """Return every embedding: each mode at each layer, and several layers one after the other."""
    single = {f"{layer} {one.mode}": embedded(masks, layer, one) for layer in LAYERS for one in MODES}
    for layer, ridge in ((layer, ridge) for layer in LAYERS for ridge in RIDGES if ridges):
        one = FitSettings("exact", ridge * masks.cells[layer].shape[1])
        single[f"{layer} exact {ridge:g}"] = embedded(masks, layer, one)
    several = {
        f"{len(layers)} layers, {' + '.join(modes)}": joined(
            [single[f"{layer} {mode}"] for mode in modes for layer in layers]
        )
        for layers in (THREE, LAYERS)
        for modes in (("paper",), ("exact",), ("mean_difference",), ("mean", "mean_difference"), ("exact", "mean"))
    }
    return {**single, **several}


def embedded(masks: Masks, layer: str, setting: FitSettings) -> Embedding:
    """Embed every mask, and its control. `paper` is fitted to the raw cells, as published."""
    scale, of = masks.scales[layer], torch.from_numpy(masks.photo)
    raw = masks.cells[layer] * scale[:, None, None]
    own, other = (embed_masks(raw, of, truth, setting, scale) for truth in (masks.truth, masks.control))
    weights = channel_weights(own.vectors, setting, scale)
    return Embedding(own.vectors, {layer: F.normalize(weights * scale, dim=1)}, own.iou, other.iou)


def joined(parts: Sequence[Embedding]) -> Embedding:
    """Return unit vectors one after the other; the map is the sum of theirs."""
    drawn: dict[str, Tensor] = {}
    for part in parts:
        for name, vectors in part.drawn.items():
            drawn[name] = drawn[name] + vectors if name in drawn else vectors
    return Embedding(torch.cat([F.normalize(part.vectors, dim=1) for part in parts], dim=1), drawn)


def measure(masks: Masks, one: Embedding) -> dict[str, np.ndarray]:
    """Return average precision by mask (not a number where no other photo has the concept) and transfer by pair."""
    found = statistics.retrieve(one.vectors.double().numpy(), masks.concept, masks.photo)
    precision = np.where(found.applies, found.average_precision, np.nan)
    values = []
    for part in np.array_split(masks.pairs, max(1, len(masks.pairs) // 64)):
        sources, targets = torch.from_numpy(part[:, 0]), part[:, 1]
        photos = torch.from_numpy(masks.photo[targets])
        maps = [drawn(vectors[sources], masks.cells[name][photos]) for name, vectors in one.drawn.items()]
        truth = masks.truth[torch.from_numpy(targets)] > 0.5
        values.append(ranked_area_corrected(sum(maps[1:], maps[0])[:, None], truth[:, None]).values[:, 0].numpy())
    return {"precision": precision, "transfer": np.concatenate(values)} | (
        {} if one.iou is None or one.control is None
        else {"iou": one.iou.numpy(), "selectivity": (one.iou - one.control).numpy()}
    )  # fmt: skip


def drawn(vectors: Tensor, cells: Tensor) -> Tensor:
    """Return maps `[pair 100 100]` of one layer."""
    maps = torch.einsum("pc,pchw->phw", vectors, cells)
    return F.interpolate(maps[:, None], size=(100, 100), mode="bilinear", align_corners=False)[:, 0]


def summary(name: str, measured: Mapping[str, Mapping[str, np.ndarray]], masks: Masks) -> dict[str, Any]:
    """Return one row: means, and differences to the paper's at the same layer, with intervals by photo."""
    own, layer = measured[name], name.split(" ")[0]
    base = measured[f"{layer} paper" if layer in LAYERS else BASE]
    targets = masks.pairs[:, 1]
    row: dict[str, Any] = {"embedding": name, "against": f"{layer} paper" if layer in LAYERS else BASE}
    for key in ("iou", "selectivity"):
        if key in own:
            row[key] = round(float(np.mean(own[key])), 4)
            row[f"{key}_paper"] = round(float(np.mean(base[key])), 4)
    for key, photos, groups in (
        ("precision", masks.photo, None), ("transfer", masks.photo[targets], masks.concept[targets]),
    ):  # fmt: skip
        mean = grouped_mean(groups)
        row[key], row[f"{key}_interval"] = with_interval(own[key], photos, mean)
        row[f"{key}_gain"], row[f"{key}_gain_interval"] = with_interval(own[key], photos, mean, base[key])
    return row


Mean = Callable[[np.ndarray, np.ndarray], float]


def grouped_mean(groups: np.ndarray | None) -> Mean:
    """Return the mean of values by weight: over all, or over groups that count alike."""
    if groups is None:
        return lambda values, weights: float(np.nansum(values * weights) / weights[~np.isnan(values)].sum())
    _, place = np.unique(groups, return_inverse=True)

    def mean(values: np.ndarray, weights: np.ndarray) -> float:
        sums = np.bincount(place, values * weights), np.bincount(place, weights)
        return float((sums[0][sums[1] > 0] / sums[1][sums[1] > 0]).mean())

    return mean


def with_interval(
    values: np.ndarray, photos: np.ndarray, mean: Mean, base: np.ndarray | None = None
) -> tuple[float, list[float]]:
    """Return a mean, or its difference to another, and its 95 % interval by drawing photos again."""
    ids, place = np.unique(photos, return_inverse=True)
    draw = np.random.default_rng(0)

    def of(weights: np.ndarray) -> float:
        return mean(values, weights) - (0.0 if base is None else mean(base, weights))

    again = [of(draw.multinomial(len(ids), np.full(len(ids), 1 / len(ids)))[place].astype(float)) for _ in range(DRAWS)]
    low, high = np.quantile(again, (0.025, 0.975))
    return round(of(np.ones(len(values))), 4), [round(float(low), 4), round(float(high), 4)]


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    print(result["counts"])
    for row in result["rows"]:
        print(
            f"{row['embedding']:28s} mAP {row['precision']:.3f} ({row['precision_gain']:+.3f} "
            f"{row['precision_gain_interval']})  transfer {row['transfer']:.3f} ({row['transfer_gain']:+.3f} "
            f"{row['transfer_gain_interval']})"
            + (f"  IoU {row['iou']:.3f}, selectivity {row['selectivity']:.3f}" if "iou" in row else "")
        )


if __name__ == "__main__":
    main()
