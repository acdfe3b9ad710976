"""Vectors for many masks at once, fitted in batches of bounded memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.local_embeddings.modes import FitSettings, FittedVectors, fit
from conceptlens.local_embeddings.problem import FitProblem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Bytes of cells in one batch of fits, which fit a processor's cache; they are stored twice, in two orders.
BATCH_BYTES = 4 * 2**20


def embed_masks(
    cells: Float[Tensor, "image channel height width"],
    of: Int[Tensor, "mask"],
    truth: Float[Tensor, "mask 100 100"],
    settings: FitSettings,
    scale: Float[Tensor, "channel"],
) -> FittedVectors:
    """Return the embedding of each mask.

    Args:
        cells: Features of one layer, of any float type; the computation is float32.
        of: Index of the image that each mask belongs to.
        truth: Soft masks, 0 to 1 (`soft_masks`).
        settings: Mode and its parameters.
        scale: Unit of each channel, by which cells are divided; mode `paper` takes raw cells.

    Returns:
        The vectors, to be compared by cosine: in units of each channel's scale, or for raw cells in mode `paper`, as
        published. Where a cell is not finite, a mask is empty or covers everything, or all cells are 0, the vector is
        0 and `converged` is False.
    """
    unit = torch.where(scale > 0, scale, 1.0).float()
    of = of.to(cells.device)
    sound = _sound(cells)
    ready = torch.where(sound[:, None, None, None], cells, 0.0).float() if not sound.all() else cells.float()
    ready = ready if settings.mode == "paper" else ready / unit[:, None, None]
    size = cells[0].numel() * 4
    parts = [
        _embedded(ready[of[rows]], truth[rows], sound[of[rows]], settings)
        for rows in torch.arange(len(of), device=cells.device).split(max(1, BATCH_BYTES // max(1, size)))
    ]
    names = FittedVectors.__dataclass_fields__
    return FittedVectors(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def channel_weights(
    vectors: Float[Tensor, "mask channel"], settings: FitSettings, scale: Float[Tensor, "channel"]
) -> Float[Tensor, "mask channel"]:
    """Return the weights of a map of raw cells: the vectors over `scale`, in mode `paper` the vectors themselves."""
    return vectors if settings.mode == "paper" else vectors / torch.where(scale > 0, scale, 1.0).float()


def channel_scale(cells: Float[Tensor, "image channel height width"]) -> Float[Tensor, "channel"]:
    """Return the root mean square of each channel over images and cells, 1 for a channel that is always 0."""
    found = cells.float().square().mean((0, 2, 3)).sqrt()
    return torch.where(found > 0, found, 1.0)


def _sound(cells: Float[Tensor, "image channel height width"]) -> Bool[Tensor, "image"]:
    """Return which images have cells that are all finite and not all 0."""
    low, high = cells.flatten(1).aminmax(dim=1)  # NaN where one cell is
    return low.isfinite() & high.isfinite() & ((low != 0) | (high != 0))


def _embedded(cells: Tensor, truth: Tensor, sound: Tensor, settings: FitSettings) -> FittedVectors:
    low, high = truth.flatten(1).aminmax(dim=1)
    valid = sound & (high > 0) & (low < 1)  # neither empty nor full masks
    found = fit(FitProblem(cells, truth), settings)
    return replace(
        found,
        vectors=torch.where(valid[:, None], found.vectors, 0.0),
        bias=torch.where(valid, found.bias, 0.0),
        converged=found.converged & valid,
        iou=torch.where(valid, found.iou, 0.0),
    )
