"""How sure a mean is: confidence intervals by resampling images, since pairs of one image are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

DRAWN_AT_ONCE = 2**21  # bounds the memory: images times draws held together


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, over `count` values from `images` images.

    `low` and `high` are None where there is one image only: its spread is unknown, not zero.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    images: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


def interval(
    values: ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values[pair]` with a percentile interval of the cluster bootstrap.

    `images[pair]` says which image each value is from (a number or a name). Each draw takes as many images as there
    are, with replacement, and all values of each: values of one image rise and fall together, so resampling single
    values would make the interval too narrow. The same seed gives the same interval.
    """
    return macro(values, np.zeros(np.shape(values)), images, draws, level, seed)


def difference(
    a: ArrayLike,
    b: ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of the mean of `a - b`, paired: both hold one value for the same pair of image and question.

    An interval without 0 speaks for a difference; two overlapping intervals of `interval` do not speak against one.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise InputError(f"a has shape {first.shape} and b {second.shape}; a paired difference needs the same pairs")
    return interval(first - second, images, draws, level, seed)


def macro(
    values: ArrayLike,
    groups: Sequence[Hashable] | ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of the groups' means, `groups[pair]` such as concept types, with its interval.

    Images are resampled once for all groups, since an image can have values in several. A group that a draw misses
    altogether is left out of that draw's mean.
    """
    numbers = np.asarray(values, np.float64)
    group, image = _numbered(groups, "groups"), _numbered(images, "images")
    _check(numbers, group, image, draws, level)
    shape = (int(image.max()) + 1, int(group.max()) + 1)
    cell = image * shape[1] + group
    sums = np.bincount(cell, numbers, shape[0] * shape[1]).reshape(shape)
    sizes = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    mean = float(_mean_of_means(sums.sum(0, keepdims=True), sizes.sum(0, keepdims=True))[0])
    if shape[0] == 1:
        return Interval(mean, None, None, len(numbers), 1)
    means = _drawn(sums, sizes, draws, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(numbers), shape[0])


def _drawn(
    sums: Float[np.ndarray, "image group"], sizes: Float[np.ndarray, "image group"], draws: int, seed: int
) -> Float[np.ndarray, "draw"]:
    """Return the mean of the groups' means in each draw of images with replacement."""
    images = len(sums)
    generator = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    step = max(1, DRAWN_AT_ONCE // images)
    for start in range(0, draws, step):
        now = min(step, draws - start)
        taken = generator.integers(images, size=(now, images)) + images * np.arange(now)[:, None]
        times = np.bincount(taken.ravel(), minlength=now * images).reshape(now, images).astype(np.float64)
        means.append(_mean_of_means(times @ sums, times @ sizes))
    return np.concatenate(means)


def _mean_of_means(
    sums: Float[np.ndarray, "draw group"], sizes: Float[np.ndarray, "draw group"]
) -> Float[np.ndarray, "draw"]:
    """Return the mean over groups with values of their means; every draw has at least one."""
    return (sums / np.maximum(sizes, 1)).sum(1) / (sizes > 0).sum(1)


def _numbered(names: Sequence[Hashable] | ArrayLike, what: str) -> Int[np.ndarray, "pair"]:
    """Return 0, 1, 2, ... for each name, by first appearance."""
    if isinstance(names, str) or np.ndim(names) != 1:  # pyright: ignore[reportArgumentType]
        raise InputError(f"{what} must be one name or number for each value, in one row")
    known: dict[Hashable, int] = {}
    listed = names.tolist() if hasattr(names, "tolist") else list(names)  # pyright: ignore
    return np.array([known.setdefault(name, len(known)) for name in listed], dtype=np.int64)


def _check(numbers: np.ndarray, group: np.ndarray, image: np.ndarray, draws: int, level: float) -> None:
    if numbers.ndim != 1 or not len(numbers):
        raise InputError(f"values have shape {numbers.shape}; expected one row with at least one value")
    if not len(numbers) == len(group) == len(image):
        raise InputError(
            f"{len(numbers)} values, {len(group)} groups, {len(image)} images; expected one of each a pair"
        )
    if not np.isfinite(numbers).all():
        raise InputError("values must be finite; leave out what does not apply, as Score.pairs does")
    if draws < 1 or not 0 < level < 1:
        raise InputError(f"draws is {draws} and level {level}; expected at least 1 draw and a level between 0 and 1")
