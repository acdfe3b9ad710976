"""Test-time intervention: how accuracy changes as groups of concepts are corrected to what their labels say.

Koh et al., Concept Bottleneck Models (ICML 2020), section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlens.bottleneck.evaluate.photo_annotations import UNLABELLED, concept_labels
from conceptlens.bottleneck.intervention import check_table, predict_classes
from conceptlens.io.errors import InputError
from conceptlens.statistics.bootstrap import Interval, bootstrap_difference, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.concepts.concept_set import BottleneckConcept
    from conceptlens.data.labelled_set import LabelledSet

    Table = Float[Tensor, "image concept"]

PERCENTILES, PRESENCE_MEANS, CONTROL = "percentiles", "presence_means", "other photos (control)"
NOT_MEASURED = "it was not requested (--interventions): it reads all train photos"
NO_TRAIN = "no train photos were given, from whose activations the corrected values are taken"
N_ORDERS, N_STEPS = 3, 10
MIN_SHARE = 0.5  # of a class's images that show a concept for the class to have it
LOW, HIGH = 0.05, 0.95  # percentiles of training activations


def by_percentile(train: Table, truth: Table) -> Table:
    """Return the 5th percentile of a concept's training activations where it is absent, the 95th where it is present.

    After Koh et al. (ICML 2020), whose published code takes the percentiles of the test images.

    Args:
        train: Activations of the training images, `[image concept]`.
        truth: 0 or 1 for each image and concept, or the share of the class's images that show the concept, which counts
            as present from 0.5 on; NaN is unknown. Shares of classes give all images of a class the same values, so
            that a correction reveals the class as well as the concept.

    Returns:
        Corrected activations `[image concept]`, NaN where the truth is unknown.

    Raises:
        InputError: Shapes or values do not fit.
    """
    _check_train(train, truth.shape[-1])
    _check_truth(truth)
    shares = torch.tensor([LOW, HIGH], dtype=torch.float64, device=train.device)
    some = train.split(max(1, 2**22 // len(train)), 1)  # torch.quantile takes 16 million values
    low, high = torch.cat([torch.quantile(part.double(), shares, 0) for part in some], 1).to(train.dtype)
    return torch.where(truth.isnan(), torch.nan, torch.where(truth >= MIN_SHARE, high, low))


def by_presence_mean(train: Table, train_truth: Table, truth: Table) -> Table:
    """Return the mean activation of the training images with a concept where it is present, of those without elsewhere.

    Our own: percentiles can move a head beyond the activations it was trained on, and these means cannot.

    Args:
        train: Activations of the training images, `[image concept]`.
        train_truth: The truth of the training images, as in `by_percentile`.
        truth: The truth of the images that are corrected.

    Returns:
        Corrected activations `[image concept]`, NaN where the truth is unknown and for concepts that all or none of the
        training images show.

    Raises:
        InputError: Shapes or values do not fit.
    """
    _check_train(train, truth.shape[-1])
    for one in (train_truth, truth):
        _check_truth(one)
    if train_truth.shape != train.shape:
        raise InputError(f"the truth of training images is {tuple(train_truth.shape)}; expected {tuple(train.shape)}")
    means = [
        (train * group).sum(0) / group.sum(0)  # of none, NaN
        for group in ((train_truth >= MIN_SHARE).to(train), (train_truth < MIN_SHARE).to(train))
    ]
    values = torch.where(truth >= MIN_SHARE, *means)
    known = torch.stack(means).isfinite().all(0) & ~truth.isnan()
    return torch.where(known, values, torch.nan)


def concept_groups(concepts: Sequence[BottleneckConcept]) -> tuple[str, ...]:
    """Return the name of each concept's group: concepts of one part and kind (the colours of the wing) form one.

    These are the groups in which CUB's attributes were annotated, and in which Koh et al. correct them. A concept
    without part and kind is alone.

    Args:
        concepts: Concepts with their structure.

    Returns:
        A name for each concept, equal within a group.
    """
    names = [", ".join(filter(None, (concept.part, concept.kind))) for concept in concepts]
    return tuple(name or f"alone: {concept.label}" for name, concept in zip(names, concepts, strict=True))


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy after `corrected` groups of each image were corrected, on average `concepts` concepts."""

    corrected: int
    concepts: float
    accuracy: Interval


@dataclass(frozen=True)
class InterventionCurve:
    """Accuracy against the number of corrected groups, over `images` images and `n_orders` random orders of each.

    `gain`: accuracy with all groups corrected minus accuracy with none, paired by image.
    """

    groups: int
    images: int
    n_orders: int
    points: tuple[CurvePoint, ...]
    gain: Interval

    def __str__(self) -> str:
        """One point a line."""
        lines = [f"{self.groups} groups, {self.images} images", "corrected  concepts  accuracy"]
        lines += [f"{p.corrected:9}  {p.concepts:8.1f}  {p.accuracy}" for p in self.points]
        return "\n".join(lines)


@torch.no_grad()
def intervention_curve(
    bottleneck: Bottleneck,
    activations: Table,
    classes: Int[Tensor, "image"] | Sequence[int],
    corrections: Table,
    groups: Sequence[str],
    counts: Sequence[int],
    n_orders: int = N_ORDERS,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> InterventionCurve:
    """Return accuracy against the number of corrected groups of concepts.

    Groups without a known concept come last and change nothing. The published code reports the best of several random
    orders; this is their mean.

    Args:
        bottleneck: The bottleneck; its edits still apply to corrected activations.
        activations: Activations before edits, `[image concept]`.
        classes: The true class of each image.
        corrections: Corrected activations, `[image concept]`; NaN is never corrected. Those of shuffled images are a
            control that must lower the accuracy.
        groups: The name of each concept's group; concepts of one name are corrected together.
        counts: At which numbers of corrected groups accuracy is measured.
        n_orders: How many random orders of the groups are drawn for each image.
        n_bootstrap: Bootstrap samples of the gain's interval.
        seed: Seed of the orders and of the intervals, which are of 95 % and resample images.

    Returns:
        A point for each of `counts`, and the gain of correcting all groups.

    Raises:
        InputError: Tables, names or counts do not fit.
    """
    truth = torch.as_tensor(classes).to(bottleneck.weight.device)
    check_table(bottleneck, activations, truth)
    if corrections.shape != activations.shape or n_orders < 1:
        raise InputError(
            f"corrections are {tuple(corrections.shape)}, activations {tuple(activations.shape)} and n_orders "
            f"{n_orders}; give a correction of every image and concept, and at least one order"
        )
    member = _membership(groups, bottleneck.labels).to(bottleneck.weight)
    if not counts or any(not 0 <= count <= member.shape[1] for count in counts):
        raise InputError(f"counts are {list(counts)}; give numbers of corrected groups from 0 to {member.shape[1]}")
    table, values = activations.to(member), corrections.to(member)
    known = ~values.isnan()
    right, put = table.new_zeros(len(counts), len(table)), [0.0] * len(counts)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_orders):
        order = torch.rand((len(table), member.shape[1]), generator=generator).to(table)
        rank = _rank(order, known.to(table) @ member > 0)[:, member.argmax(1)]
        for index, count in enumerate(counts):
            chosen = (rank < count) & known
            correct = predict_classes(bottleneck, torch.where(chosen, values, table)) == truth
            right[index] += correct / n_orders
            put[index] += float(chosen.sum()) / len(table) / n_orders
    points = [
        CurvePoint(count, concepts, bootstrap_mean(shares.cpu().numpy(), np.arange(len(table)), seed=seed))
        for count, concepts, shares in zip(counts, put, right, strict=True)
    ]
    after, before = (
        (predict_classes(bottleneck, one) == truth).cpu().numpy() for one in (torch.where(known, values, table), table)
    )
    gain = bootstrap_difference(after, before, np.arange(len(before)), n_bootstrap, seed=seed)
    return InterventionCurve(member.shape[1], len(truth), n_orders, tuple(points), gain)


@dataclass(frozen=True)
class Interventions:
    """Curves by the corrected values: `PERCENTILES`, `PRESENCE_MEANS` where known, `CONTROL`; or why there is none.

    All correct the groups of each photo in the same orders. The control takes the percentiles of a photo drawn at
    random, so that it shows what wrong corrections do.
    """

    curves: Mapping[str, InterventionCurve] = field(default_factory=dict)
    reason: str = ""


def evaluate_interventions(
    bottleneck: Bottleneck,
    photos: LabelledSet,
    table: BottleneckTable,
    train: LabelledSet | None,
    read: BottleneckTable | None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Interventions:
    """Return the effect of correcting groups of concepts (`concept_groups`) to the class attributes of each photo.

    A concept without labels is never corrected; groups of such concepts are counted, and no point reaches them.

    Args:
        bottleneck: The fitted bottleneck.
        photos: The photos that are measured.
        table: Their activations.
        train: The photos it was fitted on.
        read: The activations of `train`.
        n_bootstrap: Bootstrap samples of the gains' intervals, which resample photos.
        seed: Seed of orders, intervals and the control.

    Returns:
        A curve for each way to correct, or the reason why there is none.
    """
    truth = concept_labels(bottleneck, photos, table)
    if truth is None:
        return Interventions(reason=UNLABELLED)
    if train is None or read is None:
        return Interventions(reason=NO_TRAIN)
    percentiles = by_percentile(read.activations, truth)
    corrections = {PERCENTILES: percentiles}
    train_truth = concept_labels(bottleneck, train, read)
    if train_truth is not None:
        corrections[PRESENCE_MEANS] = by_presence_mean(read.activations, train_truth, truth)
    corrections[CONTROL] = percentiles[torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))]
    groups = concept_groups(bottleneck.concepts)
    known = (~truth.isnan()).any(0).tolist()
    total = len({group for group, is_known in zip(groups, known, strict=True) if is_known})
    counts = sorted({round(total * step / N_STEPS) for step in range(N_STEPS + 1)})
    read_photos = (bottleneck, table.activations, table.classes)
    curves = {
        name: intervention_curve(*read_photos, values, groups, counts, n_bootstrap=n_bootstrap, seed=seed)
        for name, values in corrections.items()
    }
    return Interventions(curves)


def interventions_json(found: Interventions) -> list[dict[str, Any]]:
    """Return curves as JSON holds them.

    Args:
        found: What `evaluate_interventions` found.

    Returns:
        A dictionary for each curve.
    """
    return [
        {
            "values": name,
            "n_orders": one.n_orders,
            "groups": one.groups,
            "images": one.images,
            "gain": dict(vars(one.gain)),
            "points": [
                {
                    "corrected": point.corrected,
                    "concepts": point.concepts,
                    "accuracy": point.accuracy.mean,
                    "low": point.accuracy.low,
                    "high": point.accuracy.high,
                }
                for point in one.points
            ],
        }
        for name, one in found.curves.items()
    ]


def _rank(order: Float[Tensor, "image group"], known: Tensor) -> Int[Tensor, "image group"]:
    """Return each group's rank, 0 first; groups without a known concept come last, and equal ones in their order."""
    best = torch.where(known, order, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return best.argsort(dim=1)


def _membership(groups: Sequence[str], labels: Sequence[str]) -> Float[Tensor, "concept group"]:
    if len(groups) != len(labels):
        raise InputError(f"{len(groups)} groups are named for {len(labels)} concepts; give one name for each")
    numbers: dict[str, int] = {}
    indices = [numbers.setdefault(name, len(numbers)) for name in groups]
    return torch.nn.functional.one_hot(torch.tensor(indices)).float()


def _check_truth(truth: Tensor) -> None:
    known = truth[~truth.isnan()]
    if truth.ndim != 2 or not bool(((known >= 0) & (known <= 1)).all()):
        raise InputError(f"truth has shape {tuple(truth.shape)}; expected image concept, shares from 0 to 1 or NaN")


def _check_train(train: Tensor, concepts: int) -> None:
    if train.ndim != 2 or not len(train) or train.shape[1] != concepts or not bool(torch.isfinite(train).all()):
        raise InputError(
            f"training activations have shape {tuple(train.shape)}; expected finite image concept, {concepts} concepts"
        )
