"""What a map says by itself: where its highest cell lies and how large its high part is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from conceptlens.metrics.given_maps import check_cells, maps_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps


def peak(explained: Maps) -> Float[Tensor, "image question 2"]:
    """Return the centre of each map's highest cell.

    Args:
        explained: An explanation, or `maps[image question height width]`, a tensor or an array.

    Returns:
        `(x, y)` as shares of the width and height that the map covers, 0 to 1. Of several highest cells, their mean: a
        map without a peak (all cells equal) points at the centre.

    Raises:
        InputError: Maps have other axes, or are not finite.
    """
    maps = maps_of(explained)
    check_cells(maps)
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

    Raises:
        InputError: Maps have other axes, or are not finite.
    """
    maps = maps_of(explained)
    check_cells(maps)
    highest = maps.amax((2, 3), keepdim=True)
    reached = (maps >= 0.5 * highest) & (highest > 0)
    return reached.float().mean((2, 3))
