"""Do the maps of two concepts of one photo lie apart, as their masks do?

`python benchmarks/overlap.py [--json] [--data coco_panoptic] [--split val2017]`. Pairs of concepts of one photo whose
masks share no pixel. The overlap of two maps is the IoU of the places where each reaches half of its peak, on maps
enlarged to 112 x 112 pixels; 0 is ideal. *Shuffled* pairs take the second map, or mask, from the next photo with such a
pair: what two places have in common that know nothing of each other. Intervals are over photos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.localization.mask_truth import truth_of
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.statistics.bootstrap import bootstrap_difference, bootstrap_mean
from run_record import run_record

METHODS = {"competing": "competing", "official": "ce_fam"}
MIN_AREA, SIDE = 0.01, 112


def main() -> None:
    """Measure every pair of the set, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="coco_panoptic")
    parser.add_argument("--split", default="val2017")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = cl.open_set(asked.data, asked.split)
    methods = build_methods(METHODS.values(), MethodContext(cl.load_model(crop_mode="squash"), data.concepts))
    photos = [one for photo in data if len((one := photo.with_min_area(MIN_AREA)).concepts) > 1]
    table = overlaps([places(photo, methods) for photo in photos])
    result = {"name": "overlap", **table, "setting": run_record()}
    print(json.dumps(result, indent=2)) if asked.json else show(table)


def places(photo: MaskedPhoto, methods: dict[str, Any]) -> dict[str, Tensor]:
    """Return where each map reaches half of its peak, by method, and the masks: bool `concept rows columns`."""
    found = {}
    for name, method in METHODS.items():
        explained = methods[method](photo.photo, photo.concepts)
        maps = F.interpolate(explained.maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        peaks = maps.amax((1, 2), keepdim=True)
        found[name] = (maps >= peaks / 2) & (peaks > 0)
    return {**found, "masks": truth_of(photo, (0.0, 0.0, 1.0, 1.0), SIDE).masks}


def iou(a: Tensor, b: Tensor) -> float:
    """Return the IoU of two places; 0 where both are empty."""
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def overlaps(photos: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Return the mean overlap of every kind of place, of pairs of one photo and of shuffled pairs."""
    apart = [
        [(i, j) for i, j in combinations(range(len(one["masks"])), 2) if iou(one["masks"][i], one["masks"][j]) == 0]
        for one in photos
    ]
    kept = [(one, pairs) for one, pairs in zip(photos, apart, strict=True) if pairs]
    images = [number for number, (_, pairs) in enumerate(kept) for _ in pairs]
    own: dict[str, list[float]] = {}
    rows = {}
    for name in (*METHODS, "masks"):
        following = [other[name] for other, _ in [*kept[1:], kept[0]]]
        own[name] = [iou(one[name][i], one[name][j]) for one, pairs in kept for i, j in pairs]
        shuffled = [
            iou(one[name][i], other[j % len(other)])
            for (one, pairs), other in zip(kept, following, strict=True)
            for i, j in pairs
        ]
        rows[name] = {
            "overlap": interval(bootstrap_mean(own[name], images)),
            "shuffled": interval(bootstrap_mean(shuffled, images)),
            "less_than_shuffled": interval(bootstrap_difference(shuffled, own[name], images)),
        }
    less = interval(bootstrap_difference(own["official"], own["competing"], images))
    return {"photos": len(kept), "pairs": len(images), "rows": rows, "competing_less_than_official": less}


def interval(found: Any) -> list[float]:
    """Return a mean with the ends of its 95 % interval."""
    return [round(value, 4) for value in (found.mean, found.low, found.high)]


def show(table: dict[str, Any]) -> None:
    """Print one line for each kind of place."""
    for name, row in table["rows"].items():
        print(f"{name:<10}", *(f"{kind} {mean:.3f} [{low:.3f}, {high:.3f}]" for kind, (mean, low, high) in row.items()))


if __name__ == "__main__":
    main()
