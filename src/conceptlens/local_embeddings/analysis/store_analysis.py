"""The analysis of a store: numbers of every layer, which layer retrieves best, and example rows to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conceptlens import statistics
from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisRows, AnalysisSettings, read_rows
from conceptlens.local_embeddings.analysis.layer_analysis import ConceptAnalysis, LayerAnalysis, analyze_layer
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean
from conceptlens.store.store import Store

N_NEIGHBOURS, N_TYPICAL, MAX_OUTLIERS = 8, 6, 27
MIN_DISTANCE_RATIO = 1.1  # an outlier is at least so many times as far from the others as the median row
MIN_SUB_CONCEPT_ROWS = 5  # in fewer rows, a high stability means little
UNCERTAIN, STABLE = 0.6, 0.75  # Hennig (2007): below the first not to be trusted, from the second on stable


@dataclass(frozen=True)
class RetrievalExample:
    """A query row and the rows nearest to it in other photos, the nearest first.

    Attributes:
        average_precision: That of the query, 0 to 1.
        found: Indices of the nearest rows.
        similarities: Their cosines with the query.
        right: Whether each is of the query's concept.
    """

    concept: str
    query: int
    average_precision: float
    found: tuple[int, ...]
    similarities: tuple[float, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class SubConceptPart:
    """One sub-concept: its size, its mean Jaccard index over resamples, and its rows nearest to its mean direction."""

    size: int
    jaccard: float
    rows: tuple[int, ...]

    @property
    def verdict(self) -> str:
        """`stable`, `uncertain` or `not reproducible`."""
        return "stable" if self.jaccard >= STABLE else "uncertain" if self.reproducible else "not reproducible"

    @property
    def reproducible(self) -> bool:
        """Whether another sample of photos shows it again: a mean Jaccard index of at least 0.6."""
        return self.jaccard >= UNCERTAIN


@dataclass(frozen=True)
class SubConceptExample:
    """A concept with at least two sub-concepts of five rows, the largest first; `rest` rows are in smaller ones."""

    concept: str
    stability: float | None
    parts: tuple[SubConceptPart, ...]
    rest: int


@dataclass(frozen=True)
class OutlierExample:
    """A row far from the others of its concept.

    `distance_ratio` is its mean cosine distance to them over that of the concept's median row.
    """

    concept: str
    row: int
    distance_ratio: float


@dataclass(frozen=True)
class Examples:
    """Example rows of the selected layer, for the concepts in figures; `outliers` the farthest first."""

    retrieval: tuple[RetrievalExample, ...]
    sub_concepts: tuple[SubConceptExample, ...]
    outliers: tuple[OutlierExample, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Indices of all example rows, each once, in rising order."""
        found = {row for one in self.retrieval for row in (one.query, *one.found)}
        found |= {row for one in self.sub_concepts for part in one.parts for row in part.rows}
        return tuple(sorted(found | {one.row for one in self.outliers}))


@dataclass(frozen=True, eq=False)
class StoreAnalysis:
    """The analysis of one model and mode of a store.

    Attributes:
        rows: The rows that were analyzed.
        layers: Results by layer, from the input up.
        best: The layer of highest mean average precision (mAP); None where no concept is in two images. It is chosen
            on the rows that it is reported on, so its number is a little high.
        gap_to_best: For each other layer the mAP of the best less its own, paired by query, with its interval. An
            interval that holds 0 means that the two layers cannot be distinguished.
        selected: The layer of figures and examples: the one of `settings.layer`, else the best, else the last.
        examples: Example rows of the selected layer.
    """

    rows: AnalysisRows
    settings: AnalysisSettings
    layers: Mapping[str, LayerAnalysis]
    best: str | None
    gap_to_best: Mapping[str, Interval]
    selected: LayerAnalysis
    examples: Examples = field(repr=False)

    @property
    def figure_concepts(self) -> tuple[str, ...]:
        """The concepts in figures and examples, in alphabetical order."""
        return self.rows.most_frequent(self.settings.max_concepts)

    def ranked(self) -> tuple[str, ...]:
        """Return all concepts by falling average precision at the selected layer.

        Concepts in fewer than five photos come after the others, since two photos that retrieve each other have
        precision 1; concepts without a number are last.
        """

        def order(one: ConceptAnalysis) -> tuple[bool, bool, float, str]:
            precision = 0.0 if one.average_precision is None else one.average_precision.mean
            return one.average_precision is None, not one.comparable, -precision, one.concept

        return tuple(one.concept for one in sorted(self.selected.concepts, key=order))

    def compared(self) -> tuple[ConceptAnalysis, ...]:
        """Return the concepts in five photos or more by falling average precision; where there are none, all."""
        known = [one for one in map(self.selected.of, self.ranked()) if one.average_precision is not None]
        return tuple([one for one in known if one.comparable] or known)


def analyze(
    store: Store | str | os.PathLike[str],
    settings: AnalysisSettings | None = None,
    *,
    progress: Callable[[Iterable[str], int], Iterable[str]] | None = None,
    **options: Any,
) -> StoreAnalysis:
    """Analyze the embeddings of a store: retrieval, confusion, sub-concepts and outliers, layer by layer.

    Args:
        store: A store filled by `embed`, or its path.
        settings: Which model, mode and layer, how many rows of each concept, how many bootstrap resamples.
        progress: Wraps the iteration over layers, given their names and number, such as a progress bar.
        **options: Fields of `AnalysisSettings`, such as `max_rows=50`, that replace those of `settings`.

    Returns:
        Results by layer, the layer of highest mAP, and example rows. `analysis_tables` turns them into tables.

    Raises:
        InputError: The store is empty, lacks what is asked for, or has several models or modes and none is named.

    Examples:
        >>> analysis = analyze("shapes", max_rows=50)
        >>> analysis.best, analysis.layers[analysis.best].average_precision
    """
    settings = replace(settings or AnalysisSettings(), **options)
    rows = read_rows(store if isinstance(store, Store) else Store(store), settings)
    layers = list(rows.layers)
    shown = layers if progress is None else progress(layers, len(layers))
    found = {layer: analyze_layer(rows, layer, settings) for layer in shown}
    precision = {name: one.average_precision.mean for name, one in found.items() if one.average_precision is not None}
    best = max(precision, key=lambda name: precision[name]) if precision else None
    selected = found[settings.layer or best or list(found)[-1]]
    return StoreAnalysis(
        rows=rows,
        settings=settings,
        layers=found,
        best=best,
        gap_to_best={} if best is None else _gaps(rows, found, best, settings),
        selected=selected,
        examples=_examples(rows, selected, rows.most_frequent(settings.max_concepts)),
    )


def _gaps(
    rows: AnalysisRows, layers: Mapping[str, LayerAnalysis], best: str, settings: AnalysisSettings
) -> dict[str, Interval]:
    """Return the paired difference of mAP between the best layer and each other one."""
    first = layers[best].retrieval
    queries = first.applies
    found = {}
    for name, layer in layers.items():
        if name != best:
            gap = (first.average_precision - layer.retrieval.average_precision)[queries]
            found[name] = bootstrap_macro_mean(
                gap, rows.labels[queries], rows.images[queries], settings.n_bootstrap, seed=settings.seed
            )
    return found


def _examples(rows: AnalysisRows, layer: LayerAnalysis, names: tuple[str, ...]) -> Examples:
    """Return example rows, chosen by rule: the query is the one of median average precision in its concept."""
    vectors = rows.layers[layer.layer].vectors
    retrieval = [_retrieval(rows, vectors, layer.retrieval, name) for name in names]
    parted = [
        _sub_concepts(vectors, layer.sub_concepts[name], name) for name in names if _has_parts(layer.sub_concepts[name])
    ]
    outliers = [one for name in names for one in _outliers(layer.outliers["distance"][name], name)]
    return Examples(
        retrieval=tuple(one for one in retrieval if one is not None),
        sub_concepts=tuple(sorted(parted, key=lambda one: (-(one.stability or 0.0), one.concept))),
        outliers=tuple(sorted(outliers, key=lambda one: (-one.distance_ratio, one.concept, one.row))[:MAX_OUTLIERS]),
    )


def _retrieval(
    rows: AnalysisRows, vectors: np.ndarray, found: statistics.Retrieval, name: str
) -> RetrievalExample | None:
    queries = np.flatnonzero((rows.labels == name) & found.applies)
    if not len(queries):
        return None
    order = queries[np.argsort(-found.average_precision[queries], kind="stable")]
    query = int(order[len(order) // 2])
    hits = statistics.search(vectors[[query]], vectors, N_NEIGHBOURS, rows.images != rows.images[query])[0]
    return RetrievalExample(
        concept=name,
        query=query,
        average_precision=float(found.average_precision[query]),
        found=tuple(hits.rows.tolist()),
        similarities=tuple(hits.similarities.tolist()),
        right=tuple((rows.labels[hits.rows] == name).tolist()),
    )


def _has_parts(parts: statistics.SubConcepts) -> bool:
    return int((np.bincount(parts.assigned, minlength=parts.count) >= MIN_SUB_CONCEPT_ROWS).sum()) > 1


def _sub_concepts(vectors: np.ndarray, parts: statistics.SubConcepts, name: str) -> SubConceptExample:
    found = []
    for number in range(parts.count):
        own = parts.rows[parts.assigned == number]
        if len(own) < MIN_SUB_CONCEPT_ROWS:
            continue
        unit = statistics.unit_vectors(vectors[own])
        typical = own[np.argsort(-(unit @ unit.mean(0)), kind="stable")][:N_TYPICAL]
        found.append(SubConceptPart(len(own), float(parts.found_again[number]), tuple(typical.tolist())))
    return SubConceptExample(name, parts.stability, tuple(found), len(parts.rows) - sum(part.size for part in found))


def _outliers(found: statistics.Outliers, name: str) -> list[OutlierExample]:
    median = float(np.median(found.scores)) if len(found.scores) else 0.0
    if median <= 0:
        return []
    ratios = found.scores / median
    return [
        OutlierExample(name, int(found.rows[i]), float(ratios[i])) for i in np.flatnonzero(ratios >= MIN_DISTANCE_RATIO)
    ]
