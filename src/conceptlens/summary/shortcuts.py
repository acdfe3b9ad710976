"""Candidates of shortcuts: what carries a class and is unusual for it, ranked, with the region.

The score of a candidate is how much of the margin it carries, by the lower end of its interval, times the square of how
unusual it is. That is the largest of three readings, each 0 to 1:

- *place*: how much more of its evidence lies there than other classes have at the same place of the frame;
- *exclusive*: in how many more photos of the class it is than of other classes;
- *surroundings*: of a scene, in which share of the photos scenes carry more than objects and their parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.concepts.class_knowledge import imagenet_knowledge
from conceptlens.statistics.multiple_comparisons import MIN_IMAGES
from conceptlens.statistics.shared_draws import mean_intervals
from conceptlens.summary.carrying_concepts import mean_margin, most_weighty, tables_of
from conceptlens.summary.evidence_places import (
    CELLS,
    EvidencePlaces,
    around,
    cell_of,
    evidence_of,
    evidence_places,
    unusual,
    window,
)
from conceptlens.summary.explained_photos import DISCOVERED

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.statistics.bootstrap import Interval
    from conceptlens.summary.explained_photos import ExplainedPhotos

MAX_EXAMPLES, MAX_WORDS = 6, 4
# A concept that photos of a class show at least that often is expected there, and no shortcut; a scene must always be
# shown: snow often lies around a husky, and is a shortcut all the same.
EXPECTED_RATE, EXPECTED_SCENE_RATE = 0.5, 0.9
# Of each class, so many candidates are returned, so that one does not fill the list.
MAX_OF_CLASS = 3


@dataclass(frozen=True)
class Unusual:
    """How unusual something is for a class, 0 to 1 each; `None` where that cannot be said."""

    place: float | None
    exclusive: float | None
    surroundings: float | None

    @property
    def most(self) -> float:
        """The largest of the three."""
        return max((one for one in (self.place, self.exclusive, self.surroundings) if one is not None), default=0.0)

    @property
    def reason(self) -> str:
        """Which of the three is the largest."""
        named = {name: value for name, value in vars(self).items() if value is not None}
        return max(named, key=named.__getitem__, default="")


@dataclass(frozen=True)
class Shortcut:
    """A candidate: a concept of a class, or a place of the frame where evidence for it lies.

    Attributes:
        class_name: The class.
        photos: How many photos of it there are.
        label: The concept; of a place, the concepts that peak there, those that carry most first.
        type: The type of the concept, or "place".
        contribution: How much it contributes on average, 0 in photos where it is not.
        of_margin: The same as a share of the mean margin; `None` where contributions do not add up.
        present: The share of the class's photos that it is in.
        elsewhere: The share of other photos; `None` where there is none.
        region: Left, top, right and bottom, as shares of a photo; `None` where it has no clear place.
        unusual: How unusual it is.
        score: What candidates are ranked by.
        examples: Photos where it contributes most.
    """

    class_name: str
    photos: int
    label: str
    type: str
    contribution: Interval
    of_margin: float | None
    present: float
    elsewhere: float | None
    region: tuple[float, float, float, float] | None
    unusual: Unusual
    score: float
    examples: tuple[int, ...]


def shortcuts(photos: ExplainedPhotos, seed: int = 0) -> tuple[Shortcut, ...]:
    """Return the candidates of all classes with enough photos, those of the highest score first.

    Args:
        photos: What was found in photos.
        seed: Decides the draws of intervals.
    """
    frame = _Frame.of(photos)
    found: list[Shortcut] = []
    for number in np.flatnonzero(frame.places.counts >= MIN_IMAGES).tolist():
        own = _OfClass(photos, frame, number, seed)
        best = sorted([*own.concepts(), *own.place()], key=lambda one: -one.score)
        found += [one for one in best if one.score > 0][:MAX_OF_CLASS]
    return tuple(sorted(found, key=lambda one: -one.score))


@dataclass(frozen=True, eq=False)
class _Frame:
    """What is read once of all photos, whatever the class."""

    places: EvidencePlaces
    cells: Int[np.ndarray, "row"]
    evidence: Float[np.ndarray, "row"]
    present_in: Float[np.ndarray, "concept"]
    on_scene: Bool[np.ndarray, "photo"]

    @classmethod
    def of(cls, photos: ExplainedPhotos) -> _Frame:
        scene, thing = scene_and_objects(photos)
        present_in = np.bincount(photos.row_concept, photos.present, len(photos.labels))
        return cls(evidence_places(photos), cell_of(photos), evidence_of(photos), present_in, scene > thing)


class _OfClass:
    """The photos of one class, and what candidates of it are made of."""

    def __init__(self, photos: ExplainedPhotos, frame: _Frame, number: int, seed: int) -> None:
        self.photos, self.frame, self.places, self.number, self.seed = photos, frame, frame.places, number, seed
        self.name = photos.classes[number]
        self.members = np.flatnonzero(photos.target == number)
        self.rows = np.flatnonzero(photos.target[photos.row_photo] == number)
        self.cells, self.evidence = frame.cells[self.rows], frame.evidence[self.rows]
        self.margin = mean_margin(photos, self.members)
        self.others = len(photos) - len(self.members)

    def concepts(self) -> Iterator[Shortcut]:
        """Yield a candidate for each concept that is not expected in photos of the class."""
        known = [c for c in most_weighty(self.photos, self.rows).tolist() if not self._expected(self.photos.labels[c])]
        kept = np.array(known, np.intp)
        if not len(kept):
            return
        values, present = tables_of(self.photos, self.members, self.rows, kept)
        intervals = mean_intervals(values, seed=self.seed)
        surroundings = float(self.frame.on_scene[self.members].mean())
        for column, concept in enumerate(known):
            own = self.photos.row_concept[self.rows] == concept
            share = float(present[:, column].mean())
            elsewhere = self._elsewhere(concept, float(present[:, column].sum()))
            how = Unusual(
                self._unusual_place(own),
                self._exclusive(own, share, elsewhere, self.photos.types[concept]),
                surroundings if self.photos.types[concept] == "scene" else None,
            )
            yield self._candidate(
                self.photos.labels[concept], self.photos.types[concept], intervals[column], values[:, column], how,
                share, elsewhere, self._region(own),
            )  # fmt: skip

    def place(self) -> Iterator[Shortcut]:
        """Yield the place of the frame that is the most unusual one by the score."""
        if not self.others or not self.evidence.any():
            return
        own, other = self.places.means(self.number), self.places.means_elsewhere(self.number)
        rarity = unusual(own, other)
        cell = int((own * rarity**2).argmax())
        row, column = divmod(cell, CELLS)
        there = (np.abs(self.cells // CELLS - row) <= 1) & (np.abs(self.cells % CELLS - column) <= 1)
        values = np.bincount(
            np.searchsorted(self.members, self.photos.row_photo[self.rows[there]]), self.evidence[there],
            len(self.members),
        )  # fmt: skip
        totals = np.bincount(self.photos.row_concept[self.rows[there]], self.evidence[there], len(self.photos.labels))
        words = [
            self.photos.labels[c] for c in np.argsort(-totals, kind="stable")[:MAX_WORDS].tolist() if totals[c] > 0
        ]
        interval = mean_intervals(values[:, None], seed=self.seed)[0]
        how = Unusual(float(rarity[cell]), None, None)
        yield self._candidate(
            ", ".join(words), "place", interval, values, how, float((values > 0).mean()), None, window(cell)
        )

    def _candidate(
        self,
        label: str,
        kind: str,
        contribution: Interval,
        values: Float[np.ndarray, "member"],
        how: Unusual,
        present: float,
        elsewhere: float | None,
        region: tuple[float, float, float, float] | None,
    ) -> Shortcut:
        scale = self.margin or 1.0
        examples = self.members[np.argsort(-values, kind="stable")[:MAX_EXAMPLES]]
        return Shortcut(
            class_name=self.name,
            photos=len(self.members),
            label=label,
            type=kind,
            contribution=contribution,
            of_margin=None if self.margin is None else contribution.mean / scale,
            present=present,
            elsewhere=elsewhere,
            region=region,
            unusual=how,
            score=max(contribution.low or 0.0, 0.0) / scale * how.most**2,
            examples=tuple(examples.tolist()),
        )

    def _expected(self, label: str) -> bool:
        """Whether a concept is what the class is, or what its photos are known to show."""
        return label in expected_concepts(self.name) or _words(label) <= _words(self.name)

    def _elsewhere(self, concept: int, here: float) -> float | None:
        return float(self.frame.present_in[concept] - here) / self.others if self.others else None

    def _exclusive(self, own: np.ndarray, share: float, elsewhere: float | None, kind: str) -> float | None:
        """Return in how many more photos of the class the concept is, where that is known at all."""
        known = kind == DISCOVERED or bool(np.isfinite(self.photos.presence[self.rows[own]]).all())
        return max(share - elsewhere, 0.0) if known and elsewhere is not None else None

    def _unusual_place(self, own: np.ndarray) -> float | None:
        """Return how unusual the places of a concept are, on average over its evidence."""
        sums = np.bincount(self.cells[own], self.evidence[own], CELLS**2)
        other = self.places.means_elsewhere(self.number)
        total = self.places.sums.sum() - self.places.sums[self.number].sum()
        if not sums.any() or total <= 0:
            return None
        rarity = unusual(around(sums / sums.sum()), other * (self.others / total))
        return float(rarity @ sums / sums.sum())

    def _region(self, own: np.ndarray) -> tuple[float, float, float, float] | None:
        """Return the box that holds the middle 80 % of a concept's peaks, widened by half its mean extent."""
        rows = self.rows[own][self.evidence[own] > 0]
        if not len(rows):
            return None
        reach = float(np.sqrt(np.nanmean(self.photos.area[rows]))) / 4
        (left, top), (right, bottom) = np.quantile(self.photos.peak[rows], [0.1, 0.9], axis=0).tolist()
        ends = (left - reach, top - reach, right + reach, bottom + reach)
        return tuple(min(max(end, 0.0), 1.0) for end in ends)  # pyright: ignore[reportReturnType]


def scene_and_objects(photos: ExplainedPhotos) -> tuple[Float[np.ndarray, "photo"], Float[np.ndarray, "photo"]]:
    """Return what scenes contribute in each photo, and what objects and their parts do."""
    kinds = np.array(photos.types)[photos.row_concept] if len(photos.row_concept) else np.zeros(0, "U1")
    return (
        np.bincount(photos.row_photo, photos.contribution * (kinds == "scene"), len(photos)),
        np.bincount(photos.row_photo, photos.contribution * np.isin(kinds, ("object", "part")), len(photos)),
    )


def resting_on_scene(photos: ExplainedPhotos, max_photos: int) -> Int[np.ndarray, "photo"]:
    """Return the photos whose scenes contribute more than their objects, those with the largest difference first."""
    scene, thing = scene_and_objects(photos)
    lead = scene - np.maximum(thing, 0)
    order = np.argsort(-lead, kind="stable")[:max_photos]
    return order[lead[order] > 0]


def expected_concepts(name: str) -> frozenset[str]:
    """Return the concepts that photos of a class are known to show, and what it is; none of an unknown class."""
    knowledge = imagenet_knowledge()
    index = knowledge.index(name)
    if index is None:
        return frozenset()
    known = knowledge.classes[index]
    often = (
        concept.label
        for concept, rate in known.rates.items()
        if rate >= (EXPECTED_SCENE_RATE if concept.type == "scene" else EXPECTED_RATE)
    )
    return frozenset((*known.kinds, *often))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))
