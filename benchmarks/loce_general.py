"""Generalised embeddings: what train photos say of a category, drawn in photos that are new.

`python benchmarks/loce_general.py [--json] [--data coco_panoptic:FOLDER]`. A category's vector is the mean of its
embeddings, one mean for each of its parts, or one vector fitted to all its photos at once (Net2Vec). See README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.nn import functional as F

from conceptlens import statistics
from conceptlens.local_embeddings.modes import FitSettings, Mode, channel_weights, embed_masks
from conceptlens.local_embeddings.problem import FitProblem, best_bias, overlap
from conceptlens.metrics import ranked_area_corrected
from loce_quality import Masks, collect, drawn, grouped_mean, with_interval
from run_record import run_record

LAYERS = ("blocks.4", "blocks.5", "blocks.6", "bn2")
LEAST = 6  # train photos of a category
PARTS = 2

# From the train masks of a category at a layer to vectors `[part channel]`; a new photo's map is their highest.
General = Callable[[Masks, str, np.ndarray], Tensor]


def mean_of(mode: Mode, parts: int = 1) -> General:
    """Return the mean of the unit embeddings, or one for each of their clusters."""

    def vectors(masks: Masks, layer: str, own: np.ndarray) -> Tensor:
        embedded = unit_vectors(masks, layer, own, mode)
        if parts == 1:
            return F.normalize(embedded.mean(0, keepdim=True), dim=1)
        which = statistics.count_cut(statistics.cluster(embedded.double().numpy()), parts)
        means = [embedded[torch.from_numpy(which == part)].mean(0) for part in np.unique(which)]
        return F.normalize(torch.stack(means), dim=1)

    return vectors


def components(masks: Masks, layer: str, own: np.ndarray) -> Tensor:
    """Return the mean of each component of a mixture of Gaussians on the first two principal axes.

    Rows are weighted by how far they belong to a component.
    """
    embedded = unit_vectors(masks, layer, own, "exact").double().numpy()
    points = statistics.principal(embedded, 2).points
    found = statistics.fit_label_mixtures(points, ["one"] * len(own))["one"]
    gaussians = zip(found.weights, found.means, found.covariances, strict=True)
    density = np.stack([weight * multivariate_normal(mean, cov).pdf(points) for weight, mean, cov in gaussians], 1)
    shares = density / density.sum(1, keepdims=True) * (found.assigned >= 0)[:, None]
    means = shares.T @ embedded / shares.sum(0)[:, None]
    return F.normalize(torch.from_numpy(means).float(), dim=1)


def unit_vectors(masks: Masks, layer: str, own: np.ndarray, mode: Mode) -> Tensor:
    """Return the embeddings of some masks; cells are in units of their scale already."""
    rows, ones = torch.from_numpy(own), torch.ones_like(masks.scales[layer])
    raw = masks.scales[layer][:, None, None] if mode == "paper" else ones[:, None, None]
    cells = masks.cells[layer][masks.photo[own]] * raw
    scale = masks.scales[layer] if mode == "paper" else ones
    found = embed_masks(cells, torch.arange(len(own)), masks.truth[rows], FitSettings(mode), scale)
    return F.normalize(channel_weights(found.vectors, FitSettings(mode), scale) * raw[:, 0, 0], dim=1)


def net2vec(masks: Masks, layer: str, own: np.ndarray) -> Tensor:
    """Return one vector fitted to all photos, to raw cells as published: the mode `paper`, one vector for all masks."""
    raw = masks.cells[layer][masks.photo[own]] * masks.scales[layer][:, None, None]
    problem = FitProblem(raw, masks.truth[torch.from_numpy(own)])
    vector = torch.zeros(raw.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([vector], lr=0.1)
    for _ in range(50):
        probability = problem.project(vector.detach().expand(len(own), -1)).sigmoid()
        vector.grad = -problem.collect(probability * (1 - probability) * problem.balance).mean(0)
        optimizer.step()
    return F.normalize(vector.detach() * masks.scales[layer], dim=0)[None]


METHODS: dict[str, General] = {
    "Net2Vec, one vector": net2vec,
    "mean, paper": mean_of("paper"),
    "mean, exact": mean_of("exact"),
    "mean, mean_difference": mean_of("mean_difference"),
    "two clusters, exact": mean_of("exact", PARTS),
    "components, exact": components,
}


@dataclass(frozen=True, eq=False)
class NewPhotoMaps:
    """How each new mask is drawn: by rank, and by a threshold that the train photos set."""

    ranked: np.ndarray
    iou: np.ndarray


def main() -> None:
    """Measure every method at every layer, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="coco_panoptic", help="NAME or NAME:FOLDER")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=448)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, new = (collect(asked.data, split, asked.model, asked.size) for split in ("train2017", "val2017"))
    names = [name for name in np.unique(new.concept) if (train.concept == name).sum() >= LEAST]
    rows = [row for layer in LAYERS for row in measure(train, new, layer, names)]
    result = {
        "name": "loce_general",
        "counts": {"categories": len(names), "masks": int(np.isin(new.concept, names).sum())},
        "rows": rows,
        "setting": run_record(),
    }
    print(json.dumps(result, indent=1)) if asked.json else show(result)


def measure(train: Masks, new: Masks, layer: str, names: list[str]) -> list[dict[str, Any]]:
    """Return one row for each method, with its difference to Net2Vec by photo."""
    shown = {method: show_new(train, new, layer, names, general) for method, general in METHODS.items()}
    place = np.flatnonzero(np.isin(new.concept, names))
    photos, mean = new.photo[place], grouped_mean(new.concept[place])
    base = shown["Net2Vec, one vector"]
    rows = []
    for method, one in shown.items():
        row: dict[str, Any] = {"layer": layer, "method": method}
        for key, values, other in (("ranked", one.ranked, base.ranked), ("iou", one.iou, base.iou)):
            row[key], row[f"{key}_interval"] = with_interval(values, photos, mean)
            row[f"{key}_gain"], row[f"{key}_gain_interval"] = with_interval(values, photos, mean, other)
        rows.append(row)
    return rows


def show_new(train: Masks, new: Masks, layer: str, names: list[str], general: General) -> NewPhotoMaps:
    """Draw every category in the new photos that have it."""
    ranked, iou = np.full(len(new.concept), np.nan), np.full(len(new.concept), np.nan)
    for name in names:
        own = np.flatnonzero(train.concept == name)
        vectors = general(train, layer, own)
        bias = best_bias(maps(train, layer, own, vectors).flatten(0, 1)[None], train.truth[own].flatten(0, 1)[None])
        there = np.flatnonzero(new.concept == name)
        found, truth = maps(new, layer, there, vectors), new.truth[there] > 0.5
        ranked[there] = ranked_area_corrected(found[:, None], truth[:, None]).values[:, 0].numpy()
        iou[there] = overlap(found + bias, new.truth[there]).numpy()
    kept = np.isin(new.concept, names)
    return NewPhotoMaps(ranked[kept], iou[kept])


def maps(masks: Masks, layer: str, own: np.ndarray, vectors: Tensor) -> Tensor:
    """Return the highest of the vectors' maps `[mask 100 100]`."""
    cells = masks.cells[layer][masks.photo[own]]
    return torch.stack([drawn(one.expand(len(own), -1), cells) for one in vectors]).amax(0)


def show(result: Mapping[str, Any]) -> None:
    """Print a table."""
    print(result["counts"])
    for row in result["rows"]:
        print(
            f"{row['layer']:10s}{row['method']:22s} NRA above chance {row['ranked']:.3f} ({row['ranked_gain']:+.3f} "
            f"{row['ranked_gain_interval']})  IoU {row['iou']:.3f} ({row['iou_gain']:+.3f} {row['iou_gain_interval']})"
        )


if __name__ == "__main__":
    main()
