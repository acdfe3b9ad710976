"""Do named parts of birds lie where the parts are? Peaks of regions against keypoints, beside centre and wrong part.

`python benchmarks/parts.py [--json] [--photos 150]`; it needs `cub50` of CONCEPTLENS_DATA. Nothing was tuned on it.

A peak is right where it lies within a tenth of the diagonal of what the model sees from a visible keypoint of the part
(the distance of `keypoint_pointing`). `wrong_part` is how often the peaks of the other parts of the same photo do.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.keypoints_in_view import KeypointsInView, keypoints_in_view
from conceptlens.metrics.map_mask import peak
from conceptlens.statistics.bootstrap import bootstrap_difference, bootstrap_mean
from judged_photos import DATA
from run_record import run_record

PARTS = {
    "beak": ("beak",), "wing": ("left wing", "right wing"), "tail": ("tail",), "leg": ("left leg", "right leg"),
}  # fmt: skip
RADIUS = 0.1


def hits(peaks: Tensor, known: KeypointsInView, photo: int) -> Tensor:
    """Return whether each of `peaks[n 2]` lies at each part: `n part`, NaN where the part is not visible."""
    found = torch.full((len(peaks), len(PARTS)), float("nan"))
    size = known.sizes[photo].double()
    for column, names in enumerate(PARTS.values()):
        points = [i for i, name in enumerate(known.names) if name in names and bool(known.visible[photo, i])]
        if points:
            away = (peaks[:, None].double() - known.xy[photo, points].double()) * size
            found[:, column] = (away.norm(dim=2) <= RADIUS * size.norm()).any(1).float()
    return found


def measured(model: cl.Backbone, photos: Any, chosen: list[int], kind: Any) -> dict[str, Any]:
    """Return how often peaks of one kind of regions are right."""
    assert model.preprocess is not None
    known = keypoints_in_view(photos, chosen, model.preprocess)
    asked = [ConceptName(name, "part") for name in PARTS]
    rows = []
    for number, index in enumerate(chosen):
        found = cl.explain(model.observe(photos[index]), asked, regions=kind)
        peaks = torch.cat([peak(found.maps)[0].float(), torch.tensor([[0.5, 0.5]])])
        rows.append(hits(peaks, known, number))
    table = torch.stack(rows).numpy()
    own = np.stack([table[:, i, i] for i in range(len(PARTS))], axis=1)
    others = np.stack([np.delete(table[:, : len(PARTS), i], i, axis=1).mean(1) for i in range(len(PARTS))], axis=1)
    centre = table[:, len(PARTS)]
    seen = ~np.isnan(own)
    photo = np.nonzero(seen)[0].tolist()
    result: dict[str, Any] = {"pairs": int(seen.sum())}
    for name, values in (("own", own), ("wrong_part", others), ("centre", centre)):
        one = bootstrap_mean(values[seen], photo)
        result[name] = [one.mean, one.low, one.high]
        result[f"{name}_by_part"] = {part: float(np.nanmean(values[:, i])) for i, part in enumerate(PARTS)}
    for name, values in (("wrong_part", others), ("centre", centre)):
        one = bootstrap_difference(own[seen], values[seen], photo)
        result[f"own_less_{name}"] = [one.mean, one.low, one.high]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--photos", type=int, default=150, help="how many photos of the test split, evenly spaced")
    parser.add_argument("--regions", nargs="+", default=["competing", "official"], help="kinds of regions")
    asked = parser.parse_args()
    model = cl.load_model()
    photos = cl.open_classes(f"cub:{DATA / 'cub50' / 'CUB_200_2011'}", "test")
    chosen = np.linspace(0, len(photos) - 1, min(asked.photos, len(photos))).astype(int).tolist()
    rows = {kind: measured(model, photos, chosen, kind) for kind in asked.regions}
    document = {**run_record(), "model": model.name, "photos": len(chosen), "radius": RADIUS, "regions": rows}
    if asked.json:
        print(json.dumps(document, indent=1))
        return
    for kind, row in rows.items():
        print(kind, {name: round(row[name][0], 3) for name in ("own", "wrong_part", "centre")}, row["own_by_part"])


if __name__ == "__main__":
    main()
