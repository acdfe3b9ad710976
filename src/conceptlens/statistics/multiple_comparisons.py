"""Which of many paired differences are real: bootstrap p values by image, corrected for how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.errors import InputError
from conceptlens.statistics.bootstrap import BATCH_DRAWS
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from jaxtyping import Float

# The smallest p value is 1 / (draws + 1); corrected for 200 comparisons, it is still below 0.05.
N_DRAWS = 9999
# Of fewer images nothing is said.
MIN_IMAGES = 8
# Percentile intervals of fewer images are too narrow: of 8, those of 95 % hold the truth in 89 % of samples.
ENOUGH_IMAGES = 20
# A difference in the last bits is no difference; a standard error of so small a share of the whole one is none.
NO_DIFFERENCE, NO_ERROR = 1e-12, 1e-7


def holm(p_values: ArrayLike) -> Float[np.ndarray, "comparison"]:
    """Return p values corrected for their number by Holm's step-down method.

    Holm, Scandinavian Journal of Statistics 1979: of `m` p values in rising order, the `i`-th becomes the highest of
    `(m - j + 1) p_j` for `j <= i`, at most 1. Those at most `a` are then real with a chance of at most `a` that any of
    them is not.

    Args:
        p_values: One for each comparison, 0 to 1.

    Returns:
        Corrected p values in the order given.

    Raises:
        InputError: A p value lies outside 0..1, or they stand in several rows.
    """
    given = np.asarray(p_values, np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise InputError(f"p values have shape {given.shape} or lie outside 0..1; expected one row of them, 0 to 1")
    order = np.argsort(given, kind="stable")
    factors = len(given) - np.arange(len(given))
    found = np.empty(len(given))
    found[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1)
    return found


def paired_p_values(
    sums: Float[np.ndarray, "image comparison"],
    counts: Float[np.ndarray, "image comparison"],
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "comparison"]:
    """Return two-sided bootstrap p values of mean paired differences against 0, resampling images.

    Each mean is divided by its standard error, that of all images and that of each draw (the bootstrap-t: Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16): with means alone, p values of few images are too
    small. With `t = mean / error` and `t* = (mean* - mean) / error*`,
    `p = (1 + number of draws with |t*| >= |t|) / (draws + 1)`. The mean is a ratio of sums over images; its standard
    error is that of its linearisation, `sqrt(sum (sum_i - mean * count_i)^2) / sum count_i`. Of `m` images whose
    difference is not 0, no p value is below `2^(1 - m)`, that of their signs. Images are drawn once for all
    comparisons.

    Args:
        sums: The sum of each image's differences, 0 where it has none.
        counts: How many differences each image has.
        n_draws: How many draws.
        seed: Decides them.

    Returns:
        A p value for each comparison; 1 where fewer than 8 images have a difference, of which nothing can be said.

    Raises:
        InputError: The shapes differ, a number is not finite, or there is no draw.
    """
    if sums.ndim != 2 or sums.shape != counts.shape or not np.isfinite(sums).all():
        raise InputError(
            f"sums have shape {sums.shape} and counts {counts.shape}; expected finite ones, image comparison"
        )
    if n_draws < 1:
        raise InputError(f"n_draws is {n_draws}; expected at least 1")
    sums = np.where(np.abs(sums) > NO_DIFFERENCE, sums, 0)
    found = _MeanByImage(sums, counts)
    images, generator = len(sums), np.random.default_rng(check_seed(seed))
    beyond = np.zeros(sums.shape[1])
    step = max(1, BATCH_DRAWS // max(images, 1))
    for start in range(0, n_draws if images else 0, step):
        now = min(step, n_draws - start)
        taken = generator.integers(images, size=(now, images)) + images * np.arange(now)[:, None]
        times = np.bincount(taken.ravel(), minlength=now * images).reshape(now, images).astype(float)
        beyond += (found.drawn(times) >= found.t * (1 - 1e-9)).sum(0)
    by_signs = np.exp2(1.0 - (sums != 0).sum(0))
    p_values = np.minimum(np.maximum((1 + beyond) / (n_draws + 1), by_signs), 1)
    return np.where((counts > 0).sum(0) < MIN_IMAGES, 1.0, p_values)


class _MeanByImage:
    """Means of differences over images, and how many standard errors they and those of draws lie off.

    Attributes:
        t: The absolute mean in standard errors, of each comparison; infinite where all images differ alike, 0 where
            there is no difference.
    """

    def __init__(self, sums: Float[np.ndarray, "image comparison"], counts: Float[np.ndarray, "image comparison"]):
        size = np.maximum(counts.sum(0), 1)
        mean = sums.sum(0) / size
        rest = sums - mean * counts
        self._rest, self._counts = rest, counts
        self._squares, self._products, self._sizes = rest**2, rest * counts, counts**2
        error = np.sqrt(self._squares.sum(0)) / size
        self._scale = np.maximum(np.abs(mean), error)
        self.t = self._in_errors(np.abs(mean), error)

    def drawn(self, times: Float[np.ndarray, "draw image"]) -> Float[np.ndarray, "draw comparison"]:
        """Return how far the mean of each draw lies off that of all images, in standard errors of the draw."""
        size = np.maximum(times @ self._counts, 1)
        off = times @ self._rest / size
        squares = times @ self._squares - 2 * off * (times @ self._products) + off**2 * (times @ self._sizes)
        return self._in_errors(np.abs(off), np.sqrt(np.maximum(squares, 0)) / size)

    def _in_errors(self, off: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return `off / error`: 0 where nothing is off, infinite where there is no error alone."""
        known = error > NO_ERROR * self._scale
        without = np.where(off > NO_DIFFERENCE * self._scale, np.inf, 0)
        return np.where(known, off / np.where(known, error, 1), without)
