"""The cells of several layers from one forward pass without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.model.forward import Watch, forward
from conceptlens.model.input_sizes import grid_at

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone


def layer_cells(
    model: Backbone, images: Float[Tensor, "image colour rows columns"], layers: Sequence[str]
) -> dict[str, Float[Tensor, "image channel height width"]]:
    """Return the cells of each layer, float32, for images that are prepared already."""
    cells: dict[str, Tensor] = {}
    size = (images.shape[2], images.shape[3])
    known = {part.name: part.grid for part in model.anatomy.layers}

    def keeping(name: str) -> Watch:
        def watch(raw: Tensor) -> None:
            grid = grid_at(model, known.get(name), name, raw.shape, (len(images), *size))
            cells[name] = grid.read(raw.detach()).to(torch.float32, copy=True)  # what follows may work in place

        return watch

    with torch.no_grad():
        forward(model.module, images, {name: keeping(name) for name in layers})
    return cells
