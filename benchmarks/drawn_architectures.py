"""Is every architecture read rightly or refused? Thirty drawn at random from timm and transformers.

`python benchmarks/drawn_architectures.py --seed 1 [--json]`; it needs no data. Each model gets the verdict

- `right`: the cells of its default layer and of others spread over its depth lie where they are said to, by blocks and
  by gradients (`cell_places.py`), which share neither images nor blocks with the package's own experiment;
- `refused`: no default layer, in a sentence; layers that can be named are checked nevertheless;
- `misread`: a layer whose cells lie elsewhere;
- `no place`: cells that look at no place of their own with these random weights, since each sees the whole small image
  (their gradients in two images are as unlike as those of different cells). No order of them can be told from another;
  their places are then looked for in images twice as large, and `larger` says what was found;
- `failed`: another error than a refusal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch

import conceptlens as cl
from cell_places import Places, places
from drawn_models import Drawn, draw
from run_record import run_record

OF_TIMM, OF_TRANSFORMERS = 18, 12
OTHER_LAYERS = 3


def verdict(drawn: Drawn) -> dict[str, Any]:
    """Return what became of one model: its verdict, its default layer and grid, and the places of some layers."""
    row: dict[str, Any] = {"model": drawn.name, "size": drawn.size}
    try:
        model = cl.Backbone(drawn.module, drawn.name, input_size=drawn.size)
        found = model.anatomy
        sentence = ""
        try:
            default = model.default_layers[0]
            row |= {"layer": default, "grid": [found.grids[default].height, found.grids[default].width]}
        except cl.InputError as error:
            default, sentence = None, str(error)
        names = [layer.name for layer in found.layers] or [
            name for name, grid in found.grids.items() if min(grid.height, grid.width) > 1
        ]
        some = names[:: max(1, len(names) // OTHER_LAYERS)][:OTHER_LAYERS] if names else []
        layers = list(dict.fromkeys([*some, *([default] if default else [])]))
        checked = places(model, layers, drawn.size) if layers else {}
    except cl.InputError as error:
        return row | {"verdict": "refused", "sentence": str(error)}
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr)
        return row | {"verdict": "failed", "sentence": f"{type(error).__name__}: {error}"[:300]}
    row |= {"layers": len(checked), "least": _least(checked)}
    wrong = {name: one for name, one in checked.items() if not one.right}
    if wrong:
        row["wrong"] = {name: _rounded(one) for name, one in wrong.items()}
        if not all(one.nowhere for one in wrong.values()):
            return row | {"verdict": "misread"}
        return row | {"verdict": "no place", "larger": _in_larger_images(drawn, list(wrong))}
    return row | ({"verdict": "refused", "sentence": sentence} if sentence else {"verdict": "right"})


def _in_larger_images(drawn: Drawn, layers: list[str]) -> dict[str, Any] | str:
    """Return the places of layers in images twice as large, or why they have none."""
    rows, columns = drawn.size
    try:
        model = cl.Backbone(drawn.module, drawn.name, input_size=(2 * rows, 2 * columns))
        return {name: _rounded(one) for name, one in places(model, layers, (2 * rows, 2 * columns)).items()}
    except Exception as error:  # a network of one size raises what it likes
        return f"{type(error).__name__}: {error}"[:300]


def _rounded(one: Places) -> dict[str, Any]:
    figures = {key: None if value is None else round(value, 3) for key, value in asdict(one).items()}
    return figures | {"right": one.right}


def _least(checked: dict[str, Any]) -> dict[str, float]:
    figures = {
        name: min((getattr(one, name) for one in checked.values()), default=1.0)
        for name in ("found", "order", "nearer")
    }
    figures["shift"] = max((one.shift for one in checked.values()), default=0.0)
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Draw, check and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timm", type=int, default=OF_TIMM, help="how many of timm")
    parser.add_argument("--transformers", type=int, default=OF_TRANSFORMERS, help="how many of transformers")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, again = [], []
    for drawn in draw(asked.seed, asked.timm, asked.transformers):
        if isinstance(drawn, str):
            again.append(drawn)
            print("again:", drawn, file=sys.stderr, flush=True)
            continue
        start = time.process_time()
        rows.append(verdict(drawn))
        print(f"{time.process_time() - start:.1f} s", json.dumps(rows[-1]), file=sys.stderr, flush=True)
    counts = dict(Counter(row["verdict"] for row in rows))
    record = run_record(("timm", "transformers"))
    result = {"seed": asked.seed, "counts": counts, "models": rows, "drawn_again": again, "setting": record}
    print(json.dumps(result, indent=1) if asked.json else counts)


if __name__ == "__main__":
    main()
