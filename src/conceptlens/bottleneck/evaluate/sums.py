"""The sums behind a bottleneck's answers: what each concept adds to a class, a photo's score, a pair's difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck

    Table = Float[Tensor, "photo concept"]

PROTOTYPES = 3


@dataclass(frozen=True)
class Term:
    """What one concept adds to a score: `weight` times `standard` (training deviations above the mean), edits included.

    Of a sum over photos, `standard` and `adds` are means.
    """

    concept: int
    weight: float
    standard: float
    adds: float


@dataclass(frozen=True)
class ClassCase:
    """A class: its concepts, by the size of their weights, and `prototypes`, rows of the table for each of them.

    Prototypes of a concept that speaks for the class are photos of it, of one that speaks against it any photos: those
    in which the concept is most active.
    """

    place: int
    concepts: int
    terms: tuple[Term, ...]
    prototypes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PhotoCase:
    """A photo's score for the class it is taken for: `bias`, `terms` and `rest` (of `others` concepts) add up to it."""

    row: int
    truth: int
    answer: int
    second: int
    score: float
    second_score: float
    bias: float
    terms: tuple[Term, ...]
    rest: float
    others: int


@dataclass(frozen=True)
class Separation:
    """How a concept tells two classes apart: mean score of the first minus the second, in its photos minus the others.

    Without edits `(weights[0] - weights[1]) (means[0] - means[1])`, means of training deviations over each class's
    photos.
    """

    concept: int
    weights: tuple[float, float]
    means: tuple[float, float]
    apart: float


@dataclass(frozen=True)
class PairCase:
    """Two classes: how often each is taken for the other, what separates them (`terms` and `rest` are `total`), a row
    of each."""

    places: tuple[int, int]
    photos: tuple[int, int]
    taken: tuple[int, int]
    rows: tuple[int | None, int | None]
    total: float
    terms: tuple[Separation, ...]
    rest: float
    others: int


@torch.no_grad()
def added(bottleneck: Bottleneck, active: Table, target: int) -> tuple[Table, Table]:
    """Return what each concept adds to the logit of a class, and the training deviations above the mean behind it."""
    active = active.to(bottleneck.weight)
    reading = bottleneck.read(active[..., None, None], active)
    adds = bottleneck.contributions(reading, torch.full((len(active),), target, device=active.device))
    seen = (bottleneck.edited(bottleneck.edited(active), target) - bottleneck.mean) / bottleneck.deviation
    return adds.cpu(), seen.cpu()


def class_case(bottleneck: Bottleneck, table: BottleneckTable, k: int, top: int) -> ClassCase:
    """Return a class with its heaviest concepts and their prototypes."""
    own = table.classes == k
    adds, seen = added(bottleneck, table.activations[own] if bool(own.any()) else table.activations[:0], k)
    weights = bottleneck.head.weight[k].detach().cpu()
    best = _largest(weights, top)
    terms, prototypes = [], []
    for i in best:
        rows = own if float(weights[i]) > 0 and bool(own.any()) else torch.ones_like(own)
        active = torch.where(rows, table.activations[:, i], -torch.inf)
        some = min(PROTOTYPES, int(rows.sum()))
        prototypes.append(tuple(active.argsort(descending=True, stable=True)[:some].tolist()))
        terms.append(Term(i, float(weights[i]), _mean(seen[:, i]), _mean(adds[:, i])))
    return ClassCase(k, int((weights != 0).sum()), tuple(terms), tuple(prototypes))


def photo_case(bottleneck: Bottleneck, table: BottleneckTable, row: int, top: int) -> PhotoCase:
    """Return the sum that makes a photo's highest logit."""
    logits = table.logits[row]
    answer, second = logits.topk(2).indices.tolist()
    adds, seen = (one[0] for one in added(bottleneck, table.activations[[row]], answer))
    weights = bottleneck.head.weight[answer].detach().cpu()
    terms = tuple(Term(i, float(weights[i]), float(seen[i]), float(adds[i])) for i in _largest(adds, top))
    bias = float(bottleneck.head.bias[answer])
    return PhotoCase(
        row=row,
        truth=int(table.classes[row]),
        answer=answer,
        second=second,
        score=float(logits[answer]),
        second_score=float(logits[second]),
        bias=bias,
        terms=terms,
        rest=float(logits[answer]) - bias - sum(term.adds for term in terms),
        others=int((adds != 0).sum()) - len(terms),
    )


def pair_case(bottleneck: Bottleneck, table: BottleneckTable, a: int, b: int, top: int) -> PairCase:
    """Return what separates two classes; where one has no photos here, nothing can be said of it."""
    own = [table.classes == k for k in (a, b)]
    apart = torch.zeros(len(bottleneck.labels))
    means = torch.full((2, len(bottleneck.labels)), torch.nan)
    if all(bool(rows.any()) for rows in own):
        for place, (sign, rows) in enumerate(zip((1, -1), own, strict=True)):
            first, seen = added(bottleneck, table.activations[rows], a)
            apart += sign * (first - added(bottleneck, table.activations[rows], b)[0]).mean(0)
            means[place] = seen.mean(0)
    weights = bottleneck.head.weight[[a, b]].detach().cpu()
    terms = tuple(
        Separation(
            i, (float(weights[0, i]), float(weights[1, i])), (float(means[0, i]), float(means[1, i])), float(apart[i])
        )
        for i in _largest(apart, top)
    )
    guess = table.predicted
    return PairCase(
        places=(a, b),
        photos=(int(own[0].sum()), int(own[1].sum())),
        taken=(int((guess[own[0]] == b).sum()), int((guess[own[1]] == a).sum())),
        rows=(_usual(table, own[0], a), _usual(table, own[1], b)),
        total=float(apart.sum()),
        terms=terms,
        rest=float(apart.sum()) - sum(term.apart for term in terms),
        others=int((apart != 0).sum()) - len(terms),
    )


def _largest(values: Float[Tensor, "concept"], top: int) -> list[int]:
    """Return the places of the largest values by size, those that are not 0."""
    order = values.abs().argsort(descending=True, stable=True)[:top].tolist()
    return [place for place in order if float(values[place]) != 0]


def _mean(values: Float[Tensor, "photo"]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _usual(table: BottleneckTable, own: Tensor, k: int) -> int | None:
    """Return a class's row whose logit for it is the median, of its right photos where there are any."""
    right = own & (table.predicted == k)
    rows = (right if bool(right.any()) else own).nonzero()[:, 0]
    return int(rows[table.logits[rows, k].argsort(stable=True)[len(rows) // 2]]) if len(rows) else None
