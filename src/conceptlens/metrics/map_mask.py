"""Where a map points: metrics that need a map, or a map and a mask.

Those with a mask take

- `explained`: an explanation, or raw `maps[image question height width]`, finite, no larger than the masks;
- `masks`: bool `[image rows columns]`, the same for all questions, or `[image question rows columns]`. They are of what
  the model saw: cut them as the photo was cut;
- `ignored`: optionally bool `[image rows columns]`, pixels to leave out.

They return a `Score` with `values[image question]` that applies where the mask has pixels both inside and outside, and
raise `InputError` where shapes or types do not fit or a map is not finite. Maps are enlarged bilinearly to the masks'
size, cell centres keep their place. In formulas, r is the mask's share of the pixels that are not ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import maps_of
from conceptlens.metrics.pixel_ranking import Ranking, Ties, score_pixels
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Ignored, Maps, Masks
    from conceptlens.metrics.pixel_ranking import Curve, Values


def peak(explained: Maps) -> Float[Tensor, "image question 2"]:
    """Return the centre of each map's highest cell.

    Args:
        explained: An explanation, or `maps[image question height width]`, a tensor or an array.

    Returns:
        `(x, y)` as shares of the width and height that the map covers, 0 to 1. Of several highest cells, their mean: a
        map without a peak (all cells equal) points at the centre.
    """
    maps = maps_of(explained)
    height, width = maps.shape[2:]
    highest = (maps == maps.amax((2, 3), keepdim=True)).float()
    total = highest.sum((2, 3))
    xs = (torch.arange(width) + 0.5) / width
    ys = (torch.arange(height) + 0.5) / height
    x = (highest.sum(2) * xs).sum(2) / total
    y = (highest.sum(3) * ys).sum(2) / total
    return torch.stack([x, y], dim=2)


def area(explained: Maps) -> Float[Tensor, "image question"]:
    """Return how large the high part of each map is.

    Args:
        explained: An explanation, or `maps[image question height width]`, a tensor or an array.

    Returns:
        The share of cells that reach half of the map's highest value, 0 to 1; 0 for a map that is nowhere positive.
    """
    maps = maps_of(explained)
    highest = maps.amax((2, 3), keepdim=True)
    reached = (maps >= 0.5 * highest) & (highest > 0)
    return reached.float().mean((2, 3))


def pointing_energy(
    explained: Maps, masks: Masks, ignored: Ignored = None, normalise: Literal["none", "minmax"] = "none"
) -> Score:
    """Return the share of each map's energy that lies inside the mask; 0 to 1, higher is better, chance r.

    The energy-based pointing game of Score-CAM (Wang et al., CVPRW 2020), with a mask instead of a box.
    `normalise="none"` counts the positive part of the enlarged map; `"minmax"` first takes the map's lowest value off,
    as CE-FAM's code does, so that negative evidence becomes background of little energy. A map without energy gives 0.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.
        normalise: `"none"` or `"minmax"`, as above.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `normalise` is unknown, or shapes or types do not fit, or a map is not finite.
    """
    if normalise not in ("none", "minmax"):
        raise InputError(f"no normalise '{normalise}'; there are: none, minmax")
    measure = _energy if normalise == "none" else _energy_above_lowest
    return score_pixels(explained, masks, ignored, {"energy": measure})["energy"]


def pointing_game(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return 1 where the map's highest pixel lies inside the mask and 0 elsewhere; higher is better, chance r.

    Of several highest pixels, the share inside: the expectation of picking one of them at random. Pointing game of
    Zhang et al. (excitation backpropagation, ECCV 2016), without its tolerance of 15 pixels.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"game": _peak_inside})["game"]


def ranked_area(
    explained: Maps,
    masks: Masks,
    ignored: Ignored = None,
    ties: Ties = "average",
    seed: int = 0,
    bins: Literal["exact", "published"] = "exact",
) -> Score:
    """Return CE-FAM's normalised rank accuracy (NRA), not corrected for chance; 0 to 1, higher is better.

    `max(AUC - r/2, 0) / (-r ln r)`, with AUC the area under the IoU of the mask and the highest share x of pixels,
    x from 0 to 1, and r the mask's share of the image (official code). The ideal map gives 1. **Chance is not 0** but
    0.10 (r = 0.01) to 0.17, because random pixels overlap by more than the `r x` that is taken off: see
    `ranked_area_corrected`.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.
        ties: The order of equal pixels: `"average"` is the expectation over all orders, `"seeded"` draws one,
            `"official"` is NumPy's `argsort()[::-1]`, arbitrary but what the published code does.
        seed: Draws the order of `ties="seeded"`.
        bins: `"published"` sums AUC and its ideal over about 100 bins as the official code does, 0.01 off for most
            masks and up to 0.07 for those of 1 %.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `ties` or `bins` is unknown, or shapes or types do not fit, or a map is not finite.
    """
    if bins not in ("exact", "published"):
        raise InputError(f"no bins '{bins}'; there are: exact, published")
    measure = _ranked_area if bins == "exact" else _ranked_area_in_bins
    return score_pixels(explained, masks, ignored, {"area": measure}, ties, seed)["area"]


def ranked_area_corrected(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return NRA corrected for chance: 0 for a random map, 1 for the ideal one, negative below chance.

    `(AUC - AUC_random) / (AUC_ideal - AUC_random)`, with `AUC_random = k (1 + k ln r)`, `k = r / (1 - r)` and
    `AUC_ideal = r/2 - r ln r`. Not below -0.8. AUC as in `ranked_area`. This package's own correction.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"area": _ranked_area_corrected})["area"]


def hit(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return 1 where `ranked_area` is above one half, else 0; CE-FAM's hit, higher is better.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"hit": _hit})["hit"]


def best_iou(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return the highest IoU of the mask and the map cut at any threshold; 0 to 1, higher is better.

    **An oracle**: the threshold is chosen with the mask, for each map. At least r, by taking the whole image.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"iou": _best_iou})["iou"]


def iou(explained: Maps, masks: Masks, ignored: Ignored = None, share: float = 0.5) -> Score:
    """Return the IoU of the mask and the map cut at a fixed threshold; 0 to 1, higher is better.

    The map is cut to the pixels that reach `share` of its highest value, none in a map that is nowhere positive.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.
        share: The threshold as a share of the map's highest value, above 0 up to 1.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `share` is out of range, shapes or types do not fit, or a map is not finite.
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; expected a share of the highest value, above 0 up to 1")
    return score_pixels(explained, masks, ignored, {"iou": partial(_iou, share=share)})["iou"]


def pixel_precision(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return the average precision of pixels as a ranking of inside over outside; 0 to 1, higher is better.

    `sum over thresholds of (recall gained) x precision`, without interpolation; equal pixels make one threshold, as
    in scikit-learn's `average_precision_score`. Chance is r.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"precision": _pixel_precision})["precision"]


def map_mask_scores(explained: Maps, masks: Masks, ignored: Ignored = None) -> dict[str, Score]:
    """Return every metric of `MAP_MASK_METRICS`, with its defaults, from one sort for each map.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        A `Score` for each metric by its name.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.

    Examples:
        >>> explained = cl.Explanation.from_maps(array, "cat", photos)  # maps of any library
        >>> cl.metrics.map_mask_scores(explained, masks)["ranked_area"].mean()
    """
    return score_pixels(explained, masks, ignored, _MEASURES)


def _energy(ranking: Ranking) -> Values:
    energy = ranking.values.clip(0)
    return _share_inside(energy, ranking)


def _energy_above_lowest(ranking: Ranking) -> Values:
    lowest = np.take_along_axis(ranking.values, ranking.kept[:, None].astype(int) - 1, 1)
    return _share_inside((ranking.values - lowest).clip(0), ranking)


def _share_inside(energy: Curve, ranking: Ranking) -> Values:
    total = energy.sum(1, dtype=np.float64)
    within = (energy * ranking.inside).sum(1, dtype=np.float64)
    return within / np.where(total > 0, total, 1)


def _peak_inside(ranking: Ranking) -> Values:
    highest = ranking.ends[:, :1]
    return (np.take_along_axis(ranking.found, highest, 1) / highest)[:, 0]


def _ranked_area(ranking: Ranking) -> Values:
    r = ranking.ratio
    return (ranking.overlap_area - r / 2).clip(0) / (-r * np.log(r))


def _ranked_area_in_bins(ranking: Ranking) -> Values:
    """Sum IoU pixel by pixel over the first hundredth, then once for each hundredth; the ideal over the same ranks."""
    kept, size = ranking.kept[:, None], ranking.size[:, None]
    rank = np.arange(ranking.values.shape[1])
    width = np.maximum(kept // 100, 1)
    weight = np.where(rank < width, 1 / kept, np.where(rank % width == 0, 1 / 100, 0)) * (rank < kept)
    area = (weight * ranking.overlap[:, 1:]).sum(1)
    ideal = (weight * np.minimum(rank / size, size / np.maximum(rank, 1))).sum(1)
    return (area - ranking.ratio / 2).clip(0) / (ideal - ranking.ratio / 2)


def _ranked_area_corrected(ranking: Ranking) -> Values:
    r = ranking.ratio
    k = r / (1 - r)
    random = k * (1 + k * np.log(r))
    ideal = r / 2 - r * np.log(r)
    return (ranking.overlap_area - random) / (ideal - random)


def _hit(ranking: Ranking) -> Values:
    return (_ranked_area(ranking) > 0.5).astype(np.float64)


def _best_iou(ranking: Ranking) -> Values:
    return ranking.overlap.max(1)


def _iou(ranking: Ranking, share: float = 0.5) -> Values:
    highest = ranking.values[:, :1]
    reached = ((ranking.values >= share * highest) & (highest > 0)).sum(1, keepdims=True)
    return np.take_along_axis(ranking.overlap, reached, 1)[:, 0]


def _pixel_precision(ranking: Ranking) -> Values:
    precision = np.take_along_axis(ranking.found, ranking.ends, 1) / ranking.ends
    return (precision * ranking.inside).sum(1) / ranking.size


_MEASURES: dict[str, Callable[[Ranking], Values]] = {
    "pointing_energy": _energy,
    "pointing_energy_minmax": _energy_above_lowest,
    "pointing_game": _peak_inside,
    "ranked_area": _ranked_area,
    "ranked_area_corrected": _ranked_area_corrected,
    "hit": _hit,
    "best_iou": _best_iou,
    "iou": _iou,
    "pixel_precision": _pixel_precision,
}
_SHIFTED = partial(pointing_energy, normalise="minmax")
_SCORE_CAM, _CE_FAM = "Score-CAM, Wang et al., CVPRW 2020", "CE-FAM, official code"

MAP_MASK_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pointing_energy", "energy inside", pointing_energy, True, 0, 1, "r", _SCORE_CAM),
        Metric("pointing_energy_minmax", "energy inside, min-max", _SHIFTED, True, 0, 1, "r", _CE_FAM),
        Metric("pointing_game", "peak inside", pointing_game, True, 0, 1, "r", "Zhang et al., ECCV 2016"),
        Metric("ranked_area", "NRA", ranked_area, True, 0, 1, "0.10 to 0.17", _CE_FAM),
        Metric("ranked_area_corrected", "NRA above chance", ranked_area_corrected, True, -0.8, 1, "0", "this package"),
        Metric("hit", "NRA above one half", hit, True, 0, 1, "0", _CE_FAM),
        Metric("best_iou", "IoU at the best threshold (oracle)", best_iou, True, 0, 1, "r or more", "common practice"),
        Metric("iou", "IoU at half of the maximum", iou, True, 0, 1, "r if constant", "common practice"),
        Metric("pixel_precision", "average precision", pixel_precision, True, 0, 1, "r", "scikit-learn's definition"),
    )
}
