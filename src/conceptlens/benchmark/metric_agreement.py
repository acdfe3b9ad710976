"""How far metrics agree: do two of them rank methods alike, and photos alike?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

# Fewer things than these can be ranked alike by chance alone.
MIN_RANKED = 3
# Ranks of fewer methods, controls among them, are not shown.
MIN_METHODS = 4


@dataclass(frozen=True, eq=False)
class MetricAgreement:
    """Spearman's rank correlation of every two columns, each turned so that more is better.

    Attributes:
        over_methods: Of the methods' means; NaN where fewer than three methods have both, or one column does not tell
            them apart.
        over_photos: Of the photos' values, the mean over methods that are no controls; NaN likewise.
    """

    over_methods: Float[np.ndarray, "measure measure"]
    over_photos: Float[np.ndarray, "measure measure"]


def metric_agreement(
    values: Float[np.ndarray, "photo method measure"], controls: Sequence[bool]
) -> MetricAgreement | None:
    """Return how far columns agree.

    Args:
        values: The numbers, turned so that more is better; NaN where there is none.
        controls: Which methods are controls; they count among methods, and their photos do not.

    Returns:
        The agreement; `None` where there is one column alone.
    """
    if values.shape[2] < 2:
        return None
    known = np.isfinite(values)
    means = np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)
    own = [rank_correlations(values[:, index]) for index, control in enumerate(controls) if not control]
    stacked = np.stack(own) if own else np.full((1, values.shape[2], values.shape[2]), np.nan)
    counted = np.isfinite(stacked)
    over_photos = np.where(counted.any(0), np.where(counted, stacked, 0).sum(0) / np.maximum(counted.sum(0), 1), np.nan)
    return MetricAgreement(rank_correlations(means), over_photos)


def rank_correlations(values: Float[np.ndarray, "row measure"]) -> Float[np.ndarray, "measure measure"]:
    """Return Spearman's rank correlation of every two columns over the rows that have both; ties share their rank.

    Args:
        values: NaN where there is none.
    """
    count = values.shape[1]
    found = np.full((count, count), np.nan)
    for first in range(count):
        for second in range(first, count):
            found[first, second] = found[second, first] = _rank_correlation(values[:, first], values[:, second])
    return found


def _rank_correlation(first: Float[np.ndarray, "row"], second: Float[np.ndarray, "row"]) -> float:
    from scipy.stats import rankdata

    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < MIN_RANKED:
        return float("nan")
    ranks = np.stack([rankdata(first[both]), rankdata(second[both])])
    ranks -= ranks.mean(1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(1))
    return float(ranks[0] @ ranks[1] / (norms[0] * norms[1])) if norms.all() else float("nan")
