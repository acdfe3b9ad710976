"""One layer's part of the story: how it holds each concept, which it confuses, what it cuts apart, what is odd."""

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

    from conceptlens.local_embeddings.analysis.analysis_rows import LayerRows, StoryRows
    from conceptlens.local_embeddings.analysis.selection import Asked

CUTOFFS = (1, 5, 10)
NEIGHBOURS = 5
SHUFFLES = 20
FEWEST = 5  # photos of a concept that an interval takes, and a place among the best or the worst
ODD = ("distance", "lof")  # not the isolation forest, which takes longer than all else together


@dataclass(frozen=True)
class ConceptStory:
    """How one layer holds one concept; None where there is nothing to measure.

    - `precision`: mean average precision of its rows as queries, with the interval over images, which takes at least
      five of them; `chance` is that of a random order. `precision_at`: by cutoff. `own_iou`, `control_iou`: with its
      mask, and with another photo's.
    - `confused`, `confused_share`: the other concept of most neighbours, and its share of them.
    - `nearest`, `nearest_separation`: the concept of least quantile separation.
    - `parts`, `stability`: sub-concepts, and how surely they are found again.
    """

    concept: str
    rows: int
    images: int
    precision: Interval | None
    chance: float | None
    precision_at: Mapping[int, float | None]
    selectivity: Interval | None
    own_iou: float | None
    control_iou: float | None
    silhouette: float | None
    category_separation: float | None
    confused: str | None
    confused_share: float | None
    nearest: str | None
    nearest_separation: float | None
    parts: int
    stability: float | None

    @property
    def many(self) -> bool:
        """Whether it is in enough photos for its numbers to be compared with those of others."""
        return self.images >= FEWEST


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two concepts at a time, in alphabetical order along both axes.

    `separation` is published: euclidean, of vectors as they are. The others take cosine distances; `neighbours` is the
    confusion by nearest neighbours (another photo's), `shared_clusters` that by clusters.
    """

    separation: statistics.Score[np.ndarray]
    quantile_separation: statistics.Score[np.ndarray]
    overlap: statistics.Score[np.ndarray]
    neighbours: statistics.Score[np.ndarray]
    shared_clusters: statistics.Score[np.ndarray]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the tree and the map show: the rows of the most frequent concepts.

    `rows` are numbers of all rows; `tree`, `clusters`, `points` and the mixtures' `assigned` are in their order.
    `share` is the variance along each axis of the map; None where it is not of principal axes. `order`: the concepts,
    those of like mean direction side by side.
    """

    rows: Int[np.ndarray, "shown"]
    tree: statistics.Tree
    clusters: Int[np.ndarray, "shown"]
    points: Float[np.ndarray, "shown 2"]
    share: tuple[float, float] | None
    mixtures: Mapping[str, statistics.Mixture]
    order: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LayerStory:
    """One layer, of all concepts.

    `precision` and `selectivity` are means over concepts of the concepts' means, so that frequent ones do not rule.
    `published_at` is LoCE's "mAP@k", a mean of precision@k; `own_iou` its quality of a fit, the mean over rows.
    `agreement` is of as many clusters as concepts, blind to labels; `adaptive` of the published cut, which looks at
    them.
    """

    layer: str
    channels: int
    precision: Interval | None
    chance: float | None
    precision_at: Mapping[int, Interval | None]
    published_at: Mapping[int, float]
    selectivity: Interval | None
    own_iou: float | None
    unconverged: int
    agreement: statistics.Agreement
    adaptive: statistics.Agreement
    silhouette: float | None
    concepts: tuple[ConceptStory, ...]
    pairs: Pairs
    retrieval: statistics.Retrieval = field(repr=False)
    silhouettes: statistics.Score[np.ndarray] = field(repr=False)
    clusters: Int[np.ndarray, "row"] = field(repr=False)
    parts: Mapping[str, statistics.SubConcepts] = field(repr=False)
    odd: Mapping[str, Mapping[str, statistics.Outliers]] = field(repr=False)
    drawn: Drawn = field(repr=False)

    def of(self, concept: str) -> ConceptStory:
        """Return what is told of one concept."""
        return next(one for one in self.concepts if one.concept == concept)


def tell_layer(rows: StoryRows, layer: str, asked: Asked) -> LayerStory:
    """Return what one layer says of all rows."""
    own = rows.layers[layer]
    unit = statistics.unit_vectors(own.vectors)
    apart = statistics.distances(unit, "cosine")
    found = statistics.retrieve(unit, rows.labels, rows.images, CUTOFFS)
    tree = cluster_distances(np.sqrt(2 * apart), "ward", "euclidean")  # |u - v|^2 = 2 (1 - cos) at length 1
    clusters = statistics.count_cut(tree, len(rows.concepts))
    cut = statistics.adaptive_cut(tree, rows.labels)
    agree = partial(statistics.agreement, labels=rows.labels, n_shuffles=SHUFFLES, seed=asked.seed)
    pairs = _pairs(apart, own, rows, clusters)
    shown, apart_from = statistics.silhouettes(apart, rows.labels), statistics.category_separation(apart, rows.labels)
    parts = statistics.sub_concepts(own.vectors, rows.labels, rows.images, seed=asked.seed)
    told = np.asarray(found.applies)
    published = statistics.published_precision(own.vectors, rows.labels, CUTOFFS).mean(0)
    return LayerStory(
        layer=layer,
        channels=own.vectors.shape[1],
        precision=_mean(found.average_precision, told, rows, asked),
        chance=None if not told.any() else _mean_of_concepts(found.chance, told, rows),
        precision_at={k: _mean(found.precision[:, i], told, rows, asked) for i, k in enumerate(CUTOFFS)},
        published_at=dict(zip(CUTOFFS, published.tolist(), strict=True)),
        selectivity=_mean(own.ious - own.control_ious, None, rows, asked),
        own_iou=_finite_mean(own.ious),
        unconverged=int((~own.converged).sum()),
        agreement=agree(clusters),
        adaptive=agree(cut, recut=lambda other: statistics.adaptive_cut(tree, other)),
        silhouette=shown.mean(),
        concepts=tuple(
            _concept(name, rows, own, found, shown, pairs, apart_from, parts[name], asked) for name in rows.concepts
        ),
        pairs=pairs,
        retrieval=found,
        silhouettes=shown,
        clusters=clusters,
        parts=parts,
        odd={name: statistics.outliers(own.vectors, rows.labels, name, asked.seed) for name in ODD},  # pyright: ignore[reportArgumentType]
        drawn=_drawn(rows, unit, apart, asked),
    )


def _pairs(apart: np.ndarray, own: LayerRows, rows: StoryRows, clusters: np.ndarray) -> Pairs:
    return Pairs(
        separation=statistics.separation(statistics.distances(own.vectors, "euclidean"), rows.labels),
        quantile_separation=statistics.quantile_separation(apart, rows.labels),
        overlap=statistics.overlap(apart, rows.labels),
        neighbours=statistics.neighbour_confusion(apart, rows.labels, NEIGHBOURS, rows.images),
        shared_clusters=statistics.cluster_confusion(clusters, rows.labels),
    )


def _drawn(rows: StoryRows, unit: np.ndarray, apart: np.ndarray, asked: Asked) -> Drawn:
    """Return the tree, the map and its mixtures for the concepts that are drawn."""
    names = rows.drawn(asked.drawn)
    shown = np.flatnonzero(np.isin(rows.labels, names))
    tree = cluster_distances(np.sqrt(2 * apart[np.ix_(shown, shown)]), "ward", "euclidean")
    share = None
    if asked.umap:
        points = statistics.umap_points(unit[shown], int(len(shown) * 0.05), seed=42 + asked.seed)
    else:
        plane = statistics.principal(unit[shown])
        points, share = plane.points, (float(plane.share[0]), float(plane.share[1]))
    mixtures = statistics.fit_label_mixtures(points, rows.labels[shown], seed=asked.seed)
    means = statistics.prototypes(unit[shown], rows.labels[shown], unit=True)
    order = tuple(means.labels[i] for i in statistics.cluster(means.vectors, "average", "euclidean").order())
    return Drawn(shown, tree, statistics.count_cut(tree, len(names)), points, share, mixtures, order)


def _concept(
    name: str,
    rows: StoryRows,
    own: LayerRows,
    found: statistics.Retrieval,
    shown: statistics.Score[np.ndarray],
    pairs: Pairs,
    apart_from: statistics.Score[np.ndarray],
    parts: statistics.SubConcepts,
    asked: Asked,
) -> ConceptStory:
    mine = rows.labels == name
    told = mine & found.applies
    confused = _highest(pairs.neighbours, name, 1)
    nearest = _highest(pairs.quantile_separation, name, -1)
    return ConceptStory(
        concept=name,
        rows=int(mine.sum()),
        images=len(set(rows.images[mine].tolist())),
        precision=_interval(found.average_precision[told], rows.images[told], asked),
        chance=float(found.chance[told].mean()) if told.any() else None,
        precision_at={k: float(found.precision[told, i].mean()) if told.any() else None for i, k in enumerate(CUTOFFS)},
        selectivity=_interval((own.ious - own.control_ious)[mine], rows.images[mine], asked),
        own_iou=_finite_mean(own.ious[mine]),
        control_iou=_finite_mean(own.control_ious[mine]),
        silhouette=float(shown.values[mine].mean()) if shown.applies[mine].any() else None,
        category_separation=apart_from.of(name),
        confused=confused[0],
        confused_share=confused[1],
        nearest=nearest[0],
        nearest_separation=nearest[1],
        parts=parts.count,
        stability=parts.stability,
    )


def _highest(table: statistics.Score[np.ndarray], name: str, sign: int) -> tuple[str | None, float | None]:
    """Return the other label of highest (or with -1 lowest) value in a row; nothing where all are 0 or none applies."""
    place = table.labels.index(name)
    allowed = table.applies[place].copy()
    allowed[place] = False
    if not allowed.any():
        return None, None
    best = int(np.where(allowed, sign * table.values[place], -np.inf).argmax())
    value = float(table.values[place, best])
    return (None, None) if sign > 0 and value == 0 else (table.labels[best], value)


def _mean(values: np.ndarray, told: np.ndarray | None, rows: StoryRows, asked: Asked) -> Interval | None:
    """Return the mean over concepts of their means, with its interval over images."""
    kept = np.isfinite(values) if told is None else told & np.isfinite(values)
    if not kept.any():
        return None
    given: list[Any] = [values[kept], rows.labels[kept], rows.images[kept]]
    return bootstrap_macro_mean(*given, n_bootstrap=asked.draws, seed=asked.seed)


def _mean_of_concepts(values: np.ndarray, told: np.ndarray, rows: StoryRows) -> float:
    return float(np.mean([values[told & (rows.labels == n)].mean() for n in np.unique(rows.labels[told])]))


def _interval(values: np.ndarray, images: np.ndarray, asked: Asked) -> Interval | None:
    kept = np.isfinite(values)
    if not kept.any():
        return None
    found = bootstrap_mean(values[kept], images[kept], n_bootstrap=asked.draws, seed=asked.seed)
    return found if found.images >= FEWEST else replace(found, low=None, high=None)


def _finite_mean(values: np.ndarray) -> float | None:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else None
