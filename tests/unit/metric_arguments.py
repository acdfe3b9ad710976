"""A call of every public function of `conceptlens.metrics` that works, and values of a wrong kind for its arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from metric_cases import (
    CLASSES,
    IMAGES,
    OWN,
    QUESTIONS,
    Planted,
    evidence,
    random_maps,
    scored_case,
    shown,
    true_maps,
)

from conceptlens import metrics
from conceptlens.metrics import Keypoints, LabelledActivations

CONCEPTS, PARTS = 2, 3


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def keypoints() -> Keypoints:
    own = torch.tensor([[True, False, True], [False, True, False]])
    visible = torch.ones(IMAGES, PARTS, dtype=torch.bool)
    present = torch.ones(IMAGES, CONCEPTS, dtype=torch.bool)
    return Keypoints(drawn(IMAGES, PARTS, 2), visible, own, present, torch.full((IMAGES, 2), 100.0))


def labelled() -> LabelledActivations:
    labels = torch.arange(40)[:, None] % torch.tensor([2, 3]) == 0
    return LabelledActivations(labels + drawn(40, 2), labels, torch.arange(40) % 2)


def known() -> dict[str, Any]:
    """Every argument of the functions by name, each of a kind that is taken."""
    maps, many = random_maps(0), labelled()
    return {
        "explained": maps, "scored": scored_case(), "masks": true_maps() > 0, "first": true_maps(), "second": maps,
        "of_random_labels": -maps, "rivals": (OWN + 1) % CLASSES, "images": shown(), "module": Planted(),
        "groups": torch.nn.functional.one_hot(OWN, CLASSES).bool(),
        "rival_groups": torch.nn.functional.one_hot((OWN + 1) % CLASSES, CLASSES).bool(),
        "places": (evidence()[None] > 0).expand(IMAGES, -1, -1, -1), "contributions": drawn(IMAGES, CLASSES),
        "parts": (evidence()[None] > 0).expand(IMAGES, -1, -1, -1), "explain": lambda changed: maps,
        "keypoints": keypoints(), "train": many, "test": many, "activations": many.activations, "labels": many.labels,
        "maps": maps, "logits": many.activations, "classes": OWN, "weights": drawn(3, 4), "shares": (0.1, 0.5),
        "methods": {"a": maps, "b": true_maps()}, "scores": metrics.deletion(maps, scored_case()),
        "controls": {"flat": metrics.deletion(true_maps(), scored_case())}, "higher_is_better": True,
        "a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.2], "values": [0.1, 0.2, 0.3], "boxes": drawn(IMAGES, 4),
        "metric": metrics.MAP_MASK_METRICS["iou"], "names": ["one", "two"], "questions": QUESTIONS, "grid": (3, 4),
    }  # fmt: skip


# Arguments that mean something else in one function.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "accuracy": {"classes": torch.arange(40) % 2},
    "class_labels": {"shares": drawn(2, 3), "classes": torch.tensor([0, 1, 1])},
    "centre_maps": {"images": 2},
    "constant_peaks": {"train": keypoints(), "images": 2},
    "bootstrap_mean": {"images": [0, 1, 2]},
    "bootstrap_difference": {"images": [0, 1, 2]},
    "bootstrap_macro_mean": {"images": [0, 1, 2], "groups": ["a", "b", "a"]},
    "part_purity": {"parts": ["left", "right", "top"]},
    "merge_sides": {"parts": ["left eye", "right eye"]},
    "prevalence_thresholds": {},
}
FUNCTIONS = {
    name: one
    for name, one in vars(metrics).items()
    if inspect.isfunction(one) and one.__module__.startswith("conceptlens.") and name != "as_torchmetric"
}
WRONG: dict[str, Callable[[], Any]] = {
    "an integer": lambda: 20,
    "a negative number": lambda: -1.5,
    "NaN": lambda: math.nan,
    "nothing": lambda: None,
    "a text": lambda: "ab",
    "a generator": lambda: (share for share in (0.1, 0.5)),
    "a set": lambda: {0.1, 0.5},
    "a dictionary": lambda: {0.1: 0.5},
    "an object": object,
    "a list": lambda: [[0.1], 0.5],
}


def arguments(name: str) -> dict[str, Any]:
    """Return what a function needs, of a kind that it takes."""
    wanted = inspect.signature(FUNCTIONS[name]).parameters
    given = {**known(), **ELSEWHERE.get(name, {})}
    return {key: given[key] for key, one in wanted.items() if one.default is inspect.Parameter.empty}
