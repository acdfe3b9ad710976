"""The outliers of every label by three scores, the most unusual row first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.statistics.vectors import check_vectors, distances, encode_labels

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

    ScoreFunction = Callable[[np.ndarray, int], np.ndarray]

OutlierScore = Literal["distance", "lof", "isolation"]
N_NEIGHBORS = 20
SHARE = 0.05
MIN_ROWS = 3


@dataclass(frozen=True, eq=False)
class Outliers:
    """The rows of one label, the most unusual first.

    - `rows`: numbers of all rows that were given. `scores`: higher is more unusual, in every score.
    - `flagged`: whether the score lies above the label's .95 quantile. It flags about one row in twenty of *any*
      label, unusual or not: look at the score, not at the flag.
    - `reason`: why nothing is ranked, where a label has too few rows.
    """

    rows: Int[np.ndarray, "own"]
    scores: Float[np.ndarray, "own"]
    flagged: Bool[np.ndarray, "own"]
    reason: str | None = None


def outliers(vectors: Vectors, labels: Names, score: OutlierScore = "distance", seed: int = 0) -> dict[str, Outliers]:
    """Return the rows of every label, the most unusual first.

    LoCE (IJCV 2025) has three scores. `distance`: the sum of cosine distances to the label's other rows.
    `lof`: the local outlier factor (Breunig et al., 2000) of 20 neighbours and cosine distances; about 1 where
    a row is as densely surrounded as its neighbours. `isolation`: the isolation forest (Liu et al., 2008), .5 on
    average and towards 1 for what few cuts set apart; it sees raw vectors, `seed` is its own.

    The published code sorts the last two from the most unusual up and then shows the other end: the most ordinary rows.
    Rows of equal score stand in their own order. A label of fewer than 3 rows is not ranked.

    Args:
        vectors: `vectors[row channel]`.
        labels: The label of each row, by name or number.
        score: `"distance"`, `"lof"` or `"isolation"`.
        seed: Of the isolation forest.

    Returns:
        The ranked rows of each label by its name.

    Raises:
        InputError: The score is unknown.
    """
    if score not in SCORES:
        raise InputError(f"no score '{score}'; there are: {', '.join(SCORES)}")
    rows = check_vectors(vectors, "euclidean" if score == "isolation" else "cosine")
    codes, names = encode_labels(labels, len(rows))
    found = {}
    for code, name in enumerate(names):
        own = np.flatnonzero(codes == code)
        if len(own) < MIN_ROWS:
            reason = f"{len(own)} rows; outliers are ranked among at least {MIN_ROWS}"
            found[name] = Outliers(np.empty(0, np.int64), np.empty(0), np.empty(0, bool), reason)
            continue
        values = SCORES[score](rows[own], seed)
        order = np.argsort(-values, kind="stable")
        found[name] = Outliers(own[order], values[order], values[order] > np.quantile(values, 1 - SHARE))
    return found


def _summed(rows: np.ndarray, _: int) -> np.ndarray:
    return distances(rows, "cosine").sum(1)


def _outlier_factors(rows: np.ndarray, _: int) -> np.ndarray:
    from sklearn.neighbors import LocalOutlierFactor

    model = LocalOutlierFactor(min(N_NEIGHBORS, len(rows) - 1), metric="precomputed")
    with quiet_warnings("Duplicate values", UserWarning):  # equal rows have a factor of about 1
        return -model.fit(distances(rows, "cosine")).negative_outlier_factor_


def _isolated(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(random_state=seed).fit(rows).score_samples(rows)


SCORES: dict[str, ScoreFunction] = {"distance": _summed, "lof": _outlier_factors, "isolation": _isolated}
