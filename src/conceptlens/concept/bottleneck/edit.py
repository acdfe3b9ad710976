"""Lasting changes of a bottleneck: what a person says of a concept, for one class or for all."""

from __future__ import annotations

from dataclasses import dataclass

from conceptlens.error import InputError


@dataclass(frozen=True)
class Edit:
    """The activation of a concept is kept between `low` and `high`, for one class (`target`) or for all (`None`).

    `low == high` sets it. In units of the activation, as `Reading.activations`. `note` says why, for the record.
    """

    concept: int
    low: float
    high: float
    target: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not self.low <= self.high:
            raise InputError(f"a concept is to stay between {self.low} and {self.high}; give low <= high")
