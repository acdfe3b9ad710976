"""How much each named concept counts: the evidence for a class that lies where the concept is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.cell_evidence import CellEvidence

if TYPE_CHECKING:
    from jaxtyping import Float

# No concept is surer than 98 %: presence is not calibrated finer than that, and a concept that were certain would take
# cells that it does not fit.
MAX_ROOT_ODDS = 7.0
# How strong what has no name is in every cell, where 1 is an everyday word of even odds. With it the share of a photo
# that belongs to no named concept is right on average on COCO photos, of whose categories half were named.
REST_STRENGTH = 3.0


def cell_shares(
    strengths: Float[Tensor, "image question height width"],
    presence: Float[Tensor, "image question"] | None,
    grid: tuple[int, int],
) -> Float[Tensor, "image question row column"]:
    """Return how much of each cell belongs to each concept; what is left of a cell belongs to none of them.

    `m_t(u) = o_t r_t(u) / (3 + sum_s o_s r_s(u))`, with the square root of the odds of presence
    `o_t = sqrt(p_t / (1 - p_t))`, at most 7, since presence says that a concept is in the photo, not in this cell, and
    the strength `r_t` of its region, 1 where it fits no better than an everyday word; 3 is `REST_STRENGTH`. So a
    concept that is likely in the photo takes what fits it, one that is not takes nothing, concepts at the same place
    share it, and a cell that fits none of them belongs to none.

    Args:
        strengths: Strengths of the regions, 0 or more.
        presence: The probability that each concept is in the photo; even odds where it is not known.
        grid: Rows and columns of the result; shares are averaged over its cells.

    Returns:
        Shares of 0 to 1, which sum to less than 1 in each cell.
    """
    weighed = _weighed(strengths, presence)
    return F.adaptive_avg_pool2d(weighed / (REST_STRENGTH + weighed.sum(1, keepdim=True)), grid)


def shares_beside(
    strengths: Float[Tensor, "image other height width"],
    presence: Float[Tensor, "image other"] | None,
    listed: tuple[Float[Tensor, "image question height width"], Float[Tensor, "image question"] | None],
    grid: tuple[int, int],
) -> Float[Tensor, "image other row column"]:
    """Return what each of several concepts would have of every cell if it alone were named beside those listed.

    `m_t(u) = o_t r_t(u) / (3 + sum_s o_s r_s(u) + o_t r_t(u))`, with the sum over the concepts that are listed.

    Args:
        strengths: Strengths of the regions of the other concepts, 0 or more.
        presence: The probability that each of them is in the photo; even odds where it is not known.
        listed: The same two of the concepts that are listed.
        grid: Rows and columns of the result; shares are averaged over its cells.

    Returns:
        Shares of 0 to 1, each as if none of the others were asked for.
    """
    own = _weighed(strengths, presence)
    rest = REST_STRENGTH + _weighed(*listed).sum(1, keepdim=True)
    return F.adaptive_avg_pool2d(own / (rest + own), grid)


def _weighed(strengths: Tensor, presence: Tensor | None) -> Float[Tensor, "image question height width"]:
    """Return the strength of each concept in every cell times the root of its odds."""
    odds = torch.ones_like(strengths[..., 0, 0]) if presence is None else (presence / (1 - presence)).sqrt()
    return odds.to(strengths).clamp(max=MAX_ROOT_ODDS)[..., None, None] * strengths


def relative_strengths(
    maps: Float[Tensor, "image question height width"],
) -> Float[Tensor, "image question height width"]:
    """Return maps without a unit of their own in units of their mean, so that an even map is 1; an empty one stays 0.

    Args:
        maps: Maps of 0 or more, such as `ReLU(sum_k beta_k A_k)`.
    """
    means = maps.mean((-2, -1), keepdim=True)
    return torch.where(means > 0, maps / means.clamp_min(1e-30), 0.0)


def evidence_contributions(
    evidence: CellEvidence, shares: Float[Tensor, "image question height width"]
) -> Float[Tensor, "image question"]:
    """Return the evidence that lies where each concept is: `sum_u m_t(u) e(u)`, in units of the logits.

    Args:
        evidence: The evidence of each cell.
        shares: The share of each concept in each cell, on the same grid.

    Returns:
        A contribution for each concept, negative where it speaks for the rivals.
    """
    return torch.einsum("iqhw,ihw->iq", shares.to(evidence.cells), evidence.cells)
