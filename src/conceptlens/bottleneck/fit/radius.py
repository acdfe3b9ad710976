"""How wide the locator's Gaussians are at each step of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from conceptlens.io.errors import InputError, near

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "exponential": lambda done: done,  # in the exponent, see radius_at
    "fixed": lambda done: 0.0,
}


def radius_at(shape: str, done: float, first: float, last: float) -> float:
    """Return the radius in cells after a share `done` (0 to 1) of the shrinking: from `first` to `last`, never growing.

    linear `first + (last - first) t`; cosine along half a period; exponential `first (last / first)^t`; fixed `last`.
    Loc-CBM's poster (ICCV 2025) says that the radius shrinks and not how. Raises `InputError` for an unknown shape,
    and radii that are not positive or that grow.
    """
    if shape not in SHAPES:
        raise InputError(f"no radius schedule {shape!r}; schedules: {near(shape, SHAPES, len(SHAPES))}")
    if not first >= last > 0:
        raise InputError(f"the radius goes from {first} to {last}; give a first radius of at least the last, above 0")
    done = min(1.0, max(0.0, done))
    if shape == "exponential":
        return first * (last / first) ** done
    return last + (first - last) * SHAPES[shape](done)
