"""The protocols of `loc-cbm`: which methods each metric measures, and all that decides their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.benchmark.control_places import CONSTANT, CONTROL_PLACES, DIRECTIONS, GRAD_CAM
from conceptlens.benchmark.masked_heads import ACCURACY, MASKED, RADIUS
from conceptlens.benchmark.protocol import Protocol, check_one_column
from conceptlens.bottleneck.evaluate.map_metrics import KEYPOINTS, MASK
from conceptlens.data.keypoints_in_view import known_keypoints
from conceptlens.io.fingerprint import settings_fingerprint, weights_fingerprint
from conceptlens.metrics.bottleneck_metrics import NORM_KINDS
from conceptlens.metrics.keypoints import GRID

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

ENERGY = "pointing_energy"
# How far a map spreads; all but the share are in units of the map's own grid.
SPREADS = tuple(f"activation_norm_{kind}" for kind in NORM_KINDS)
SHARE = "activation_norm_share"
# Controls that are maps; the others are single cells, which do not spread.
SPREADING_CONTROLS = (DIRECTIONS, GRAD_CAM)
PLACE_METRICS = (*KEYPOINTS, ENERGY, *SPREADS, ACCURACY, MASKED)


def control_names(train: LabelledSet | None) -> tuple[str, ...]:
    """Return the controls that there are: the best constant cell needs keypoints of train photos.

    Args:
        train: The train photos.
    """
    fitted = train is not None and train.annotation is not None and train.annotation.keypoints is not None
    return tuple(name for name in CONTROL_PLACES if fitted or name != CONSTANT)


def concept_place_protocols(
    photos: LabelledSet,
    chosen: Sequence[int],
    train: LabelledSet | None,
    model: Backbone,
    bottlenecks: Mapping[str, Bottleneck],
    concepts: Sequence[str],
    metrics: Sequence[str],
    seed: int,
) -> tuple[Protocol, ...]:
    """Return one protocol for each method and metric.

    A control has no accuracy unless it has an answer, and does not spread unless it is a map.

    Args:
        photos: The set.
        chosen: Indices of the photos that are measured.
        train: The train photos.
        model: The model.
        bottlenecks: The bottlenecks by name.
        concepts: Labels of the measured concepts.
        metrics: Names of metrics.
        seed: Of all that is drawn.

    Raises:
        InputError: Two bottlenecks see different parts of photos, or maps of different grids are counted in cells:
            their numbers cannot stand in one column.
    """
    first = next(iter(bottlenecks.values()))
    settings = {name: _settings_of(one) for name, one in bottlenecks.items()}
    of_controls = {"cells": settings_fingerprint(_settings_of(first)), "train": None if train is None else _mark(train)}
    settings |= dict.fromkeys(control_names(train), of_controls)
    about = {
        "data": photos.name, "data_fingerprint": _mark(photos, chosen), "photos": len(chosen), "model": model.name,
        "weights": weights_fingerprint(model.module), "layer": "", "question": "concepts", "seed": seed,
    }  # fmt: skip
    found: list[Protocol] = []
    for metric in metrics:
        column = [
            Protocol(
                **about,
                method=method,
                metric=metric,
                resolution=MASK if metric == ENERGY else GRID if metric in KEYPOINTS else (0, 0),
                method_settings=own,
                metric_settings={
                    **_view_of(bottlenecks.get(method, first), model),
                    "concepts": list(concepts),
                    **_grid_of(bottlenecks.get(method, first), metric),
                    **({"radius": RADIUS, "train": _mark(train)} if metric == MASKED and train is not None else {}),
                },
            )
            for method, own in settings.items()
            if _measured(method, metric, bottlenecks, train)
        ]
        check_one_column(column)
        found += column
    return tuple(found)


def _measured(method: str, metric: str, bottlenecks: Mapping[str, Bottleneck], train: LabelledSet | None) -> bool:
    if metric == ACCURACY:
        return method in bottlenecks or (method == DIRECTIONS and train is not None)
    if metric in SPREADS:
        return method in bottlenecks or method in SPREADING_CONTROLS
    return metric != MASKED or train is not None


def _grid_of(one: Bottleneck, metric: str) -> dict[str, Any]:
    """Return the grid of a bottleneck's maps, where a metric is in units of it."""
    return {"grid": list(one.grid)} if metric in SPREADS and metric != SHARE else {}


def _settings_of(one: Bottleneck) -> dict[str, Any]:
    """Return what decides the numbers of a bottleneck, beside the model."""
    view = one.backbone.preprocess
    return {
        "weights": weights_fingerprint(one),
        "layer": one.layer,
        "grid": list(one.grid),
        "locator": [type(one.locator).__name__, one.locator.settings()],
        "edits": [[edit.concept, str(edit.low), str(edit.high), edit.target] for edit in one.edits],
        "input": None if view is None else asdict(view),
        "changed_weights": sorted(one.backbone.changed_weights),
    }


def _view_of(one: Bottleneck, model: Backbone) -> dict[str, Any]:
    """Return which part of a photo is seen; the whole is the same at any size."""
    view = one.backbone.prepare(model).known_preprocess("it is not known where keypoints are in what it sees")
    if view.crop_mode == "squash":
        return {"view": "the whole photo"}
    return {"view": {"share": view.share, "resize": view.resize, "aspect": round(view.size[0] / view.size[1], 3)}}


def _mark(photos: LabelledSet, chosen: Sequence[int] | None = None) -> str:
    """Return a fingerprint of the names, labels and keypoints of photos."""
    rows = list(range(len(photos)) if chosen is None else chosen)
    names, known = photos.names, known_keypoints(photos) if photos.annotation and photos.annotation.keypoints else None
    points = None if known is None else np.nan_to_num(known.xy[rows], nan=-1).round(6).tolist()
    return settings_fingerprint([[names[row] for row in rows], photos.labels[rows].tolist(), points])
