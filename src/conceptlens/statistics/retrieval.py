"""Retrieval by cosine: does a vector find others of its label, and how far above chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import encode_labels, unit_vectors

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

CUTOFFS = (1, 5, 10, 20, 30, 40)
BATCH_PAIRS = 2**21  # bounds the memory, at about 150 bytes a pair
TIED = 1e-6  # of a cosine: float32 vectors of equal masks are equal up to their rounding
EXCLUDED = 3.0  # further than any cosine can fall


@dataclass(frozen=True, eq=False)
class SearchHits:
    """Rows from the nearest on, `similarities` their cosines: -1 to 1, falling."""

    rows: Int[np.ndarray, "hit"]
    similarities: Float[np.ndarray, "hit"]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well every row, as a query, finds the other rows of its label; 0 to 1, higher is better.

    Means over `applies` and their intervals by image:
    `conceptlens.metrics.bootstrap_mean(r.average_precision[r.applies], images[r.applies])`. Queries are resampled
    there; the rows in which they search stay.

    Attributes:
        average_precision: `[query]`, mean over relevant rows of the precision at their rank.
        chance: `[query]`, the expected average precision of a random order of the same rows.
        average_precision_at: `[query cutoff]`, `sum_{r <= k} P@r rel_r / min(k, relevant)`.
        precision: `[query cutoff]`, share of relevant rows among the first k, or among all if there are fewer. A label
            of fewer than k other rows cannot reach 1.
        chance_at: `[query cutoff]`, the expected `average_precision_at` of a random order. The expected precision of
            one is `relevant / candidates`.
        relevant: `[query]`, how many rows were to be found.
        candidates: `[query]`, among how many rows.
        cutoffs: The values of k.
    """

    average_precision: Float[np.ndarray, "query"]
    chance: Float[np.ndarray, "query"]
    average_precision_at: Float[np.ndarray, "query cutoff"]
    precision: Float[np.ndarray, "query cutoff"]
    chance_at: Float[np.ndarray, "query cutoff"]
    relevant: Int[np.ndarray, "query"]
    candidates: Int[np.ndarray, "query"]
    cutoffs: tuple[int, ...]

    @property
    def applies(self) -> Bool[np.ndarray, "query"]:
        """Where there was a row to be found; all numbers are 0 elsewhere."""
        return self.relevant > 0

    def mean(self) -> float | None:
        """Return mAP, the mean average precision; `None` where no query has anything to find.

        Returns:
            mAP, 0 to 1, or `None`.
        """
        return float(self.average_precision[self.applies].mean()) if self.applies.any() else None


def retrieve(
    vectors: Vectors, labels: Names, images: Names | None = None, cutoffs: Sequence[int] = CUTOFFS
) -> Retrieval:
    """Return how well every row finds the other rows of its label by cosine, itself left out.

    With `images`, one name for each row, all rows of the query's own image are left out too. Without it other concepts
    of the same photo stand among the wrong hits, and other masks of it among the right ones.

    Rows of equal similarity (up to 1e-6, the rounding of float32 vectors) count with the expectation over their orders,
    so duplicates do no harm. Chunked: memory stays at some 300 MB for any number of rows.

    Args:
        vectors: `vectors[row channel]`.
        labels: The label of each row, by name or number.
        images: The image of each row, by name or number.
        cutoffs: The values of k.

    Returns:
        Average precision, precision@k and their chance levels, for each row.

    Raises:
        InputError: A cutoff is below 1, or as in `unit_vectors`.
    """
    rows = unit_vectors(vectors)
    codes, _ = encode_labels(labels, len(rows))
    image_codes = np.arange(len(rows)) if images is None else encode_labels(images, len(rows), "images")[0]
    wanted = _cutoffs(cutoffs)
    parts = []
    step = max(1, BATCH_PAIRS // len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        allowed = image_codes[part, None] != image_codes
        same = (codes[part, None] == codes) & allowed
        negated = np.where(allowed, -(rows[part] @ rows.T), EXCLUDED)
        parts.append(_scores(negated, same, allowed.sum(1), wanted))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Retrieval(**joined, cutoffs=tuple(cutoffs))


def published_precision(
    vectors: Vectors, labels: Names, cutoffs: Sequence[int] = CUTOFFS
) -> Float[np.ndarray, "query cutoff"]:
    """Return the precision@k of every row as LoCE (IJCV 2025) computes it, and calls the mean of it "mAP@k".

    Whatever stands at rank 0 is taken for the query itself, so of two equal vectors one may find itself; hits in the
    query's own image count. For comparison with published figures; `retrieve` for everything else.

    Args:
        vectors: `vectors[row channel]`.
        labels: The label of each row, by name or number.
        cutoffs: The numbers k.

    Returns:
        `[query cutoff]`, 0 to 1.
    """
    rows = unit_vectors(vectors)
    codes, _ = encode_labels(labels, len(rows))
    wanted = _cutoffs(cutoffs)
    found = np.zeros((len(rows), len(wanted)))
    step = max(1, BATCH_PAIRS // len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        order = np.argsort(1 - rows[part] @ rows.T, axis=1, kind="stable")[:, 1 : int(wanted.max()) + 1]
        hits = codes[order] == codes[part, None]
        for i, k in enumerate(wanted):
            found[part, i] = hits[:, :k].sum(1) / max(1, min(int(k), hits.shape[1]))
    return found


def search(
    query: Vectors, vectors: Vectors, max_hits: int | None = None, allowed: Bool[np.ndarray, "row"] | None = None
) -> tuple[SearchHits, ...]:
    """Return for every query vector the rows of highest cosine, exactly and from the nearest on.

    `allowed` says which rows may be found, such as `images != this_image`. Equal cosines stand in the order of rows.

    Args:
        query: `[query channel]`.
        vectors: `vectors[row channel]`.
        max_hits: The greatest number of hits of each query; `None` for all rows.
        allowed: Bool `[row]`.

    Returns:
        The hits of each query.

    Raises:
        InputError: Shapes do not fit.
    """
    queries, rows = unit_vectors(query), unit_vectors(vectors)
    free = np.ones(len(rows), bool) if allowed is None else np.asarray(allowed)
    if queries.shape[1] != rows.shape[1] or free.shape != (len(rows),) or free.dtype != np.bool_:
        raise InputError(
            f"queries have {queries.shape[1]} channels and rows {rows.shape[1]}, allowed has shape {free.shape}; "
            f"expected as many channels, and one truth value for each of {len(rows)} rows"
        )
    kept = np.flatnonzero(free)
    found = []
    for similar in np.clip(queries @ rows[kept].T, -1, 1):
        order = np.argsort(-similar, kind="stable")[:max_hits]
        found.append(SearchHits(kept[order], similar[order]))
    return tuple(found)


def expected_average_precision(
    relevant: Int[np.ndarray, "query"], candidates: Int[np.ndarray, "query"], cutoff: int | None = None
) -> Float[np.ndarray, "query"]:
    """Return the expected average precision of a random order: `sum_{r <= k} (m / n) (1 + (r - 1) q) / r / min(k, m)`.

    `m` relevant rows of `n` candidates, `q = (m - 1) / (n - 1)`, `k = n` where no cutoff is given; exact.

    Args:
        relevant: `m` of each query.
        candidates: `n` of each query.
        cutoff: `k`; None for all candidates.

    Returns:
        `[query]`, 0 to 1; 0 where nothing is relevant.
    """
    m, n = np.asarray(relevant, np.float64), np.asarray(candidates, np.float64)
    last = n if cutoff is None else np.minimum(n, cutoff)
    q = (m - 1) / np.maximum(n - 1, 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(n.max(initial=0)) + 1))])[last.astype(np.int64)]
    total = m / np.maximum(n, 1) * (last * q + (1 - q) * harmonic)
    return np.where(m > 0, total / np.maximum(np.minimum(m, last), 1), 0.0)


def _scores(
    negated: np.ndarray, same: np.ndarray, candidates: np.ndarray, cutoffs: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the numbers of a `Retrieval` for some queries."""
    relevant = same.sum(1)
    order = np.argsort(negated, axis=1)
    gained, hits = _expected(np.take_along_axis(negated, order, 1), np.take_along_axis(same, order, 1))
    total, found = np.cumsum(gained, axis=1), np.cumsum(hits, axis=1)
    divisor = np.maximum(np.minimum(relevant[:, None], cutoffs), 1)
    last = np.maximum(np.minimum(candidates[:, None], cutoffs), 1)
    precise = np.take_along_axis(found, last - 1, 1) / last
    at = np.take_along_axis(total, np.minimum(cutoffs, negated.shape[1])[None].repeat(len(negated), 0) - 1, 1) / divisor
    applies = (relevant > 0)[:, None]
    return {
        "average_precision_at": at * applies,
        "precision": precise * applies,
        "chance_at": np.stack([expected_average_precision(relevant, candidates, int(k)) for k in cutoffs], axis=1),
        "relevant": relevant,
        "candidates": candidates,
        "average_precision": total[:, -1] / np.maximum(relevant, 1),
        "chance": expected_average_precision(relevant, candidates),
    }


def _expected(negated: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at each rank the expected `P@rank rel_rank` and `rel_rank`, over every order of equal rows.

    With `r` relevant rows among `t` equal ones behind `s` others that hold `R`, the i-th of them is relevant with
    probability `r / t`, and then `1 + (i - 1) (r - 1) / (t - 1)` of them are expected so far (McSherry and Najork,
    2008).
    """
    queries, count = negated.shape
    begins = np.ones(negated.shape, bool)
    begins[:, 1:] = np.diff(negated, axis=1) > TIED
    starts = np.flatnonzero(begins)
    t = np.diff(starts, append=negated.size)
    r = np.add.reduceat(same.ravel(), starts, dtype=np.float64)
    found = np.cumsum(same, axis=1, dtype=np.float64) - same
    before, s = found.ravel()[starts], starts % count
    i = np.arange(negated.size) - np.repeat(starts, t) + 1
    share, more = np.repeat(r / t, t), np.repeat((r - 1) / np.maximum(t - 1, 1), t)
    rank = np.repeat(s, t) + i
    gained = share * (np.repeat(before, t) + 1 + (i - 1) * more) / rank
    return gained.reshape(queries, count), share.reshape(queries, count)


def _cutoffs(cutoffs: Sequence[int]) -> Int[np.ndarray, "cutoff"]:
    wanted = np.asarray(list(cutoffs), np.int64)
    if not len(wanted) or (wanted < 1).any():
        raise InputError(f"cutoffs are {tuple(cutoffs)}; expected at least one, each at least 1")
    return wanted
