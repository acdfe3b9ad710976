"""How a table describes a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conceptlens.statistics.score import Score


@dataclass(frozen=True)
class Metric:
    """One line of a table of metrics.

    Attributes:
        name: Its key in JSON and on pages.
        title: Its name for readers.
        compute: Returns a `Score`; what it takes is said by its own table.
        higher_is_better: Whether a higher value is better.
        low: The lowest possible value.
        high: The highest possible value.
        chance: What a map that knows nothing gets, with `r` the mask's share of the image.
        source: The paper it is from.
    """

    name: str
    title: str
    compute: Callable[..., Score]
    higher_is_better: bool
    low: float
    high: float
    chance: str
    source: str
