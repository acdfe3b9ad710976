"""The odd ones of every label, by three scores; the oddest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.distance_matrix import distances
from conceptlens.statistics.vectors import checked, numbered

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

    Odd = Callable[[np.ndarray, int], np.ndarray]

Oddness = Literal["distance", "neighbours", "isolation"]
NEIGHBOURS = 20
SHARE = 0.05
FEWEST = 3


@dataclass(frozen=True, eq=False)
class Outliers:
    """The rows of one label, the oddest first.

    - `rows`: numbers of all rows that were given. `scores`: higher is odder, in every score.
    - `flagged`: whether the score lies above the label's .95 quantile. It flags about one row in twenty of *any*
      label, odd or not: look at the score, not at the flag.
    - `reason`: why nothing is ranked, where a label has too few rows.
    """

    rows: Int[np.ndarray, "own"]
    scores: Float[np.ndarray, "own"]
    flagged: Bool[np.ndarray, "own"]
    reason: str | None = None


def outliers(vectors: Vectors, labels: Names, score: Oddness = "distance", seed: int = 0) -> dict[str, Outliers]:
    """Return the rows of every label, the oddest first.

    LoCE (IJCV 2025) has three scores. `distance`: the sum of cosine distances to the label's other rows.
    `neighbours`: the local outlier factor (Breunig et al., 2000) of 20 neighbours and cosine distances; about 1 where
    a row is as densely surrounded as its neighbours. `isolation`: the isolation forest (Liu et al., 2008), .5 on
    average and towards 1 for what few cuts set apart; it sees raw vectors, `seed` is its own.

    The published code sorts the last two from the oddest up and then shows the other end: the most ordinary rows.
    Rows of equal score stand in their own order. A label of fewer than 3 rows is not ranked.
    """
    if score not in SCORES:
        raise InputError(f"no score '{score}'; there are: {', '.join(SCORES)}")
    rows = checked(vectors, "euclidean" if score == "isolation" else "cosine")
    codes, names = numbered(labels, len(rows))
    found = {}
    for code, name in enumerate(names):
        own = np.flatnonzero(codes == code)
        if len(own) < FEWEST:
            reason = f"{len(own)} rows; what is odd is told among at least {FEWEST}"
            found[name] = Outliers(np.empty(0, np.int64), np.empty(0), np.empty(0, bool), reason)
            continue
        odd = SCORES[score](rows[own], seed)
        order = np.argsort(-odd, kind="stable")
        found[name] = Outliers(own[order], odd[order], odd[order] > np.quantile(odd, 1 - SHARE))
    return found


def local_outlier_factor(apart: Float[np.ndarray, "row row"], neighbours: int = NEIGHBOURS) -> Float[np.ndarray, "row"]:
    """Return `mean_{b in N_k(a)} density(b) / density(a)`, with `1 / density(a) = mean_b max(apart(a, b), reach(b))`.

    `reach(b)` is the distance to b's k-th neighbour; k is at most the number of other rows. Equal distances are taken
    in the order of the rows. Among equal rows every density is the same large number, and the factor 1.
    """
    count = min(neighbours, len(apart) - 1)
    others = apart + np.diag(np.full(len(apart), np.inf))
    near = np.argsort(others, axis=1, kind="stable")[:, :count]
    between = np.take_along_axis(others, near, 1)
    density = 1 / (np.maximum(between, between[:, -1][near]).mean(1) + 1e-10)
    return density[near].mean(1) / density


def _summed(rows: np.ndarray, _: int) -> np.ndarray:
    return distances(rows, "cosine").sum(1)


def _factors(rows: np.ndarray, _: int) -> np.ndarray:
    return local_outlier_factor(distances(rows, "cosine"))


def _isolated(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(random_state=seed).fit(rows).score_samples(rows)


SCORES: dict[str, Odd] = {"distance": _summed, "neighbours": _factors, "isolation": _isolated}
