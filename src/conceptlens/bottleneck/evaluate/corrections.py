"""What corrections do to a bottleneck: accuracy against the number of corrected groups, beside a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.bottleneck.evaluate.annotations import UNLABELLED, known_labels
from conceptlens.bottleneck.evaluate.intervention_curve import (
    Corrections,
    InterventionCurve,
    by_percentile,
    by_presence_mean,
    concept_groups,
    intervention_curve,
)
from conceptlens.bottleneck.intervention import predicted
from conceptlens.statistics.bootstrap import Interval, bootstrap_difference

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

PERCENTILES, PRESENCE_MEANS, CONTROL = "percentiles", "presence_means", "other photos (control)"
NOT_ASKED = "it was not asked for: it reads all train photos"
NO_TRAIN = "no train photos were given, whose activations say what is put in"
ORDER, DRAWS, STEPS = "random", 3, 10


@dataclass(frozen=True)
class Intervened:
    """A curve, and what it comes to: accuracy with all groups corrected minus accuracy with none, paired by photo."""

    curve: InterventionCurve
    gain: Interval


@dataclass(frozen=True)
class Interventions:
    """Curves by what is put in: `PERCENTILES`, `PRESENCE_MEANS` where they are known, `CONTROL`; or why there is none.

    All take the groups of each photo in the same orders. The control puts in the percentiles of a photo drawn at
    random, so it says what corrections do that are wrong.
    """

    curves: Mapping[str, Intervened] = field(default_factory=dict)
    reason: str = ""


def measure_interventions(
    bottleneck: Bottleneck,
    photos: LabelledSet,
    table: BottleneckTable,
    train: LabelledSet | None,
    read: BottleneckTable | None,
    draws: int = 2000,
    seed: int = 0,
) -> Interventions:
    """Return what correcting groups of concepts (`concept_groups`) to what each photo's class has does to the answers.

    - `table`: what was read in `photos`; `read`: in the photos it was fitted on, `train`.
    - `draws`: of the gains' intervals, which resample photos; those of the curves take 2000.

    A concept without labels is never corrected; groups of such concepts are counted, and no point reaches them.
    """
    truth = known_labels(bottleneck, photos, table)
    if truth is None:
        return Interventions(reason=UNLABELLED)
    if train is None or read is None:
        return Interventions(reason=NO_TRAIN)
    ends = by_percentile(read.activations, truth)
    ways = {PERCENTILES: ends}
    shown = known_labels(bottleneck, train, read)
    if shown is not None:
        ways[PRESENCE_MEANS] = by_presence_mean(read.activations, shown, truth)
    ways[CONTROL] = ends.of(torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed)))
    groups = concept_groups(bottleneck.concepts)
    told = (~truth.isnan()).any(0).tolist()
    most = len({group for group, known in zip(groups, told, strict=True) if known})
    counts = sorted({round(most * step / STEPS) for step in range(STEPS + 1)})
    curves = {}
    for name, values in ways.items():
        curve = intervention_curve(
            bottleneck, table.activations, table.classes, values, ORDER, groups, counts, DRAWS, seed
        )
        curves[name] = Intervened(curve, _gain(bottleneck, table, values, draws, seed))
    return Interventions(curves)


def intervention_numbers(found: Interventions) -> list[dict[str, Any]]:
    """Return curves as JSON holds them."""
    return [
        {
            "values": name,
            "order": one.curve.order,
            "draws": one.curve.draws,
            "groups": one.curve.groups,
            "images": one.curve.images,
            "gain": dict(vars(one.gain)),
            "points": [
                {
                    "corrected": point.corrected,
                    "concepts": point.concepts,
                    "accuracy": point.accuracy.mean,
                    "low": point.accuracy.low,
                    "high": point.accuracy.high,
                }
                for point in one.curve.points
            ],
        }
        for name, one in found.curves.items()
    ]


def _gain(bottleneck: Bottleneck, table: BottleneckTable, values: Corrections, draws: int, seed: int) -> Interval:
    """Return accuracy with everything corrected that is known, minus accuracy with nothing corrected."""
    put = torch.where(values.values.isnan(), table.activations, values.values.to(table.activations))
    with torch.no_grad():
        after, before = ((predicted(bottleneck, one).cpu() == table.classes) for one in (put, table.activations))
    return bootstrap_difference(after.numpy(), before.numpy(), np.arange(len(before)), draws, seed=seed)
