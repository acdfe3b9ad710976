"""Few axes instead of many channels: principal components, and UMAP as published."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from conceptlens.io.errors import InputError
from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.statistics.vectors import check_vectors

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.vectors import Vectors

MIN_ROWS = 5  # rows that UMAP can lay out


@dataclass(frozen=True, eq=False)
class Principal:
    """Rows on their principal axes: `points = (vectors - mean) @ axes^T`.

    - `points[row axis]`: in the unit of the vectors; the axis of most variance first.
    - `share[axis]`: the axis' share of the variance, 0 to 1; all zeros for equal rows.
    - `mean[channel]`, `axes[axis channel]`: axes of length 1, the largest entry of each positive; zeros where there
      are fewer than `axes`.
    """

    points: Float[np.ndarray, "row axis"]
    share: Float[np.ndarray, "axis"]
    mean: Float[np.ndarray, "channel"]
    axes: Float[np.ndarray, "axis channel"]


def principal(vectors: Vectors, axes: int = 2) -> Principal:
    """Return the rows on their first principal axes; exact and without a seed.

    Args:
        vectors: `vectors[row channel]`.
        axes: How many axes.

    Returns:
        The rows on their axes, exact and without a seed.

    Raises:
        InputError: `axes` is below 1.
    """
    rows = check_vectors(vectors)
    if axes < 1:
        raise InputError(f"axes is {axes}; give at least 1")
    mean = rows.mean(0)
    _, singular, directions = np.linalg.svd(rows - mean, full_matrices=False)
    real = int((singular > 1e-12 * max(float(np.abs(rows).max()), 1e-300) * max(rows.shape)).sum())
    kept = min(axes, real)
    found = np.zeros((axes, rows.shape[1]))
    found[:kept] = directions[:kept] * _signs(directions[:kept])
    share = np.zeros(axes)
    share[:kept] = (singular**2 / max(float((singular**2).sum()), 1e-300))[:kept]
    return Principal((rows - mean) @ found.T, share, mean, found)


def umap_points(vectors: Vectors, n_neighbors: int, seed: int = 42) -> Float[np.ndarray, "row 2"]:
    """Return the rows laid out in the plane by UMAP (McInnes et al., 2018).

    LoCE (IJCV 2025): 2 axes, euclidean, seed 42, and as many neighbours as the cut's `S`, `int(N min_share)`; here at
    least 2 and fewer than the rows. Distances on the map mean little beyond the neighbourhood: clusters look apart
    that are not, so a Gaussian mixture on it says less than one on `principal`.

    Args:
        vectors: `vectors[row channel]`.
        n_neighbors: UMAP's `n_neighbors`, cut to 2 to rows - 1.
        seed: UMAP's `random_state`.

    Returns:
        `[row 2]`, without a unit.

    Raises:
        InputError: `umap-learn` is missing, or there are fewer than 5 rows.
    """
    rows = check_vectors(vectors, min_rows=MIN_ROWS)
    layout = _umap().UMAP(
        n_neighbors=int(np.clip(n_neighbors, 2, len(rows) - 1)),
        random_state=seed,
        n_jobs=1,  # what the seed implies; without it UMAP warns
        init="spectral" if len(rows) > 8 else "random",
    )
    with threadpool_limits(1, "openmp"):  # numba would leave its own number of threads to torch
        return np.asarray(layout.fit_transform(rows.astype(np.float32)), np.float64)


def _umap() -> Any:
    try:
        with quiet_warnings("Tensorflow not installed", ImportWarning):  # nothing here needs it
            return importlib.import_module("umap")
    except ImportError:
        raise InputError(
            "UMAP coordinates need umap-learn, which is not installed; pip install umap-learn, or take principal()"
        ) from None


def _signs(directions: np.ndarray) -> np.ndarray:
    """Return the sign of every direction's largest entry: a singular vector has none of its own."""
    largest = np.abs(directions).argmax(1)
    return np.sign(directions[np.arange(len(directions)), largest])[:, None]
