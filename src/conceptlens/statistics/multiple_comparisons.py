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
# Of fewer images a bootstrap draws too few different means: its p values are too small.
MIN_IMAGES = 8


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

    The draws' means are moved so that their middle is 0, as if there were no difference:
    `p = (1 + number of draws with |mean* - mean| >= |mean|) / (draws + 1)`. Images are drawn once for all comparisons.

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
    total = counts.sum(0)
    means = np.where(total > 0, sums.sum(0) / np.maximum(total, 1), 0)
    images, generator = len(sums), np.random.default_rng(check_seed(seed))
    beyond = np.zeros(sums.shape[1])
    step = max(1, BATCH_DRAWS // max(images, 1))
    # A difference in the last bits is no difference.
    reach = np.abs(means) - 1e-12
    for start in range(0, n_draws if images else 0, step):
        now = min(step, n_draws - start)
        taken = generator.integers(images, size=(now, images)) + images * np.arange(now)[:, None]
        times = np.bincount(taken.ravel(), minlength=now * images).reshape(now, images).astype(float)
        sizes = times @ counts
        drawn = np.where(sizes > 0, times @ sums / np.maximum(sizes, 1), means)
        beyond += (np.abs(drawn - means) >= reach).sum(0)
    return np.where((counts > 0).sum(0) < MIN_IMAGES, 1.0, (1 + beyond) / (n_draws + 1))
