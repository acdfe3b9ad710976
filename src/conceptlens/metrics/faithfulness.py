"""Does a map say what a network uses? Metrics that remove what a map ranks, and see what the network still says.

All take

- `explained`: an explanation, or raw `maps[image question height width]`, finite; a map that is the same everywhere
  ranks nothing, so the metric does not apply to it;
- `scored`: `ScoredImages`, with the same questions in the same order; scores are probabilities unless said otherwise;
- `fill`: what stands in the place of removed pixels, see `cl.metrics.FILLS`. Fills disagree, so look at two;
- `ties`, `seed`: the order of equal pixels, as in `removal_curves`.

They return a `Score` with `values[image question]` that names its fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.pixel_removal import (
    STEPS,
    Removal,
    RemovalCurves,
    listed_shares,
    remaining_shares,
    removal_curves,
)
from conceptlens.metrics.removal_order import TieOrder
from conceptlens.metrics.scored_images import check_probabilities
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

# ERASER's shares of what is removed or kept.
ERASER_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
# ROAD's shares, as in grad-cam.
ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def deletion(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    shares: Sequence[float] | int = STEPS,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return the area under the probability while the highest pixels are removed; 0 to 1, lower is better.

    Deletion of RISE, Petsiuk et al., BMVC 2018, whose own settings are `rise_deletion`. Chance is the value of a random
    order, in general far below the mean of the whole and the empty image.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What stands in their place; the published code's is "zero".
        shares: Shares of pixels that are removed, or into how many equal steps all are divided.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `removal_curves`, or scores are no probabilities.
    """
    curves = removal_curves(explained, scored, shares, fill, "highest", ties, seed)
    return _probable(curves).area()


def insertion(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "blur",
    shares: Sequence[float] | int = STEPS,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return the area under the probability while the highest pixels are put into a filled image; higher is better.

    Insertion of RISE, Petsiuk et al., BMVC 2018, whose own settings are `rise_insertion`; 0 to 1. Chance is the value
    of a random order.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What the image begins as; the published code's is "rise_blur".
        shares: Shares of pixels that are put in, or into how many equal steps all are divided.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `removal_curves`, or scores are no probabilities.
    """
    curves = removal_curves(explained, scored, remaining_shares(shares), fill, "lowest", ties, seed)
    return _probable(curves).area()


def comprehensiveness(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    shares: Sequence[float] = ERASER_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return how far the probability falls without the highest pixels, mean over shares; -1 to 1, higher is better.

    ERASER, DeYoung et al., ACL 2020, equation 1: `p(x) - p(x without the highest k)`. Its sum over shares is divided by
    one more than there are, for a share of 0 where nothing falls; here it is divided by how many there are.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What stands in their place.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `removal_curves`, or scores are no probabilities.
    """
    listed = listed_shares(shares).tolist()
    curves = _probable(removal_curves(explained, scored, listed, fill, "highest", ties, seed))
    return curves.score(curves.whole - curves.scores.mean(2))


def sufficiency(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    shares: Sequence[float] = ERASER_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return how far the probability falls with the highest pixels alone, mean over shares; -1 to 1, lower is better.

    ERASER, DeYoung et al., ACL 2020, equation 2: `p(x) - p(the highest k of x)`; divided as in `comprehensiveness`.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What stands in the place of the other pixels.
        shares: Shares of the pixels that are kept.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `removal_curves`, or scores are no probabilities.
    """
    removed = remaining_shares(listed_shares(shares).tolist())
    curves = _probable(removal_curves(explained, scored, removed, fill, "lowest", ties, seed))
    return curves.score(curves.whole - curves.scores.mean(2))


def road(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "noisy_linear",
    order: Literal["combined", "most", "least"] = "combined",
    shares: Sequence[float] = ROAD_SHARES,
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> Score:
    """Return how much more the score loses by the highest pixels than by the lowest; higher is better, chance 0.

    ROAD, Rong et al., ICML 2022, as grad-cam combines it. `order="most"` is the mean over shares of the score without
    the highest pixels less the score of the image (lower is better), `"least"` that without the lowest (higher is
    better), `"combined"` is `(least - most) / 2`. Of probabilities it lies in -0.5..0.5; any score will do.

    Args:
        explained: The maps.
        scored: The images.
        fill: What stands in their place.
        order: "combined", "most" or "least", as above.
        shares: Shares of the pixels.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `removal_curves`, or `order` is unknown.
    """
    if order not in ("combined", "most", "least"):
        raise InputError(f"no order '{order}'; there are: combined, most, least")
    listed = listed_shares(shares).tolist()

    def change(removed: Removal) -> Score:
        curves = removal_curves(explained, scored, listed, fill, removed, ties, seed)
        return curves.score(curves.scores.mean(2) - curves.whole)

    if order != "combined":
        return change("highest" if order == "most" else "lowest")
    most, least = change("highest"), change("lowest")
    return Score((least.values - most.values) / 2, most.applies, fill=fill)


def _probable(curves: RemovalCurves) -> RemovalCurves:
    check_probabilities(torch.cat([curves.scores.flatten(), curves.whole.flatten()]))
    return curves
