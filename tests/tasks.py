"""Planted networks of every task: heads with known weights over channels that are the cover with each colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.transforms.functional import to_tensor

import conceptlens as cl
from conceptlens.data.drawn_scene import Shape, draw_scene
from conceptlens.model.answer import Task
from planted import ColourNet
from planted_words import Colours

# For each task: the rows of the head for red and green, its biases, and the names.
HEADS: dict[Task, tuple[list[list[float]], list[float], list[str]]] = {
    "single_label": ([[30, 0], [0, 20], [5, 5]], [0.5, -0.25, 0], ["mass", "node", "air"]),
    "multi_label": ([[30, 0], [0, 40], [-5, 5]], [-1, -2, 0.5], ["mass", "node", "air"]),
    "binary": ([[30, -20]], [-1], ["ill"]),
    "regression": ([[300, -80]], [41], ["age"]),
    "ordinal": ([[20, -10], [20, -10], [20, -10]], [3, 0.5, -2], ["none", "mild", "bad", "worst"]),
    "conditional_ordinal": ([[20, -10], [5, 8], [-3, 6]], [1, 0.5, -1], ["none", "mild", "bad", "worst"]),
}
CLASSES: tuple[Task, ...] = tuple(task for task in HEADS if task != "regression")


def chance(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def network(rows: Sequence[Sequence[float]], biases: Sequence[float]) -> nn.Module:
    """Return a planted network with a head over the cover with red and with green."""
    net = ColourNet()
    net.head = nn.Linear(7, len(rows))
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.weight[:, :2] = torch.tensor(rows)
        net.head.bias.copy_(torch.tensor(biases))
    return net.eval()


def task_model(task: Task, names: bool = True) -> cl.Backbone:
    """Return a model of a task that sees whole scenes and reads the words of its colours."""
    rows, biases, words = HEADS[task]
    given = words if names else None
    return cl.Backbone(
        network(rows, biases), f"a {task} net", ("features",), to_tensor, given, task=task, text=Colours()
    )


def scenes() -> list[torch.Tensor]:
    """Return a red and a green shape, a large red one, and a large green one."""
    drawn = (
        [Shape("disc", "red", (0.3, 0.3), 0.18), Shape("square", "green", (0.72, 0.7), 0.2)],
        [Shape("disc", "red", (0.6, 0.4), 0.25)],
        [Shape("square", "green", (0.35, 0.65), 0.24)],
    )
    return [draw_scene(shapes, seed=seed).image for seed, shapes in enumerate(drawn)]  # pyright: ignore


def expected_probabilities(task: Task, raw: Sequence[float]) -> list[float]:
    """Return the probabilities of classes from what the head puts out, by the formula of the task."""
    if task == "single_label":
        total = sum(math.exp(z) for z in raw)
        return [math.exp(z) / total for z in raw]
    if task == "multi_label":
        return [chance(z) for z in raw]
    if task == "binary":
        return [chance(-raw[0]), chance(raw[0])]
    steps = [chance(z) for z in raw]
    above = [1.0, *steps, 0.0] if task == "ordinal" else [1.0, *[math.prod(steps[: k + 1]) for k in range(3)], 0.0]
    return [above[k] - above[k + 1] for k in range(len(raw) + 1)]


def expected_margin(task: Task, raw: Sequence[float], index: int) -> float:
    """Return what contributions to a class add up to: its own score, or its lead over classes that it excludes."""
    if task in ("multi_label", "regression"):
        return raw[index]
    if task == "binary":
        return raw[0] if index == 1 else -raw[0]
    likely = expected_probabilities(task, raw)
    scores = list(raw) if task == "single_label" else [math.log(p) for p in likely]
    rest = 1 - likely[index]
    return scores[index] - sum(p / rest * y for k, (p, y) in enumerate(zip(likely, scores, strict=True)) if k != index)
