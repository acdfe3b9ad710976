"""One metric of a bottleneck: its value and its controls, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from conceptlens.statistics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from conceptlens.statistics.score import Score

Resampled = Literal["photos", "concepts", "classes"]
OWN = ""  # the key of the bottleneck's own score; the other keys are controls


@dataclass(frozen=True)
class MetricDescription:
    """A metric in words. `better`: which values are better, if any. `counts`: what `Interval.count` counts."""

    title: str
    better: Literal["higher", "lower", ""]
    unit: str
    about: str
    counts: Literal["photo", "map", "concept", "class"] = "map"


KEYPOINT_CELLS = "squared cells of a 7 x 7 grid"
METRICS: dict[str, MetricDescription] = {
    "accuracy": MetricDescription(
        "Accuracy", "higher", "share of photos", "The class with the highest score is the true one.", "photo"
    ),
    "concepts_per_class": MetricDescription(
        "Concepts for each class", "", "concepts", "Weights that are not 0, over the classes (NEC).", "class"
    ),
    "concept_auroc": MetricDescription(
        "Concept AUROC",
        "higher",
        "0 to 1",
        "Of two photos, one that shows the concept and one that does not: how often the concept is more active in the "
        "first. 0.5 is guessing.",
        "concept",
    ),
    "keypoint_error": MetricDescription(
        "Keypoint alignment error",
        "lower",
        KEYPOINT_CELLS,
        "Squared distance from the map's highest cell to the nearest keypoint of the concept's part.",
    ),
    "keypoint_distance": MetricDescription(
        "Distance to the part", "lower", "share of the diagonal", "That distance over the photo's diagonal."
    ),
    "keypoint_pointing": MetricDescription(
        "Points at the part",
        "higher",
        "share of maps",
        "The highest cell is nearer to a keypoint of the part than a tenth of the photo's diagonal.",
    ),
    "keypoint_own": MetricDescription(
        "Nearest keypoint is its own",
        "higher",
        "share of maps",
        "Of all keypoints in the photo, the one nearest to the highest cell belongs to the concept's part.",
    ),
    "keypoint_swap": MetricDescription(
        "Own part against others (swap)",
        "higher",
        KEYPOINT_CELLS,
        "How much larger the error is at other concepts' parts than at a concept's own. 0: maps do not differ "
        "from part to part, wherever they lie.",
        "photo",
    ),
    "peak_to_centre": MetricDescription(
        "Peak to the photo's centre",
        "",
        KEYPOINT_CELLS,
        "Squared distance from the map's highest cell to the centre. An error that is low because this is low was won "
        "by centring.",
    ),
    "part_energy": MetricDescription(
        "Energy on the part", "higher", "share of the map", "What lies within a tenth of the diagonal of its keypoints."
    ),
    "part_ranking": MetricDescription(
        "Part ranked first (NRA)",
        "higher",
        "0: chance, 1: ideal",
        "Whether the map's highest pixels are those of the part, chance taken off.",
    ),
    "box_energy": MetricDescription(
        "Energy in the box", "higher", "share of the map", "What lies inside the object's bounding box."
    ),
    "box_ranking": MetricDescription(
        "Box ranked first (NRA)",
        "higher",
        "0: chance, 1: ideal",
        "Whether the map's highest pixels are those in the box, chance taken off.",
    ),
    "purity_purest": MetricDescription(
        "Part purity (PIP-Net)",
        "higher",
        "share of photos",
        "Of the photos that show a part, the share with this part at the peak; of the part with the highest share, "
        "even if one photo shows it.",
        "concept",
    ),
    "purity_frequent": MetricDescription(
        "Part purity, most frequent", "higher", "share of photos", "The same for the part at most peaks.", "concept"
    ),
    "purity_overall": MetricDescription(
        "Part purity, of all ten", "higher", "share of photos", "That part's share of all ten photos.", "concept"
    ),
    "norm_raw": MetricDescription("Map size, raw", "", "the map's own unit", "Sum of the map's absolute values."),
    "norm_cells": MetricDescription(
        "Map size, in cells", "", "cells", "The cells of a flat map that is as high and as strong."
    ),
    "norm_share": MetricDescription("Map size, as a share", "", "share of the cells", "Those cells over all cells."),
    "norm_entropy": MetricDescription(
        "Map size, as entropy", "", "nats", "Entropy of the map's positive part over the cells."
    ),
    "leakage_task": MetricDescription(
        "Leakage: values over presence",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one that was trained on labels and sees only which concepts are "
        "present. Part of it is labels that are hard to predict.",
        "photo",
    ),
    "leakage_graded": MetricDescription(
        "Leakage: values over thresholds",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one on whether each reaches its threshold.",
        "photo",
    ),
    "leakage_excess": MetricDescription(
        "Leakage: more than the truth",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one on true labels. Above 0, they know more than the concepts.",
        "photo",
    ),
    "leakage_interventional": MetricDescription(
        "Leakage: corrected concepts",
        "lower",
        "share of photos",
        "Accuracy on activations, minus accuracy once every concept is corrected. Above 0, the truth makes it worse.",
        "photo",
    ),
    "impurity_oracle": MetricDescription(
        "Impurity (OIS)", "lower", "0: pure", "How much concepts predict one another beyond what labels do.", "concept"
    ),
    "impurity_niche": MetricDescription(
        "Impurity of sets (NIS)",
        "lower",
        "0.5: chance",
        "How well other concepts alone predict a concept (AUROC).",
        "concept",
    ),
}
# Controls in words.
CONTROLS: dict[str, str] = {
    "commonest": "always the commonest class",
    "guess": "guessing",
    "centre": "always the centre",
    "constant": "one fixed cell for each part",
    "uniform": "a random cell",
    "other_part": "another part's peak",
    "wrong": "a concept that is not there",
    "random": "random maps",
    "flat": "a flat map",
    "labels": "the true labels",
}


@dataclass(frozen=True)
class Control:
    """A baseline that knows less, measured in the same way, or the reason why there is none.

    `difference`: the bottleneck minus this, over the pairs that both apply to, paired by photo.
    """

    name: str
    value: Interval | None
    difference: Interval | None = None
    reason: str = ""


@dataclass(frozen=True)
class MetricResult:
    """A metric with its interval over resampled photos or concepts, and its controls; without a value, the reason."""

    name: str
    value: Interval | None
    controls: tuple[Control, ...] = ()
    resampled: Resampled = "photos"
    reason: str = ""

    @property
    def description(self) -> MetricDescription:
        """What it is, in words."""
        return METRICS[self.name]

    def control(self, name: str) -> Control | None:
        """Return a control by its name, where this metric has it."""
        return next((one for one in self.controls if one.name == name), None)


def fixed_value(value: float, count: int, images: int) -> Interval:
    """Return a value that does not depend on which photos were drawn."""
    return Interval(value, None, None, count, images)


def not_measured(names: Iterable[str], reason: str) -> list[MetricResult]:
    """Return results without a value, all for one reason."""
    return [MetricResult(name, None, reason=reason) for name in names]


def metric_result(
    name: str,
    scores: Mapping[str, Score],
    n_bootstrap: int,
    seed: int,
    resampled: Resampled = "photos",
    missing: Mapping[str, str] = {},
) -> MetricResult:
    """Return the interval of a metric and of its controls, by a bootstrap over photos.

    Args:
        name: A key of `METRICS`.
        scores: The bottleneck's own score under `OWN`, and those of controls by name (keys of `CONTROLS`).
        n_bootstrap: How many bootstrap samples.
        seed: Seed of the samples.
        resampled: What the rows of the scores are.
        missing: Controls that could not be measured, with the reasons.
    """
    own = scores[OWN]
    if not own.count:
        return MetricResult(name, None, reason="no photo shows a concept with what this is measured by")
    controls = [
        Control(other, _interval(score, n_bootstrap, seed), _difference(own, score, n_bootstrap, seed))
        if score.count
        else Control(other, None, reason="it applies to no photo")
        for other, score in scores.items()
        if other != OWN
    ]
    controls += [Control(other, None, reason=reason) for other, reason in missing.items()]
    return MetricResult(name, _interval(own, n_bootstrap, seed), tuple(controls), resampled)


def joined_scores(parts: Sequence[Mapping[str, Mapping[str, Score]]]) -> dict[str, dict[str, Score]]:
    """Return scores of several parts of a set as those of the whole: metric, then control, then score."""
    return {
        name: {control: joined_score([part[name][control] for part in parts]) for control in controls}
        for name, controls in parts[0].items()
    }


def joined_score(parts: Sequence[Score]) -> Score:
    """Return scores below one another as one."""
    return Score(torch.cat([one.values for one in parts]), torch.cat([one.applies for one in parts]))


def metric_json(one: MetricResult) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    description = one.description
    return {
        "name": one.name,
        "title": description.title,
        "unit": description.unit,
        "better": description.better or None,
        "value": _interval_numbers(one.value),
        "reason": one.reason or None,
        "resampled": one.resampled,
        "controls": {
            control.name: {
                "title": CONTROLS[control.name],
                "value": _interval_numbers(control.value),
                "difference": _interval_numbers(control.difference),
                "reason": control.reason or None,
            }
            for control in one.controls
        },
    }


def _interval(score: Score, n_bootstrap: int, seed: int) -> Interval:
    values, images = score.pairs()
    return bootstrap_mean(values.numpy(), images.numpy(), n_bootstrap, seed=seed)


def _difference(own: Score, other: Score, n_bootstrap: int, seed: int) -> Interval | None:
    """Return the paired difference where both apply."""
    both = own.applies & other.applies
    if not bool(both.any()):
        return None
    images = both.nonzero()[:, 0].numpy()
    return bootstrap_difference(own.values[both].numpy(), other.values[both].numpy(), images, n_bootstrap, seed=seed)


def _interval_numbers(value: Interval | None) -> dict[str, Any] | None:
    return None if value is None else dict(vars(value))
