"""What a concept layer is trained for: its activations follow their targets over a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float

    Activations = Float[Tensor, "image concept"]

TINY = 1e-12


def cos_cubed(made: Activations, wanted: Activations) -> Float[Tensor, "concept"]:
    """Return 1 less the cosine of `(c - mean)^3` and `(a - mean)^3` over the batch. (Label-free CBM, ICLR 2023, eq. 2.)

    The published loss is minus the cosine; its gradient is the same.

    Args:
        made: Activations, `[image concept]`.
        wanted: Their targets, of the same shape.

    Returns:
        `loss[concept]`, lower is better.
    """
    return 1 - functional.cosine_similarity(_centred(made) ** 3, _centred(wanted) ** 3, dim=0, eps=TINY)


def cosine(made: Activations, wanted: Activations) -> Float[Tensor, "concept"]:
    """Return 1 less the cosine of centred activations and targets: 1 less their correlation.

    Args:
        made: Activations, `[image concept]`.
        wanted: Their targets, of the same shape.

    Returns:
        `loss[concept]`, lower is better.
    """
    return 1 - functional.cosine_similarity(_centred(made), _centred(wanted), dim=0, eps=TINY)


def standardised_error(made: Activations, wanted: Activations) -> Float[Tensor, "concept"]:
    """Return `mean (z(c) - z(a))^2`, each standardised over the batch. (Loc-CBM's poster: L_mask, as we read it.)

    It equals `2 - 2 rho` with the correlation rho, so it does not see the scale of a mask.

    Args:
        made: Activations, `[image concept]`.
        wanted: Their targets, of the same shape.

    Returns:
        `loss[concept]`, lower is better.
    """
    return (_standardised(made) - _standardised(wanted)).square().mean(0)


def squared_error(made: Activations, wanted: Activations) -> Float[Tensor, "concept"]:
    """Return `mean (c - a)^2`, as they are.

    Args:
        made: Activations, `[image concept]`.
        wanted: Their targets, of the same shape.

    Returns:
        `loss[concept]`, lower is better.
    """
    return (made - wanted).square().mean(0)


def binary(made: Activations, wanted: Activations) -> Float[Tensor, "concept"]:
    """Return the binary cross-entropy of `sigmoid(c)` and targets from 0 to 1. (VLG-CBM, NeurIPS 2024.)

    Args:
        made: Activations, `[image concept]`.
        wanted: Their targets, of the same shape. From 0 to 1.

    Returns:
        `loss[concept]`, lower is better.
    """
    return functional.binary_cross_entropy_with_logits(made, wanted, reduction="none").mean(0)


ALIGNMENT_LOSSES: dict[str, Callable[[Activations, Activations], Float[Tensor, "concept"]]] = {
    "cos3": cos_cubed,
    "cosine": cosine,
    "mse": standardised_error,
    "raw": squared_error,
    "bce": binary,
}


def _centred(values: Activations) -> Activations:
    return values - values.mean(0, keepdim=True)


def _standardised(values: Activations) -> Activations:
    centred = _centred(values)
    return centred / torch.sqrt(centred.square().mean(0, keepdim=True) + TINY)
