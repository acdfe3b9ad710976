"""Intervals of many means of the same images, from the same draws: one resampling for all columns of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.bootstrap import BATCH_DRAWS, Interval
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from jaxtyping import Float

N_DRAWS = 1000


def drawn_means(
    values: Float[np.ndarray, "image column"], n_draws: int = N_DRAWS, seed: int = 0
) -> Float[np.ndarray, "draw column"]:
    """Return the mean of each column over draws of as many images as there are, with replacement.

    Args:
        values: One row for each image, finite.
        n_draws: How many draws.
        seed: Decides them.

    Raises:
        InputError: There is no image or no draw, or a value is not finite.
    """
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all() or n_draws < 1:
        raise InputError(
            f"values have shape {values.shape} and {n_draws} draws are asked for; expected finite values, image "
            "column, of at least one image, and at least one draw"
        )
    images, generator = len(values), np.random.default_rng(check_seed(seed))
    found, step = [], max(1, BATCH_DRAWS // images)
    for start in range(0, n_draws, step):
        now = min(step, n_draws - start)
        taken = generator.integers(images, size=(now, images)) + images * np.arange(now)[:, None]
        found.append(np.bincount(taken.ravel(), minlength=now * images).reshape(now, images) @ values / images)
    return np.concatenate(found)


def mean_intervals(
    values: Float[np.ndarray, "image column"], level: float = 0.95, n_draws: int = N_DRAWS, seed: int = 0
) -> list[Interval]:
    """Return the mean of each column with its percentile interval of the bootstrap over images.

    Args:
        values: One row for each image, finite.
        level: The confidence level, between 0 and 1.
        n_draws: How many draws.
        seed: Decides them.

    Returns:
        An interval for each column; without ends where there is one image.

    Raises:
        InputError: As in `drawn_means`.
    """
    drawn, images = drawn_means(values, n_draws, seed), len(values)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends = [(None, None)] * values.shape[1] if images == 1 else list(zip(low.tolist(), high.tolist(), strict=True))
    return [
        Interval(mean, *end, count=images, images=images)
        for mean, end in zip(values.mean(0).tolist(), ends, strict=True)
    ]
