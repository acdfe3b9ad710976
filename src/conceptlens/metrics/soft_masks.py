"""Metrics that lay a map over the image as a soft mask: how much of the probability is left under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from conceptlens.metrics.pixel_fills import prepare_fill
from conceptlens.metrics.removal_order import enlarged, maps_for, ranked
from conceptlens.metrics.scored_images import check_probabilities
from conceptlens.metrics.variant_runs import scores_of, variants_at_once, whole_values
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages


def soft_mask_scores(explained: Maps, scored: ScoredImages, fill: str = "black") -> dict[str, Score]:
    """Return `average_drop` and `increase_in_confidence` from the same forward passes, one for each map.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What pixels of a low value become.

    Returns:
        A score by its name in `FAITHFULNESS_METRICS`.

    Raises:
        InputError: As in `average_drop`.
    """
    whole, masked, applies = _masked_scores(explained, scored, fill)
    rises = Score(((masked > whole) & applies).double(), applies, fill=fill)
    applies = applies & (whole > 0)
    drop = (whole - masked).clamp_min(0) / torch.where(whole > 0, whole, 1)
    falls = Score(torch.where(applies, drop, 0.0), applies, fill=fill)
    return {"average_drop": falls, "increase_in_confidence": rises}


def average_drop(explained: Maps, scored: ScoredImages, fill: str = "black") -> Score:
    """Return the share of the probability that is lost under the map as a mask; 0 to 1, lower is better.

    Grad-CAM++, Chattopadhay et al., WACV 2018: `max(0, p - p*) / p`, there in percent, with `p*` of the image times the
    map. The enlarged map is brought to 0..1 by its own lowest and highest value. A large map loses little: see
    `sufficiency`.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What pixels of a low value become; black is the published product.

    Returns:
        `values[image question]`; it does not apply where the map is the same everywhere or `p` is 0.

    Raises:
        InputError: The fill needs pixels that are removed or not, shapes do not fit, a map is not finite, or scores are
            no probabilities.
    """
    return soft_mask_scores(explained, scored, fill)["average_drop"]


def increase_in_confidence(explained: Maps, scored: ScoredImages, fill: str = "black") -> Score:
    """Return 1 where the probability rises under the map as a mask, else 0; higher is better.

    Grad-CAM++, Chattopadhay et al., WACV 2018. Masks as in `average_drop`.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What pixels of a low value become.

    Returns:
        `values[image question]`; it does not apply where the map is the same everywhere.

    Raises:
        InputError: As in `average_drop`.
    """
    return soft_mask_scores(explained, scored, fill)["increase_in_confidence"]


def _masked_scores(
    explained: Maps, scored: ScoredImages, fill: str
) -> tuple[Float[Tensor, "image question"], Float[Tensor, "image question"], Tensor]:
    """Return the scores of whole images and of images under their maps, and where maps are not the same everywhere."""
    maps, ready, reading = (
        maps_for(explained, scored),
        prepare_fill(fill, scored.images, scored.black),
        scores_of(scored),
    )
    whole = whole_values(scored, reading, maps.shape[1])[..., 0]
    applies = ranked(maps)
    masked = torch.zeros(applies.shape, dtype=torch.float64)
    size = (scored.images.shape[2], scored.images.shape[3])
    pairs = applies.nonzero()
    for part in pairs.split(variants_at_once(scored.images)) if len(pairs) else ():
        image, question = part.unbind(1)
        large = enlarged(maps[image, question], size)
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        variants = ready.blend(image, (large - low) / (high - low))
        found = reading.read(reading.run(variants, image), image, question)
        masked[image.cpu(), question.cpu()] = found[:, 0].double().cpu()
    check_probabilities(torch.cat([whole.flatten(), masked.flatten()]))
    return whole, masked, applies.cpu()
