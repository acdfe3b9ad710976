"""What the program doubts, against what is right: places without contrast, ranges, and what has no name.

`python benchmarks/doubt.py [--json]`; it needs `coco_panoptic` and the judged photos of CONCEPTLENS_DATA.

- `places`: how well a region ranks a cell of its category's mask above another one (AUC, chance .5), by how clear its
  place is. Categories that cover 1 % of what the model sees or more, train photos, where the limit was chosen, and val.
- `no_name`: the share of a photo that belongs to no concept, where half of its categories are named, and the share that
  is true: what the masks of these leave over. Photos with three categories or more, three draws of a half for each.
- `ranges`: what `--intervals` says of the concepts that the test photos show by default: the median width of a range
  over its contribution, how often the ranges of the two largest overlap; and the median of `unnamed` over the margin.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from answers import COCO, interval
from conceptlens.concept_regions.competing_explanation import MIN_PLACE_CONTRAST
from conceptlens.explainer.class_evidence import named_shares
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.io.errors import Failure
from conceptlens.statistics.bootstrap import bootstrap_mean
from effects import MIN_AREA, MIN_CATEGORIES, masks_in_view
from judged_photos import judged_photos
from run_record import run_record

# The limit of *no clear place*, and the next one that the page names.
LIMITS = (0.0, MIN_PLACE_CONTRAST, 0.56, float("inf"))
DRAWS = 3


def coco_photos(model: cl.Backbone, split: str) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Return each category's contrast and AUC, and of each draw the shares without a name, ours and true."""
    places, without_name = [], []
    generator = torch.Generator().manual_seed(0)
    for number, photo in enumerate(cl.open_set(COCO, split)):
        observation = model.observe(photo.photo)
        masks = masks_in_view(photo, observation).float()
        kept = [i for i, mask in enumerate(masks) if float(mask.mean()) >= MIN_AREA]
        if not kept:
            continue
        masks = masks[kept]
        found = cl.explain(observation, [photo.concepts[i] for i in kept])
        places += [{"photo": number, **row} for row in ranked_cells(found, masks)]
        if len(kept) >= MIN_CATEGORIES:
            draws = [torch.randperm(len(kept), generator=generator)[: len(kept) // 2] for _ in range(DRAWS)]
            without_name += [[number, *shares_without_name(found, masks, half)] for half in draws]
    return places, without_name


def ranked_cells(found: cl.Explanation, masks: Tensor) -> list[dict[str, float]]:
    """Return contrast and AUC of each category that the model knows, where its mask fills some cells and not all."""
    inside = F.adaptive_avg_pool2d(masks[None], (found.maps.shape[2], found.maps.shape[3]))[0] > 0.5
    contrasts = found.diagnostics["place_contrast"][0]
    known = torch.ones(len(masks), dtype=torch.bool) if found.known is None else found.known[0]
    return [
        {"contrast": float(contrasts[q]), "auc": float(roc_auc_score(mask.flatten(), found.maps[0, q].flatten()))}
        for q, mask in enumerate(inside)
        if known[q] and mask.any() and not mask.all()
    ]


def shares_without_name(found: cl.Explanation, masks: Tensor, half: Tensor) -> tuple[float, float]:
    """Return what share of a photo belongs to none of `half` of its categories: by regions and presence, by masks."""
    shares = named_shares(found.select(half.tolist()), (found.maps.shape[2], found.maps.shape[3]), named=True)
    return 1 - float(shares[0].sum(0).mean()), 1 - float(masks[half].amax(0).mean())


def by_contrast(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean AUC of regions between each two limits of contrast, with its interval over photos."""
    lines = []
    for low, high in pairwise(LIMITS):
        kept = [row for row in rows if low <= row["contrast"] < high]
        mean = bootstrap_mean([row["auc"] for row in kept], [row["photo"] for row in kept])
        share = len(kept) / len(rows)
        lines.append(
            {"contrast_from": low, "regions": len(kept), "share": share, "auc": [mean.mean, mean.low, mean.high]}
        )
    return lines


def without_name(rows: list[list[float]]) -> dict[str, Any]:
    """Return the mean shares without a name, ours, true and how far they differ, with intervals over photos."""
    photo, ours, true = zip(*rows, strict=True)
    means = {
        "ours": bootstrap_mean(ours, photo),
        "true": bootstrap_mean(true, photo),
        "off_by": bootstrap_mean(np.abs(np.subtract(ours, true)), photo),
    }
    correlation = float(np.corrcoef(ours, true)[0, 1])
    return {
        "photos": len(set(photo)),
        **{name: [one.mean, one.low, one.high] for name, one in means.items()},
        "correlation": correlation,
    }


def ranges(model: cl.Backbone) -> dict[str, Any]:
    """Return how wide the ranges of contributions are on the test photos, and how much of the margin has no name."""
    widths, overlaps, unnamed = [], [], []
    for result in explain_photos(model, [one.file for one in judged_photos("test")], ExplainOptions(intervals=True)):
        if isinstance(result, Failure) or result.concepts is None:
            raise SystemExit(f"a photo was not explained: {result}")
        found = result.concepts
        assert found.contributions is not None
        assert found.contributions_low is not None
        assert found.contributions_high is not None
        assert found.unnamed is not None
        assert found.margins is not None
        values, low, high = found.contributions[0], found.contributions_low[0], found.contributions_high[0]
        widths += ((high - low) / values.abs()).tolist()
        unnamed.append(float(found.unnamed[0] / found.margins[0]))
        if len(values) > 1:
            first, second = values.topk(2).indices.tolist()
            overlaps.append(float(low[first] < high[second]))
    return {
        "photos": len(unnamed),
        "concepts": len(widths),
        "width_over_contribution": np.quantile(widths, [0.5, 0.25, 0.75]).tolist(),
        "two_largest_overlap": interval(np.array(overlaps)),
        "unnamed_over_margin": np.quantile(unnamed, [0.5, 0.25, 0.75]).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    model = cl.load_model()
    by_split = {split: coco_photos(model, split) for split in ("train2017", "val2017")}
    document = {
        **run_record(),
        "model": model.name,
        "places": {split: by_contrast(places) for split, (places, _) in by_split.items()},
        "no_name": {split: without_name(rows) for split, (_, rows) in by_split.items()},
        "ranges": ranges(model),
    }
    if asked.json:
        print(json.dumps(document, indent=1))
        return
    for split in by_split:
        print(
            split, "AUC", [round(line["auc"][0], 3) for line in document["places"][split]], document["no_name"][split]
        )
    print("ranges", document["ranges"])


if __name__ == "__main__":
    main()
