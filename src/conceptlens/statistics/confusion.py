"""How clusters agree with labels, by purity and above chance, and which labels are taken for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.score import Score
from conceptlens.statistics.vectors import check_distances, encode_labels, masked_ratio, one_hot

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names
TIED = 1e-6  # of the distance: float32 vectors of equal masks are equal up to their rounding


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with labels; higher is better in all of them.

    Attributes:
        purity: `sum_k max_l n_kl / n`, 0 to 1 (LoCE, IJCV 2025). Rises with the number of clusters, to 1 for clusters
            of one row: never compare it without `clusters`.
        chance: The mean purity of shuffled labels; `None` without shuffles.
        adjusted_rand: Adjusted Rand index (Hubert and Arabie, 1985; scikit-learn's `adjusted_rand_score`), -0.5 to 1,
            0 for independent partitions.
        nmi: Normalised mutual information, `2 I / (H + H')` (`normalized_mutual_info_score`), 0 to 1; not corrected
            for chance, rises with `clusters`.
        ami: Adjusted mutual information (Vinh et al., 2010; `adjusted_mutual_info_score`), 0 for independent
            partitions, 1 for equal ones.
        clusters: How many clusters there are.
        labels: How many labels there are.
        rows: How many rows there are.

    `adjusted_rand`, `nmi` and `ami` are `None` where they are undefined: both partitions are one group, or both have
    one row a group.
    """

    purity: float
    chance: float | None
    adjusted_rand: float | None
    nmi: float | None
    ami: float | None
    clusters: int
    labels: int
    rows: int

    @property
    def corrected(self) -> float | None:
        """`(purity - chance) / (1 - chance)`: 0 for chance, 1 for pure; `None` where chance is unknown or 1."""
        if self.chance is None or self.chance >= 1:
            return None
        return (self.purity - self.chance) / (1 - self.chance)


def agreement(
    clusters: Names,
    labels: Names,
    n_shuffles: int = 100,
    seed: int = 0,
    recut: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Agreement:
    """Return how well clusters agree with labels, with the chance level of the purity from shuffled labels.

    Args:
        clusters: The cluster of each row, by number or name.
        labels: The label of each row.
        n_shuffles: How many shuffles of the labels give the chance level; 0 for none.
        seed: Decides the shuffles.
        recut: Returns the clusters for shuffled labels, such as `lambda shuffled: adaptive_cut(tree, shuffled)`. A cut
            that looks at the labels needs it, or its chance level is taken too low. The other three scores of such a
            cut stay too high.

    Returns:
        Purity with its chance level, and the scores that are corrected for chance or normalised.

    Raises:
        InputError: There are no rows, or clusters and labels differ in length.
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    names, (codes, known) = np.asarray(labels), encode_labels(labels)
    found, kinds = encode_labels(clusters, len(codes), "clusters")
    if not len(codes):
        raise InputError("no rows were given; agreement needs at least 1")
    generator = np.random.default_rng(seed)
    purities = []
    for _ in range(n_shuffles):
        order = generator.permutation(len(codes))
        cut = found if recut is None else encode_labels(recut(names[order]), len(codes), "clusters")[0]
        purities.append(purity(contingency(cut, codes[order])))
    trivial = is_trivial(found, codes)
    return Agreement(
        purity=purity(contingency(found, codes)),
        chance=float(np.mean(purities)) if purities else None,
        adjusted_rand=adjusted_rand(found, codes),
        nmi=None if trivial else float(normalized_mutual_info_score(codes, found)),
        ami=None if trivial else float(adjusted_mutual_info_score(codes, found)),
        clusters=len(kinds),
        labels=len(known),
        rows=len(codes),
    )


def contingency(clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"]) -> Float[np.ndarray, "cluster label"]:
    """Return how many rows each cluster has of each label."""
    shape = (int(clusters.max()) + 1, int(codes.max()) + 1)
    return np.bincount(clusters * shape[1] + codes, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def purity(table: Float[np.ndarray, "cluster label"]) -> float:
    """Return the share of rows that have the most frequent label of their cluster."""
    return float(table.max(1).sum() / table.sum())


def adjusted_rand(clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"]) -> float | None:
    """Return the adjusted Rand index; `None` where both partitions are one group, or both have one row a group."""
    from sklearn.metrics import adjusted_rand_score

    return None if is_trivial(clusters, codes) else float(adjusted_rand_score(codes, clusters))


def is_trivial(clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"]) -> bool:
    """Return whether both partitions are one group, or both have one row a group; scikit-learn calls it agreement."""
    groups = len(np.unique(clusters)), len(np.unique(codes))
    return groups in {(1, 1), (len(codes), len(codes))}


@dataclass(frozen=True, eq=False)
class Composition:
    """How many rows of each label every cluster holds: `counts[cluster label]`.

    `clusters` and `labels` name the rows and the columns.
    """

    counts: Float[np.ndarray, "cluster label"]
    clusters: tuple[str, ...]
    labels: tuple[str, ...]


def composition(clusters: Names, labels: Names) -> Composition:
    """Return which labels every cluster, or component of a Gaussian mixture, consists of.

    Args:
        clusters: The cluster of each row, by number or name.
        labels: The label of each row.

    Returns:
        The table of counts.

    Raises:
        InputError: There are no rows, or clusters and labels differ in length.
    """
    codes, names = encode_labels(labels)
    found, kinds = encode_labels(clusters, len(codes), "clusters")
    if not len(codes):
        raise InputError("no rows were given; clusters are made of at least 1")
    return Composition(contingency(found, codes), kinds, names)


def cluster_confusion(clusters: Names, labels: Names) -> Score[np.ndarray]:
    """Return for labels `(i, j)` the chance that another row of a row's cluster has label j, over the rows of i.

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
