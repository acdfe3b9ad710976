"""Where a map points: metrics of a map and a mask. They take

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

from conceptlens.io.argument_kinds import check_number
from conceptlens.io.errors import InputError
from conceptlens.metrics import mask_measures as measured
from conceptlens.metrics.pixel_hits import pixel_precision, pixel_roc, relevance_rank, top_inside
from conceptlens.metrics.pixel_ranking import Ranking, Ties, score_pixels
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Ignored, Maps, Masks
    from conceptlens.metrics.pixel_ranking import Values


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
    measure = measured.energy if normalise == "none" else measured.energy_above_lowest
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
    return score_pixels(explained, masks, ignored, {"game": measured.peak_inside})["game"]


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
    measure = measured.normalised_area if bins == "exact" else measured.normalised_area_in_bins
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
    return score_pixels(explained, masks, ignored, {"area": measured.corrected_area})["area"]


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
    return score_pixels(explained, masks, ignored, {"hit": measured.area_hit})["hit"]


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
    return score_pixels(explained, masks, ignored, {"iou": measured.highest_overlap})["iou"]


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
    check_number(share, "share", "a share of the highest value, above 0 up to 1", lambda one: 0 < one <= 1)
    return score_pixels(explained, masks, ignored, {"iou": partial(measured.overlap_at, share=share)})["iou"]


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


_MEASURES: dict[str, Callable[[Ranking], Values]] = {
    "pointing_energy": measured.energy,
    "pointing_energy_minmax": measured.energy_above_lowest,
    "pointing_game": measured.peak_inside,
    "ranked_area": measured.normalised_area,
    "ranked_area_corrected": measured.corrected_area,
    "hit": measured.area_hit,
    "best_iou": measured.highest_overlap,
    "iou": measured.overlap_at,
    "pixel_precision": measured.mean_precision,
    "pixel_roc": measured.area_under_roc,
    "relevance_rank": measured.inside_of_as_many,
    "top_inside": measured.highest_inside,
}
_SHIFTED = partial(pointing_energy, normalise="minmax")
_SCORE_CAM, _CE_FAM = "Score-CAM, Wang et al., CVPRW 2020", "CE-FAM, official code"
_SCIKIT, _ARRAS = "scikit-learn's definition", "Arras et al., Information Fusion 2022"
_NEEDS = ("map", "mask")
_THEINER = "Theiner et al., WACV 2022, over the smaller of k and mask"

MAP_MASK_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pointing_energy", "energy inside", pointing_energy, True, 0, 1, "r", _SCORE_CAM, _NEEDS),
        Metric("pointing_energy_minmax", "energy inside, min-max", _SHIFTED, True, 0, 1, "r", _CE_FAM, _NEEDS),
        Metric("pointing_game", "peak inside", pointing_game, True, 0, 1, "r", "Zhang et al., ECCV 2016", _NEEDS),
        Metric("ranked_area", "NRA", ranked_area, True, 0, 1, "0.10 to 0.17", _CE_FAM, _NEEDS),
        Metric("ranked_area_corrected", "NRA above chance", ranked_area_corrected, True, -0.8, 1, "0", "this package",
               _NEEDS),
        Metric("hit", "NRA above one half", hit, True, 0, 1, "0", _CE_FAM, _NEEDS),
        Metric("best_iou", "IoU at the best threshold (oracle)", best_iou, True, 0, 1, "r or more", "common practice",
               _NEEDS),
        Metric("iou", "IoU at half of the maximum", iou, True, 0, 1, "r if constant", "common practice", _NEEDS),
        Metric("pixel_precision", "average precision", pixel_precision, True, 0, 1, "r", _SCIKIT, _NEEDS),
        Metric("pixel_roc", "area under ROC", pixel_roc, True, 0, 1, "0.5", _SCIKIT, _NEEDS),
        Metric("relevance_rank", "relevance rank accuracy", relevance_rank, True, 0, 1, "r", _ARRAS, _NEEDS),
        Metric("top_inside", "top 5 % inside", top_inside, True, 0, 1, "the larger of r and 0.05", _THEINER, _NEEDS),
    )
}  # fmt: skip
