"""How far apart labels lie: separation, overlap and silhouette, from one matrix of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.distance_matrix import check_distances
from conceptlens.statistics.vectors import Statistic, divided, members, numbered

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names


def separation(apart: Float[np.ndarray, "row row"], labels: Names) -> Statistic:
    """Return for each pair of labels `min_{a in i, b in j} |a - b| / (max_{a, b in i u j} |a - b| + 1e-6)`.

    LoCE (IJCV 2025), with euclidean distances; symmetric, 0 to 1, higher is further apart. Two single pairs of rows
    make the number, so one odd row ruins it and it falls as rows are added. The diagonal does not apply.
    """
    codes, names, apart = _given(apart, labels)
    count = len(names)
    lowest, highest = _by_label(nearest(apart, codes, count), codes, count, np.minimum), _widest(apart, codes, count)
    widest = np.maximum(highest, np.maximum.outer(np.diagonal(highest), np.diagonal(highest)))
    return divided(np.where(np.isfinite(lowest), lowest, 0), widest + 1e-6, ~np.eye(count, dtype=bool), names)


def quantile_separation(
    apart: Float[np.ndarray, "row row"], labels: Names, low: float = 0.05, high: float = 0.95
) -> Statistic:
    """Return the `low` quantile of the distances between two labels over the `high` quantile of those in their union.

    `separation` made robust: many pairs of rows make each number, and it does not drift with the number of rows.
    Symmetric; 0 to 1 but for odd shapes; higher is further apart. Quantiles are values that occur (inverse of the
    distribution function). Does not apply on the diagonal, nor where all rows of both labels are equal.
    """
    codes, names, apart = _given(apart, labels)
    if not 0 <= low <= high <= 1:
        raise InputError(f"quantiles {low} and {high} were given; expected 0 <= low <= high <= 1")
    above, below = np.zeros((2, len(names), len(names)))
    for i in range(len(names)):
        for j in range(i):
            between, union = pair_distances(apart, codes, i, j)
            above[i, j] = above[j, i] = np.quantile(between, low, method="inverted_cdf")
            below[i, j] = below[j, i] = np.quantile(union, high, method="inverted_cdf")
    return divided(above, below, ~np.eye(len(names), dtype=bool), names)


def category_separation(apart: Float[np.ndarray, "row row"], labels: Names) -> Statistic:
    """Return for each label the least distance to a row of another over the mean distance of its own pairs of rows.

    LoCE (IJCV 2025); 0 and up, higher is further apart. Does not apply where there is no other label, or no pair of
    unequal rows within.
    """
    codes, names, apart = _given(apart, labels)
    inside = members(codes, len(names))
    size = inside.sum(0)
    to_own = ((inside.T @ apart) * inside.T).sum(1)
    near = nearest(apart, codes, len(names))
    near[np.arange(len(codes)), codes] = np.inf
    lowest = np.full(len(names), np.inf)
    np.minimum.at(lowest, codes, near.min(1))
    applies = np.isfinite(lowest) & (size > 1)
    return divided(np.where(applies, lowest, 0), to_own / np.maximum(size * (size - 1), 1), applies, names)


def overlap(apart: Float[np.ndarray, "row row"], labels: Names) -> Statistic:
    """Return for labels `(i, j)` the share of i's rows that have a row of j nearer than any other row of i.

    LoCE (IJCV 2025); 0 to 1, lower is better apart, and not symmetric: a spread label lies in a dense one more than
    the other way round. Chance is about `n_j / (n_i - 1 + n_j)`, so it rises with the size of j. Does not apply on the
    diagonal, nor to a label i of one row.
    """
    codes, names, apart = _given(apart, labels)
    inside = members(codes, len(names))
    size = inside.sum(0)
    nearer = nearer_labels(apart, codes, len(names))
    return divided(inside.T @ nearer, size[:, None], (size[:, None] > 1) & ~np.eye(len(names), dtype=bool), names)


def silhouettes(apart: Float[np.ndarray, "row row"], labels: Names) -> Statistic:
    """Return for every row `(b - a) / max(a, b)`: its mean distance `b` to the nearest other label, `a` to its own.

    Rousseeuw (1987); -1 to 1, above 0 where a row lies nearer to its own label. Does not apply to a label of one row,
    where there is no other label, and where both distances are 0.
    """
    codes, names, apart = _given(apart, labels)
    inside = members(codes, len(names))
    rows, size = np.arange(len(codes)), inside.sum(0)
    sums = apart @ inside
    own = sums[rows, codes] / np.maximum(size[codes] - 1, 1)
    other = sums / size
    other[rows, codes] = np.inf
    second = other.min(1)
    applies = (size[codes] > 1) & np.isfinite(second)
    second = np.where(applies, second, 0)
    return divided(second - own, np.maximum(second, own), applies)


def nearest(apart: np.ndarray, codes: Int[np.ndarray, "row"], count: int) -> Float[np.ndarray, "row label"]:
    """Return the distance of every row to the nearest row of each label, itself left out; infinite where none is."""
    order = np.argsort(codes, kind="stable")
    others = apart[:, order]
    others[order, np.arange(len(order))] = np.inf
    return np.minimum.reduceat(others, np.searchsorted(codes[order], np.arange(count)), axis=1)


def nearer_labels(apart: np.ndarray, codes: Int[np.ndarray, "row"], count: int) -> Float[np.ndarray, "row label"]:
    """Return 1 where a row has a row of the label nearer than any other row of its own."""
    near = nearest(apart, codes, count)
    return (near < near[np.arange(len(codes)), codes][:, None]).astype(np.float64)


def pair_distances(apart: np.ndarray, codes: Int[np.ndarray, "row"], i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances between two labels, and of all pairs of rows in their union."""
    first, second = np.flatnonzero(codes == i), np.flatnonzero(codes == j)
    union = np.concatenate([first, second])
    above = np.triu_indices(len(union), 1)
    return apart[np.ix_(first, second)].ravel(), apart[union[above[0]], union[above[1]]]


def _given(apart: np.ndarray, labels: Names) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    codes, names = numbered(labels)
    return codes, names, check_distances(apart, len(codes))


def _by_label(table: np.ndarray, codes: np.ndarray, count: int, fold: np.ufunc) -> Float[np.ndarray, "label label"]:
    """Return `table[row label]` with the rows of each label folded into one."""
    order = np.argsort(codes, kind="stable")
    return fold.reduceat(table[order], np.searchsorted(codes[order], np.arange(count)), axis=0)


def _widest(apart: np.ndarray, codes: np.ndarray, count: int) -> Float[np.ndarray, "label label"]:
    """Return the greatest distance between the rows of two labels, or within one."""
    return _by_label(_by_label(apart, codes, count, np.maximum).T, codes, count, np.maximum)
