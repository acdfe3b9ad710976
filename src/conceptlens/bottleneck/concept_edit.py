"""Lasting changes of a bottleneck: bounds of a concept's activation, for one class or for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conceptlens.io.errors import InputError

LARGEST = 3e38  # that single precision holds


@dataclass(frozen=True)
class Edit:
    """The activation of a concept is kept between `low` and `high`, for one class (`target`) or for all (`None`).

    `low == high` sets it; an infinite bound leaves that side open. In units of the activation, as
    `BottleneckOutput.activations`. `note` says why, for the record. Made by name with `set_to`, `clamp` and `remove`.
    """

    concept: int
    low: float
    high: float
    target: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.concept, int) or not isinstance(self.target, int | None):
            raise InputError(
                f"concept {self.concept!r} of class {self.target!r} is to be edited; give their numbers, or use "
                "set_to, clamp or remove, which take names"
            )
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            raise InputError(f"a concept is to stay between {self.low} and {self.high}; give low <= high, within reach")
        if any(math.isfinite(side) and abs(side) > LARGEST for side in (self.low, self.high)):
            raise InputError(
                f"a concept is to stay between {self.low} and {self.high}; give numbers below {LARGEST:g} in size"
            )
