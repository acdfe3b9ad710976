"""How far rows lie apart: one matrix that every statistic can share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import DistanceMetric, check_vectors, unit_vectors

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.vectors import Vectors

MAX_ROWS = 20_000  # rows: their distances take 3.2 GB
CANCELLATION = 1e-5
BATCH_NUMBERS = 2**22


def distances(vectors: Vectors, metric: DistanceMetric = "cosine") -> Float[np.ndarray, "row row"]:
    """Return the distances of all pairs of rows, symmetric and with zeros on the diagonal.

    `cosine`: `1 - <a, b> / (|a| |b|)`, 0 to 2. `euclidean`: `|a - b|`, in the unit of the vectors.

    From one matrix product. Pairs so near that it would lose digits are computed once more from their difference, so
    equal rows are exactly 0 apart. Takes `8 rows^2` bytes; raises `InputError` above 20 000 rows, and for rows that
    `usable` does not name.

    Args:
        vectors: `vectors[row channel]`.
        metric: `"cosine"` or `"euclidean"`.

    Returns:
        `[row row]`, float64.

    Raises:
        InputError: There are more than 20 000 rows, or rows that `usable` does not name.
    """
    rows = check_vectors(vectors, metric)
    if len(rows) > MAX_ROWS:
        raise InputError(
            f"the distances of {len(rows)} vectors take {8e-9 * len(rows) ** 2:.0f} GB; give at most {MAX_ROWS}, "
            "such as vectors[sample_rows(labels, 100)]"
        )
    if metric == "cosine":
        return _squared(unit_vectors(rows)) / 2  # |u - v|^2 = 2 - 2 cos
    scale = float(np.abs(rows).max()) or 1.0
    return np.sqrt(_squared(rows / scale)) * scale


def check_distances(distance: np.ndarray, rows: int) -> Float[np.ndarray, "row row"]:
    """Return a matrix of distances in float64, or say what is wrong with it."""
    given = np.asarray(distance)
    if given.shape != (rows, rows) or not rows:
        raise InputError(
            f"distances have shape {given.shape} for {rows} labels; expected row row, as distances(vectors) gives"
        )
    given = given.astype(np.float64)
    if not np.isfinite(given).all() or (given < 0).any() or (np.diagonal(given) != 0).any():
        raise InputError(
            "distances must be finite and not negative, with zeros on the diagonal; take distances(vectors)"
        )
    return given


def _squared(vectors: np.ndarray) -> np.ndarray:
    """Return squared euclidean distances by `|a|^2 + |b|^2 - 2 <a, b>`, exact where that cancels."""
    centred = vectors - vectors.mean(0)
    lengths = np.einsum("ij,ij->i", centred, centred)
    sizes = lengths[:, None] + lengths
    found = np.maximum(sizes - 2 * (centred @ centred.T), 0)
    rows, columns = (found <= CANCELLATION * sizes).nonzero()
    step = max(1, BATCH_NUMBERS // vectors.shape[1])
    for start in range(0, len(rows), step):
        a, b = rows[start : start + step], columns[start : start + step]
        distance = centred[a] - centred[b]
        found[a, b] = np.einsum("ij,ij->i", distance, distance)
    return found
