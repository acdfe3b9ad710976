"""What carries a class: the mean contribution of each concept, in how many photos it is, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.statistics.multiple_comparisons import MIN_IMAGES
from conceptlens.statistics.shared_draws import mean_intervals

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.bootstrap import Interval
    from conceptlens.summary.explained_photos import ExplainedPhotos

# Of a class with more concepts than that, those of the largest contributions are looked at.
MAX_CONCEPTS = 40


@dataclass(frozen=True)
class PlaceOfConcept:
    """Where a concept peaks in photos: mean and standard deviation, right and down as shares of a photo, and `area`."""

    x: float
    y: float
    spread_x: float
    spread_y: float
    area: float


@dataclass(frozen=True)
class CarryingConcept:
    """A concept in the photos of a class.

    Attributes:
        label: The concept.
        type: Its type.
        shown: In how many photos it is listed.
        present: The share of photos that it is in.
        contribution: Its mean contribution, 0 where it is not listed.
        of_margin: The mean contribution as a share of the mean margin; `None` where contributions do not add up.
        place: Where it peaks; `None` where it has no clear place in any photo.
    """

    label: str
    type: str
    shown: int
    present: Interval
    contribution: Interval
    of_margin: float | None
    place: PlaceOfConcept | None


@dataclass(frozen=True)
class SummarizedClass:
    """The photos in which a class is explained, with its concepts, those of the largest mean contribution first.

    `enough` says whether there are so many photos that intervals mean something.
    """

    name: str
    photos: int
    margin: float | None
    concepts: tuple[CarryingConcept, ...]

    @property
    def enough(self) -> bool:
        """Whether there are enough photos for intervals."""
        return self.photos >= MIN_IMAGES


def summarize_class(photos: ExplainedPhotos, number: int, seed: int = 0) -> SummarizedClass:
    """Return what carries a class.

    Args:
        photos: What was found in photos.
        number: The class, by its number.
        seed: Decides the draws of intervals.
    """
    members = np.flatnonzero(photos.target == number)
    rows = np.flatnonzero(photos.target[photos.row_photo] == number)
    kept = most_weighty(photos, rows)
    values, present = tables_of(photos, members, rows, kept)
    intervals = mean_intervals(np.concatenate([values, present], axis=1), seed=seed)
    margin = mean_margin(photos, members)
    found = [
        CarryingConcept(
            label=photos.labels[concept],
            type=photos.types[concept],
            shown=int((photos.row_concept[rows] == concept).sum()),
            present=intervals[len(kept) + column],
            contribution=intervals[column],
            of_margin=None if margin is None else intervals[column].mean / margin,
            place=place_of(photos, rows[photos.row_concept[rows] == concept]),
        )
        for column, concept in enumerate(kept.tolist())
    ]
    found.sort(key=lambda one: -one.contribution.mean)
    return SummarizedClass(photos.classes[number], len(members), margin, tuple(found))


def most_weighty(photos: ExplainedPhotos, rows: Int[np.ndarray, "row"]) -> Int[np.ndarray, "concept"]:
    """Return the concepts of some rows, those of the largest sums of contributions where there are many.

    Args:
        photos: What was found in photos.
        rows: Indices of rows.
    """
    totals = np.bincount(photos.row_concept[rows], photos.contribution[rows], len(photos.labels))
    listed = np.unique(photos.row_concept[rows])
    order = np.argsort(-np.abs(totals[listed]), kind="stable")
    return listed[order[:MAX_CONCEPTS]]


def tables_of(
    photos: ExplainedPhotos,
    members: Int[np.ndarray, "member"],
    rows: Int[np.ndarray, "row"],
    concepts: Int[np.ndarray, "concept"],
) -> tuple[Float[np.ndarray, "member concept"], Float[np.ndarray, "member concept"]]:
    """Return the contributions of concepts in photos, 0 where they are not listed, and whether they are in them.

    Args:
        photos: What was found in photos.
        members: The photos, in rising order.
        rows: The rows of these photos.
        concepts: The concepts.
    """
    column = np.full(len(photos.labels), -1)
    column[concepts] = np.arange(len(concepts))
    own = rows[column[photos.row_concept[rows]] >= 0]
    at = np.searchsorted(members, photos.row_photo[own]), column[photos.row_concept[own]]
    values, present = np.zeros((2, len(members), len(concepts)))
    values[at], present[at] = photos.contribution[own], photos.present[own]
    return values, present


def mean_margin(photos: ExplainedPhotos, members: Int[np.ndarray, "member"]) -> float | None:
    """Return the mean size of the margins of photos; `None` where contributions do not add up."""
    margins = np.abs(photos.margin[members])
    return float(margins.mean()) if len(members) and np.isfinite(margins).all() and margins.any() else None


def place_of(photos: ExplainedPhotos, rows: Int[np.ndarray, "row"]) -> PlaceOfConcept | None:
    """Return where a concept peaks in its rows; `None` where it has no clear place in any."""
    placed = rows[np.isfinite(photos.peak[rows]).all(1)]
    if not len(placed):
        return None
    (x, y), (spread_x, spread_y) = photos.peak[placed].mean(0).tolist(), photos.peak[placed].std(0).tolist()
    return PlaceOfConcept(x, y, spread_x, spread_y, float(np.nanmean(photos.area[placed])))
