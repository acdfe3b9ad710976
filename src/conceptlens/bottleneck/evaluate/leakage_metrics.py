"""Leakage and impurity: what activations predict beyond their concepts, for concepts with class attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
from conceptlens.bottleneck.evaluate.metric_result import (
    OWN,
    Control,
    MetricResult,
    fixed_value,
    metric_result,
    not_measured,
)
from conceptlens.bottleneck.evaluate.photo_annotations import UNLABELLED, attribute_indices, concept_presence
from conceptlens.io.errors import InputError
from conceptlens.metrics.impurity import niche_impurity, oracle_impurity
from conceptlens.metrics.leakage import LabelledActivations, concept_leakage
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

# The head whose accuracy is subtracted from that of a head on activations.
HEADS = {
    "leakage_task": "hard",
    "leakage_graded": "binary",
    "leakage_excess": "true",
    "leakage_interventional": "corrected",
}
IMPURITIES = ("impurity_oracle", "impurity_niche")
LEAKAGES = (*HEADS, *IMPURITIES)


def leakage_metrics(
    bottleneck: Bottleneck,
    train: LabelledSet | None,
    read: BottleneckTable | None,
    table: BottleneckTable,
    labels: Bool[Tensor, "photo concept"] | None,
    concepts: Sequence[int],
    n_bootstrap: int,
    seed: int,
) -> tuple[MetricResult, ...]:
    """Return leakage and impurity of some concepts.

    Args:
        bottleneck: The fitted bottleneck.
        train: The photos on which the heads of the leakage metrics are fitted.
        read: The activations of `train`.
        table: The activations of the photos that are measured.
        labels: Which of these show the concepts; `None` without labels.
        concepts: Indices of the concepts.
        n_bootstrap: Bootstrap samples of each interval.
        seed: Seed of intervals and impurities.
    """
    if labels is None:
        return not_measured(LEAKAGES, UNLABELLED)
    active, chosen = table.activations[:, list(concepts)], list(concepts)
    if train is None or read is None:
        return (
            *not_measured(HEADS, "no train photos were given, on which heads are fitted"),
            *_impurities(active, labels, seed),
        )
    own = concept_presence(bottleneck, train, attribute_indices(bottleneck, train), read)[:, chosen]
    found = concept_leakage(
        LabelledActivations(read.activations[:, chosen], own, read.classes),
        LabelledActivations(active, labels, table.classes),
    )
    heads = []
    for name, other in HEADS.items():
        less: Score = getattr(found, other)
        gap = Score(found.soft.values - less.values, found.soft.applies)
        heads.append(metric_result(name, {OWN: gap}, n_bootstrap, seed))
    return (*heads, *_impurities(active, labels, seed))


def _impurities(active: Tensor, labels: Tensor, seed: int) -> tuple[MetricResult, ...]:
    """Return both impurities; niche impurity beside that of the labels, which is not the least either."""
    try:
        pure = oracle_impurity(active, labels, seed=seed)
    except InputError as error:
        return not_measured(IMPURITIES, str(error))
    count = (int(pure.used.sum()), len(active))
    control = Control("labels", fixed_value(niche_impurity(labels.to(torch.float64), labels, seed=seed), *count))
    return (
        MetricResult("impurity_oracle", fixed_value(pure.score, *count)),
        MetricResult("impurity_niche", fixed_value(niche_impurity(active, labels, seed=seed), *count), (control,)),
    )
