"""What models there are, and what layers one has: as lines to read and as numbers."""

from __future__ import annotations

import importlib.util
from typing import Any

from conceptlens.model.zoo import DEFAULT_MODEL, LOADERS, load_model, model_names


def named(search: str) -> tuple[list[str], dict[str, Any]]:
    """Return the known models whose name contains `search`, as lines and as numbers."""
    found = {s: [n for n in model_names(s) if search.lower() in f"{s}:{n}".lower()] for s in LOADERS if _installed(s)}
    lines = [f"{source}:{name}" for source, names in found.items() for name in names]
    if not search:
        lines.append("hf:OWNER/MODEL (any image classifier, CLIP, SigLIP or DETR of transformers, or a local folder)")
    return lines, {"schema": "conceptlens.models/1", "default": DEFAULT_MODEL, "models": found}


def layered(name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the layers with a grid of a model, as lines and as numbers."""
    model = load_model(name, pretrained=False)  # layers do not depend on the weights
    rows = [
        {"name": x.name, "channels": x.grid.channels, "height": x.grid.height, "width": x.grid.width,
         "reaches_output": x.reached, "default": x.name in model.default_layers}
        for x in model.anatomy.layers
    ]  # fmt: skip
    notes = ["default" if r["default"] else "" if r["reaches_output"] else "does not reach the output" for r in rows]
    lines = [
        f"{r['name']:<40} {r['channels']:>5} x {r['height']} x {r['width']}  {note}".rstrip()
        for r, note in zip(rows, notes, strict=True)
    ]
    return lines, {"schema": "conceptlens.layers/1", "model": model.name, "layers": rows}


def _installed(source: str) -> bool:
    return source != "open_clip" or importlib.util.find_spec("open_clip") is not None
