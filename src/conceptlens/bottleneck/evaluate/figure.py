"""One figure of a bottleneck: its value, what it must be read beside, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from conceptlens.io.errors import InputError
from conceptlens.statistics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from conceptlens.statistics.score import Score

Over = Literal["photos", "concepts", "classes"]
OWN = ""  # the bottleneck's own among the scores of a figure; the others are controls


@dataclass(frozen=True)
class Kind:
    """What a figure is, in words; `better` is `higher`, `lower` or nothing, `of` what its count counts."""

    title: str
    better: Literal["higher", "lower", ""]
    unit: str
    about: str
    of: Literal["photo", "map", "concept", "class"] = "map"


KEYPOINT_CELLS = "squared cells of a 7 x 7 grid"
KINDS: dict[str, Kind] = {
    "accuracy": Kind(
        "Right answers", "higher", "share of photos", "The class with the highest score is right.", "photo"
    ),
    "concepts_per_class": Kind(
        "Concepts for each class", "", "concepts", "Weights that are not 0, over the classes (NEC).", "class"
    ),
    "concept_auroc": Kind(
        "Concepts told apart (AUROC)",
        "higher",
        "0 to 1",
        "Of two photos, one of a class that has the concept and one of a class that has not: how often the concept is "
        "more active in the first. 0.5 is guessing.",
        "concept",
    ),
    "keypoint_error": Kind(
        "Keypoint alignment error",
        "lower",
        KEYPOINT_CELLS,
        "Squared distance from the map's highest cell to the nearest keypoint of the concept's part.",
    ),
    "keypoint_distance": Kind(
        "Distance to the part", "lower", "share of the diagonal", "That distance over the photo's diagonal."
    ),
    "keypoint_pointing": Kind(
        "Points at the part",
        "higher",
        "share of maps",
        "The highest cell is nearer to a keypoint of the part than a tenth of the photo's diagonal.",
    ),
    "keypoint_own": Kind(
        "Nearest keypoint is its own",
        "higher",
        "share of maps",
        "Of all keypoints in the photo, the one nearest to the highest cell belongs to the concept's part.",
    ),
    "keypoint_swap": Kind(
        "Knows parts apart (swap)",
        "higher",
        KEYPOINT_CELLS,
        "How much larger the error is at other concepts' parts than at a concept's own. 0: maps know no parts, "
        "wherever they lie.",
        "photo",
    ),
    "peak_to_centre": Kind(
        "Peak to the photo's centre",
        "",
        KEYPOINT_CELLS,
        "Squared distance from the map's highest cell to the centre. An error that is low because this is low was won "
        "by centring.",
    ),
    "part_energy": Kind(
        "Energy on the part", "higher", "share of the map", "What lies within a tenth of the diagonal of its keypoints."
    ),
    "part_ranking": Kind(
        "Part ranked first (NRA)",
        "higher",
        "0: chance, 1: ideal",
        "Whether the map's highest pixels are those of the part, chance taken off.",
    ),
    "box_energy": Kind("Energy in the box", "higher", "share of the map", "What lies inside the thing's bounding box."),
    "box_ranking": Kind(
        "Box ranked first (NRA)",
        "higher",
        "0: chance, 1: ideal",
        "Whether the map's highest pixels are those in the box, chance taken off.",
    ),
    "purity_purest": Kind(
        "Part purity (PIP-Net)",
        "higher",
        "share of photos",
        "Of the photos that show a part, the share with this part at the peak; of the part with the highest share, "
        "even if one photo shows it.",
        "concept",
    ),
    "purity_frequent": Kind(
        "Part purity, most frequent", "higher", "share of photos", "The same for the part at most peaks.", "concept"
    ),
    "purity_overall": Kind(
        "Part purity, of all ten", "higher", "share of photos", "That part's share of all ten photos.", "concept"
    ),
    "norm_raw": Kind("Map size, raw", "", "the map's own unit", "Sum of the map's absolute values."),
    "norm_cells": Kind("Map size, in cells", "", "cells", "The cells of a flat map that is as high and as strong."),
    "norm_share": Kind("Map size, as a share", "", "share of the cells", "Those cells over all cells."),
    "norm_entropy": Kind("Map size, as entropy", "", "nats", "Entropy of the map's positive part over the cells."),
    "leakage_task": Kind(
        "Leakage: values over presence",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one that was trained on labels and sees only which concepts are "
        "present. Part of it is labels that are hard to predict.",
        "photo",
    ),
    "leakage_graded": Kind(
        "Leakage: how much over whether",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one on whether each reaches its threshold.",
        "photo",
    ),
    "leakage_excess": Kind(
        "Leakage: more than the truth",
        "lower",
        "share of photos",
        "Accuracy of a head on activations, minus one on true labels. Above 0, they know more than the concepts.",
        "photo",
    ),
    "leakage_interventional": Kind(
        "Leakage: truth put in",
        "lower",
        "share of photos",
        "Accuracy on activations, minus accuracy once every concept is corrected. Above 0, the truth makes it worse.",
        "photo",
    ),
    "impurity_oracle": Kind(
        "Impurity (OIS)", "lower", "0: pure", "What concepts tell of one another beyond what labels do.", "concept"
    ),
    "impurity_niche": Kind(
        "Impurity of sets (NIS)", "lower", "0.5 to 1", "How well other concepts alone tell a concept.", "concept"
    ),
}
# What is put in the bottleneck's place, in words.
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
    """What knows less, in the bottleneck's place, or the reason why it cannot be had.

    `gain`: the bottleneck minus this, over the pairs that both apply to, paired by photo.
    """

    name: str
    value: Interval | None
    gain: Interval | None = None
    reason: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, over resampled photos (or concepts); without a value, the reason why."""

    name: str
    value: Interval | None
    controls: tuple[Control, ...] = ()
    over: Over = "photos"
    reason: str = ""

    @property
    def kind(self) -> Kind:
        """What it is, in words."""
        return KINDS[self.name]

    def control(self, name: str) -> Control | None:
        """Return a control by its name, where this figure has it."""
        return next((one for one in self.controls if one.name == name), None)


def known(value: float, count: int, images: int) -> Interval:
    """Return a value that does not depend on which photos were drawn."""
    return Interval(value, None, None, count, images)


def absent(names: Iterable[str], reason: str) -> tuple[Figure, ...]:
    """Return figures that do not apply, and why."""
    return tuple(Figure(name, None, reason=reason) for name in names)


def figure(
    name: str,
    scores: Mapping[str, Score],
    draws: int,
    seed: int,
    over: Over = "photos",
    missing: Mapping[str, str] = {},
) -> Figure:
    """Return a figure from the bottleneck's score (`OWN`) and those of its controls; `missing`: controls to reasons."""
    own = scores[OWN]
    if not own.count:
        return Figure(name, None, reason="no photo shows a concept with what this is measured by")
    controls = [
        Control(other, _interval(score, draws, seed), _gain(own, score, draws, seed))
        if score.count
        else Control(other, None, reason="it applies to no photo")
        for other, score in scores.items()
        if other != OWN
    ]
    controls += [Control(other, None, reason=reason) for other, reason in missing.items()]
    return Figure(name, _interval(own, draws, seed), tuple(controls), over)


def joined_scores(parts: Sequence[Mapping[str, Mapping[str, Score]]]) -> dict[str, dict[str, Score]]:
    """Return scores of several parts of a set as those of the whole: figure, then control, then score."""
    if not parts:
        raise InputError("there are no scores to join; read at least one photo")
    return {
        name: {
            control: Score(
                torch.cat([part[name][control].values for part in parts]),
                torch.cat([part[name][control].applies for part in parts]),
            )
            for control in controls
        }
        for name, controls in parts[0].items()
    }


def figure_numbers(one: Figure) -> dict[str, Any]:
    """Return a figure as JSON holds it."""
    kind = one.kind
    return {
        "name": one.name,
        "title": kind.title,
        "unit": kind.unit,
        "better": kind.better or None,
        "value": _interval_numbers(one.value),
        "reason": one.reason or None,
        "resampled": one.over,
        "controls": {
            control.name: {
                "title": CONTROLS[control.name],
                "value": _interval_numbers(control.value),
                "gain": _interval_numbers(control.gain),
                "reason": control.reason or None,
            }
            for control in one.controls
        },
    }


def _interval(score: Score, draws: int, seed: int) -> Interval:
    values, images = score.pairs()
    return bootstrap_mean(values.numpy(), images.numpy(), draws, seed=seed)


def _gain(own: Score, other: Score, draws: int, seed: int) -> Interval | None:
    """Return the paired difference where both apply."""
    both = own.applies & other.applies
    if not bool(both.any()):
        return None
    images = both.nonzero()[:, 0].numpy()
    return bootstrap_difference(own.values[both].numpy(), other.values[both].numpy(), images, draws, seed=seed)


def _interval_numbers(value: Interval | None) -> dict[str, Any] | None:
    return None if value is None else dict(vars(value))
