"""Rows that can be compared, their labels and images by number, and the matrix of distances of all statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.errors import InputError
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Vectors: TypeAlias = Float[np.ndarray, "row channel"] | ArrayLike
    Names: TypeAlias = Sequence[str] | Sequence[int] | np.ndarray
    from jaxtyping import Float

DistanceMetric = Literal["cosine", "euclidean"]
MAX_ROWS = 20_000  # rows: their distances take 3.2 GB
CANCELLATION = 1e-5
BATCH_NUMBERS = 2**22
MAX_LISTED = 5


def usable(vectors: Vectors, metric: DistanceMetric = "cosine") -> Bool[np.ndarray, "row"]:
    """Return which rows can be compared: all channels finite and, for a cosine, not all of them 0.

    A vector of zeros has no direction. Every function of `conceptlens.statistics` refuses such rows; take them out
    first: `kept = usable(vectors); vectors, labels = vectors[kept], labels[kept]`.

    Args:
        vectors: `vectors[row channel]`.
        metric: `"cosine"` or `"euclidean"`.

    Returns:
        Bool `[row]`.
    """
    rows = _rows(vectors)
    finite = np.isfinite(rows).all(1)
    return np.asarray(finite & rows.any(1) if metric == "cosine" else finite)


def unit_vectors(vectors: Vectors) -> Float[np.ndarray, "row channel"]:
    """Return every row at length 1, in float64; without overflow for very long rows or underflow for very short ones.

    Args:
        vectors: `vectors[row channel]`.

    Returns:
        `[row channel]`, float64.

    Raises:
        InputError: A row is all zeros or not finite.
    """
    rows = check_vectors(vectors, "cosine")
    rows = rows / np.abs(rows).max(1, keepdims=True)
    return rows / np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]


def sample_rows(labels: Names, max_per_label: int = 100, seed: int = 0) -> Int[np.ndarray, "taken"]:
    """Return at most `max_per_label` rows of every label, drawn without replacement, in rising order.

    LoCE (IJCV 2025) clusters up to 100 of each category. Its code takes the first of a list that is shuffled anew
    at every call; here one seed gives one sample.

    Args:
        labels: The label of each row, by name or number.
        max_per_label: The greatest number of rows of a label.
        seed: Decides which rows.

    Returns:
        Indices of rows, rising.

    Raises:
        InputError: `max_per_label` is below 1.
    """
    codes, names = encode_labels(labels)
    if max_per_label < 1:
        raise InputError(f"max_per_label is {max_per_label}; give at least 1")
    draw = np.random.default_rng(seed)
    taken = [draw.permutation(np.flatnonzero(codes == code))[:max_per_label] for code in range(len(names))]
    return np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)


def check_vectors(
    vectors: Vectors, metric: DistanceMetric = "euclidean", min_rows: int = 1
) -> Float[np.ndarray, "row channel"]:
    """Return the rows in float64, or say which cannot be used and why."""
    if metric not in get_args(DistanceMetric):
        raise InputError(f"no metric '{metric}'; there are: {', '.join(get_args(DistanceMetric))}")
    rows = _rows(vectors)
    if len(rows) < min_rows:
        raise InputError(f"{len(rows)} vectors were given; at least {min_rows} are needed here")
    wrong = np.flatnonzero(~usable(rows, metric))
    if len(wrong):
        which = ", ".join(str(row) for row in wrong[:MAX_LISTED]) + (", …" if len(wrong) > MAX_LISTED else "")
        problem = "are zero, NaN or infinite" if metric == "cosine" else "are NaN or infinite"
        raise InputError(
            f"{len(wrong)} of {len(rows)} vectors {problem} (rows {which}); "
            f"leave them out with usable(vectors, '{metric}')"
        )
    return rows


def encode_labels(names: Names, rows: int | None = None, what: str = "labels") -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of each row's name, and the names in alphabetical order (numbers in their own order)."""
    listed = np.asarray(names) if len(names) else np.empty(0, str)
    if listed.ndim != 1 or listed.dtype.kind == "f" or (rows is not None and len(listed) != rows):
        wanted = "" if rows is None else f" for each of {rows} rows"
        raise InputError(f"{what} have shape {listed.shape} and type {listed.dtype}; expected one name{wanted}")
    if listed.dtype.kind == "O":
        listed = listed.astype(str)
    found, codes = np.unique(listed, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), tuple(str(name) for name in found)


def one_hot(codes: np.ndarray, count: int) -> Float[np.ndarray, "row label"]:
    """Return 1 where a row has a label, else 0."""
    return np.eye(count)[codes]


def masked_ratio(
    above: np.ndarray, below: np.ndarray, applies: np.ndarray, labels: tuple[str, ...] = ()
) -> Score[np.ndarray]:
    """Return `above / below` where it applies and `below` is not 0."""
    applies = applies & (below > 0)
    return Score(np.where(applies, above / np.where(applies, below, 1), 0.0), applies, labels)


def _rows(vectors: Vectors) -> np.ndarray:
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.shape[1]:
        raise InputError(f"vectors have shape {rows.shape} and type {rows.dtype}; expected numbers, row channel")
    return rows.astype(np.float64)


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
