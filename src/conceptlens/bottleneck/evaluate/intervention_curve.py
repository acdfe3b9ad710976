"""Test-time intervention: how accuracy rises as the true values of concepts are put in, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.bottleneck.intervention import check_table, predicted
from conceptlens.io.errors import InputError, near
from conceptlens.statistics.bootstrap import Interval, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.concepts.concept_set import BottleneckConcept

    Table = Float[Tensor, "image concept"]

NEVER = -1e9  # how uncertain a concept is that training images show all alike
STEPS = 20  # how many numbers of corrections a curve has, beside none, where it is not told


@dataclass(frozen=True, eq=False)
class Corrections:
    """What a correction puts in for each image and concept.

    - `values[image concept]`: an activation, NaN where the labels say nothing: that one is never corrected.
    - `low[concept]`, `high[concept]`: the activation of training images at the ends of each concept's range.
    """

    values: Table
    low: Float[Tensor, "concept"]
    high: Float[Tensor, "concept"]

    def of(self, images: Tensor | Sequence[int]) -> Corrections:
        """Return the corrections of other images of the table: of shuffled ones, a control."""
        return Corrections(self.values[images], self.low, self.high)


def by_percentile(train: Table, truth: Table, low: float = 0.05, high: float = 0.95, least: float = 0.5) -> Corrections:
    """Return a low activation where a concept is not there and a high one where it is. (Koh et al., ICML 2020.)

    They are the percentiles of the concept's own activations over the training images; the published code takes those
    of the test images. `truth` is 0 or 1 by image, or the share of the class's images that show the concept, taken for
    1 from `least` on (the published code's majority; all images of a class then get the same values, and a correction
    tells the class as well as the concept); NaN is not known.
    """
    _check_train(train, truth.shape[-1])
    _check_truth(truth)
    ends = _ends(train, low, high)
    values = torch.where(truth >= least, ends[1], ends[0])
    return Corrections(torch.where(truth.isnan(), torch.nan, values), ends[0], ends[1])


def by_presence_mean(train: Table, train_truth: Table, truth: Table, least: float = 0.5) -> Corrections:
    """Return the mean activation of the training images that show the concept where it is, of the others where not.

    `truth` as in `by_percentile`, `train_truth` the same of the training images; a concept that all or none of those
    show is not corrected. Ours: percentiles can send a head beyond the activations it was trained on, and these
    means do not.
    """
    _check_train(train, truth.shape[-1])
    for one in (train_truth, truth):
        _check_truth(one)
    if train_truth.shape != train.shape:
        raise InputError(f"the truth of training images is {tuple(train_truth.shape)}; expected {tuple(train.shape)}")
    means = [
        (train * group).sum(0) / group.sum(0)  # of none, NaN
        for group in ((train_truth >= least).to(train), (train_truth < least).to(train))
    ]
    values = torch.where(truth >= least, *means)
    told = torch.stack(means).isfinite().all(0) & ~truth.isnan()
    return Corrections(torch.where(told, values, torch.nan), *_ends(train))


def by_class_mean(train: Table, train_classes: Int[Tensor, "image"], classes: Int[Tensor, "image"]) -> Corrections:
    """Return for each image the mean activation of its class's training images; NaN for a class without any.

    All concepts together then tell the class: the curve of concept vectors drawn at random reaches the top as well, so
    it says nothing of what the concepts mean.
    """
    _check_train(train, train.shape[-1])
    if train_classes.shape != train.shape[:1]:
        raise InputError(f"{len(train_classes)} classes for {len(train)} training images; give one number for each")
    number = int(max(train_classes.max(), classes.max())) + 1
    sums = train.new_zeros(number, train.shape[1]).index_add(0, train_classes, train)
    counts = torch.bincount(train_classes, minlength=number)[:, None]
    means = torch.where(counts > 0, sums / counts.clamp_min(1), torch.nan)
    return Corrections(means[classes], *_ends(train))


def concept_groups(concepts: Sequence[BottleneckConcept], by: Sequence[str] = ("part", "kind")) -> tuple[str, ...]:
    """Return the name of each concept's group: those alike in `by` are corrected at once, the others alone.

    `part` and `kind` (wing, colour) make the groups in which CUB's attributes are asked, as Koh et al. correct them.
    """
    wrong = [field for field in by if field not in ("part", "region", "property", "kind")]
    if wrong or not by:
        raise InputError(f"no grouping by {wrong[0] if wrong else 'nothing'}; give of part, region, property, kind")
    told = [", ".join(filter(None, (getattr(concept, field) for field in by))) for concept in concepts]
    return tuple(name or f"alone: {concept.label}" for name, concept in zip(told, concepts, strict=True))


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy after `corrected` groups of each image were corrected, on average `concepts` concepts of it."""

    corrected: int
    concepts: float
    accuracy: Interval


@dataclass(frozen=True)
class InterventionCurve:
    """Accuracy against the number of corrected groups, over `images` images; `draws` orders of each, averaged."""

    order: str
    groups: int
    images: int
    draws: int
    points: tuple[CurvePoint, ...]

    def __str__(self) -> str:
        """One point a line."""
        lines = [f"order {self.order}, {self.groups} groups, {self.images} images", "corrected  concepts  accuracy"]
        lines += [f"{p.corrected:9}  {p.concepts:8.1f}  {p.accuracy}" for p in self.points]
        return "\n".join(lines)


def by_contribution(bottleneck: Bottleneck, activations: Table, corrections: Corrections) -> Table:
    """Return `|W_ki z_i|` for the class k that is predicted before any correction.

    Shin et al. (ICML 2023, CCTP) sum over all classes.
    """
    reading = bottleneck.read(activations[..., None, None], activations)
    return bottleneck.contributions(reading, reading.logits.argmax(1)).abs()


def by_uncertainty(bottleneck: Bottleneck, activations: Table, corrections: Corrections) -> Table:
    """Return how near an activation is to the middle of its training range: `-|2 c - low - high| / (high - low)`.

    Shin et al. (ICML 2023, UCP) take `1 / |p - 1/2|` of a probability; most activations here are none.
    """
    width = corrections.high - corrections.low
    away = (2 * activations - corrections.low - corrections.high).abs()
    return torch.where(width > 0, -away / torch.where(width > 0, width, 1), NEVER)


# From activations to `[image concept]`: what is corrected first is highest. Of a group, its mean over known concepts.
ORDERS: dict[str, Callable[[Bottleneck, Tensor, Corrections], Tensor] | None] = {
    "random": None,
    "contribution": by_contribution,
    "uncertainty": by_uncertainty,
}


@torch.no_grad()
def intervention_curve(
    bottleneck: Bottleneck,
    activations: Table,
    classes: Int[Tensor, "image"] | Sequence[int],
    corrections: Corrections,
    order: str = "random",
    groups: Sequence[str] | None = None,
    counts: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
) -> InterventionCurve:
    """Return accuracy against the number of corrected concepts, or groups of concepts.

    - `activations[image concept]`: as the bottleneck reads them, unedited; its edits still apply to what is put in.
    - `order`: one of `ORDERS`, fixed before the first correction. A random one is each image's own, in every one of
      `draws`; the published code reports the best draw, this the mean.
    - `groups[concept]`: names; concepts of one name are corrected at once. `counts`: how many corrections.

    Intervals resample images, 95 %. Groups without a known concept come last and change nothing. Where the truth is
    the class's, every correction tells the class too; `corrections.of` shuffled images is the control that must fall.
    Raises `InputError` where tables or names do not fit.
    """
    truth = torch.as_tensor(classes).to(bottleneck.weight.device)
    check_table(bottleneck, activations, truth)
    if corrections.values.shape != activations.shape or draws < 1:
        raise InputError(
            f"corrections are {tuple(corrections.values.shape)}, activations {tuple(activations.shape)} and draws "
            f"{draws}; give a correction of every image and concept, and at least one draw"
        )
    member = _membership(groups, bottleneck.labels).to(bottleneck.weight)
    table = activations.to(member)
    fixed = Corrections(*(part.to(table) for part in (corrections.values, corrections.low, corrections.high)))
    known = ~fixed.values.isnan()
    at = _counts(counts, member.shape[1])
    scored = _scored(bottleneck, table, fixed, order, member, draws, seed)
    right, put = table.new_zeros(len(at), len(table)), [0.0] * len(at)
    for one in scored:
        rank = _rank(one, known.to(table) @ member > 0)[:, member.argmax(1)]
        for place, count in enumerate(at):
            chosen = (rank < count) & known
            right[place] += (predicted(bottleneck, torch.where(chosen, fixed.values, table)) == truth) / len(scored)
            put[place] += float(chosen.sum()) / len(table) / len(scored)
    points = [
        CurvePoint(count, concepts, bootstrap_mean(shares.cpu().numpy(), np.arange(len(table)), seed=seed))
        for count, concepts, shares in zip(at, put, right, strict=True)
    ]
    return InterventionCurve(order, member.shape[1], len(truth), len(scored), tuple(points))


def _scored(
    bottleneck: Bottleneck, table: Tensor, corrections: Corrections, order: str, member: Tensor, draws: int, seed: int
) -> list[Float[Tensor, "image group"]]:
    """Return what is corrected first, highest, once for each draw: seeded noise, or the mean over known concepts."""
    if order not in ORDERS:
        raise InputError(f"no order '{order}'; orders: {near(order, ORDERS, len(ORDERS))}")
    score = ORDERS[order]
    if score is None:
        generator = torch.Generator().manual_seed(seed)
        shape = (len(table), member.shape[1])
        return [torch.rand(shape, generator=generator).to(table) for _ in range(draws)]
    known = (~corrections.values.isnan()).to(table)
    values = torch.where(known > 0, score(bottleneck, table, corrections), 0)
    return [values @ member / (known @ member).clamp_min(1)]


def _rank(score: Float[Tensor, "image group"], known: Tensor) -> Int[Tensor, "image group"]:
    """Return each group's place, 0 first; groups nothing is known of come last, and equal ones in their order."""
    best = torch.where(known, score, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return best.argsort(dim=1)


def _membership(groups: Sequence[str] | None, labels: Sequence[str]) -> Float[Tensor, "concept group"]:
    names = list(labels if groups is None else groups)
    if len(names) != len(labels):
        raise InputError(f"{len(names)} groups are named for {len(labels)} concepts; give one name for each")
    numbers: dict[str, int] = {}
    places = [place if groups is None else numbers.setdefault(name, len(numbers)) for place, name in enumerate(names)]
    return torch.nn.functional.one_hot(torch.tensor(places)).float()


def _counts(counts: Sequence[int] | None, total: int) -> tuple[int, ...]:
    if counts is None:
        return tuple(sorted({round(total * step / STEPS) for step in range(STEPS + 1)}))
    if not counts or any(not 0 <= count <= total for count in counts):
        raise InputError(f"counts are {list(counts)}; give numbers of corrected groups from 0 to {total}")
    return tuple(counts)


def _ends(train: Tensor, low: float = 0.05, high: float = 0.95) -> Float[Tensor, "end concept"]:
    """Return two percentiles of each concept, a few concepts at a time: torch.quantile takes 16 million values."""
    if not 0 <= low < high <= 1:
        raise InputError(f"the percentiles are {low} and {high}; give shares from 0 to 1, the lower one first")
    shares = torch.tensor([low, high], dtype=torch.float64, device=train.device)
    some = train.split(max(1, 2**22 // len(train)), 1)
    return torch.cat([torch.quantile(part.double(), shares, 0) for part in some], 1).to(train.dtype)


def _check_truth(truth: Tensor) -> None:
    told = truth[~truth.isnan()]
    if truth.ndim != 2 or not bool(((told >= 0) & (told <= 1)).all()):
        raise InputError(f"truth has shape {tuple(truth.shape)}; expected image concept, shares from 0 to 1 or NaN")


def _check_train(train: Tensor, concepts: int) -> None:
    if train.ndim != 2 or not len(train) or train.shape[1] != concepts or not bool(torch.isfinite(train).all()):
        raise InputError(
            f"training activations have shape {tuple(train.shape)}; expected finite image concept, {concepts} concepts"
        )
