"""What a bottleneck's activations tell beyond its concepts, on the concepts that a set has class attributes for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
from conceptlens.bottleneck.evaluate.annotations import UNLABELLED, attributes_of, shown_in
from conceptlens.bottleneck.evaluate.figure import OWN, Control, Figure, absent, figure, known
from conceptlens.io.errors import InputError
from conceptlens.metrics.impurity import niche_impurity, oracle_impurity
from conceptlens.metrics.leakage import LabelledActivations, concept_leakage
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

# What is taken from the accuracy of a head on activations.
HEADS = {
    "leakage_task": "hard",
    "leakage_graded": "binary",
    "leakage_excess": "true",
    "leakage_interventional": "corrected",
}
IMPURITIES = ("impurity_oracle", "impurity_niche")
LEAKAGES = (*HEADS, *IMPURITIES)


def leakage_figures(
    bottleneck: Bottleneck,
    train: LabelledSet | None,
    read: BottleneckTable | None,
    table: BottleneckTable,
    labels: Bool[Tensor, "photo looked"] | None,
    looked: Sequence[int],
    draws: int,
    seed: int,
) -> tuple[Figure, ...]:
    """Return leakage (heads fitted on what was `read` in `train`) and impurity of the concepts `looked` at.

    `table`: what was read in the photos that are measured; `labels`: who of them shows these concepts.
    """
    if labels is None:
        return absent(LEAKAGES, UNLABELLED)
    active, chosen = table.activations[:, list(looked)], list(looked)
    if train is None or read is None:
        return (
            *absent(HEADS, "no train photos were given, on which heads are fitted"),
            *_impurities(active, labels, seed),
        )
    own = shown_in(bottleneck, train, attributes_of(bottleneck, train), read)[:, chosen]
    found = concept_leakage(
        LabelledActivations(read.activations[:, chosen], own, read.classes),
        LabelledActivations(active, labels, table.classes),
    )
    heads = []
    for name, other in HEADS.items():
        less: Score = getattr(found, other)
        gap = Score(found.soft.values - less.values, found.soft.applies)
        heads.append(figure(name, {OWN: gap}, draws, seed))
    return (*heads, *_impurities(active, labels, seed))


def _impurities(active: Tensor, labels: Tensor, seed: int) -> tuple[Figure, ...]:
    """Return both impurities; niche impurity beside that of the labels, which is not the least either."""
    try:
        pure = oracle_impurity(active, labels, seed=seed)
    except InputError as error:
        return absent(IMPURITIES, str(error))
    count = (int(pure.used.sum()), len(active))
    least = Control("labels", known(niche_impurity(labels.to(torch.float64), labels, seed=seed), *count))
    return (
        Figure("impurity_oracle", known(pure.score, *count)),
        Figure("impurity_niche", known(niche_impurity(active, labels, seed=seed), *count), (least,)),
    )
