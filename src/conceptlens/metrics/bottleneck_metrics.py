"""What else a bottleneck is measured by: how its maps spread, how right it is, how few concepts it uses; the table."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import concept_auroc
from conceptlens.metrics.given_maps import classes_in, maps_of, tensor_of
from conceptlens.metrics.keypoints import (
    keypoint_distance,
    keypoint_error,
    keypoint_own,
    keypoint_pointing,
    keypoint_swap,
)
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps

NORM_KINDS = ("raw", "cells", "share", "entropy")


def activation_norm(
    explained: Maps,
    kind: Literal["raw", "cells", "share", "entropy"] = "cells",
    present: Bool[Tensor, "image concept"] | None = None,
) -> Score:
    """Return how far a concept's map spreads; lower is narrower, which is not yet better placed.

    Loc-CBM's "concept activation L1-norm", whose definition is not public, in four kinds of `A[height width]`:

    - `"raw"`: `sum |A|`. In the map's own unit: comparable only between maps of one normalisation and grid.
    - `"cells"`: `sum ReLU(A) / max A`, the area in cells of the map's own grid that a flat map of this height and
      energy has. One cell gives 1, a flat map all `H W`.
    - `"share"`: the same over `H W`, comparable between grids.
    - `"entropy"`: `-sum p ln p` with `p = ReLU(A) / sum ReLU(A)`, in nats; 0 for one cell, `ln H W` for a flat map.

    All but `"raw"` apply to maps that are somewhere positive. `present` restricts the score to concepts that the image
    shows.

    Args:
        explained: An explanation, or `maps[image concept height width]`, finite.
        kind: Which of the four, as above.
        present: Bool `[image concept]`.

    Returns:
        `values[image concept]`.

    Raises:
        InputError: The kind is unknown, or shapes do not fit.
    """
    if kind not in NORM_KINDS:
        raise InputError(f"no kind '{kind}'; there are: {', '.join(NORM_KINDS)}")
    maps = maps_of(explained).double()
    if maps.ndim != 4 or not bool(torch.isfinite(maps).all()):
        raise InputError(f"maps have shape {tuple(maps.shape)}; expected finite maps[image concept height width]")
    positive = maps.relu()
    applies = torch.ones(maps.shape[:2], dtype=torch.bool) if kind == "raw" else positive.amax((2, 3)) > 0
    if present is not None:
        present = tensor_of(present, "present")
        if tuple(present.shape) != tuple(maps.shape[:2]) or present.dtype != torch.bool:
            raise InputError(f"present has shape {tuple(present.shape)}; expected bool, {tuple(maps.shape[:2])}")
        applies = applies & present
    return Score(torch.where(applies, _norm(maps, positive, kind), 0.0), applies)


def _norm(maps: Tensor, positive: Tensor, kind: str) -> Float[Tensor, "image concept"]:
    if kind == "raw":
        return maps.abs().sum((2, 3))
    scaled = positive / torch.where(positive.amax((2, 3)) > 0, positive.amax((2, 3)), 1.0)[..., None, None]
    area = scaled.sum((2, 3))
    if kind == "entropy":
        p = scaled / area.clamp(min=1)[..., None, None]
        return -torch.special.xlogy(p, p).sum((2, 3))
    return area if kind == "cells" else area / (maps.shape[2] * maps.shape[3])


def accuracy(logits: Float[Tensor, "image class"], classes: Int[Tensor, "image"]) -> Score:
    """Return 1 where the highest logit is the image's class, else 0, as `[image 1]`; of equal logits, the first.

    Its mean is the accuracy, its `pairs` what `interval` and `difference` ask for.

    Args:
        logits: `[image class]`, finite.
        classes: The class number of each image.

    Returns:
        `values[image 1]`; chance is 1 / classes for balanced classes.

    Raises:
        InputError: Shapes do not fit, or a logit is not finite.
    """
    logits, classes = tensor_of(logits, "logits"), classes_in(classes, "classes").cpu()
    if logits.ndim != 2 or tuple(classes.shape) != (len(logits),) or not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"logits have shape {tuple(logits.shape)} and classes {tuple(classes.shape)}; expected finite "
            "logits[image class] and classes[image]"
        )
    right = (logits.argmax(1) == classes).double()[:, None]
    return Score(right, torch.ones_like(right, dtype=torch.bool))


def effective_concepts(weights: Float[Tensor, "class concept"]) -> float:
    """Return the number of effective concepts (NEC): weights that are not 0, over classes (VLG-CBM, NeurIPS 2024).

    Exactly 0: a head whose small weights were not cut off has all of them.

    Args:
        weights: `[class concept]`, finite.

    Returns:
        Concepts per class, 0 to the number of concepts.

    Raises:
        InputError: `weights` has another shape, or is not finite.
    """
    weights = tensor_of(weights, "weights")
    if weights.ndim != 2 or not len(weights) or not bool(torch.isfinite(weights).all()):
        raise InputError(f"weights have shape {tuple(weights.shape)}; expected finite weights[class concept]")
    return int((weights != 0).sum()) / len(weights)


_READ = "what a centre, a constant and a random cell get"
_POSTER, _OWN = "Loc-CBM, poster; definition not public", "this package"
_POINTS, _SIZED = ("map", "keypoints"), ("map", "keypoints", "sizes")
_FLAT = {"raw": "unknown", "cells": "H W if flat", "share": "1 if flat", "entropy": "ln H W if flat"}


def _of_norm(kind: str) -> Metric:
    compute = partial(activation_norm, kind=kind)  # pyright: ignore[reportArgumentType]
    high = 1 if kind == "share" else math.inf
    title = f"activation L1 norm, {kind}"
    return Metric(f"activation_norm_{kind}", title, compute, False, 0, high, _FLAT[kind], _POSTER, ("map",))


# What `compute` takes: `keypoint_...` maps or peaks, and keypoints; `activation_norm_...` maps; `concept_auroc`
# activations and labels; `accuracy` logits and classes.
BOTTLENECK_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("keypoint_error", "keypoint error, squared cells", keypoint_error, False, 0, math.inf, _READ, _POSTER,
               _POINTS),
        Metric("keypoint_distance", "keypoint error / diagonal", keypoint_distance, False, 0, 1, _READ, _OWN, _SIZED),
        Metric("keypoint_pointing", "within 0.1 of the diagonal", keypoint_pointing, True, 0, 1, _READ, _OWN, _SIZED),
        Metric("keypoint_own", "nearest keypoint is its own", keypoint_own, True, 0, 1, _READ, _OWN, _SIZED),
        Metric("keypoint_swap", "swap", keypoint_swap, True, -math.inf, math.inf, "0", _OWN, _POINTS),
        *(_of_norm(kind) for kind in NORM_KINDS),
        Metric("concept_auroc", "concept AUROC", concept_auroc, True, 0, 1, "0.5", "common practice",
               ("activations", "concept labels")),
        Metric("accuracy", "accuracy", accuracy, True, 0, 1, "1 / classes", "common practice",
               ("logits", "class labels")),
    )
}  # fmt: skip
