"""Many metrics of a map and a model from few forward passes: those that remove the same pixels share them.

Relative drops, deletion and ROAD all remove a map's highest pixels, insertion and ROAD its lowest. Each is read here
from two curves of a class's probability and its rival's; values equal those of the functions in `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.benchmark.protocol import Measure
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.faithfulness import ROAD_SHARES
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS
from conceptlens.metrics.pixel_fills import WHOLE_FILLS
from conceptlens.metrics.pixel_removal import STEPS, checked_shares, removed_values, taken_shares
from conceptlens.metrics.removal_order import maps_for, ranked
from conceptlens.metrics.variant_runs import Reading
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.pixel_removal import Removal
    from conceptlens.metrics.scored_images import ScoredImages

    Read = Callable[["RemovalPair"], Float[Tensor, "image question"]]

_GRID = tuple(step / STEPS for step in range(STEPS + 1))
# Masks of these metrics are soft, so they take the fills that replace a whole image.
SOFT = ("average_drop", "increase_in_confidence")


@dataclass(frozen=True, eq=False)
class SharedCurve:
    """The probabilities of a class and of its rival while pixels are removed: `values[image question share 2]`.

    `taken` are the shares, rounded to whole pixels.
    """

    shares: tuple[float, ...]
    taken: Float[Tensor, "share"]
    values: Float[Tensor, "image question share pair"]

    def at(self, shares: Sequence[float]) -> Float[Tensor, "image question share pair"]:
        """Return the probabilities at some of the shares.

        Args:
            shares: Shares of the pixels that are removed.
        """
        return self.values[:, :, self._places(shares)]

    def area(self) -> Float[Tensor, "image question pair"]:
        """Return the area under both probabilities from no pixel to all, by the trapezoid rule."""
        return torch.trapezoid(self.at(_GRID), self.taken[self._places(_GRID)], dim=2)

    def _places(self, shares: Sequence[float]) -> list[int]:
        return [self.shares.index(share) for share in shares]


@dataclass(frozen=True, eq=False)
class RemovalPair:
    """What is left without a map's highest and without its lowest pixels; `whole` is of the whole image."""

    highest: SharedCurve
    lowest: SharedCurve
    whole: Float[Tensor, "image question pair"]


@dataclass(frozen=True)
class SharedReading:
    """How a metric is read from both curves: the shares of each that it needs, and its formula."""

    highest: tuple[float, ...]
    lowest: tuple[float, ...]
    read: Read


def _relative_drop(share: float) -> Read:
    def read(found: RemovalPair) -> Tensor:
        lost = found.whole - found.highest.at((share,))[:, :, 0]
        return lost[..., 0] - lost[..., 1]

    return read


def _relative_drop_area(found: RemovalPair) -> Tensor:
    lost = found.whole - found.highest.area()
    return lost[..., 0] - lost[..., 1]


def _change(curve: SharedCurve, whole: Tensor) -> Tensor:
    return curve.at(ROAD_SHARES)[..., 0].mean(2) - whole[..., 0]


def _road_most(found: RemovalPair) -> Tensor:
    return _change(found.highest, found.whole)


def _road_least(found: RemovalPair) -> Tensor:
    return _change(found.lowest, found.whole)


SHARED_READINGS: dict[str, SharedReading] = {
    "relative_drop_5": SharedReading((0.05,), (), _relative_drop(0.05)),
    "relative_drop_10": SharedReading((0.1,), (), _relative_drop(0.1)),
    "relative_drop_area": SharedReading(_GRID, (), _relative_drop_area),
    "deletion": SharedReading(_GRID, (), lambda found: found.highest.area()[..., 0]),
    "insertion": SharedReading((), _GRID, lambda found: found.lowest.area()[..., 0]),
    "road": SharedReading(ROAD_SHARES, ROAD_SHARES, lambda found: (_road_least(found) - _road_most(found)) / 2),
    "road_most": SharedReading(ROAD_SHARES, (), _road_most),
    "road_least": SharedReading((), ROAD_SHARES, _road_least),
}


def check_measure(measure: Measure) -> None:
    """Refuse a metric that there is not, or one that cannot take its fill.

    Args:
        measure: The metric and its fill.

    Raises:
        InputError: As above.
    """
    if measure.metric not in FAITHFULNESS_METRICS:
        raise InputError(f"no metric '{measure.metric}'; metrics: {near(measure.metric, FAITHFULNESS_METRICS, 20)}")
    if measure.metric in SOFT and measure.fill not in WHOLE_FILLS:
        raise InputError(f"{measure.metric} takes the fills {', '.join(WHOLE_FILLS)}, not '{measure.fill}'")


def measured_maps(
    explained: Maps, scored: ScoredImages, measures: Sequence[Measure], rivals: Int[Tensor, "image question"], seed: int
) -> dict[Measure, Score]:
    """Return several metrics of the same maps.

    Args:
        explained: The maps.
        scored: The images, with the probabilities of all classes and the class of each question.
        measures: Metrics of `FAITHFULNESS_METRICS`, each with a fill.
        rivals: The class that each question's class stands against in relative drops, see `likeliest_rivals`.
        seed: Draws the order of equal pixels and noise.

    Returns:
        A `Score` for each measure.

    Raises:
        InputError: A metric is unknown, or as in the metrics themselves.
    """
    found: dict[Measure, Score] = {}
    for fill in dict.fromkeys(measure.fill for measure in measures):
        names = [measure.metric for measure in measures if measure.fill == fill]
        shared = {name: SHARED_READINGS[name] for name in names if name in SHARED_READINGS}
        if shared:
            found |= _shared_scores(explained, scored, shared, fill, rivals, seed)
        for name in names:
            if name not in shared:
                own = {} if name in SOFT else {"seed": seed}
                found[Measure(name, fill)] = FAITHFULNESS_METRICS[name].compute(explained, scored, fill=fill, **own)
    return {measure: found[measure] for measure in measures}


def likeliest_rivals(scored: ScoredImages) -> Int[Tensor, "image question"]:
    """Return the most probable other class of the whole image for each question, as `relative_drop` takes it.

    Args:
        scored: The images, with the class of each question.

    Raises:
        InputError: The classes or their probabilities are not known, or there is one class alone.
    """
    own = _classes(scored)
    seen = scored.run_classes(scored.images, torch.arange(len(own), device=own.device))
    return seen[:, None].expand(-1, own.shape[1], -1).scatter(2, own[..., None], -1.0).argmax(2)


def _classes(scored: ScoredImages) -> Int[Tensor, "image question"]:
    if scored.classes is None:
        raise InputError("it is not known which class each question is about; give ScoredImages(..., classes=)")
    return scored.classes.to(scored.images.device)


def _shared_scores(
    explained: Maps,
    scored: ScoredImages,
    shared: Mapping[str, SharedReading],
    fill: str,
    rivals: Int[Tensor, "image question"],
    seed: int,
) -> dict[Measure, Score]:
    own = _classes(scored)

    def pair(outputs: Tensor, image: Tensor, question: Tensor) -> Tensor:
        return outputs.gather(1, torch.stack([own[image, question], rivals[image, question]], 1))

    def curve(removed: Removal, needed: set[float]) -> tuple[SharedCurve, Tensor]:
        shares = tuple(sorted(needed))
        if not shares:
            empty = torch.zeros(*own.shape, 0, 2, dtype=torch.float64)
            return SharedCurve((), torch.zeros(0), empty), torch.zeros(*own.shape, 2)
        reading = Reading(scored.run_classes, pair)
        steps = checked_shares(shares)
        _, values, whole = removed_values(explained, scored, reading, steps, fill, removed, "seeded", seed)
        return SharedCurve(shares, taken_shares(steps, scored), values), whole

    highest, whole = curve("highest", {share for one in shared.values() for share in one.highest})
    lowest, again = curve("lowest", {share for one in shared.values() for share in one.lowest})
    both = RemovalPair(highest, lowest, whole if highest.shares else again)
    applies = ranked(maps_for(explained, scored)).cpu()
    return {
        Measure(name, fill): Score(torch.where(applies, one.read(both), 0.0), applies, fill=fill)
        for name, one in shared.items()
    }
