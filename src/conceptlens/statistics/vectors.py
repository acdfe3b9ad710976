"""Rows that can be compared: vectors without holes, labels and images by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.errors import InputError
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Vectors: TypeAlias = Float[np.ndarray, "row channel"] | ArrayLike
    Names: TypeAlias = Sequence[str] | Sequence[int] | np.ndarray

DistanceMetric = Literal["cosine", "euclidean"]
METRICS = ("cosine", "euclidean")
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

    Raises `InputError` for rows of zeros and for rows that are not finite.
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
    if metric not in METRICS:
        raise InputError(f"no metric '{metric}'; there are: {', '.join(METRICS)}")
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
    """Return 1 where a row bears a label, else 0."""
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
