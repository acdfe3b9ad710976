"""What concepts contribute to single answers: to a class, a photo's logit, the difference of two classes, an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.intervention import effect, predict_classes, remove, with_edits

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck

    Table = Float[Tensor, "photo concept"]

MAX_PROTOTYPES = 3
MAX_MISLEADING = 10


@dataclass(frozen=True)
class ConceptTerm:
    """What one concept contributes to a logit: `weight` times `standardized`, edits included.

    `standardized` counts training standard deviations above the training mean. Over several photos both it and
    `contribution` are means.
    """

    concept: int
    weight: float
    standardized: float
    contribution: float


@dataclass(frozen=True)
class ClassCase:
    """A class: the concepts with the largest absolute weights (`terms`), of `n_concepts` that have one.

    `prototypes`: for each term, rows of the table where the concept is most active; photos of the class for a positive
    weight, any photos for a negative one.
    """

    index: int
    n_concepts: int
    terms: tuple[ConceptTerm, ...]
    prototypes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PhotoCase:
    """The logit of a photo's predicted class: `bias`, `terms` and `rest` (of `n_other` concepts) add up to it."""

    row: int
    truth: int
    predicted: int
    second: int
    logit: float
    second_logit: float
    bias: float
    terms: tuple[ConceptTerm, ...]
    rest: float
    n_other: int


@dataclass(frozen=True)
class SeparatingConcept:
    """What one concept contributes to the difference of two classes.

    `difference`: the mean logit of the first minus the second, in photos of the first minus photos of the second.
    Without edits `(weights[0] - weights[1]) (means[0] - means[1])`, `means` of standardized activations.
    """

    concept: int
    weights: tuple[float, float]
    means: tuple[float, float]
    difference: float


@dataclass(frozen=True)
class PairCase:
    """Two classes: what separates them; `terms` and `rest` (of `n_other` concepts) add up to `total`.

    `confused`: how many photos of the first are predicted as the second, and the other way round. `rows`: a typical
    photo of each.
    """

    classes: tuple[int, int]
    photos: tuple[int, int]
    confused: tuple[int, int]
    rows: tuple[int | None, int | None]
    total: float
    terms: tuple[SeparatingConcept, ...]
    rest: float
    n_other: int


@dataclass(frozen=True)
class MisleadingTerm:
    """What a concept contributes to the wrong class more than to the true one.

    `predicted_without`: the class that is predicted once the concept is set to its training mean.
    """

    concept: int
    standardized: float
    contribution: float
    predicted_without: int


@dataclass(frozen=True)
class ErrorCase:
    """A photo with a wrong prediction: `bias`, `terms` and `rest` add up to `margin`, the wrong minus the true logit.

    `predicted_without_all`: the class that is predicted once all of `terms` are set to their training means.
    """

    row: int
    truth: int
    predicted: int
    margin: float
    bias: float
    terms: tuple[MisleadingTerm, ...]
    rest: float
    n_other: int
    predicted_without_all: int


@dataclass(frozen=True)
class MisleadingConcept:
    """A concept that misled most in `errors` photos, of which `corrected` are right once it is set to its mean.

    Removed for good, it would correct `fixed` photos of the set and make `broken` photos wrong.
    """

    concept: int
    errors: int
    corrected: int
    fixed: int
    broken: int


@dataclass(frozen=True)
class MisleadingConcepts:
    """The concepts that misled most in the errors of a set, the most frequent first.

    `corrected`: how many errors are right once the concept that misled most in each is set to its mean.
    `corrected_at_random`: the same for a concept drawn from those that contribute to either class.
    """

    concepts: tuple[MisleadingConcept, ...]
    corrected: int
    corrected_at_random: int


@torch.no_grad()
def class_contributions(bottleneck: Bottleneck, activations: Table, target: int) -> tuple[Table, Table]:
    """Return the contributions to the logit of a class, and the standardized activations behind them."""
    activations = activations.to(bottleneck.weight)
    output = bottleneck.classify(activations[..., None, None], activations)
    target_of_each = torch.full((len(activations),), target, device=activations.device)
    contributions = bottleneck.contributions(output, target_of_each)
    return contributions.cpu(), bottleneck.standardized(activations, target).cpu()


def class_case(bottleneck: Bottleneck, table: BottleneckTable, k: int, top: int) -> ClassCase:
    """Return a class with the concepts of its largest weights and their prototypes."""
    own = table.classes == k
    contributions, standardized = class_contributions(bottleneck, table.activations[own], k)
    weights = bottleneck.head.weight[k].detach().cpu()
    terms, prototypes = [], []
    for i in _largest(weights, top):
        rows = own if float(weights[i]) > 0 and bool(own.any()) else torch.ones_like(own)
        activations = torch.where(rows, table.activations[:, i], -torch.inf)
        count = min(MAX_PROTOTYPES, int(rows.sum()))
        prototypes.append(tuple(activations.argsort(descending=True, stable=True)[:count].tolist()))
        terms.append(ConceptTerm(i, float(weights[i]), _mean(standardized[:, i]), _mean(contributions[:, i])))
    return ClassCase(k, int((weights != 0).sum()), tuple(terms), tuple(prototypes))


def photo_case(bottleneck: Bottleneck, table: BottleneckTable, row: int, top: int) -> PhotoCase:
    """Return the sum that makes a photo's highest logit."""
    logits = table.logits[row]
    predicted, second = logits.topk(2).indices.tolist()
    contributions, standardized = (
        one[0] for one in class_contributions(bottleneck, table.activations[[row]], predicted)
    )
    weights = bottleneck.head.weight[predicted].detach().cpu()
    terms = tuple(
        ConceptTerm(i, float(weights[i]), float(standardized[i]), float(contributions[i]))
        for i in _largest(contributions, top)
    )
    bias = float(bottleneck.head.bias[predicted])
    return PhotoCase(
        row=row,
        truth=int(table.classes[row]),
        predicted=predicted,
        second=second,
        logit=float(logits[predicted]),
        second_logit=float(logits[second]),
        bias=bias,
        terms=terms,
        rest=float(logits[predicted]) - bias - sum(term.contribution for term in terms),
        n_other=int((contributions != 0).sum()) - len(terms),
    )


def pair_case(bottleneck: Bottleneck, table: BottleneckTable, a: int, b: int, top: int) -> PairCase:
    """Return what separates two classes; without terms where one of them has no photos in the table."""
    own = [table.classes == k for k in (a, b)]
    difference = torch.zeros(len(bottleneck.labels))
    means = torch.full((2, len(bottleneck.labels)), torch.nan)
    if all(bool(rows.any()) for rows in own):
        for index, (sign, rows) in enumerate(zip((1, -1), own, strict=True)):
            first, standardized = class_contributions(bottleneck, table.activations[rows], a)
            difference += sign * (first - class_contributions(bottleneck, table.activations[rows], b)[0]).mean(0)
            means[index] = standardized.mean(0)
    weights = bottleneck.head.weight[[a, b]].detach().cpu()
    terms = tuple(
        SeparatingConcept(
            i,
            (float(weights[0, i]), float(weights[1, i])),
            (float(means[0, i]), float(means[1, i])),
            float(difference[i]),
        )
        for i in _largest(difference, top)
    )
    guess = table.predicted
    return PairCase(
        classes=(a, b),
        photos=(int(own[0].sum()), int(own[1].sum())),
        confused=(int((guess[own[0]] == b).sum()), int((guess[own[1]] == a).sum())),
        rows=(_typical(table, own[0], a), _typical(table, own[1], b)),
        total=float(difference.sum()),
        terms=terms,
        rest=float(difference.sum()) - sum(term.difference for term in terms),
        n_other=int((difference != 0).sum()) - len(terms),
    )


def error_case(bottleneck: Bottleneck, table: BottleneckTable, row: int, top: int) -> ErrorCase:
    """Return the sum that puts a photo's wrong class above its true one, and predictions with concepts at means."""
    truth, predicted = int(table.classes[row]), int(table.predicted[row])
    activations = table.activations[[row]]
    contributions, standardized = class_contributions(bottleneck, activations, predicted)
    excess = (contributions - class_contributions(bottleneck, activations, truth)[0])[0]
    leading = [i for i in excess.argsort(descending=True, stable=True)[:top].tolist() if float(excess[i]) > 0]
    terms = [
        MisleadingTerm(i, float(standardized[0, i]), float(excess[i]), int(_without(bottleneck, activations, [[i]])))
        for i in leading
    ]
    margin = float(table.logits[row, predicted] - table.logits[row, truth])
    bias = float(bottleneck.head.bias[predicted] - bottleneck.head.bias[truth])
    return ErrorCase(
        row=row,
        truth=truth,
        predicted=predicted,
        margin=margin,
        bias=bias,
        terms=tuple(terms),
        rest=margin - bias - sum(term.contribution for term in terms),
        n_other=int((excess != 0).sum()) - len(terms),
        predicted_without_all=int(_without(bottleneck, activations, [leading])),
    )


def misleading_concepts(
    bottleneck: Bottleneck, table: BottleneckTable, wrong: Int[Tensor, "error"]
) -> MisleadingConcepts:
    """Return which concept misled most in each error, and how many errors are right without it.

    Args:
        bottleneck: The bottleneck whose outputs the table holds.
        table: Activations, classes and logits of the photos.
        wrong: Rows of the table with a wrong prediction.
    """
    if not len(wrong):
        return MisleadingConcepts((), 0, 0)
    activations, truth, guess = table.activations[wrong], table.classes[wrong], table.predicted[wrong]
    excess = torch.zeros_like(activations)
    for k in range(len(bottleneck.classes)):
        for sign, rows in ((1, guess == k), (-1, truth == k)):
            if bool(rows.any()):
                excess[rows] += sign * class_contributions(bottleneck, activations[rows], k)[0]
    largest = excess.argmax(1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.where(excess != 0, torch.rand(excess.shape, generator=generator), -1.0).argmax(1)
    right = _without(bottleneck, activations, largest[:, None].tolist()) == truth
    chance = _without(bottleneck, activations, drawn[:, None].tolist()) == truth
    concepts = []
    for concept, errors in Counter(largest.tolist()).most_common(MAX_MISLEADING):
        removed = with_edits(bottleneck, [remove(bottleneck, concept)])
        done = effect(bottleneck, removed, table.activations, table.classes)
        corrected = int(right[largest == concept].sum())
        concepts.append(MisleadingConcept(concept, errors, corrected, done.fixed, done.broken))
    return MisleadingConcepts(tuple(concepts), int(right.sum()), int(chance.sum()))


def _without(bottleneck: Bottleneck, activations: Table, concepts: Sequence[Sequence[int]]) -> Int[Tensor, "photo"]:
    """Return the predicted classes once the concepts named for each photo have their training means."""
    changed = activations.clone()
    for row, own in enumerate(concepts):
        changed[row, list(own)] = bottleneck.mean[list(own)].to(changed)
    return predict_classes(bottleneck, changed).cpu()


def _largest(values: Float[Tensor, "concept"], top: int) -> list[int]:
    """Return the indices of the largest absolute values, without those that are 0."""
    order = values.abs().argsort(descending=True, stable=True)[:top].tolist()
    return [index for index in order if float(values[index]) != 0]


def _mean(values: Float[Tensor, "photo"]) -> float:
    """Return the mean, 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0


def _typical(table: BottleneckTable, own: Tensor, k: int) -> int | None:
    """Return the row of a class whose logit for it is the median, of its right photos where there are any."""
    right = own & (table.predicted == k)
    rows = (right if bool(right.any()) else own).nonzero()[:, 0]
    return int(rows[table.logits[rows, k].argsort(stable=True)[len(rows) // 2]]) if len(rows) else None
