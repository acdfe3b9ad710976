"""How well clusters agree with labels: purity as published, and what is left of it above chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import numbered

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with labels; higher is better in all of them.

    - `purity`: `sum_k max_l n_kl / n`, 0 to 1 (LoCE, IJCV 2025). Rises with the number of clusters, to 1 for clusters
      of one row: never compare it without `clusters`.
    - `chance`: the mean purity of shuffled labels; None where no shuffle was asked for.
    - `rand`: adjusted Rand index (Hubert and Arabie, 1985), 0 for independent partitions, 1 for equal ones.
    - `information`: normalised mutual information, `2 I / (H + H')`, 0 to 1; not corrected, rises with `clusters`.
    - `adjusted_information`: the same above its expectation (Vinh et al., 2010), 0 for independent partitions.

    None where a score is undefined: both sides are one group, or both have one row a group.
    """

    purity: float
    chance: float | None
    rand: float | None
    information: float | None
    adjusted_information: float | None
    clusters: int
    labels: int
    rows: int

    @property
    def corrected(self) -> float | None:
        """`(purity - chance) / (1 - chance)`: 0 for chance, 1 for pure; None where chance is unknown or 1."""
        if self.chance is None or self.chance >= 1:
            return None
        return (self.purity - self.chance) / (1 - self.chance)


def agreement(
    clusters: Names,
    labels: Names,
    shuffles: int = 100,
    seed: int = 0,
    recut: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Agreement:
    """Return how well clusters agree with labels, with the chance level of the purity from shuffled labels.

    A cut that looks at labels must look at the shuffled ones too, or its chance is taken too low, the more so the
    smaller its clusters may be: give `recut=lambda shuffled: adaptive_cut(tree, shuffled)`. ARI and mutual information
    of such a cut stay flattered.
    """
    names, (codes, known) = np.asarray(labels), numbered(labels)
    found, kinds = numbered(clusters, len(codes), "clusters")
    if not len(codes):
        raise InputError("no rows were given; agreement needs at least 1")
    table = contingency(found, codes)
    draw = np.random.default_rng(seed)
    purities = []
    for _ in range(shuffles):
        order = draw.permutation(len(codes))
        cut = found if recut is None else numbered(recut(names[order]), len(codes), "clusters")[0]
        purities.append(purity(contingency(cut, codes[order])))
    return Agreement(
        purity=purity(table),
        chance=float(np.mean(purities)) if purities else None,
        rand=adjusted_rand(table),
        information=_information(table),
        adjusted_information=_adjusted_information(table),
        clusters=len(kinds),
        labels=len(known),
        rows=len(codes),
    )


def contingency(
    clusters: Int[np.ndarray, "row"], codes: Int[np.ndarray, "row"], weights: np.ndarray | None = None
) -> Float[np.ndarray, "cluster label"]:
    """Return how many rows, or how much weight, each cluster has of each label."""
    shape = (int(clusters.max()) + 1, int(codes.max()) + 1)
    return np.bincount(clusters * shape[1] + codes, weights, shape[0] * shape[1]).reshape(shape).astype(np.float64)


def purity(table: Float[np.ndarray, "cluster label"]) -> float:
    """Return the share of rows that bear the commonest label of their cluster."""
    return float(table.max(1).sum() / table.sum())


def adjusted_rand(
    table: Float[np.ndarray, "cluster label"], squares: Float[np.ndarray, "cluster label"] | None = None
) -> float | None:
    """Return the adjusted Rand index of a contingency table; None where every partition would score the same.

    `squares` is the table of squared weights, where rows are weighted: a row is no pair with its own copies. Without
    it every row counts once.
    """
    squares = table if squares is None else squares
    both, within, labelled, total = (
        float(((table.sum(axes) ** 2 - squares.sum(axes)) / 2).sum()) for axes in ((), 1, 0, (0, 1))
    )
    expected = within * labelled / total if total else 0.0
    most = (within + labelled) / 2
    return (both - expected) / (most - expected) if most - expected > 1e-12 * max(most, 1) else None


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _mutual(table: np.ndarray) -> float:
    return max(0.0, _entropy(table.sum(1)) + _entropy(table.sum(0)) - _entropy(table))


def _information(table: np.ndarray) -> float | None:
    """Return mutual information over the mean entropy, in nats; None for one cluster and one label."""
    mean = (_entropy(table.sum(1)) + _entropy(table.sum(0))) / 2
    return _mutual(table) / mean if mean > 0 else None


def _adjusted_information(table: np.ndarray) -> float | None:
    from scipy.sparse import csr_matrix
    from sklearn.metrics.cluster import expected_mutual_information

    mean = (_entropy(table.sum(1)) + _entropy(table.sum(0))) / 2
    counts = csr_matrix(table.astype(np.int64))
    expected = float(expected_mutual_information(counts, int(table.sum())))
    return (_mutual(table) - expected) / (mean - expected) if mean - expected > 1e-12 else None
