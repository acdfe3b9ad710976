"""Heads that are fitted anew to what concepts show near one place of each map: what an answer from peaks is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlens.benchmark.control_places import DIRECTIONS, ControlPlaces
from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, batch_table, source_of
from conceptlens.bottleneck.fit.head_fit import choose, fit_head
from conceptlens.bottleneck.fit.recipe import Recipe
from conceptlens.bottleneck.locator import peak_masks
from conceptlens.metrics.bottleneck_metrics import accuracy
from conceptlens.statistics.score import Metric

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.features.cell_source import CellBatch, CellSource
    from conceptlens.heads.logistic_head import LinearHead
    from conceptlens.model.backbone import Backbone

ACCURACY, MASKED = "accuracy", "accuracy_at_peaks"
# Called as compute(logits, classes), as accuracy is.
_SOURCE = "Loc-CBM, poster: masked inference; with a head fitted anew"
_NEEDS = ("map", "class labels", "head fit")
AT_PEAKS = Metric(MASKED, "accuracy at peaks", accuracy, True, 0, 1, "1 / classes", _SOURCE, _NEEDS)
# The radius of the Gaussian around a place, in cells of the map's own grid: that of Loc-CBM's masks at the end.
RADIUS = 1.0


def near_peaks(
    maps: Float[Tensor, "photo concept rows columns"], places: Float[Tensor, "photo concept rows columns"]
) -> Float[Tensor, "photo concept"]:
    """Return the mean of each map under a Gaussian around the highest cell of another one.

    Args:
        maps: The maps that are read.
        places: The maps whose highest cells say where; the maps themselves read around their own peaks.
    """
    return (peak_masks(places, RADIUS) * maps).sum((2, 3))


def peak_activations(
    name: str,
    maps: Float[Tensor, "photo concept rows columns"],
    controls: Mapping[str, Float[Tensor, "photo concept rows columns"]],
) -> dict[tuple[str, str], Float[Tensor, "photo concept"]]:
    """Return the activations that heads are refitted to, by method and metric.

    Those of a bottleneck around its own peaks; the same maps around each control's places; and those of random
    directions, as they are and around their own peaks.

    Args:
        name: The bottleneck's name.
        maps: Its maps of all concepts.
        controls: What `ControlPlaces.maps` returned, for the bottleneck whose cells controls are read from; else empty.
    """
    found = {(name, MASKED): near_peaks(maps, maps)}
    for control, places in controls.items():
        found[control, MASKED] = near_peaks(places if control == DIRECTIONS else maps, places)
        if control == DIRECTIONS:
            found[control, ACCURACY] = places.mean((2, 3))
    return found


def shared_sources(
    bottlenecks: Mapping[str, Bottleneck], model: Backbone, photos: LabelledSet, cache: Path | None = None
) -> dict[str, CellSource]:
    """Return where the cells of bottlenecks come from; those that read the same cells have one source, read once.

    Args:
        bottlenecks: The bottlenecks by name.
        model: The model.
        photos: The photos.
        cache: A folder of cells, such as the fit's; without one, the network runs on every photo.
    """
    found: dict[str, CellSource] = {}
    known: dict[str, CellSource] = {}
    for name, one in bottlenecks.items():
        source = source_of(one, model, photos, cache)
        found[name] = known.setdefault(source.key, source)
    return found


def refitted_heads(
    bottlenecks: Mapping[str, Bottleneck], sources: Mapping[str, CellSource], controls: ControlPlaces, seed: int
) -> dict[tuple[str, str], LinearHead]:
    """Return heads refitted to train photos, by method and metric.

    Args:
        bottlenecks: The bottlenecks by name.
        sources: The cells of train photos for each.
        controls: The controls, read from the cells of `controls.bottleneck`.
        seed: Decides which photos are held out to choose the ridge.

    Raises:
        InputError: A class has no photo, or activations do not differ.
    """
    found: dict[tuple[str, str], LinearHead] = {}
    for source in dict.fromkeys(sources.values()):
        own = {name: one for name, one in bottlenecks.items() if sources[name] is source}
        found |= _of_source(own, source, controls, seed)
    return found


def _of_source(
    bottlenecks: Mapping[str, Bottleneck], source: CellSource, controls: ControlPlaces, seed: int
) -> dict[tuple[str, str], LinearHead]:
    """Return the heads of bottlenecks that read the same cells."""
    parts: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    labels: dict[str, list[Tensor]] = defaultdict(list)
    of_method: dict[str, str] = {}
    for batch in source.batches(range(len(source.photos))):
        for name, one in bottlenecks.items():
            table = whole_table(one, source.photos, batch)
            labels[name].append(table.classes)
            places = controls.maps(batch) if one is controls.bottleneck else {}
            for key, activations in peak_activations(name, table.maps, places).items():
                parts[key].append(activations)
                of_method[key[0]] = name
    return {
        key: _refitted(bottlenecks[of_method[key[0]]], torch.cat(each), torch.cat(labels[of_method[key[0]]]), seed)
        for key, each in parts.items()
    }


@torch.no_grad()
def whole_table(bottleneck: Bottleneck, photos: LabelledSet, batch: CellBatch) -> BottleneckTable:
    """Return what a bottleneck makes of some cells, with the maps of all its concepts.

    Args:
        bottleneck: The bottleneck.
        photos: The set that the photos are of.
        batch: The cells.
    """
    return batch_table(bottleneck, photos, batch, range(len(bottleneck.labels)))


def _refitted(
    bottleneck: Bottleneck, activations: Float[Tensor, "photo concept"], labels: Int[Tensor, "photo"], seed: int
) -> LinearHead:
    """Return a head fitted as the bottleneck's own was: by its recipe, the ridge chosen on held-out photos."""
    known = {one.name for one in fields(Recipe)}
    kept = {name: value for name, value in bottleneck.training_record.items() if name in known}
    # The concept layer stays as it is, so there is no penalty of it to choose.
    recipe = replace(Recipe(**kept), loss="random")
    chosen = choose(lambda rows, penalty, draw: activations, labels, recipe, seed)
    return fit_head(activations, labels, chosen.strength, recipe)
