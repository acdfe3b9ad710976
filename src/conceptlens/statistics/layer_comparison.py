"""Models and layers side by side on the same rows: every statistic with its interval, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError, near
from conceptlens.statistics.cluster_agreement import adjusted_rand, contingency, purity
from conceptlens.statistics.distance_matrix import distances
from conceptlens.statistics.hierarchical_clustering import cluster_distances, count_cut
from conceptlens.statistics.label_separation import nearer_labels, pair_distances, separation, silhouettes
from conceptlens.statistics.retrieval import expected_average_precision, retrieve
from conceptlens.statistics.vectors import Metric, members, numbered

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.vectors import Names, Vectors

    Weighted = Callable[[np.ndarray], float | None]

LEVEL = 0.95
LOW, HIGH = 0.05, 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the percentile interval of a bootstrap over images.

    `value` is None where the statistic is undefined on these rows; `low` and `high` are None where the interval is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """`table[name][statistic]`, and `differences[name][statistic]` to the `reference`, paired by image.

    An interval of a difference without 0 speaks for it; two overlapping intervals of the table do not speak against.
    `chance` is the mean average precision of a random order, the same for all names.
    """

    table: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    reference: str
    higher_is_better: Mapping[str, bool]
    chance: float | None


# Statistic to whether higher is better.
STATISTICS = {
    "average_precision": True,
    "precision_1": True,
    "purity": True,
    "rand": True,
    "silhouette": True,
    "separation": True,
    "quantile_separation": True,
    "overlap": False,
}


def compare(
    embeddings: Mapping[str, Vectors],
    labels: Names,
    images: Names | None = None,
    reference: str | None = None,
    metric: Metric = "cosine",
    draws: int = 200,
    seed: int = 0,
) -> Comparison:
    """Compare sets of vectors of the same rows: models, layers or modes, by name; `reference` is the first of them.

    - `average_precision`, `precision_1`: retrieval by cosine, the query's own image left out.
    - `purity`, `rand`: as many clusters as labels, blind to them (`ward` for euclidean, `complete` for cosine).
    - `silhouette`, and the means over pairs of labels of `separation`, `quantile_separation` and `overlap`.

    Images are drawn with replacement, the same for all names, and the rows weighted by how often theirs was drawn; what
    a query searches in and the clusters stay as they are. `separation` has no interval: a bootstrap cannot tell the
    spread of a minimum.
    """
    if not embeddings:
        raise InputError("no embeddings were given; expected at least one name with its vectors")
    chosen = reference or next(iter(embeddings))
    if chosen not in embeddings:
        raise InputError(f"no embeddings '{chosen}'; there are: {near(chosen, embeddings)}")
    rows = len(numbered(labels)[0])
    numbered(np.arange(rows) if images is None else images, rows, "images")
    weights = image_weights(np.arange(rows) if images is None else images, draws, seed)
    found = {}
    for name, vectors in embeddings.items():
        try:
            found[name] = _of(vectors, labels, images, metric, weights)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    table = {name: {key: _estimate(*pair) for key, pair in of.items()} for name, of in found.items()}
    differences = {
        name: {key: _difference(of[key], found[chosen][key]) for key in STATISTICS}
        for name, of in found.items()
        if name != chosen
    }
    return Comparison(table, differences, chosen, STATISTICS, _chance(labels, images))


def image_weights(images: Names, draws: int = 200, seed: int = 0) -> Float[np.ndarray, "draw row"]:
    """Return how often each draw of images with replacement takes the image of every row."""
    codes, names = numbered(images, what="images")
    if not len(codes) or draws < 0:
        raise InputError(f"{len(codes)} rows and {draws} draws were given; expected at least 1 row and 0 draws")
    taken = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    cells = taken + len(names) * np.arange(draws)[:, None]
    times = np.bincount(cells.ravel(), minlength=draws * len(names)).reshape(draws, len(names))
    return times[:, codes].astype(np.float64)


def _chance(labels: Names, images: Names | None) -> float | None:
    codes, _ = numbered(labels)
    picture = np.arange(len(codes)) if images is None else numbered(images, len(codes), "images")[0]
    table = contingency(picture, codes)
    relevant = table.sum(0)[codes] - table[picture, codes]
    expected = expected_average_precision(relevant, len(codes) - table.sum(1)[picture])
    return _mean(expected, (relevant > 0).astype(np.float64))


def _of(
    vectors: Vectors, labels: Names, images: Names | None, metric: Metric, weights: np.ndarray
) -> dict[str, tuple[float | None, np.ndarray | None]]:
    """Return each statistic's value, and its value in every draw; NaN where a draw leaves it undefined."""
    apart = distances(vectors, metric)
    codes, names = numbered(labels, len(apart))
    whole = np.ones(len(codes))
    found: dict[str, tuple[float | None, np.ndarray | None]] = {"separation": (separation(apart, labels).mean(), None)}
    told = len(set(np.asarray(images).tolist())) if images is not None else len(codes)
    for key, statistic in _statistics(vectors, apart, codes, len(names), images, metric).items():
        drawn = [statistic(weight) for weight in weights] if told > 1 else []
        values = np.array([np.nan if value is None else value for value in drawn])
        found[key] = (statistic(whole), values if len(values) else None)
    return {key: found[key] for key in STATISTICS}


def _statistics(
    vectors: Vectors, apart: np.ndarray, codes: np.ndarray, count: int, images: Names | None, metric: Metric
) -> dict[str, Weighted]:
    """Return each statistic as a function of the rows' weights."""
    found = retrieve(vectors, codes, images, (1,))
    shown = silhouettes(apart, codes)
    tree = cluster_distances(apart, "ward" if metric == "euclidean" else "complete", metric)
    clusters = count_cut(tree, count)

    def rand(weights: np.ndarray) -> float | None:
        return adjusted_rand(contingency(clusters, codes, weights), contingency(clusters, codes, weights**2))

    return {
        "average_precision": lambda weights: _mean(found.average_precision, weights * found.applies),
        "precision_1": lambda weights: _mean(found.precision[:, 0], weights * found.applies),
        "purity": lambda weights: purity(contingency(clusters, codes, weights)),
        "rand": rand,
        "silhouette": lambda weights: _mean(shown.values, weights * shown.applies),
        "quantile_separation": _quantile_separation(apart, codes, count),
        "overlap": _overlap(apart, codes, count),
    }


def _overlap(apart: np.ndarray, codes: np.ndarray, count: int) -> Weighted:
    inside, nearer = members(codes, count), nearer_labels(apart, codes, count)
    pairs = (inside.sum(0) > 1)[:, None] & ~np.eye(count, dtype=bool)

    def mean(weights: np.ndarray) -> float | None:
        size = inside.T @ weights
        told = pairs & (size > 0)[:, None]
        shares = (inside * weights[:, None]).T @ nearer / np.maximum(size, 1)[:, None]
        return float(shares[told].mean()) if told.any() else None

    return mean


def _quantile_separation(apart: np.ndarray, codes: np.ndarray, count: int) -> Weighted:
    """Return `quantile_separation`'s mean over pairs of labels; distances are sorted once for all draws."""
    sorted_pairs = []
    for i in range(count):
        for j in range(i):
            between, union = pair_distances(apart, codes, i, j)
            first, second = np.flatnonzero(codes == i), np.flatnonzero(codes == j)
            both = np.concatenate([first, second])
            above = np.triu_indices(len(both), 1)
            across = (np.repeat(first, len(second)), np.tile(second, len(first)))
            sorted_pairs.append((_rising(between, *across), _rising(union, both[above[0]], both[above[1]])))

    def mean(weights: np.ndarray) -> float | None:
        found = []
        for between, union in sorted_pairs:
            near, wide = _quantile(between, weights, LOW), _quantile(union, weights, HIGH)
            if near is not None and wide:
                found.append(near / wide)
        return float(np.mean(found)) if found else None

    return mean


def _rising(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.argsort(values)
    return values[order], first[order], second[order]


def _quantile(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], weights: np.ndarray, level: float) -> float | None:
    """Return the least distance that `level` of the pairs' weight does not exceed; None without weight."""
    values, first, second = pairs
    total = np.cumsum(weights[first] * weights[second])
    if not len(total) or total[-1] <= 0:
        return None
    place = int(np.searchsorted(total, level * total[-1] * (1 - 1e-12)))
    return float(values[min(place, len(values) - 1)])


def _mean(values: np.ndarray, weights: np.ndarray) -> float | None:
    total = float(weights.sum())
    return float(weights @ values) / total if total > 0 else None


def _estimate(value: float | None, drawn: np.ndarray | None) -> Estimate:
    told = np.empty(0) if drawn is None else drawn[np.isfinite(drawn)]
    if value is None or not len(told):
        return Estimate(value)
    low, high = np.quantile(told, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _difference(
    other: tuple[float | None, np.ndarray | None], chosen: tuple[float | None, np.ndarray | None]
) -> Estimate:
    value = None if other[0] is None or chosen[0] is None else other[0] - chosen[0]
    drawn = None if other[1] is None or chosen[1] is None else other[1] - chosen[1]
    return _estimate(value, drawn)
