"""Which labels are taken for which: by the nearest neighbours of their rows, and by the clusters they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.cluster_agreement import contingency
from conceptlens.statistics.distance_matrix import check_distances, distances_between
from conceptlens.statistics.vectors import Metric, Statistic, divided, members, numbered

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.statistics.vectors import Names, Vectors

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

    `neighbours[row]` is how many were asked; 0, and shares of 0, where there was none to ask.
    """

    shares: Float[np.ndarray, "row label"]
    neighbours: Float[np.ndarray, "row"]
    labels: tuple[str, ...]

    def best(self) -> tuple[str | None, ...]:
        """Return the label of most neighbours for each row, the first name of equal ones; None where none was asked."""
        best = self.shares.argmax(1)
        return tuple(self.labels[i] if asked else None for i, asked in zip(best, self.neighbours, strict=True))


def composition(clusters: Names, labels: Names) -> Composition:
    """Return which labels every cluster, or component of a Gaussian mixture, is made of."""
    codes, names = numbered(labels)
    found, kinds = numbered(clusters, len(codes), "clusters")
    if not len(codes):
        raise InputError("no rows were given; clusters are made of at least 1")
    return Composition(contingency(found, codes), kinds, names)


def cluster_confusion(clusters: Names, labels: Names) -> Statistic:
    """Return for labels `(i, j)` the chance that another row of a row's cluster bears j, over the rows of i.

    `sum_k n_ik / n_i * (n_jk - [i = j]) / (n_k - 1)` over clusters of at least two rows, with `n_i` counted there;
    0 to 1, rows sum to 1. The diagonal is what a label keeps. Does not apply to a label whose rows are all alone.
    """
    table = composition(clusters, labels)
    counts = table.counts[table.counts.sum(1) > 1]
    size = counts.sum(1, keepdims=True)
    shared = (counts / (size - 1)).T @ counts - np.diag((counts / (size - 1)).sum(0))
    total = counts.sum(0)[:, None]
    return divided(shared, np.broadcast_to(total, shared.shape), np.ones(shared.shape, bool), table.labels)


def neighbour_votes(
    apart: Float[np.ndarray, "row row"], labels: Names, neighbours: int = 5, images: Names | None = None
) -> Votes:
    """Return the labels of every row's nearest neighbours, itself left out, and with `images` all of its image.

    Two concepts of one photo share its light and its scene, so a neighbour of the same photo says little.
    """
    codes, names = numbered(labels)
    apart = check_distances(apart, len(codes))
    picture = np.arange(len(codes)) if images is None else numbered(images, len(codes), "images")[0]
    return _votes(apart, picture[:, None] != picture, codes, names, neighbours)


def neighbour_confusion(
    apart: Float[np.ndarray, "row row"], labels: Names, neighbours: int = 5, images: Names | None = None
) -> Statistic:
    """Return for labels `(i, j)` the mean share of label j among the nearest neighbours of the rows of i.

    `mean_{a in i} |{b in N_k(a) : label(b) = j}| / |N_k(a)|`; 0 to 1, rows sum to 1, the diagonal is what a label
    keeps. Chance for `(i, j)` is about `n_j / n`: read it against the sizes of the labels. Does not apply to a label
    whose rows have no neighbour.
    """
    votes = neighbour_votes(apart, labels, neighbours, images)
    inside = members(numbered(labels)[0], len(votes.labels)) * (votes.neighbours > 0)[:, None]
    sums, size = inside.T @ votes.shares, inside.sum(0)[:, None]
    return divided(sums, np.broadcast_to(size, sums.shape), np.ones(sums.shape, bool), votes.labels)


def label_probabilities(
    new: Vectors, vectors: Vectors, labels: Names, neighbours: int = 5, metric: Metric = "cosine"
) -> Votes:
    """Return the labels of the nearest known rows of every new vector (LoCE: 5 neighbours, cosine)."""
    apart = distances_between(new, vectors, metric)
    codes, names = numbered(labels, apart.shape[1])
    return _votes(apart, np.ones(apart.shape, bool), codes, names, neighbours)


def _votes(
    apart: np.ndarray, allowed: Bool[np.ndarray, "new row"], codes: np.ndarray, names: tuple[str, ...], neighbours: int
) -> Votes:
    """Count neighbours; those as far as the last one share the places that are left, whatever their order."""
    if neighbours < 1:
        raise InputError(f"{neighbours} neighbours were asked for; give at least 1")
    reach = np.where(allowed, apart, np.inf)
    asked = np.minimum(allowed.sum(1), neighbours)
    last = np.take_along_axis(np.sort(reach, 1), np.maximum(asked - 1, 0)[:, None], 1)
    slack = TIED * np.where(np.isfinite(last), last, 0)
    nearer = reach < last - slack
    tied = allowed & ~nearer & (reach <= last + slack)
    left = (asked - nearer.sum(1)) / np.maximum(tied.sum(1), 1)
    counted = (nearer + tied * left[:, None]) @ members(codes, len(names))
    return Votes(counted / np.maximum(asked, 1)[:, None], asked.astype(np.float64), names)
