"""Ways to share a margin among the cells of a layer: what their sum misses, and what they cost.

`python benchmarks/evidence.py [--json]`. Four photos; EfficientNet-Lite0 with its weights, the others with random ones.
Each way is asked for the margin of the predicted class at the layer that is explained by default:

- *gradient x activation*: `F(u) . dm/dF(u)`, which has no empty input, so its sum is held against the whole margin;
- *gradient x change*: `(F(u) - B(u)) . dm/dF(u)` from the cells `B` of an empty input, held against its change;
- *evidence*: `cell_evidence`, integrated gradients along the cells, exact where a mean and a linear classifier follow.

Forward passes are operations of observing and attributing over those of a plain forward pass, as torch counts them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from skimage import data

import conceptlens as cl
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.model.layer_cells import empty_cells
from measure import flops, show
from run_record import run_record

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
MODELS = {
    "lite0": ("timm:tf_efficientnet_lite0", True),
    "vit_b16": ("timm:vit_base_patch16_224", False),
    "convnext_tiny": ("timm:convnext_tiny", False),
    "swin_tiny": ("timm:swin_tiny_patch4_window7_224", False),
}


def main() -> None:
    """Measure every model, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for name in MODELS for row in measured(name)]
    ours = [row for row in rows if row["way"] == "evidence"]
    result: dict[str, Any] = {
        "name": "evidence",
        "largest_residual": max(row["largest_residual"] for row in ours),
        **{f"forwards_{row['model']}": row["forward_passes"] for row in ours},
        "rows": rows,
        "setting": {**run_record(("timm",)), "photos": len(PHOTOS)},
    }
    print(json.dumps(result, indent=2)) if asked.json else show(rows)


def measured(name: str) -> list[dict[str, Any]]:
    """Return one row for each way."""
    reference, pretrained = MODELS[name]
    model = cl.load_model(reference, pretrained=pretrained)
    photos = [Image.fromarray(getattr(data, photo)()) for photo in PHOTOS]
    images = model.observe(photos[0], layers=[]).images

    def plain() -> None:
        with torch.no_grad():
            model.module(images)

    whole = flops(plain)
    rows = []
    for way, residual in WAYS.items():
        missed = [residual(model.observe(photo)) for photo in photos]

        def call(residual: Callable[[cl.Observation], float] = residual) -> None:
            residual(model.observe(photos[0]))

        rows.append({
            "model": name,
            "layer": model.observe(photos[0]).layer,
            "way": way,
            "median_residual": round(statistics.median(missed), 5),
            "largest_residual": round(max(missed), 5),
            "forward_passes": round(flops(call) / whole, 2),
        })  # fmt: skip
    return rows


def _by_gradient(observation: cl.Observation, from_empty: bool) -> float:
    """Return what gradient times activation, or times the change from an empty input, misses of the margin."""
    logits = observation.logits.detach()
    own = logits.argmax(1, keepdim=True)
    signs = (-logits.scatter(1, own, -torch.inf).softmax(1)).scatter(1, own, 1.0)
    margin = float((signs * logits).sum())
    feature = observation.feature()
    gradient = observation.pull(observation.logits, signs[:, None].to(observation.logits))[:, 0]
    change, start = feature, 0.0
    if from_empty:
        change = feature - empty_cells(observation.model, observation.given, observation.layer).to(feature)
        with torch.no_grad():
            empty = observation.rerun(feature - change, 0).logits
        start = float((signs * empty).sum())
    return abs(margin - start - float((gradient * change).sum())) / abs(margin)


def _by_evidence(observation: cl.Observation) -> float:
    found = cell_evidence(observation)
    assert found is not None
    return float((found.residuals / found.margins).abs())


WAYS: dict[str, Callable[[cl.Observation], float]] = {
    "gradient x activation": lambda observation: _by_gradient(observation, from_empty=False),
    "gradient x change": lambda observation: _by_gradient(observation, from_empty=True),
    "evidence": _by_evidence,
}


if __name__ == "__main__":
    main()
