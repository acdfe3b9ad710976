"""Results of one layer: retrieval of each concept, confusion, sub-concepts and outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens import statistics
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean
from conceptlens.statistics.hierarchical_clustering import cluster_distances

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisRows, AnalysisSettings, LayerRows

CUTOFFS = (1, 5, 10)
N_NEIGHBOURS = 5
N_SHUFFLES = 20
MIN_IMAGES = 5  # of a concept, for an interval, and to be among the best or the worst
OUTLIER_SCORES = ("distance", "lof")  # the isolation forest takes longer than all else together


@dataclass(frozen=True)
class ConceptAnalysis:
    """Results of one concept at one layer; None where there is nothing to measure.

    Attributes:
        rows: Number of rows of the concept.
        images: Number of images with the concept.
        average_precision: Mean over its rows as queries, 0 to 1, with the 95 % interval over images where there are
            at least five.
        chance: Mean average precision of a random order.
        precision_at: Mean precision at each cutoff.
        selectivity: IoU with the own mask less IoU with another photo's mask, -1 to 1.
        own_iou: Mean IoU with the own mask.
        control_iou: Mean IoU with another photo's mask.
        silhouette: Mean silhouette, -1 to 1.
        confused_with: The other concept of most nearest neighbours.
        confused_share: Its share of all nearest neighbours, 0 to 1.
        nearest: The concept of least quantile separation.
        n_sub_concepts: Number of sub-concepts.
        stability: Mean adjusted Rand index of the sub-concepts over resamples of images.
    """

    concept: str
    rows: int
    images: int
    average_precision: Interval | None
    chance: float | None
    precision_at: Mapping[int, float | None]
    selectivity: Interval | None
    own_iou: float | None
    control_iou: float | None
    silhouette: float | None
    category_separation: float | None
    confused_with: str | None
    confused_share: float | None
    nearest: str | None
    nearest_separation: float | None
    n_sub_concepts: int
    stability: float | None

    @property
    def comparable(self) -> bool:
        """Whether it is in enough photos for its numbers to be compared with those of others."""
        return self.images >= MIN_IMAGES


@dataclass(frozen=True, eq=False)
class ConceptPairs:
    """Tables `[concept concept]` of one layer, concepts in alphabetical order along both axes.

    Attributes:
        separation: As published in LoCE (IJCV 2025): euclidean distances of vectors as they are.
        quantile_separation: The same by quantiles of cosine distances.
        overlap: Share of rows with a row of the other concept nearer than any of their own.
        neighbours: Share of the five nearest neighbours, in other photos, that are of the other concept.
        shared_clusters: Confusion by clusters.
    """

    separation: statistics.Score[np.ndarray]
    quantile_separation: statistics.Score[np.ndarray]
    overlap: statistics.Score[np.ndarray]
    neighbours: statistics.Score[np.ndarray]
    shared_clusters: statistics.Score[np.ndarray]


@dataclass(frozen=True, eq=False)
class FigureData:
    """Tree and projection of the rows of the most frequent concepts, for the figures.

    Attributes:
        rows: Indices of the rows, in whose order `tree`, `clusters`, `points` and the mixtures' `assigned` are.
        tree: Ward's hierarchical clustering of unit vectors.
        points: The rows in two dimensions.
        share: Share of variance along each axis; None for UMAP.
        mixtures: Gaussian mixture of each concept's points.
        order: The concepts, those of similar mean direction side by side.
    """

    rows: Int[np.ndarray, "own"]
    tree: statistics.Tree
    clusters: Int[np.ndarray, "own"]
    points: Float[np.ndarray, "own 2"]
    share: tuple[float, float] | None
    mixtures: Mapping[str, statistics.Mixture]
    order: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LayerAnalysis:
    """Results of one layer over all concepts.

    Attributes:
        channels: Length of its vectors.
        average_precision: Mean over concepts of their means (mAP), so that frequent concepts do not dominate.
        chance: mAP of a random order.
        precision_at: Mean precision at each cutoff, over concepts.
        published_at: LoCE's "mAP@k", a mean of precision@k over rows.
        selectivity: Mean over concepts of IoU with the own mask less IoU with another photo's mask.
        own_iou: Mean IoU with the own mask over rows, the quality of a fit in LoCE (IJCV 2025).
        unconverged: Number of fits that did not converge.
        agreement: Agreement with concepts of as many clusters as concepts, cut without looking at labels.
        adaptive_agreement: Agreement of the published cut, which looks at labels.
        silhouettes: Silhouette of each row.
        clusters: Cluster of each row.
    """

    layer: str
    channels: int
    average_precision: Interval | None
    chance: float | None
    precision_at: Mapping[int, Interval | None]
    published_at: Mapping[int, float]
    selectivity: Interval | None
    own_iou: float | None
    unconverged: int
    agreement: statistics.Agreement
    adaptive_agreement: statistics.Agreement
    silhouette: float | None
    concepts: tuple[ConceptAnalysis, ...]
    pairs: ConceptPairs
    retrieval: statistics.Retrieval = field(repr=False)
    silhouettes: statistics.Score[np.ndarray] = field(repr=False)
    clusters: Int[np.ndarray, "row"] = field(repr=False)
    sub_concepts: Mapping[str, statistics.SubConcepts] = field(repr=False)
    outliers: Mapping[str, Mapping[str, statistics.Outliers]] = field(repr=False)
    figure_data: FigureData = field(repr=False)

    def of(self, concept: str) -> ConceptAnalysis:
        """Return the results of one concept."""
        return next(one for one in self.concepts if one.concept == concept)


def analyze_layer(rows: AnalysisRows, layer: str, settings: AnalysisSettings) -> LayerAnalysis:
    """Return the results of one layer over all rows."""
    own = rows.layers[layer]
    unit = statistics.unit_vectors(own.vectors)
    apart = statistics.distances(unit, "cosine")
    found = statistics.retrieve(unit, rows.labels, rows.images, CUTOFFS)
    tree = cluster_distances(np.sqrt(2 * apart), "ward", "euclidean")  # |u - v|^2 = 2 (1 - cos) at length 1
    clusters = statistics.count_cut(tree, len(rows.concepts))
    cut = statistics.adaptive_cut(tree, rows.labels)
    agree = partial(statistics.agreement, labels=rows.labels, n_shuffles=N_SHUFFLES, seed=settings.seed)
    pairs = _pairs(apart, own, rows, clusters)
    silhouettes = statistics.silhouettes(apart, rows.labels)
    apart_from = statistics.category_separation(apart, rows.labels)
    parts = statistics.sub_concepts(own.vectors, rows.labels, rows.images, seed=settings.seed)
    queries = np.asarray(found.applies)
    published = statistics.published_precision(own.vectors, rows.labels, CUTOFFS).mean(0)
    return LayerAnalysis(
        layer=layer,
        channels=own.vectors.shape[1],
        average_precision=_mean(found.average_precision, queries, rows, settings),
        chance=None if not queries.any() else _mean_of_concepts(found.chance, queries, rows),
        precision_at={k: _mean(found.precision[:, i], queries, rows, settings) for i, k in enumerate(CUTOFFS)},
        published_at=dict(zip(CUTOFFS, published.tolist(), strict=True)),
        selectivity=_mean(own.ious - own.control_ious, None, rows, settings),
        own_iou=_finite_mean(own.ious),
        unconverged=int((~own.converged).sum()),
        agreement=agree(clusters),
        adaptive_agreement=agree(cut, recut=lambda other: statistics.adaptive_cut(tree, other)),
        silhouette=silhouettes.mean(),
        concepts=tuple(
            _concept(name, rows, own, found, silhouettes, pairs, apart_from, parts[name], settings)
            for name in rows.concepts
        ),
        pairs=pairs,
        retrieval=found,
        silhouettes=silhouettes,
        clusters=clusters,
        sub_concepts=parts,
        outliers={name: statistics.outliers(own.vectors, rows.labels, name, settings.seed) for name in OUTLIER_SCORES},  # pyright: ignore[reportArgumentType]
        figure_data=_figure_data(rows, unit, apart, settings),
    )


def _pairs(apart: np.ndarray, own: LayerRows, rows: AnalysisRows, clusters: np.ndarray) -> ConceptPairs:
    return ConceptPairs(
        separation=statistics.separation(statistics.distances(own.vectors, "euclidean"), rows.labels),
        quantile_separation=statistics.quantile_separation(apart, rows.labels),
        overlap=statistics.overlap(apart, rows.labels),
        neighbours=statistics.neighbour_confusion(apart, rows.labels, N_NEIGHBOURS, rows.images),
        shared_clusters=statistics.cluster_confusion(clusters, rows.labels),
    )


def _figure_data(rows: AnalysisRows, unit: np.ndarray, apart: np.ndarray, settings: AnalysisSettings) -> FigureData:
    """Return tree, projection and mixtures of the concepts in figures."""
    names = rows.most_frequent(settings.max_concepts)
    own_rows = np.flatnonzero(np.isin(rows.labels, names))
    tree = cluster_distances(np.sqrt(2 * apart[np.ix_(own_rows, own_rows)]), "ward", "euclidean")
    share = None
    if settings.umap:
        points = statistics.umap_points(unit[own_rows], int(len(own_rows) * 0.05), seed=42 + settings.seed)
    else:
        plane = statistics.principal(unit[own_rows])
        points, share = plane.points, (float(plane.share[0]), float(plane.share[1]))
    mixtures = statistics.fit_label_mixtures(points, rows.labels[own_rows], seed=settings.seed)
    means = statistics.prototypes(unit[own_rows], rows.labels[own_rows], unit=True)
    order = tuple(means.labels[i] for i in statistics.cluster(means.vectors, "average", "euclidean").order())
    return FigureData(own_rows, tree, statistics.count_cut(tree, len(names)), points, share, mixtures, order)


def _concept(
    name: str,
    rows: AnalysisRows,
    own: LayerRows,
    found: statistics.Retrieval,
    silhouettes: statistics.Score[np.ndarray],
    pairs: ConceptPairs,
    apart_from: statistics.Score[np.ndarray],
    parts: statistics.SubConcepts,
    settings: AnalysisSettings,
) -> ConceptAnalysis:
    mine = rows.labels == name
    queries = mine & found.applies
    confused = _highest(pairs.neighbours, name, 1)
    nearest = _highest(pairs.quantile_separation, name, -1)
    return ConceptAnalysis(
        concept=name,
        rows=int(mine.sum()),
        images=len(set(rows.images[mine].tolist())),
        average_precision=_interval(found.average_precision[queries], rows.images[queries], settings),
        chance=float(found.chance[queries].mean()) if queries.any() else None,
        precision_at={
            k: float(found.precision[queries, i].mean()) if queries.any() else None for i, k in enumerate(CUTOFFS)
        },
        selectivity=_interval((own.ious - own.control_ious)[mine], rows.images[mine], settings),
        own_iou=_finite_mean(own.ious[mine]),
        control_iou=_finite_mean(own.control_ious[mine]),
        silhouette=float(silhouettes.values[mine].mean()) if silhouettes.applies[mine].any() else None,
        category_separation=apart_from.of(name),
        confused_with=confused[0],
        confused_share=confused[1],
        nearest=nearest[0],
        nearest_separation=nearest[1],
        n_sub_concepts=parts.count,
        stability=parts.stability,
    )


def _highest(table: statistics.Score[np.ndarray], name: str, sign: int) -> tuple[str | None, float | None]:
    """Return the other label of highest (or with -1 lowest) value in a row; nothing where all are 0 or none applies."""
    row = table.labels.index(name)
    allowed = table.applies[row].copy()
    allowed[row] = False
    if not allowed.any():
        return None, None
    best = int(np.where(allowed, sign * table.values[row], -np.inf).argmax())
    value = float(table.values[row, best])
    return (None, None) if sign > 0 and value == 0 else (table.labels[best], value)


def _mean(
    values: np.ndarray, queries: np.ndarray | None, rows: AnalysisRows, settings: AnalysisSettings
) -> Interval | None:
    """Return the mean over concepts of their means, with its interval over images."""
    kept = np.isfinite(values) if queries is None else queries & np.isfinite(values)
    if not kept.any():
        return None
    given: list[Any] = [values[kept], rows.labels[kept], rows.images[kept]]
    return bootstrap_macro_mean(*given, n_bootstrap=settings.n_bootstrap, seed=settings.seed)


def _mean_of_concepts(values: np.ndarray, queries: np.ndarray, rows: AnalysisRows) -> float:
    return float(np.mean([values[queries & (rows.labels == n)].mean() for n in np.unique(rows.labels[queries])]))


def _interval(values: np.ndarray, images: np.ndarray, settings: AnalysisSettings) -> Interval | None:
    kept = np.isfinite(values)
    if not kept.any():
        return None
    found = bootstrap_mean(values[kept], images[kept], n_bootstrap=settings.n_bootstrap, seed=settings.seed)
    return found if found.images >= MIN_IMAGES else replace(found, low=None, high=None)


def _finite_mean(values: np.ndarray) -> float | None:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else None
