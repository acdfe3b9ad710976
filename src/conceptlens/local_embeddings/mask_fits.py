"""Vectors for many masks at once, fitted in chunks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.local_embeddings.modes import Setting, fit
from conceptlens.local_embeddings.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# How many bytes of cells are fitted at once; they are held twice, in two orders. What a processor's cache holds.
CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Embedded:
    """Vectors of masks in one layer.

    - `vectors[mask channel]`: the embedding, to be compared by cosine: in units of each channel's scale, or as
      published, for raw cells, in mode `paper`.
    - `weights[mask channel]`, `bias[mask]`: the same for raw cells; `sum_c weights_c A_c + bias > 0` draws the mask.
    - `loss`, `converged`, `iou` `[mask]`: as in `Fitted`. Where a cell is not finite, a mask is empty or covers
      everything, or all cells are 0, the vector is 0 and nothing has converged.
    """

    vectors: Float[Tensor, "mask channel"]
    weights: Float[Tensor, "mask channel"]
    bias: Float[Tensor, "mask"]
    loss: Float[Tensor, "mask"]
    converged: Bool[Tensor, "mask"]
    iou: Float[Tensor, "mask"]


def embed_masks(
    cells: Float[Tensor, "image channel height width"],
    of: Int[Tensor, "mask"],
    truth: Float[Tensor, "mask 100 100"],
    setting: Setting,
    scale: Float[Tensor, "channel"],
) -> Embedded:
    """Return the embedding of each mask in the image `of` that it belongs to.

    `scale` is what one unit of each channel is. `paper` is fitted to raw cells and has no use for it; the other modes
    see cells divided by it. Cells may have any float type; all work is float32.
    """
    unit = torch.where(scale > 0, scale, 1.0).float()
    of = of.to(cells.device)
    sound = _sound(cells)
    ready = torch.where(sound[:, None, None, None], cells, 0.0).float() if not sound.all() else cells.float()
    ready = ready if setting.mode == "paper" else ready / unit[:, None, None]
    size = cells[0].numel() * 4
    parts = [
        _embedded(ready[of[rows]], truth[rows], sound[of[rows]], setting, unit)
        for rows in torch.arange(len(of), device=cells.device).split(max(1, CHUNK_BYTES // max(1, size)))
    ]
    names = Embedded.__dataclass_fields__
    return Embedded(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def channel_scale(cells: Float[Tensor, "image channel height width"]) -> Float[Tensor, "channel"]:
    """Return the root mean square of each channel over images and cells, 1 for a channel that is always 0."""
    found = cells.float().square().mean((0, 2, 3)).sqrt()
    return torch.where(found > 0, found, 1.0)


def _sound(cells: Float[Tensor, "image channel height width"]) -> Bool[Tensor, "image"]:
    """Return which images have cells that are all finite and not all 0."""
    low, high = cells.flatten(1).aminmax(dim=1)  # NaN where one cell is
    return low.isfinite() & high.isfinite() & ((low != 0) | (high != 0))


def _embedded(cells: Tensor, truth: Tensor, sound: Tensor, setting: Setting, unit: Tensor) -> Embedded:
    low, high = truth.flatten(1).aminmax(dim=1)
    told = sound & (high > 0) & (low < 1)  # a blank mask, or one that covers everything, tells nothing apart
    found = fit(Problem(cells, truth), setting)
    vectors = torch.where(told[:, None], found.vectors, 0.0)
    return Embedded(
        vectors=vectors,
        weights=vectors if setting.mode == "paper" else vectors / unit,
        bias=torch.where(told, found.bias, 0.0),
        loss=found.loss,
        converged=found.converged & told,
        iou=torch.where(told, found.iou, 0.0),
    )
