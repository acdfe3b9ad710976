"""How well the order of a map's pixels finds those of a mask: precision, ROC, and the highest pixels alone.

They take and raise what the functions of `map_mask` do, and depend on the order of the values alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from conceptlens.io.argument_kinds import check_number
from conceptlens.metrics.mask_measures import (
    HIGHEST_SHARE,
    area_under_roc,
    highest_inside,
    inside_of_as_many,
    mean_precision,
)
from conceptlens.metrics.pixel_ranking import score_pixels
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Ignored, Maps, Masks


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
    return score_pixels(explained, masks, ignored, {"precision": mean_precision})["precision"]


def pixel_roc(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return the area under ROC of pixels as a ranking of inside over outside; 0 to 1, higher is better, chance 0.5.

    The probability that a pixel of the mask is higher than one outside, equal pixels counted half, as in scikit-learn's
    `roc_auc_score`. Chance does not depend on the mask, but a small mask makes it lenient: beside it, read
    `pixel_precision`.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"roc": area_under_roc})["roc"]


def relevance_rank(explained: Maps, masks: Masks, ignored: Ignored = None) -> Score:
    """Return the relevance rank accuracy; 0 to 1, higher is better, chance r.

    The share of the K highest pixels that lie inside, K the mask's number of pixels (Arras et al., Information Fusion
    2022). Of equal pixels at the border, the expectation of taking some at random.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.

    Returns:
        `values[image question]`.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    return score_pixels(explained, masks, ignored, {"rank": inside_of_as_many})["rank"]


def top_inside(explained: Maps, masks: Masks, ignored: Ignored = None, share: float = HIGHEST_SHARE) -> Score:
    """Return the top-k intersection of a map and a mask; 0 to 1, higher is better, chance the larger of r and `share`.

    Of the k highest pixels those inside, over k (Theiner et al., WACV 2022), or over the mask's number of pixels where
    that is smaller, so that the ideal map gets 1 whatever the mask's size. Equal pixels as in `relevance_rank`.

    Args:
        explained: The maps.
        masks: The masks.
        ignored: Pixels to leave out.
        share: k as a share of the pixels that are not ignored, above 0 up to 1; at least one pixel is taken.

    Returns:
        `values[image question]`.

    Raises:
        InputError: `share` is out of range, shapes or types do not fit, or a map is not finite.
    """
    check_number(share, "share", "a share of the pixels, above 0 up to 1", lambda one: 0 < one <= 1)
    return score_pixels(explained, masks, ignored, {"top": partial(highest_inside, share=share)})["top"]
