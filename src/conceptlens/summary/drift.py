"""What has changed between two runs: mean contributions of concepts to classes, with intervals for all comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.multiple_comparisons import MIN_IMAGES, holm
from conceptlens.summary.carrying_concepts import most_weighty, tables_of
from conceptlens.summary.explained_photos import DISCOVERED

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.summary.explained_photos import ExplainedPhotos

LEVEL = 0.95


@dataclass(frozen=True)
class DriftingConcept:
    """The mean contribution of a concept to a class in this run and in another one.

    Attributes:
        class_name: The class.
        label: The concept.
        type: Its type.
        here: The mean here.
        there: The mean in the other run.
        photos: How many photos of the class there are, here and there.
        difference: Here less there.
        low: The lower end of the interval of the difference; all intervals hold at once in 95 % of cases.
        high: The upper end.
        p_value: Of no difference, by Welch's test, corrected for the number of comparisons (Holm).
    """

    class_name: str
    label: str
    type: str
    here: float
    there: float
    photos: tuple[int, int]
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def sure(self) -> bool:
        """Whether there is a difference, at 5 % over all comparisons."""
        return self.p_value <= 1 - LEVEL


@dataclass(frozen=True)
class Drift:
    """What has changed: all comparisons, the smallest p value first, and the classes with too few photos to say."""

    concepts: tuple[DriftingConcept, ...]
    too_few: tuple[str, ...]


def drift(here: ExplainedPhotos, there: ExplainedPhotos) -> Drift:
    """Compare two runs, of the same photos or of others, which are taken as independent.

    Args:
        here: One run.
        there: Another one, with contributions in the same unit.

    Raises:
        InputError: The runs have no class in common, or contributions of different units.
    """
    if here.unit != there.unit:
        raise InputError(
            f"contributions are in {here.unit or 'no unit'} here and in {there.unit or 'no unit'} there; compare runs "
            "with contributions of one kind"
        )
    shared = [name for name in _explained(here) if name in _explained(there)]
    if not shared:
        raise InputError("the two runs explain no class in common; compare runs of the same model's classes")
    counts = {name: (_explained(here)[name], _explained(there)[name]) for name in shared}
    rows = [row for name in shared if min(counts[name]) >= MIN_IMAGES for row in _of_class(here, there, name)]
    too_few = tuple(name for name in shared if min(counts[name]) < MIN_IMAGES)
    return Drift(_compared(rows), too_few)


def _explained(photos: ExplainedPhotos) -> dict[str, int]:
    counts = np.bincount(photos.target[photos.target >= 0], minlength=len(photos.classes)).tolist()
    return {name: count for name, count in zip(photos.classes, counts, strict=True) if count}


_Row = tuple[str, str, str, "Float[np.ndarray, 'photo']", "Float[np.ndarray, 'photo']"]


def _of_class(here: ExplainedPhotos, there: ExplainedPhotos, name: str) -> Iterator[_Row]:
    """Yield each concept that counts in either run, with its contributions to a class in the photos of both.

    Discovered concepts are left out where they are not the same ones in both runs, whose names agree by accident.
    """
    same = here.run.settings.get("concepts_from") == there.run.settings.get("concepts_from")
    chosen = {
        run.labels[concept]: run.types[concept]
        for run in (here, there)
        for concept in most_weighty(run, _rows_of(run, name)).tolist()
        if same or run.types[concept] != DISCOVERED
    }
    values = [_values(run, name, list(chosen)) for run in (here, there)]
    for column, (label, kind) in enumerate(chosen.items()):
        yield name, label, kind, values[0][:, column], values[1][:, column]


def _rows_of(run: ExplainedPhotos, name: str) -> np.ndarray:
    return np.flatnonzero(run.target[run.row_photo] == run.classes.index(name))


def _values(run: ExplainedPhotos, name: str, labels: list[str]) -> Float[np.ndarray, "photo label"]:
    """Return the contributions of concepts by their labels, 0 for one that the run does not have."""
    known = {label: number for number, label in enumerate(run.labels)}
    there = [column for column, label in enumerate(labels) if label in known]
    members = np.flatnonzero(run.target == run.classes.index(name))
    found = np.zeros((len(members), len(labels)))
    concepts = np.array([known[labels[column]] for column in there], np.intp)
    found[:, there] = tables_of(run, members, _rows_of(run, name), concepts)[0]
    return found


def _compared(rows: list[_Row]) -> tuple[DriftingConcept, ...]:
    """Return Welch's comparison of each row, corrected for their number."""
    from scipy.stats import t as student

    if not rows:
        return ()
    sizes = np.array([(len(a), len(b)) for *_, a, b in rows])
    means = np.array([(a.mean(), b.mean()) for *_, a, b in rows])
    errors = np.array([(a.var(ddof=1), b.var(ddof=1)) for *_, a, b in rows]) / sizes
    difference, variance = means[:, 0] - means[:, 1], errors.sum(1)
    freedom = variance**2 / np.maximum((errors**2 / (sizes - 1)).sum(1), 1e-300)
    error, freedom = np.sqrt(variance), np.maximum(freedom, 1.0)
    apart = np.abs(difference) > 1e-12
    statistic = np.where(error > 0, np.abs(difference) / np.where(error > 0, error, 1), np.where(apart, np.inf, 0.0))
    p_values = holm(np.where(apart, 2 * student.sf(statistic, freedom), 1.0))
    reach = student.ppf(1 - (1 - LEVEL) / (2 * len(rows)), freedom) * error
    found = [
        DriftingConcept(
            name, label, kind, float(mean[0]), float(mean[1]), (int(size[0]), int(size[1])), float(change),
            float(change - half), float(change + half), float(p_value),
        )
        for (name, label, kind, *_), mean, size, change, half, p_value in zip(
            rows, means, sizes, difference, reach, p_values, strict=True
        )
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: (one.p_value, -abs(one.difference))))
