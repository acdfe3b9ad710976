"""What is read of a `Ranking`: the formulas behind the metrics of a map and a mask, one value for each pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conceptlens.metrics.pixel_ranking import Ranking

if TYPE_CHECKING:
    from conceptlens.metrics.pixel_ranking import Curve, Values

# What `highest_inside` takes by default, as a share of the pixels.
HIGHEST_SHARE = 0.05


def energy(ranking: Ranking) -> Values:
    """Return the share of the positive energy that lies inside."""
    return _share_inside(ranking.values.clip(0), ranking)


def energy_above_lowest(ranking: Ranking) -> Values:
    """Return the share of what is above the map's lowest value that lies inside."""
    lowest = np.take_along_axis(ranking.values, ranking.kept[:, None].astype(int) - 1, 1)
    return _share_inside((ranking.values - lowest).clip(0), ranking)


def peak_inside(ranking: Ranking) -> Values:
    """Return the share of the highest pixels, equal ones, that lies inside."""
    highest = ranking.ends[:, :1]
    return (np.take_along_axis(ranking.found, highest, 1) / highest)[:, 0]


def normalised_area(ranking: Ranking) -> Values:
    """Return CE-FAM's NRA, exact."""
    r = ranking.ratio
    return (ranking.overlap_area - r / 2).clip(0) / (-r * np.log(r))


def normalised_area_in_bins(ranking: Ranking) -> Values:
    """Sum IoU pixel by pixel over the first hundredth, then once for each hundredth; the ideal over the same ranks."""
    kept, size = ranking.kept[:, None], ranking.size[:, None]
    rank = np.arange(ranking.values.shape[1])
    width = np.maximum(kept // 100, 1)
    weight = np.where(rank < width, 1 / kept, np.where(rank % width == 0, 1 / 100, 0)) * (rank < kept)
    area = (weight * ranking.overlap[:, 1:]).sum(1)
    ideal = (weight * np.minimum(rank / size, size / np.maximum(rank, 1))).sum(1)
    return (area - ranking.ratio / 2).clip(0) / (ideal - ranking.ratio / 2)


def corrected_area(ranking: Ranking) -> Values:
    """Return NRA corrected for chance."""
    r = ranking.ratio
    k = r / (1 - r)
    random = k * (1 + k * np.log(r))
    ideal = r / 2 - r * np.log(r)
    return (ranking.overlap_area - random) / (ideal - random)


def area_hit(ranking: Ranking) -> Values:
    """Return whether NRA is above one half."""
    return (normalised_area(ranking) > 0.5).astype(np.float64)


def highest_overlap(ranking: Ranking) -> Values:
    """Return the IoU at the best threshold."""
    return ranking.overlap.max(1)


def overlap_at(ranking: Ranking, share: float = 0.5) -> Values:
    """Return the IoU of the pixels that reach a share of the highest value."""
    highest = ranking.values[:, :1]
    reached = ((ranking.values >= share * highest) & (highest > 0)).sum(1, keepdims=True)
    return np.take_along_axis(ranking.overlap, reached, 1)[:, 0]


def mean_precision(ranking: Ranking) -> Values:
    """Return the average precision of the pixels."""
    precision = np.take_along_axis(ranking.found, ranking.ends, 1) / ranking.ends
    return (precision * ranking.inside).sum(1) / ranking.size


def area_under_roc(ranking: Ranking) -> Values:
    """Return the area under the share found inside over the share taken outside; straight within equal pixels."""
    gained = np.diff(ranking.found, axis=1)
    taken_outside = np.where(np.arange(gained.shape[1]) < ranking.kept[:, None], 1 - gained, 0)
    middle = ranking.found[:, :-1] + gained / 2
    return (taken_outside * middle).sum(1) / (ranking.size * (ranking.kept - ranking.size))


def inside_of_as_many(ranking: Ranking) -> Values:
    """Return the share inside of as many highest pixels as the mask has."""
    taken = ranking.size[:, None].astype(int)
    return np.take_along_axis(ranking.found, taken, 1)[:, 0] / ranking.size


def highest_inside(ranking: Ranking, share: float = HIGHEST_SHARE) -> Values:
    """Return how much of what could lie inside does, of a share of the pixels taken from the highest down."""
    taken = np.maximum(np.rint(share * ranking.kept), 1)
    found = np.take_along_axis(ranking.found, taken[:, None].astype(int), 1)[:, 0]
    return found / np.minimum(taken, ranking.size)


def _share_inside(energies: Curve, ranking: Ranking) -> Values:
    total = energies.sum(1, dtype=np.float64)
    within = (energies * ranking.inside).sum(1, dtype=np.float64)
    return within / np.where(total > 0, total, 1)
