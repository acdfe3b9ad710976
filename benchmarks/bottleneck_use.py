"""What the concepts of a bottleneck are when they are used: leakage, and accuracy as concepts are corrected.

`python benchmarks/bottleneck_use.py [--json] [--data cub:FOLDER] [--seeds 0,1,2] [--cache FOLDER] [--out FILE.json]`;
with `--out`, rows that FILE holds are kept. Rows are fits of `loc_cbm.py`, on the train split with the concepts of all
class attributes; nothing is chosen here. A class attribute is true of a photo where most photos of its class show it.
Heads of the leakage scores and the values that corrections put in come from train photos, all figures from test photos.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import conceptlens as cl
from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, read_table
from conceptlens.bottleneck.evaluate.intervention_curve import (
    by_percentile,
    by_presence_mean,
    concept_groups,
    intervention_curve,
)
from conceptlens.bottleneck.evaluate.photo_annotations import attribute_indices
from conceptlens.bottleneck.sparse.sparse_head import SparsePath, fit_sparse_path, head_at
from conceptlens.heads.logistic_head import LinearHead
from conceptlens.metrics import LabelledActivations, concept_leakage, niche_impurity
from loc_cbm import MAIN, Bench, setting, summary, told

LEAST = 0.5  # a share of a class's photos
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the groups of concepts that are corrected
ANEC = (5, 10, 15, 20, 25, 30)  # VLG-CBM's: ANEC-5 is the accuracy at the first, ANEC-avg the mean over all
ROWS = {
    "random concepts, 448": {"recipe": "random", "size": 448},
    **{
        name: MAIN[name]
        for name in (
            "label-free, 448",
            "ridge, 448",
            "parts from words, 448",
            "random concepts, 448, NEC 5",
            "label-free, 448, NEC 5",
            "parts from words, 448, NEC 5",
        )
    },
}


def main() -> None:
    """Fit every row, use its concepts, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description="Leakage and corrections of concept bottlenecks")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="cub", help="cub, or cub:FOLDER")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", type=Path, help="a folder for cells; by default one that is removed")
    parser.add_argument("--out", type=Path, help="a result to go on with, row by row")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole: dict[str, Any] = {"name": "bottleneck_use", "use": []}
    if asked.out and asked.out.exists():
        whole = json.loads(asked.out.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked.data, asked.cache or Path(folder) / "cells", Path(folder), reviewed_alone=False)
        for name in [name for name in ROWS if name not in [row["row"] for row in whole["use"]]]:
            seeds = [used(bench, bench.fitted(ROWS[name], int(seed)), int(seed)) for seed in asked.seeds.split(",")]
            whole["use"].append({"row": name, **summary(seeds)})
            print(told(whole["use"][-1]), file=sys.stderr if asked.json else sys.stdout, flush=True)
            whole |= {"seeds": asked.seeds, "train_photos": len(bench.train), "test_photos": len(bench.test)}
            whole |= setting()
            if asked.out:
                asked.out.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    if asked.json:
        print(json.dumps(whole))


def used(bench: Bench, made: cl.Bottleneck, seed: int) -> dict[str, float]:
    """Return leakage, impurity, accuracy with few concepts (ANEC), and as concepts are corrected in three ways."""
    read = {name: read_table(made, bench.model, getattr(bench, name), cache=bench.cache) for name in ("train", "test")}
    train, test = (
        LabelledActivations(one.activations, _truth(bench, made, one) >= LEAST, one.classes) for one in read.values()
    )
    leaks = concept_leakage(train, test)
    figures = {
        "leakage_task": float(leaks.gap("hard").values.mean()),
        "leakage_graded": float(leaks.gap("binary").values.mean()),
        "leakage_interventional": float(leaks.gap("corrected").values.mean()),
        "impurity_niche": niche_impurity(test.activations, test.labels, seed=seed),
    }
    if made.training_record["nec"] is None:
        path = fit_sparse_path(train.activations, train.classes, tolerance=1e-4)
        found = [_accuracy_at(path, target, test) for target in ANEC]
        figures |= {"anec_5": found[0], "anec_avg": sum(found) / len(found)}
    truth = _truth(bench, made, read["test"])
    ends = by_percentile(train.activations, truth)
    means = by_presence_mean(train.activations, _truth(bench, made, read["train"]), truth)
    shuffled = ends[torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))]
    ways: dict[str, torch.Tensor] = {"percentiles": ends, "means": means, "of_other_photos": shuffled}
    groups = concept_groups(made.concepts)
    counts = sorted({round(share * len(set(groups))) for share in SHARES})
    for way, values in ways.items():
        curve = intervention_curve(made, test.activations, test.classes, values, groups, counts, 3, seed=seed)
        for share, point in zip(SHARES, curve.points, strict=True):
            figures[f"{way}_{share:.2f}"] = point.accuracy.mean
    return figures


def _accuracy_at(path: SparsePath, target: int, test: LabelledActivations) -> float:
    """Return the accuracy with `target` concepts for each class; beyond its end the path's last solution counts."""
    if path.reach(target) is not None:
        head = head_at(path, target)
    else:
        last, scale = path.solutions[-1], path.rows.standardization
        head = LinearHead(last.weights, last.bias, scale.mean, scale.std)
    return float((head(test.activations).argmax(1) == test.classes).double().mean())


def _truth(bench: Bench, made: cl.Bottleneck, read: BottleneckTable) -> torch.Tensor:
    """Return the share of photos of each photo's class that show each concept, `[photo concept]`."""
    attributes = bench.train.annotation.attributes if bench.train.annotation else None
    if attributes is None:
        raise cl.InputError(f"{bench.train.name} has no class attributes")
    columns = [column for column in attribute_indices(made, bench.train) if column is not None]
    return torch.tensor(attributes.shares, dtype=torch.float32)[read.classes][:, columns]


if __name__ == "__main__":
    main()
