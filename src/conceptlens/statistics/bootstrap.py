"""How sure a mean is: confidence intervals by resampling images, since pairs of one image are not independent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from conceptlens.io.argument_kinds import check_integer, check_number, said
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Resampled = Callable[[Float[np.ndarray, "draw image"]], Float[np.ndarray, "draw"]]

BATCH_DRAWS = 2**21  # bounds the memory: images times draws in memory


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean of the values, in their unit.
        low: The lower end; `None` where there is one image only, whose spread is unknown.
        high: The upper end, likewise.
        count: How many values the mean is over.
        images: How many images they are from.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    images: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


def bootstrap_mean(
    values: ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of values with a percentile interval of the cluster bootstrap over images.

    Each draw takes as many images as there are, with replacement, and all values of each: values of one image rise and
    fall together, so resampling single values would make the interval too narrow.

    Args:
        values: `values[pair]`, finite.
        images: The image that each value is from, by number or name.
        n_bootstrap: How many draws.
        level: The confidence level, between 0 and 1.
        seed: Decides the draws.

    Returns:
        The mean and its interval, in the unit of the values; one image has no interval.

    Raises:
        InputError: There is no value, a value is not finite, the lengths differ, `n_bootstrap` is below 1, or `level`
            is not between 0 and 1.

    Examples:
        >>> cl.metrics.bootstrap_mean(*score.pairs())
    """
    numbers = _numbers(values, "values")
    return bootstrap_macro_mean(numbers, np.zeros(numbers.shape), images, n_bootstrap, level, seed)


def bootstrap_difference(
    a: ArrayLike,
    b: ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of `a - b` with its interval, paired: both hold one value for the same pair.

    An interval without 0 speaks for a difference; two overlapping intervals of `bootstrap_mean` do not speak against
    one.

    Args:
        a: `a[pair]`, finite.
        b: `b[pair]`, finite.
        images: The image that each pair is from, by number or name.
        n_bootstrap: How many draws.
        level: The confidence level, between 0 and 1.
        seed: Decides the draws.

    Returns:
        The mean and its interval, in the unit of the values; one image has no interval.

    Raises:
        InputError: `a` and `b` differ in shape, or as in `bootstrap_mean`.
    """
    first, second = _numbers(a, "a"), _numbers(b, "b")
    if first.shape != second.shape:
        raise InputError(f"a has shape {first.shape} and b {second.shape}; a paired difference needs the same pairs")
    return bootstrap_mean(first - second, images, n_bootstrap, level, seed)


def bootstrap_macro_mean(
    values: ArrayLike,
    groups: Sequence[Hashable] | ArrayLike,
    images: Sequence[Hashable] | ArrayLike,
    n_bootstrap: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of the groups' means with its interval; every group counts the same, whatever its size.

    Images are resampled once for all groups, since an image can have values in several. A group that a draw misses
    altogether is left out of that draw's mean.

    Args:
        values: `values[pair]`, finite.
        groups: The group of each value, such as its concept type.
        images: The image that each value is from, by number or name.
        n_bootstrap: How many draws.
        level: The confidence level, between 0 and 1.
        seed: Decides the draws.

    Returns:
        The mean and its interval, in the unit of the values; one image has no interval.

    Raises:
        InputError: As in `bootstrap_mean`.
    """
    numbers = _numbers(values, "values")
    group, image = _numbered(groups, "groups"), _numbered(images, "images")
    _check(numbers, group, image)
    shape = (int(image.max()) + 1, int(group.max()) + 1)
    cell = image * shape[1] + group
    sums = np.bincount(cell, numbers, shape[0] * shape[1]).reshape(shape)
    sizes = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    mean = float(_mean_of_means(sums.sum(0, keepdims=True), sizes.sum(0, keepdims=True))[0])

    def resampled(times: Float[np.ndarray, "draw image"]) -> Float[np.ndarray, "draw"]:
        return _mean_of_means(times @ sums, times @ sizes)

    return bootstrap(mean, resampled, shape[0], len(numbers), n_bootstrap, level, seed)


def bootstrap(
    mean: float, resampled: Resampled, images: int, count: int, n_bootstrap: int, level: float, seed: int
) -> Interval:
    """Return `mean` with the percentile interval of a statistic over draws of images with replacement.

    Args:
        mean: The statistic of all images.
        resampled: Returns the statistic of each draw from `times[draw image]`, how often each image is drawn; NaN for
            a draw that leaves it undefined, which is left out.
        images: How many images there are.
        count: How many values the mean is over.
        n_bootstrap: How many draws.
        level: The confidence level, between 0 and 1.
        seed: Decides the draws.

    Returns:
        The interval, in the unit of the statistic; without ends where there is one image, or no draw is defined.

    Raises:
        InputError: `n_bootstrap` is below 1, or `level` is not between 0 and 1.
    """
    check_integer(n_bootstrap, "n_bootstrap")
    check_number(level, "level", "a confidence level between 0 and 1", lambda one: 0 < one < 1)
    if images == 1:
        return Interval(mean, None, None, count, 1)
    generator = np.random.default_rng(check_seed(seed))
    found: list[np.ndarray] = []
    step = max(1, BATCH_DRAWS // images)
    for start in range(0, n_bootstrap, step):
        now = min(step, n_bootstrap - start)
        taken = generator.integers(images, size=(now, images)) + images * np.arange(now)[:, None]
        found.append(resampled(np.bincount(taken.ravel(), minlength=now * images).reshape(now, images).astype(float)))
    defined = np.concatenate(found)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return Interval(mean, None, None, count, images)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), count, images)


def _mean_of_means(
    sums: Float[np.ndarray, "draw group"], sizes: Float[np.ndarray, "draw group"]
) -> Float[np.ndarray, "draw"]:
    """Return the mean over groups with values of their means; every draw has at least one."""
    return (sums / np.maximum(sizes, 1)).sum(1) / (sizes > 0).sum(1)


def _numbers(given: ArrayLike, name: str) -> Float[np.ndarray, "*any"]:
    """Return numbers as an array, and refuse what are none."""
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name} are {said(given)}; expected numbers in one row") from None


def _numbered(names: Sequence[Hashable] | ArrayLike, what: str) -> Int[np.ndarray, "pair"]:
    """Return 0, 1, 2, ... for each name, by first appearance."""
    try:
        one_row = not isinstance(names, str) and np.ndim(names) == 1  # pyright: ignore[reportArgumentType]
    except ValueError:  # NumPy's of lists in lists of other lengths
        one_row = False
    if not one_row:
        raise InputError(f"{what} must be one name or number for each value, in one row")
    known: dict[Hashable, int] = {}
    listed = names.tolist() if hasattr(names, "tolist") else list(names)  # pyright: ignore
    return np.array([known.setdefault(name, len(known)) for name in listed], dtype=np.int64)


def _check(numbers: np.ndarray, group: np.ndarray, image: np.ndarray) -> None:
    if numbers.ndim != 1 or not len(numbers):
        raise InputError(f"values have shape {numbers.shape}; expected one row with at least one value")
    if not len(numbers) == len(group) == len(image):
        raise InputError(
            f"{len(numbers)} values, {len(group)} groups, {len(image)} images; expected one of each a pair"
        )
    if not np.isfinite(numbers).all():
        raise InputError("values must be finite; leave out what does not apply, as Score.pairs does")
