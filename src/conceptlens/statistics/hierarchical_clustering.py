"""Hierarchical clustering of embeddings, and the ways to cut the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import DistanceMetric, check_distances, distances, encode_labels, one_hot

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

Method = Literal["ward", "complete", "average", "single"]


@dataclass(frozen=True, eq=False)
class Tree:
    """Which clusters were merged, from the nearest rows to the root.

    `merges[merge 4]` is SciPy's linkage: the two nodes, their distance, the number of rows below. Nodes 0 to n-1 are
    the rows, node n+i is merge i. Empty for a single row.
    """

    merges: Float[np.ndarray, "merge 4"]
    method: Method
    metric: DistanceMetric

    @property
    def rows(self) -> int:
        """How many rows stand at the leaves."""
        return len(self.merges) + 1

    def order(self) -> Int[np.ndarray, "row"]:
        """Return the rows from left to right, as a dendrogram draws them; without recursion.

        Returns:
            Indices of rows, `[row]`.
        """
        from scipy.cluster import hierarchy  # takes half a second to load

        return hierarchy.leaves_list(self.merges).astype(np.int64) if len(self.merges) else np.zeros(1, np.int64)


def cluster(vectors: Vectors, method: Method = "ward", metric: DistanceMetric = "euclidean") -> Tree:
    """Return the tree of agglomerative clustering.

    LoCE (IJCV 2025) takes `ward` with `euclidean` on raw vectors, or `complete` with `cosine`. Ward's distance is
    defined for euclidean distances only: for directions, give it `unit_vectors(vectors)`.

    Args:
        vectors: `vectors[row channel]`.
        method: `"ward"`, `"complete"`, `"average"` or `"single"`.
        metric: `"cosine"` or `"euclidean"`.

    Returns:
        The tree (SciPy's `linkage`).

    Raises:
        InputError: The method is unknown, or is `ward` with cosines.
    """
    return cluster_distances(distances(vectors, metric), method, metric)


def cluster_distances(distance: np.ndarray, method: Method, metric: DistanceMetric) -> Tree:
    """Return the tree of rows from their `distances`.

    Args:
        distance: `distance[row row]`, as `distances` gives it.
        method: As in `cluster`.
        metric: The metric of `distance`.

    Returns:
        The tree (SciPy's `linkage`).

    Raises:
        InputError: The method is unknown, or is `ward` with cosines.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if method not in get_args(Method):
        raise InputError(f"no method '{method}'; there are: {', '.join(get_args(Method))}")
    if method == "ward" and metric != "euclidean":
        raise InputError(
            f"ward's distance is not defined for metric '{metric}'; give unit_vectors(vectors) with 'euclidean', "
            "or take method='complete'"
        )
    given = check_distances(distance, len(distance))
    merges = hierarchy.linkage(squareform(given, checks=False), method) if len(given) > 1 else np.empty((0, 4))
    return Tree(merges, method, metric)


def adaptive_cut(tree: Tree, labels: Names, min_share: float = 0.05, min_purity: float = 0.8) -> Int[np.ndarray, "row"]:
    """Return the cluster of every row by LoCE's label-aware cut, its default: split until pure or small.

    From the root down, a node is a cluster where at least `min_purity` of its rows have one label, or where it has at
    most `S = int(N min_share)` rows; else it is split. Relaxed: .05 and .8; strict: .025 and .9. N is the number of
    rows; the published code counts all embeddings that it loaded, though it clusters 100 of each category.

    The cut looks at the labels, so its purity is high by construction. Compare it with `agreement(..., recut=...)`.

    Args:
        tree: From `cluster`.
        labels: The label of each row, by name or number.
        min_share: `S` as a share of the rows.
        min_purity: From which share of one label on a node is a cluster.

    Returns:
        The cluster of each row, numbered from left to right.

    Raises:
        InputError: `labels` are not one for each row.
    """
    codes, names = encode_labels(labels, tree.rows)
    counts = _counts(tree, one_hot(codes, len(names)))
    size = counts.sum(1)
    return _clusters(tree, (size <= int(tree.rows * min_share)) | (counts.max(1) / size >= min_purity))


def count_cut(tree: Tree, clusters: int) -> Int[np.ndarray, "row"]:
    """Return the cluster of every row by undoing the last `clusters - 1` merges.

    Blind to labels and to the unit of the vectors, so it compares models fairly.

    Args:
        tree: From `cluster`.
        clusters: How many clusters, 1 to the number of rows.

    Returns:
        The cluster of each row, numbered from left to right.

    Raises:
        InputError: `clusters` is out of range.
    """
    if not 1 <= clusters <= tree.rows:
        raise InputError(f"clusters is {clusters} for {tree.rows} rows; give 1 to {tree.rows}")
    return _clusters(tree, np.arange(2 * tree.rows - 1) < 2 * tree.rows - clusters)


def _counts(tree: Tree, leaves: Float[np.ndarray, "row label"]) -> Float[np.ndarray, "node label"]:
    """Return for every node the sum of its leaves; children stand before their parents."""
    counts = np.concatenate([leaves, np.zeros((len(tree.merges), leaves.shape[1]))])
    for merge, (left, right) in enumerate(tree.merges[:, :2].astype(np.int64)):
        counts[tree.rows + merge] = counts[left] + counts[right]
    return counts


def _clusters(tree: Tree, accepted: Bool[np.ndarray, "node"]) -> Int[np.ndarray, "row"]:
    """Return for every row the highest accepted node above it, numbered from left to right; a leaf always is one."""
    root = 2 * tree.rows - 2
    owner = np.full(root + 1, -1)
    owner[root] = root if accepted[root] or not len(tree.merges) else -1
    for merge in range(len(tree.merges) - 1, -1, -1):
        above = owner[tree.rows + merge]
        for child in tree.merges[merge, :2].astype(np.int64):
            owner[child] = above if above >= 0 else child if accepted[child] or child < tree.rows else -1
    order = tree.order()
    _, first, inverse = np.unique(owner[order], return_index=True, return_inverse=True)
    found = np.empty(tree.rows, np.int64)
    found[order] = np.argsort(np.argsort(first))[inverse.reshape(-1)]
    return found
