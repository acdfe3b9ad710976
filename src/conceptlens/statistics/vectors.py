"""Rows that can be compared: vectors without holes, labels and images by number, and what a statistic returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Vectors: TypeAlias = Float[np.ndarray, "row channel"] | ArrayLike
    Names: TypeAlias = Sequence[str] | Sequence[int] | np.ndarray

Metric = Literal["cosine", "euclidean"]
METRICS = ("cosine", "euclidean")
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Statistic:
    """A number for each label, pair of labels or row, and where it is defined at all.

    - `values`: 0 where it is not defined; never NaN.
    - `applies`, of the same shape: False where there is nothing to measure, such as the spread of one instance.
    - `labels`: the names along every axis; empty where the axis is that of the rows.
    """

    values: Float[np.ndarray, "..."]
    applies: Bool[np.ndarray, "..."]
    labels: tuple[str, ...] = ()

    def mean(self) -> float | None:
        """Return the mean over what it applies to; None where there is nothing."""
        return float(self.values[self.applies].mean()) if self.applies.any() else None

    def of(self, *names: str) -> float | None:
        """Return the value of one label, or of an ordered pair of labels; None where it does not apply."""
        place = tuple(_place(name, self.labels) for name in names)
        return float(self.values[place]) if bool(self.applies[place]) else None


def usable(vectors: Vectors, metric: Metric = "cosine") -> Bool[np.ndarray, "row"]:
    """Return which rows can be compared: all channels finite and, for a cosine, not all of them 0.

    A vector of zeros has no direction. Every function of the atlas refuses such rows rather than drop them quietly;
    take them out first: `kept = usable(vectors); vectors, labels = vectors[kept], labels[kept]`.
    """
    rows = _rows(vectors)
    told = np.isfinite(rows).all(1)
    return np.asarray(told & rows.any(1) if metric == "cosine" else told)


def unit_vectors(vectors: Vectors) -> Float[np.ndarray, "row channel"]:
    """Return every row at length 1, in float64; without overflow for very long rows or underflow for very short ones.

    Raises `InputError` for rows of zeros and for rows that are not finite.
    """
    rows = checked(vectors, "cosine")
    rows = rows / np.abs(rows).max(1, keepdims=True)
    return rows / np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]


def sample_rows(labels: Names, most: int = 100, seed: int = 0) -> Int[np.ndarray, "taken"]:
    """Return at most `most` rows of every label, drawn without replacement, in rising order.

    LoCE (IJCV 2025) clusters up to 100 of each category. Its code takes the first of a list that is shuffled anew
    at every call; here one seed gives one sample.
    """
    codes, names = numbered(labels)
    if most < 1:
        raise InputError(f"{most} rows of each label were asked for; give at least 1")
    draw = np.random.default_rng(seed)
    taken = [draw.permutation(np.flatnonzero(codes == code))[:most] for code in range(len(names))]
    return np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)


def checked(vectors: Vectors, metric: Metric = "euclidean", fewest: int = 1) -> Float[np.ndarray, "row channel"]:
    """Return the rows in float64, or say which cannot be used and why."""
    if metric not in METRICS:
        raise InputError(f"no metric '{metric}'; there are: {', '.join(METRICS)}")
    rows = _rows(vectors)
    if len(rows) < fewest:
        raise InputError(f"{len(rows)} vectors were given; at least {fewest} are needed here")
    wrong = np.flatnonzero(~usable(rows, metric))
    if len(wrong):
        which = ", ".join(str(row) for row in wrong[:SHOWN]) + (", …" if len(wrong) > SHOWN else "")
        said = "are zero, NaN or infinite" if metric == "cosine" else "are NaN or infinite"
        raise InputError(
            f"{len(wrong)} of {len(rows)} vectors {said} (rows {which}); "
            f"leave them out with usable(vectors, '{metric}')"
        )
    return rows


def numbered(names: Names, rows: int | None = None, what: str = "labels") -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of each row's name, and the names in alphabetical order (numbers in their own order)."""
    listed = np.asarray(names) if len(names) else np.empty(0, str)
    if listed.ndim != 1 or listed.dtype.kind == "f" or (rows is not None and len(listed) != rows):
        wanted = "" if rows is None else f" for each of {rows} rows"
        raise InputError(f"{what} have shape {listed.shape} and type {listed.dtype}; expected one name{wanted}")
    if listed.dtype.kind == "O":
        listed = listed.astype(str)
    found, codes = np.unique(listed, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), tuple(str(name) for name in found)


def members(codes: np.ndarray, count: int) -> Float[np.ndarray, "row label"]:
    """Return 1 where a row bears a label, else 0."""
    table = np.zeros((len(codes), count))
    table[np.arange(len(codes)), codes] = 1
    return table


def divided(above: np.ndarray, below: np.ndarray, applies: np.ndarray, labels: tuple[str, ...] = ()) -> Statistic:
    """Return `above / below` where it applies and `below` is not 0."""
    applies = applies & (below > 0)
    return Statistic(np.where(applies, above / np.where(applies, below, 1), 0.0), applies, labels)


def _rows(vectors: Vectors) -> np.ndarray:
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.shape[1]:
        raise InputError(f"vectors have shape {rows.shape} and type {rows.dtype}; expected numbers, row channel")
    return rows.astype(np.float64)


def _place(name: str, labels: tuple[str, ...]) -> int:
    if name not in labels:
        raise InputError(f"no label '{name}'; labels: {near(name, labels)}")
    return labels.index(name)
