"""Each metric that removes pixels, read from two curves: without a map's highest and without its lowest pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from conceptlens.metrics.faithfulness import ERASER_SHARES, ROAD_SHARES
from conceptlens.metrics.pixel_removal import STEPS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Values = Float[Tensor, "image question value"]
    Read = Callable[["RemovedShares"], Float[Tensor, "image question"]]

EVERY_STEP = tuple(step / STEPS for step in range(STEPS + 1))
_REST = tuple(1 - share for share in ERASER_SHARES)


@dataclass(frozen=True, eq=False)
class SharedCurve:
    """What is read at some shares of removed pixels, by share: the class of each question, or it and its rival.

    `taken` are the shares rounded to whole pixels.
    """

    values: Mapping[float, Values]
    taken: Mapping[float, float]

    def at(self, shares: Sequence[float]) -> Float[Tensor, "share image question value"]:
        """Return what is read at some of the shares.

        Args:
            shares: Shares of the pixels that are removed.
        """
        return torch.stack([self.values[share_key(share)] for share in shares])

    def mean(self, shares: Sequence[float]) -> Float[Tensor, "image question"]:
        """Return the mean over some of the shares of what is read of the question's own class.

        Args:
            shares: Shares of the pixels that are removed.
        """
        return self.at(shares)[..., 0].mean(0)

    def area(self) -> Values:
        """Return the area from no pixel to all, by the trapezoid rule."""
        taken = torch.tensor([self.taken[share_key(share)] for share in EVERY_STEP], dtype=torch.float64)
        return torch.trapezoid(self.at(EVERY_STEP), taken, dim=0)


@dataclass(frozen=True, eq=False)
class RemovedShares:
    """What is left without a map's highest and without its lowest pixels; `whole` is of the whole image."""

    highest: SharedCurve
    lowest: SharedCurve
    whole: Values


@dataclass(frozen=True)
class RemovalReading:
    """How a metric is read: the shares that it needs of either curve, its formula, and whether it needs rivals."""

    highest: tuple[float, ...]
    lowest: tuple[float, ...]
    read: Read
    rivals: bool = False


def share_key(share: float) -> float:
    """Return a share without what arithmetic adds to it.

    Args:
        share: A share of the pixels.
    """
    return round(share, 9)


def _lost_more(lost: Values) -> Float[Tensor, "image question"]:
    """Return how much more the class lost than its rival."""
    return lost[..., 0] - lost[..., 1]


def _relative_drop(found: RemovedShares, share: float) -> Tensor:
    return _lost_more(found.whole - found.highest.at((share,))[0])


def _relative_drop_area(found: RemovedShares) -> Tensor:
    return _lost_more(found.whole - found.highest.area())


def _road_most(found: RemovedShares) -> Tensor:
    return found.highest.mean(ROAD_SHARES) - found.whole[..., 0]


def _road_least(found: RemovedShares) -> Tensor:
    return found.lowest.mean(ROAD_SHARES) - found.whole[..., 0]


def _road(found: RemovedShares) -> Tensor:
    return (_road_least(found) - _road_most(found)) / 2


def _deletion(found: RemovedShares) -> Tensor:
    return found.highest.area()[..., 0]


def _insertion(found: RemovedShares) -> Tensor:
    return found.lowest.area()[..., 0]


def _comprehensiveness(found: RemovedShares) -> Tensor:
    return found.whole[..., 0] - found.highest.mean(ERASER_SHARES)


def _sufficiency(found: RemovedShares) -> Tensor:
    return found.whole[..., 0] - found.lowest.mean(_REST)


REMOVAL_READINGS: dict[str, RemovalReading] = {
    "deletion": RemovalReading(EVERY_STEP, (), _deletion),
    "insertion": RemovalReading((), EVERY_STEP, _insertion),
    "road": RemovalReading(ROAD_SHARES, ROAD_SHARES, _road),
    "road_most": RemovalReading(ROAD_SHARES, (), _road_most),
    "road_least": RemovalReading((), ROAD_SHARES, _road_least),
    "comprehensiveness": RemovalReading(ERASER_SHARES, (), _comprehensiveness),
    "sufficiency": RemovalReading((), _REST, _sufficiency),
    "relative_drop_5": RemovalReading((0.05,), (), partial(_relative_drop, share=0.05), True),
    "relative_drop_10": RemovalReading((0.1,), (), partial(_relative_drop, share=0.1), True),
    "relative_drop_area": RemovalReading(EVERY_STEP, (), _relative_drop_area, True),
}
