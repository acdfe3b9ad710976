"""How right a head is on photos that it was not fitted to: in all, for each class, and what it confuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from conceptlens.metrics.bottleneck_metrics import accuracy
from conceptlens.statistics.bootstrap import Interval, bootstrap_mean
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Confusion:
    """How many photos of one class are taken for another, and their share of the class's photos."""

    name: str
    taken_for: str
    photos: int
    share: float


@dataclass(frozen=True)
class HeadEvaluation:
    """How right a head is.

    Attributes:
        data: What the photos are called.
        accuracy: The share of photos whose class has the highest score, with its interval over resampled photos.
        commonest: What always saying the commonest class would get.
        cross_entropy: In nats.
        classes: The accuracy of each class that has photos, by its name.
        confusions: Pairs of classes that are taken for one another, the most photos first.
    """

    data: str
    accuracy: Interval
    commonest: float
    cross_entropy: float
    classes: dict[str, Interval]
    confusions: tuple[Confusion, ...]


def evaluate_head(
    scores: Float[Tensor, "photo class"],
    labels: Int[Tensor, "photo"],
    class_names: Sequence[str],
    data: str,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> HeadEvaluation:
    """Return how right scores are.

    Args:
        scores: The scores of the classes before the softmax.
        labels: The class of each photo.
        class_names: What the classes are called.
        data: What the photos are called.
        n_bootstrap: How many draws the intervals are from.
        seed: Decides the draws.

    Returns:
        Accuracy in all and for each class, and the confusions.
    """
    right, found = accuracy(scores, labels), scores.argmax(1)
    counts = labels.bincount(minlength=len(class_names))
    classes = {
        name: bootstrap_mean(*_of_class(right, labels == number).pairs(), n_bootstrap=n_bootstrap, seed=seed)
        for number, name in enumerate(class_names)
        if counts[number]
    }
    wrong = found != labels
    pairs, times = torch.stack([labels[wrong], found[wrong]], 1).unique(dim=0, return_counts=True)
    numbered: list[tuple[int, int, int]] = torch.cat([pairs, times[:, None]], 1).tolist()
    confusions = [
        Confusion(class_names[true], class_names[said], many, many / int(counts[true])) for true, said, many in numbered
    ]
    return HeadEvaluation(
        data,
        bootstrap_mean(*right.pairs(), n_bootstrap=n_bootstrap, seed=seed),
        int(counts.max()) / len(labels),
        float(functional.cross_entropy(scores.double(), labels)),
        classes,
        tuple(sorted(confusions, key=lambda one: (-one.photos, -one.share))),
    )


def _of_class(right: Score, own: Tensor) -> Score:
    """Return the score of some photos."""
    return Score(right.values[own], right.applies[own])
