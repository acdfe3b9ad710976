"""Which classes are taken for another, in which photos, and which concepts tip the scale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.statistics.multiple_comparisons import MIN_IMAGES
from conceptlens.statistics.shared_draws import mean_intervals
from conceptlens.summary.carrying_concepts import most_weighty, tables_of
from conceptlens.summary.explained_photos import UNKNOWN

if TYPE_CHECKING:
    from jaxtyping import Int

    from conceptlens.statistics.bootstrap import Interval
    from conceptlens.summary.explained_photos import ExplainedPhotos

# A call is close where the second class is at least half as likely as the first.
CLOSE_LEAD = log(2)
MAX_TIPPING, MAX_PHOTOS = 5, 12


@dataclass(frozen=True)
class TippingConcept:
    """A concept in photos that are taken for a class, beside photos that are rightly answered so.

    Attributes:
        label: The concept.
        type: Its type.
        contribution: Its mean contribution to the answer in these photos.
        present: The share of these photos that it is in.
        present_otherwise: The share of photos of the true class that are answered rightly; `None` where there is none.
    """

    label: str
    type: str
    contribution: Interval
    present: float
    present_otherwise: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """Photos of `one` that are answered as `other`, or without labels photos answered `other` with `one` close behind.

    `of` says how many photos of `one` there are (without labels: photos answered `other`).
    """

    one: str
    other: str
    of: int
    photos: tuple[int, ...]
    concepts: tuple[TippingConcept, ...]

    @property
    def enough(self) -> bool:
        """Whether there are enough photos for intervals."""
        return len(self.photos) >= MIN_IMAGES


@dataclass(frozen=True)
class LabelledAnswers:
    """How often each true class gets each answer: `counts` by pairs of names, with rows and columns of `classes`."""

    classes: tuple[str, ...]
    counts: dict[tuple[str, str], int]
    right: int
    labelled: int


def confusion(photos: ExplainedPhotos) -> LabelledAnswers | None:
    """Return how often each true class gets each answer; `None` without labels or answers."""
    known = np.flatnonzero((photos.true != UNKNOWN) & (photos.answer != UNKNOWN))
    if not len(known):
        return None
    pairs = Counter(zip(photos.true[known].tolist(), photos.answer[known].tolist(), strict=True))
    shown = sorted({photos.classes[number] for pair in pairs for number in pair})
    counts = {(photos.classes[a], photos.classes[b]): count for (a, b), count in pairs.items()}
    return LabelledAnswers(tuple(shown), counts, sum(count for (a, b), count in pairs.items() if a == b), len(known))


def confused_pairs(photos: ExplainedPhotos, max_pairs: int, seed: int = 0) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes that are confused most often, from labels, or without them from close calls.

    Only photos count whose answer is explained: contributions are to the answer, against all of its rivals.

    Args:
        photos: What was found in photos.
        max_pairs: How many pairs to return at most.
        seed: Decides the draws of intervals.
    """
    answered = (photos.answer != UNKNOWN) & (photos.answer == photos.target)
    if photos.labelled:
        first, chosen = photos.true, answered & (photos.true != UNKNOWN) & (photos.true != photos.answer)
    else:
        first, chosen = photos.second, answered & (photos.second != UNKNOWN) & (photos.lead <= CLOSE_LEAD)
    members = np.flatnonzero(chosen)
    pairs = Counter(zip(first[members].tolist(), photos.answer[members].tolist(), strict=True))
    return tuple(
        _pair(photos, members[(first[members] == one) & (photos.answer[members] == other)], one, other, seed)
        for (one, other), _ in pairs.most_common(max_pairs)
    )


def _pair(photos: ExplainedPhotos, members: Int[np.ndarray, "member"], one: int, other: int, seed: int) -> ConfusedPair:
    if photos.labelled:
        of = int((photos.true == one).sum())
        otherwise = np.flatnonzero((photos.true == one) & (photos.answer == one))
    else:
        of, otherwise = int((photos.answer == other).sum()), np.zeros(0, np.intp)
    rows = np.flatnonzero(np.isin(photos.row_photo, members))
    concepts = most_weighty(photos, rows)
    values, present = tables_of(photos, members, rows, concepts)
    order = np.argsort(-values.mean(0), kind="stable")[:MAX_TIPPING]
    order = order[values.mean(0)[order] > 0]
    beside = _present_in(photos, otherwise, concepts[order])
    intervals = mean_intervals(values[:, order], seed=seed) if len(order) else []
    found = [
        TippingConcept(photos.labels[concept], photos.types[concept], interval, float(present[:, column].mean()), share)
        for concept, column, interval, share in zip(concepts[order], order, intervals, beside, strict=True)
    ]
    by_margin = members[np.argsort(-photos.lead[members], kind="stable")]
    return ConfusedPair(photos.classes[one], photos.classes[other], of, tuple(by_margin.tolist()), tuple(found))


def _present_in(
    photos: ExplainedPhotos, members: Int[np.ndarray, "member"], concepts: Int[np.ndarray, "concept"]
) -> list[float | None]:
    """Return the share of photos that each concept is in; `None` where there is no photo."""
    if not len(members):
        return [None] * len(concepts)
    rows = np.flatnonzero(np.isin(photos.row_photo, members))
    return tables_of(photos, members, rows, concepts)[1].mean(0).tolist()
