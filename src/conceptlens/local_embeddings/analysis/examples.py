"""Which rows there are to look at: a usual query with what it finds, the typical rows of each part, the odd ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens import statistics

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.analysis_rows import StoryRows
    from conceptlens.local_embeddings.analysis.layer_analysis import LayerStory

FOUND, TYPICAL, ODD = 8, 6, 27
TIMES = 1.1  # as far from the others as is usual: what is nearer is not odd
FEWEST = 5  # rows that make a part; of fewer, being found again says little
TRUSTED, STABLE = 0.6, 0.75  # Hennig (2007): below the first not to be trusted, from the second on stable


@dataclass(frozen=True)
class Strip:
    """A query and the rows nearest to it in other photos, the nearest first; `precision` is the query's own."""

    concept: str
    query: int
    precision: float
    found: tuple[int, ...]
    similarities: tuple[float, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Part:
    """One sub-concept: its size, how surely it is found again, and its rows nearest to its mean direction."""

    size: int
    found_again: float
    rows: tuple[int, ...]

    @property
    def verdict(self) -> str:
        """`stable`, `uncertain`, or `a way to cut`."""
        return (
            "stable" if self.found_again >= STABLE else "uncertain" if self.found_again >= TRUSTED else "a way to cut"
        )

    @property
    def firm(self) -> bool:
        """Whether another sample of photos would show it again."""
        return self.found_again >= TRUSTED


@dataclass(frozen=True)
class Parted:
    """A concept that falls into parts of at least five rows, the largest first; `rest` rows are in smaller ones."""

    concept: str
    stability: float | None
    parts: tuple[Part, ...]
    rest: int


@dataclass(frozen=True)
class Odd:
    """A row that is far from the others of its concept.

    `times`: its mean distance to them over that of the concept's median row; 1 is usual.
    """

    concept: str
    row: int
    times: float


@dataclass(frozen=True)
class Shown:
    """The rows to look at, for the concepts that are drawn; `odd` the oddest first."""

    strips: tuple[Strip, ...]
    parted: tuple[Parted, ...]
    odd: tuple[Odd, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """All rows that are looked at, each once, in rising order."""
        found = {row for strip in self.strips for row in (strip.query, *strip.found)}
        found |= {row for one in self.parted for part in one.parts for row in part.rows}
        return tuple(sorted(found | {one.row for one in self.odd}))


def show(rows: StoryRows, layer: LayerStory, names: tuple[str, ...]) -> Shown:
    """Return the rows to look at; nothing is picked by eye.

    A strip's query is the one of median average precision, so it is neither the best nor the worst of its concept.
    """
    vectors = rows.layers[layer.layer].vectors
    strips = [_strip(rows, vectors, layer.retrieval, name) for name in names]
    parted = [_parted(vectors, layer.parts[name], name) for name in names if _has_parts(layer.parts[name])]
    odd = [one for name in names for one in _odd(layer.odd["distance"][name], name)]
    return Shown(
        strips=tuple(strip for strip in strips if strip is not None),
        parted=tuple(sorted(parted, key=lambda one: (-(one.stability or 0.0), one.concept))),
        odd=tuple(sorted(odd, key=lambda one: (-one.times, one.concept, one.row))[:ODD]),
    )


def _strip(rows: StoryRows, vectors: np.ndarray, found: statistics.Retrieval, name: str) -> Strip | None:
    asks = np.flatnonzero((rows.labels == name) & found.applies)
    if not len(asks):
        return None
    order = asks[np.argsort(-found.average_precision[asks], kind="stable")]
    query = int(order[len(order) // 2])
    hits = statistics.search(vectors[[query]], vectors, FOUND, rows.images != rows.images[query])[0]
    return Strip(
        concept=name,
        query=query,
        precision=float(found.average_precision[query]),
        found=tuple(hits.rows.tolist()),
        similarities=tuple(hits.similarities.tolist()),
        right=tuple((rows.labels[hits.rows] == name).tolist()),
    )


def _has_parts(parts: statistics.SubConcepts) -> bool:
    return int((np.bincount(parts.assigned, minlength=parts.count) >= FEWEST).sum()) > 1


def _parted(vectors: np.ndarray, parts: statistics.SubConcepts, name: str) -> Parted:
    told = []
    for number in range(parts.count):
        own = parts.rows[parts.assigned == number]
        if len(own) < FEWEST:
            continue
        unit = statistics.unit_vectors(vectors[own])
        typical = own[np.argsort(-(unit @ unit.mean(0)), kind="stable")][:TYPICAL]
        told.append(Part(len(own), float(parts.found_again[number]), tuple(typical.tolist())))
    return Parted(name, parts.stability, tuple(told), len(parts.rows) - sum(part.size for part in told))


def _odd(found: statistics.Outliers, name: str) -> list[Odd]:
    usual = float(np.median(found.scores)) if len(found.scores) else 0.0
    if usual <= 0:
        return []
    times = found.scores / usual
    return [Odd(name, int(found.rows[i]), float(times[i])) for i in np.flatnonzero(times >= TIMES)]
