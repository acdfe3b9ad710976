"""Sub-concepts: the parts that a label falls into, and whether another sample of images would show them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.confusion import adjusted_rand, contingency
from conceptlens.statistics.gaussian_mixture import fit_count, fit_mixture
from conceptlens.statistics.hierarchical_clustering import cluster_distances, count_cut
from conceptlens.statistics.projection import principal
from conceptlens.statistics.vectors import distances, encode_labels, unit_vectors

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

    Assign = Callable[[np.ndarray, int], np.ndarray]

By = Literal["cluster", "mixture"]
MIN_ROWS = 6  # rows of a label in which parts are looked for
MAX_PARTS, N_AXES = 5, 5  # of a label; principal axes on which its parts are looked for
STRUCTURE = 0.25  # a mean silhouette below it is "no substantial structure" (Kaufman and Rousseeuw, 1990)


@dataclass(frozen=True, eq=False)
class SubConcepts:
    """The parts of one label.

    - `rows`: the label's rows, of all that were given; `assigned` is the part of each, 0 being the largest.
    - `count`: how many parts; 1 where the label is of one piece, or has too few rows to say (`reason` says so).
    - `stability`: mean adjusted Rand index between these parts and those found in resamples of the images, on the rows
      that were drawn; 1 where they are always found again, 0 for chance. None for one part.
    - `found_again[part]`: mean over resamples of the best Jaccard index with any part found there (Hennig, 2007): .75
      and more is stable, below .6 is not to be trusted. Empty for one part.
    """

    rows: Int[np.ndarray, "own"]
    assigned: Int[np.ndarray, "own"]
    count: int
    stability: float | None
    found_again: Float[np.ndarray, "part"]
    reason: str | None = None


def sub_concepts(
    vectors: Vectors,
    labels: Names,
    images: Names | None = None,
    by: By = "cluster",
    n_bootstrap: int = 50,
    seed: int = 0,
) -> dict[str, SubConcepts]:
    """Return the parts of every label, found in its own rows on their first principal `axes`.

    `cluster`: Ward's clustering, cut where the mean silhouette is highest; one part where that stays below .25.
    `mixture`: the Gaussian mixture of lowest BIC. `unit` takes directions alone. Each resample draws as many of the
    label's images as it has, with replacement, and looks for the same number of parts among the rows so drawn.

    A number of parts alone says nothing: any cloud can be cut in two. Believe parts that are found again.

    Args:
        vectors: `vectors[row channel]`.
        labels: The label of each row, by name or number.
        images: The image of each row, by name or number.
        by: `"cluster"` or `"mixture"`.
        n_bootstrap: How many resamples of images measure the stability.
        seed: Decides the resamples.

    Returns:
        The parts of each label by its name.

    Raises:
        InputError: An option is unknown or below 1.
    """
    rows = unit_vectors(vectors)
    codes, names = encode_labels(labels, len(rows))
    image_codes = np.arange(len(rows)) if images is None else encode_labels(images, len(rows), "images")[0]
    if by not in ASSIGN or n_bootstrap < 1:
        raise InputError(
            f"by is '{by}', n_bootstrap {n_bootstrap}; expected one of {', '.join(ASSIGN)}, and at least 1"
        )
    found = {}
    for code, name in enumerate(names):
        own = np.flatnonzero(codes == code)
        if len(own) < MIN_ROWS:
            reason = f"{len(own)} rows; parts are looked for in at least {MIN_ROWS}"
            found[name] = SubConcepts(own, np.zeros(len(own), np.int64), 1, None, np.empty(0), reason)
            continue
        points = principal(rows[own], min(N_AXES, rows.shape[1])).points
        assigned = _sorted(_ward_parts(points) if by == "cluster" else fit_mixture(points, MAX_PARTS).assigned)
        again = stability(points, assigned, image_codes[own], ASSIGN[by], n_bootstrap, seed)
        found[name] = SubConcepts(own, assigned, int(assigned.max()) + 1, *again)
    return found


def stability(
    points: np.ndarray, assigned: np.ndarray, images: np.ndarray, assign: Assign, n_bootstrap: int, seed: int
) -> tuple[float | None, Float[np.ndarray, "part"]]:
    """Return mean adjusted Rand index, and mean best Jaccard index of each part, over resamples of images.

    Both compare the parts on the rows drawn, each once: copies of a row would be found together for free. Resamples
    with fewer rows than parts say nothing and are left out.
    """
    count = int(assigned.max()) + 1
    if count == 1:
        return None, np.empty(0)
    draw = np.random.default_rng(seed)
    known = np.unique(images)
    agreed, overlaps = [], []
    for _ in range(n_bootstrap):
        drawn = np.flatnonzero(np.isin(images, draw.choice(known, len(known))))
        if len(drawn) <= count:
            continue
        parts = assign(points[drawn], count)
        table = contingency(parts, assigned[drawn])
        table = np.pad(table, ((0, 0), (0, count - table.shape[1])))
        agreed.append(adjusted_rand(parts, assigned[drawn]) or 0.0)
        either = table.sum(1, keepdims=True) + table.sum(0) - table
        best = (table / np.maximum(either, 1)).max(0)
        overlaps.append(np.where(table.sum(0) > 0, best, np.nan))
    if not agreed:
        return None, np.zeros(count)
    finite = ~np.isnan(overlaps)
    return float(np.mean(agreed)), np.where(finite, overlaps, 0).sum(0) / np.maximum(finite.sum(0), 1)


def _ward_parts(points: np.ndarray) -> Int[np.ndarray, "row"]:
    """Return the cut of highest mean silhouette; one part where none shows structure."""
    from sklearn.metrics import silhouette_score

    distance = distances(points, "euclidean")
    tree = cluster_distances(distance, "ward", "euclidean")
    best, parts = STRUCTURE, np.zeros(len(points), np.int64)
    for count in range(2, min(MAX_PARTS, len(points) - 1) + 1):
        cut = count_cut(tree, count)
        mean = float(silhouette_score(distance, cut, metric="precomputed"))  # a row alone counts as 0
        if mean > best:
            best, parts = mean, cut
    return parts


def _ward_count(points: np.ndarray, count: int) -> Int[np.ndarray, "row"]:
    return count_cut(cluster_distances(distances(points, "euclidean"), "ward", "euclidean"), count)


def _mixture_count(points: np.ndarray, count: int) -> Int[np.ndarray, "row"]:
    return fit_count(points, count).assigned


def _sorted(assigned: np.ndarray) -> Int[np.ndarray, "row"]:
    """Return the same parts, encoded from the largest."""
    _, codes, sizes = np.unique(assigned, return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-sizes, kind="stable"))[codes.reshape(-1)]


ASSIGN: dict[str, Assign] = {"cluster": _ward_count, "mixture": _mixture_count}
