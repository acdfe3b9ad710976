"""Where a map points: metrics that need a map, or a map and a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from conceptlens.error import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.record import Explanation


def peak(maps: Float[Tensor, "image question height width"]) -> Float[Tensor, "image question 2"]:
    """Return the centre of each map's highest cell as `(x, y)`, shares of the width and height that the map covers.

    Of several highest cells, their mean: a map without a peak (all cells equal) points at the centre.
    """
    height, width = maps.shape[2:]
    highest = (maps == maps.amax((2, 3), keepdim=True)).float()
    total = highest.sum((2, 3))
    xs = (torch.arange(width, device=maps.device) + 0.5) / width
    ys = (torch.arange(height, device=maps.device) + 0.5) / height
    x = (highest.sum(2) * xs).sum(2) / total
    y = (highest.sum(3) * ys).sum(2) / total
    return torch.stack([x, y], dim=2)


def area(maps: Float[Tensor, "image question height width"], share: float = 0.5) -> Float[Tensor, "image question"]:
    """Return the share of cells that reach `share` of the map's highest value; 0 for a map that is nowhere positive."""
    highest = maps.amax((2, 3), keepdim=True)
    reached = (maps >= share * highest) & (highest > 0)
    return reached.float().mean((2, 3))


def pointing_energy(
    explained: Explanation | Float[Tensor, "image question height width"], masks: Bool[Tensor, "image rows columns"]
) -> Float[Tensor, "image question"]:
    """Return the share of each map's positive energy that lies inside its image's mask; higher is better.

    Range 0 to 1; a uniform map gives the mask's share of the image, which is chance.

    The energy-based pointing game of Score-CAM (CVPRW 2020), with a mask instead of a box. Maps are enlarged
    bilinearly to the mask's size. A map without positive energy gives 0. Takes an explanation or its raw maps.
    """
    maps = explained if isinstance(explained, torch.Tensor) else explained.maps
    if masks.ndim != 3 or masks.shape[0] != maps.shape[0]:
        raise InputError(f"masks have shape {tuple(masks.shape)}; expected image rows columns for {len(maps)} images")
    large = torch.nn.functional.interpolate(
        maps.float().clamp_min(0), size=tuple(masks.shape[1:]), mode="bilinear", align_corners=False
    )
    inside = (large * masks[:, None]).sum((2, 3))
    total = large.sum((2, 3))
    return torch.where(total > 0, inside / total.clamp_min(1e-30), 0)
