"""How well clusters agree with labels: purity as published, and what is left of it above chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import encode_labels

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with labels; higher is better in all of them.

    Attributes:
        purity: `sum_k max_l n_kl / n`, 0 to 1 (LoCE, IJCV 2025). Rises with the number of clusters, to 1 for clusters
            of one row: never compare it without `clusters`.
        chance: The mean purity of shuffled labels; `None` where no shuffle was asked for.
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
    """Return the share of rows that bear the commonest label of their cluster."""
    return float(table.max(1).sum() / table.sum())


def adjusted_rand(clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"]) -> float | None:
    """Return the adjusted Rand index; `None` where both partitions are one group, or both have one row a group."""
    from sklearn.metrics import adjusted_rand_score

    return None if is_trivial(clusters, codes) else float(adjusted_rand_score(codes, clusters))


def is_trivial(clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"]) -> bool:
    """Return whether both partitions are one group, or both have one row a group; scikit-learn calls it agreement."""
    groups = len(np.unique(clusters)), len(np.unique(codes))
    return groups in {(1, 1), (len(codes), len(codes))}
