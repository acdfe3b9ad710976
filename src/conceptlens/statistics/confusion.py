"""Which labels are taken for which: by the nearest neighbours of their rows, and by the clusters they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.cluster_agreement import contingency
from conceptlens.statistics.distance_matrix import check_distances
from conceptlens.statistics.score import Score
from conceptlens.statistics.vectors import encode_labels, masked_ratio, one_hot

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.vectors import Names

TIED = 1e-6  # of the distance: float32 vectors of equal masks are equal up to their rounding


@dataclass(frozen=True, eq=False)
class Composition:
    """How many rows of each label every cluster holds: `counts[cluster label]`.

    `clusters` and `labels` name the rows and the columns.
    """

    counts: Float[np.ndarray, "cluster label"]
    clusters: tuple[str, ...]
    labels: tuple[str, ...]


def composition(clusters: Names, labels: Names) -> Composition:
    """Return which labels every cluster, or component of a Gaussian mixture, is made of."""
    codes, names = encode_labels(labels)
    found, kinds = encode_labels(clusters, len(codes), "clusters")
    if not len(codes):
        raise InputError("no rows were given; clusters are made of at least 1")
    return Composition(contingency(found, codes), kinds, names)


def cluster_confusion(clusters: Names, labels: Names) -> Score[np.ndarray]:
    """Return for labels `(i, j)` the chance that another row of a row's cluster bears j, over the rows of i.

    `sum_k n_ik / n_i * (n_jk - [i = j]) / (n_k - 1)` over clusters of at least two rows, with `n_i` counted there;
    0 to 1, rows sum to 1. The diagonal is what a label keeps. Does not apply to a label whose rows are all alone.

    Args:
        clusters: The cluster of each row.
        labels: The label of each row, by name or number.

    Returns:
        `values[label label]`.
    """
    table = composition(clusters, labels)
    counts = table.counts[table.counts.sum(1) > 1]
    size = counts.sum(1, keepdims=True)
    shared = (counts / (size - 1)).T @ counts - np.diag((counts / (size - 1)).sum(0))
    total = counts.sum(0)[:, None]
    return masked_ratio(shared, np.broadcast_to(total, shared.shape), np.ones(shared.shape, bool), table.labels)


def neighbour_confusion(
    distance: Float[np.ndarray, "row row"], labels: Names, n_neighbors: int = 5, images: Names | None = None
) -> Score[np.ndarray]:
    """Return for labels `(i, j)` the mean share of label j among the nearest neighbours of the rows of i.

    `mean_{a in i} |{b in N_k(a) : label(b) = j}| / |N_k(a)|`; 0 to 1, rows sum to 1, the diagonal is what a label
    keeps. Chance for `(i, j)` is about `n_j / n`: read it against the sizes of the labels. Does not apply to a label
    whose rows have no neighbour. Two concepts of one photo share its light and its scene, so a neighbour of the same
    photo says little: give `images`.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.
        n_neighbors: How many neighbours of each row.
        images: The image of each row; rows of the same image are left out.

    Returns:
        `values[label label]`.

    Raises:
        InputError: `n_neighbors` is below 1.
    """
    if n_neighbors < 1:
        raise InputError(f"n_neighbors is {n_neighbors}; give at least 1")
    codes, names = encode_labels(labels)
    image_codes = np.arange(len(codes)) if images is None else encode_labels(images, len(codes), "images")[0]
    allowed = image_codes[:, None] != image_codes
    found = np.minimum(allowed.sum(1), n_neighbors)
    members = one_hot(codes, len(names))
    shares = _weights(check_distances(distance, len(codes)), allowed, found) @ members / np.maximum(found, 1)[:, None]
    inside = members * (found > 0)[:, None]
    sums, size = inside.T @ shares, inside.sum(0)[:, None]
    return masked_ratio(sums, np.broadcast_to(size, sums.shape), np.ones(sums.shape, bool), names)


def _weights(distance: np.ndarray, allowed: np.ndarray, found: np.ndarray) -> Float[np.ndarray, "row row"]:
    """Return how much of each row counts among the `found` nearest; those as far as the last one share what is left."""
    reach = np.where(allowed, distance, np.inf)
    last = np.take_along_axis(np.sort(reach, 1), np.maximum(found - 1, 0)[:, None], 1)
    slack = TIED * np.where(np.isfinite(last), last, 0)
    nearer = reach < last - slack
    tied = allowed & ~nearer & (reach <= last + slack)
    left = (found - nearer.sum(1)) / np.maximum(tied.sum(1), 1)
    return nearer + tied * left[:, None]
