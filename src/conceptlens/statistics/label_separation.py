"""How far apart labels lie: separation, overlap and silhouette, from one matrix of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.score import Score
from conceptlens.statistics.vectors import check_distances, encode_labels, masked_ratio, one_hot

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names


def separation(distance: Float[np.ndarray, "row row"], labels: Names) -> Score[np.ndarray]:
    """Return for each pair of labels `min_{a in i, b in j} |a - b| / (max_{a, b in i u j} |a - b| + 1e-6)`.

    LoCE (IJCV 2025), with euclidean distances; symmetric, 0 to 1, higher is further apart. Two single pairs of rows
    make the number, so one outlier ruins it and it falls as rows are added. The diagonal does not apply.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.

    Returns:
        `values[label label]`.
    """
    codes, names, distance = _given(distance, labels)
    count = len(names)
    lowest = _by_label(nearest(distance, codes, count), codes, count, np.minimum)
    highest = _widest(distance, codes, count)
    widest = np.maximum(highest, np.maximum.outer(np.diagonal(highest), np.diagonal(highest)))
    return masked_ratio(np.where(np.isfinite(lowest), lowest, 0), widest + 1e-6, ~np.eye(count, dtype=bool), names)


def quantile_separation(
    distance: Float[np.ndarray, "row row"], labels: Names, low: float = 0.05, high: float = 0.95
) -> Score[np.ndarray]:
    """Return the `low` quantile of the distances between two labels over the `high` quantile of those in their union.

    `separation` made robust: many pairs of rows make each number, and it does not drift with the number of rows.
    Symmetric; 0 to 1 but for unusual shapes; higher is further apart. Quantiles are values that occur (inverse of the
    distribution function). Does not apply on the diagonal, nor where all rows of both labels are equal.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.
        low: Quantile of the distances between the labels.
        high: Quantile of the distances in their union.

    Returns:
        `values[label label]`.

    Raises:
        InputError: The quantiles are not `0 <= low <= high <= 1`.
    """
    codes, names, distance = _given(distance, labels)
    if not 0 <= low <= high <= 1:
        raise InputError(f"quantiles {low} and {high} were given; expected 0 <= low <= high <= 1")
    above, below = np.zeros((2, len(names), len(names)))
    for i in range(len(names)):
        for j in range(i):
            between, union = pair_distances(distance, codes, i, j)
            above[i, j] = above[j, i] = np.quantile(between, low, method="inverted_cdf")
            below[i, j] = below[j, i] = np.quantile(union, high, method="inverted_cdf")
    return masked_ratio(above, below, ~np.eye(len(names), dtype=bool), names)


def category_separation(distance: Float[np.ndarray, "row row"], labels: Names) -> Score[np.ndarray]:
    """Return for each label the least distance to a row of another over the mean distance of its own pairs of rows.

    LoCE (IJCV 2025); 0 and up, higher is further apart. Does not apply where there is no other label, or no pair of
    unequal rows within.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.

    Returns:
        `values[label]`.
    """
    codes, names, distance = _given(distance, labels)
    inside = one_hot(codes, len(names))
    size = inside.sum(0)
    to_own = ((inside.T @ distance) * inside.T).sum(1)
    near = nearest(distance, codes, len(names))
    near[np.arange(len(codes)), codes] = np.inf
    lowest = np.full(len(names), np.inf)
    np.minimum.at(lowest, codes, near.min(1))
    applies = np.isfinite(lowest) & (size > 1)
    return masked_ratio(np.where(applies, lowest, 0), to_own / np.maximum(size * (size - 1), 1), applies, names)


def overlap(distance: Float[np.ndarray, "row row"], labels: Names) -> Score[np.ndarray]:
    """Return for labels `(i, j)` the share of i's rows that have a row of j nearer than any other row of i.

    LoCE (IJCV 2025); 0 to 1, lower is better apart, and not symmetric: a spread label lies in a dense one more than
    the other way round. Chance is about `n_j / (n_i - 1 + n_j)`, so it rises with the size of j. Does not apply on the
    diagonal, nor to a label i of one row.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.

    Returns:
        `values[label label]`.
    """
    codes, names, distance = _given(distance, labels)
    inside = one_hot(codes, len(names))
    size = inside.sum(0)
    nearer = nearer_labels(distance, codes, len(names))
    return masked_ratio(inside.T @ nearer, size[:, None], (size[:, None] > 1) & ~np.eye(len(names), dtype=bool), names)


def silhouettes(distance: Float[np.ndarray, "row row"], labels: Names) -> Score[np.ndarray]:
    """Return for every row `(b - a) / max(a, b)`: its mean distance `b` to the nearest other label, `a` to its own.

    Rousseeuw (1987), by scikit-learn's `silhouette_samples`; -1 to 1, above 0 where a row lies nearer to its own
    label, 0 where both distances are 0.

    Args:
        distance: Distances of all pairs of rows, as `distances` gives them.
        labels: The label of each row.

    Returns:
        A value for each row; it does not apply to a label of one row, nor where there is no other label.
    """
    from sklearn.metrics import silhouette_samples

    codes, names, distance = _given(distance, labels)
    applies = (np.bincount(codes)[codes] > 1) & (len(names) > 1)
    if not applies.any():
        return Score(np.zeros(len(codes)), applies)
    values = np.asarray(silhouette_samples(distance, codes, metric="precomputed"), np.float64)
    return Score(np.where(applies, values, 0.0), applies)


def nearest(distance: np.ndarray, codes: Int[np.ndarray, "row"], count: int) -> Float[np.ndarray, "row label"]:
    """Return the distance of every row to the nearest row of each label, itself left out; infinite where none is."""
    order = np.argsort(codes, kind="stable")
    others = distance[:, order]
    others[order, np.arange(len(order))] = np.inf
    return np.minimum.reduceat(others, np.searchsorted(codes[order], np.arange(count)), axis=1)


def nearer_labels(distance: np.ndarray, codes: Int[np.ndarray, "row"], count: int) -> Float[np.ndarray, "row label"]:
    """Return 1 where a row has a row of the label nearer than any other row of its own."""
    near = nearest(distance, codes, count)
    return (near < near[np.arange(len(codes)), codes][:, None]).astype(np.float64)


def pair_distances(
    distance: np.ndarray, codes: Int[np.ndarray, "row"], i: int, j: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances between two labels, and of all pairs of rows in their union."""
    first, second = np.flatnonzero(codes == i), np.flatnonzero(codes == j)
    union = np.concatenate([first, second])
    above = np.triu_indices(len(union), 1)
    return distance[np.ix_(first, second)].ravel(), distance[union[above[0]], union[above[1]]]


def _given(distance: np.ndarray, labels: Names) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    codes, names = encode_labels(labels)
    return codes, names, check_distances(distance, len(codes))


def _by_label(table: np.ndarray, codes: np.ndarray, count: int, fold: np.ufunc) -> Float[np.ndarray, "label label"]:
    """Return `table[row label]` with the rows of each label folded into one."""
    order = np.argsort(codes, kind="stable")
    return fold.reduceat(table[order], np.searchsorted(codes[order], np.arange(count)), axis=0)


def _widest(distance: np.ndarray, codes: np.ndarray, count: int) -> Float[np.ndarray, "label label"]:
    """Return the greatest distance between the rows of two labels, or within one."""
    return _by_label(_by_label(distance, codes, count, np.maximum).T, codes, count, np.maximum)
