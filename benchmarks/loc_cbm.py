"""What a located bottleneck is worth: accuracy, and how near each concept's peak is to its part, beside controls.

`python benchmarks/loc_cbm.py [--json] [--data cub:FOLDER] [--table main|ablation] [--seeds 0,1,2] [--cache FOLDER]
[--out FILE.json]`; with `--out`, rows that FILE holds are kept, and the others are added one by one.
Everything was chosen on train photos; the test split is read here alone. Each row is a fit by `fit_loc_cbm` on the
train split, with the concepts of all class attributes; errors are those of the reviewed concepts that speak of one part
and that three classes show, where the photo's class shows them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.bottleneck.evaluate.activation_table import read_table
from conceptlens.bottleneck.evaluate.photo_annotations import keypoints_in_input
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.metrics import (
    Keypoints,
    activation_norm,
    centre_peaks,
    concept_auroc,
    constant_peaks,
    keypoint_error,
    keypoint_pointing,
    keypoint_swap,
    swapped_error,
    uniform_maps,
)
from run_record import run_record

MODEL = "timm:tf_efficientnet_lite0"
LAYERS = ("blocks.4", "blocks.5", "bn2")  # that the locator of parts sees
Choices = Mapping[str, Any]

MAP_MASK_METRICS: Choices = {"recipe": "loc-cbm", "locator_layers": LAYERS}
MAIN: dict[str, Choices] = {
    "label-free, 224": {"recipe": "label-free"},
    "ridge, 224": {"recipe": "ridge"},
    "random concepts, 224": {"recipe": "random"},
    "linear probe, 224": {"recipe": "probe"},
    "parts from words, 224": MAP_MASK_METRICS,
    "parts from 1 photo a class, 224": {**MAP_MASK_METRICS, "keypoints": 1},
    "label-free, 448": {"recipe": "label-free", "size": 448},
    "ridge, 448": {"recipe": "ridge", "size": 448},
    "linear probe, 448": {"recipe": "probe", "size": 448},
    "parts from words, 448": {**MAP_MASK_METRICS, "size": 448},
    "parts from 1 photo a class, 448": {**MAP_MASK_METRICS, "size": 448, "keypoints": 1},
    "parts from every photo, 448": {**MAP_MASK_METRICS, "size": 448, "keypoints": 30},
    "label-free, 448, NEC 5": {"recipe": "label-free", "size": 448, "nec": 5},
    "label-free, 448, NEC 5, refitted": {"recipe": "label-free", "size": 448, "nec": 5, "refit": True},
    "random concepts, 448, NEC 5": {"recipe": "random", "size": 448, "nec": 5},
    "ridge, 448, NEC 5": {"recipe": "ridge", "size": 448, "nec": 5},
    "parts from words, 448, NEC 5": {**MAP_MASK_METRICS, "size": 448, "nec": 5},
    "parts from words, 224, last stage trained": {**MAP_MASK_METRICS, "finetune": 8},
}
# At the network's own size and grid (7 x 7), with the reviewed concepts alone; steps as many as the errors need.
BRIEF: Choices = {"steps": 200, "batch": 128}
PEAKS: Choices = {"locator": "peaks", "loss": "mse", "masked": False, **BRIEF}
WHOLE: Choices = {"warmup": 0.999, "masked": True}  # no mask in training, one of one cell when used
PARTS: Choices = {"locator": "parts", "locator_layers": LAYERS}
ABLATION: dict[str, Choices] = {
    "cos3, mean": {"locator": "whole", "loss": "cos3", **BRIEF},
    "cos3, mean, 5 times the steps": {"locator": "whole", "loss": "cos3", **BRIEF, "steps": 1000},
    "mse, mean": {"locator": "whole", "loss": "mse", **BRIEF},
    "bce, mean": {"locator": "whole", "loss": "bce", **BRIEF},
    "ridge, mean": {"locator": "whole"},
    "mse, softmax": {"locator": "softmax", "loss": "mse", **BRIEF},
    "mse, peaks of radius 1": {**PEAKS, "schedule": "fixed"},
    "mse, peaks shrinking linearly": PEAKS,
    "mse, peaks shrinking by cosine": {**PEAKS, "schedule": "cosine"},
    "mse, peaks shrinking exponentially": {**PEAKS, "schedule": "exponential"},
    "mse, peaks shrinking, both losses": {**PEAKS, "replace": False},
    "mse, two peaks shrinking": {**PEAKS, "peaks": 2},
    "mse, mean, masked when used": {**PEAKS, **WHOLE},
    "mse, peaks of radius 1, masked when used": {**PEAKS, "schedule": "fixed", "masked": True},
    "mse, peaks shrinking, masked when used": {**PEAKS, "masked": True},
    "cos3, peaks of radius 1": {**PEAKS, "loss": "cos3", "schedule": "fixed"},
    "cos3, peaks shrinking": {**PEAKS, "loss": "cos3"},
    "cos3, mean, masked when used": {**PEAKS, **WHOLE, "loss": "cos3"},
    "cos3, peaks of radius 1, masked when used": {**PEAKS, "loss": "cos3", "schedule": "fixed", "masked": True},
    "cos3, peaks shrinking, masked when used": {**PEAKS, "loss": "cos3", "masked": True},
    "cos3 then mse, peaks shrinking": {**PEAKS, "loss": "cos3", "masked_loss": "mse"},
    "ridge, peaks of radius 1 when used": {"locator": "peaks", "loss": "ridge"},
    "ridge, parts": PARTS,
    "mse, parts": {**PARTS, "loss": "mse", **BRIEF},
    "ridge, parts, one start": {**PARTS, "restarts": 1},
    "ridge, parts not kept apart": {**PARTS, "apart": 0.0},
    "ridge, parts of a region not together": {**PARTS, "together": 0.0},
    "ridge, parts of any size": {**PARTS, "small": 0.0},
    "ridge, parts seen in two layers": {"locator": "parts"},
    "ridge, parts, half the whole image": {**PARTS, "share": 0.5},
}


def main() -> None:
    """Fit and measure every row, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description="What a located bottleneck is worth")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="cub", help="cub, or cub:FOLDER")
    parser.add_argument("--table", choices=("main", "ablation"), default="main")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default="", help="rows whose names hold this text alone")
    parser.add_argument("--cache", type=Path, help="a folder for cells; by default one that is removed")
    parser.add_argument("--out", type=Path, help="a result to go on with, table by table and row by row")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: row for name, row in (MAIN if asked.table == "main" else ABLATION).items() if asked.rows in name}
    whole: dict[str, Any] = {"name": "loc_cbm"}
    if asked.out and asked.out.exists():
        whole = json.loads(asked.out.read_text("utf-8"))
    table = whole.setdefault(asked.table, [])
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked.data, asked.cache or Path(folder) / "cells", Path(folder), asked.table == "ablation")
        for name in [name for name in rows if name not in [row["row"] for row in table]]:
            seeds = [bench.measured(rows[name], int(seed)) for seed in asked.seeds.split(",")]
            table.append({"row": name, **summary(seeds)})
            print(told(table[-1]), file=sys.stderr if asked.json else sys.stdout, flush=True)
            whole |= {"seeds": asked.seeds, "counts": bench.counts(), "controls": bench.controls()}
            whole |= setting()
            if asked.out:
                asked.out.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    if asked.json:
        print(json.dumps(whole))


class Bench:
    """The two splits, the network, and the reviewed concepts with their keypoints."""

    def __init__(self, data: str, cache: Path, folder: Path, reviewed_alone: bool) -> None:
        self.train, self.test = cl.open_classes(data, "train"), cl.open_classes(data, "test")
        self.model, self.cache, self.alone = cl.load_model(MODEL, crop_mode="squash"), cache, reviewed_alone
        self.folder = folder
        annotation = self.train.annotation
        attributes = annotation.attributes if annotation else None
        if attributes is None:
            raise cl.InputError(f"{data} has no class attributes; give cub:FOLDER with its attributes")
        present = attributes.shares >= 0.5
        reviewed = [i for i, one in enumerate(attributes.concepts) if one.part and present[:, i].sum() >= 3]
        self.concepts = [attributes.concepts[i] for i in reviewed]
        self.labels = [concept.label for concept in self.concepts]
        self.shown = torch.tensor(present[:, reviewed])
        self.keypoints: dict[str, Keypoints] = {}
        self.made: Any = None

    def measured(self, choices: Choices, seed: int) -> dict[str, float]:
        """Fit on train, and return every figure on test."""
        start = time.perf_counter()
        made = self.fitted(choices, seed)
        seconds = time.perf_counter() - start
        probe = made.training_record["loss"] == "channels"
        looked = [] if probe else [made.concept_index(label) for label in self.labels]
        table = read_table(
            made, self.model, self.test, mapped=looked, cache=None if made.backbone.changed_weights else self.cache
        )
        right = (table.predicted == table.classes).double().mean()
        used = (made.head.weight != 0).sum() / len(made.classes)
        figures = {"accuracy": float(right), "nec": float(used), "seconds": seconds}
        figures["holdout"] = made.training_record["holdout_accuracy"]
        if looked:
            present = self.shown[table.classes]
            self.made = self.made or made
            known = self._keypoints("test", self.test, table.indices.tolist(), present)
            figures |= located(table.maps, known)
            scored = concept_auroc(table.activations[:, looked], present)
            figures["auroc"] = scored.mean() or float("nan")
            figures["area"] = activation_norm(table.maps, "share", present).mean() or float("nan")
        return figures

    def fitted(self, choices: Choices, seed: int) -> cl.Bottleneck:
        """Fit on train."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        own = {"concepts": self.concepts} if self.alone and choices.get("recipe") != "probe" else {}
        return cl.fit_loc_cbm(self.model, self.train, out, cache=self.cache, seed=seed, **own, **choices)

    def _keypoints(self, name: str, photos: LabelledSet, places: list[int], present: Tensor) -> Keypoints:
        if name not in self.keypoints:
            looked = [self.made.concept_index(label) for label in self.labels]
            view = self.made.backbone.prepare(self.model).known_preprocess("it is not known where keypoints are")
            self.keypoints[name] = keypoints_in_input(self.made, view, photos, places, looked, present)
        return self.keypoints[name]

    def controls(self) -> dict[str, dict[str, float]]:
        """Return what peaks without any knowledge of the photo get."""
        if "test" not in self.keypoints:
            return {}
        known = self.keypoints["test"]
        places = list(range(len(self.train)))
        train = self._keypoints("train", self.train, places, self.shown[torch.tensor(self.train.labels)])
        images = len(known.xy)
        return {
            "centre": located(centre_peaks(known), known),
            "best constant cell of each part, from train": located(constant_peaks(train, images), known),
            "random cell": located(uniform_maps(known), known),
        }

    def counts(self) -> dict[str, Any]:
        """Return what was measured on."""
        known = self.keypoints.get("test")
        return {
            "train_photos": len(self.train),
            "test_photos": len(self.test),
            "classes": len(self.train.classes),
            "reviewed_concepts": len(self.labels),
            "pairs": int(known.applies.sum()) if known else 0,
        }


def located(where: Tensor, known: Keypoints) -> dict[str, float]:
    """Return how near peaks are to their parts: in squared cells of 7 x 7, and as shares."""
    metrics: dict[str, Callable[[], Any]] = {
        "error": lambda: keypoint_error(where, known),
        "pointing": lambda: keypoint_pointing(where, known),
        "swap": lambda: keypoint_swap(where, known),
        "wrong_concept": lambda: swapped_error(where, known, by="absent"),
    }
    return {name: float(metric().mean()) for name, metric in metrics.items()}


def setting() -> dict[str, Any]:
    """Return what is needed to read the numbers: the command, the network, versions."""
    return {**run_record(("timm", "scikit-learn")), "model": MODEL}


def summary(seeds: list[dict[str, float]]) -> dict[str, Any]:
    """Return the mean of every figure over the seeds, and its spread (standard deviation)."""
    found: dict[str, Any] = {}
    for name in seeds[0]:
        values = [one[name] for one in seeds]
        found[name] = round(float(np.mean(values)), 4)
        if len(values) > 1 and name != "seconds":
            found[f"{name}_spread"] = round(float(np.std(values, ddof=1)), 4)
    return found


def told(row: dict[str, Any]) -> str:
    """Return a row in one line."""
    return "  ".join(f"{name} {value}" if name != "row" else f"{value:44}" for name, value in row.items())


if __name__ == "__main__":
    main()
