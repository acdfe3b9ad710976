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
    from jaxtyping import Bool, Float

    from conceptlens.statistics.vectors import Names

TIED = 1e-9  # of the distance


@dataclass(frozen=True, eq=False)
class Composition:
    """How many rows of each label every cluster holds: `counts[cluster label]`.

    `clusters` and `labels` name the rows and the columns.
    """

    counts: Float[np.ndarray, "cluster label"]
    clusters: tuple[str, ...]
    labels: tuple[str, ...]

    def shares(self) -> Float[np.ndarray, "cluster label"]:
        """Return the share of each label in a cluster; every row sums to 1 (LoCE's cluster-category probabilities)."""
        return self.counts / self.counts.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Votes:
    """What the nearest neighbours of each row say: `shares[row label]`, rows that sum to 1.

    `n_neighbors[row]` is how many were asked; 0, and shares of 0, where there was none to ask.
    """

    shares: Float[np.ndarray, "row label"]
    n_neighbors: Float[np.ndarray, "row"]
    labels: tuple[str, ...]

    def best(self) -> tuple[str | None, ...]:
        """Return the label of most neighbours for each row, the first name of equal ones; None where none was asked."""
        best = self.shares.argmax(1)
        return tuple(self.labels[i] if asked else None for i, asked in zip(best, self.n_neighbors, strict=True))


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


def neighbour_votes(
    distance: Float[np.ndarray, "row row"], labels: Names, n_neighbors: int = 5, images: Names | None = None
) -> Votes:
    """Return the labels of every row's nearest neighbours, itself left out, and with `images` all of its image.

    Two concepts of one photo share its light and its scene, so a neighbour of the same photo says little.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        labels: The label of each row, by name or number.
        n_neighbors: How many neighbours of each row.
        images: The image of each row; rows of the same image are left out.

    Returns:
        Shares of labels for each row.

    Raises:
        InputError: `n_neighbors` is below 1.
    """
    codes, names = encode_labels(labels)
    distance = check_distances(distance, len(codes))
    image_codes = np.arange(len(codes)) if images is None else encode_labels(images, len(codes), "images")[0]
    return _votes(distance, image_codes[:, None] != image_codes, codes, names, n_neighbors)


def neighbour_confusion(
    distance: Float[np.ndarray, "row row"], labels: Names, n_neighbors: int = 5, images: Names | None = None
) -> Score[np.ndarray]:
    """Return for labels `(i, j)` the mean share of label j among the nearest neighbours of the rows of i.

    `mean_{a in i} |{b in N_k(a) : label(b) = j}| / |N_k(a)|`; 0 to 1, rows sum to 1, the diagonal is what a label
    keeps. Chance for `(i, j)` is about `n_j / n`: read it against the sizes of the labels. Does not apply to a label
    whose rows have no neighbour.

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
    votes = neighbour_votes(distance, labels, n_neighbors, images)
    inside = one_hot(encode_labels(labels)[0], len(votes.labels)) * (votes.n_neighbors > 0)[:, None]
    sums, size = inside.T @ votes.shares, inside.sum(0)[:, None]
    return masked_ratio(sums, np.broadcast_to(size, sums.shape), np.ones(sums.shape, bool), votes.labels)


def _votes(
    distance: np.ndarray,
    allowed: Bool[np.ndarray, "new row"],
    codes: np.ndarray,
    names: tuple[str, ...],
    n_neighbors: int,
) -> Votes:
    """Count neighbours; those as far as the last one share the places that are left, whatever their order."""
    if n_neighbors < 1:
        raise InputError(f"{n_neighbors} neighbours were asked for; give at least 1")
    reach = np.where(allowed, distance, np.inf)
    asked = np.minimum(allowed.sum(1), n_neighbors)
    last = np.take_along_axis(np.sort(reach, 1), np.maximum(asked - 1, 0)[:, None], 1)
    slack = TIED * np.where(np.isfinite(last), last, 0)
    nearer = reach < last - slack
    tied = allowed & ~nearer & (reach <= last + slack)
    left = (asked - nearer.sum(1)) / np.maximum(tied.sum(1), 1)
    counted = (nearer + tied * left[:, None]) @ one_hot(codes, len(names))
    return Votes(counted / np.maximum(asked, 1)[:, None], asked.astype(np.float64), names)
