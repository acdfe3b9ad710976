"""Where a concept may act: masks over the cells that sum to 1, by which a concept's map is pooled.

Every locator maps concept maps and the cells of some layers to `masks[image concept height width]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Cells = Mapping[str, Float[Tensor, "image channel rows columns"]]
    Maps = Float[Tensor, "image concept height width"]
    Masks = Float[Tensor, "image concept height width"]


class WholeImage(nn.Module):
    """Every cell counts the same: mean pooling, as in label-free CBM (ICLR 2023)."""

    layers: tuple[str, ...] = ()

    def forward(self, maps: Maps, cells: Cells) -> Masks:
        """Return the mask of all cells.

        Args:
            maps: Concept maps, `[image concept height width]`.
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `masks[image concept height width]`, each with the sum 1.
        """
        return torch.full_like(maps, 1 / (maps.shape[2] * maps.shape[3]))

    def settings(self) -> dict[str, object]:
        """Return what the constructor needs.

        Returns:
            Keyword arguments of the constructor, as JSON holds them.
        """
        return {}


class Pooling(nn.Module):
    """Cells count by their own values: `softmax(A / temperature)` over the cells (SALF-CBM's demo code).

    A high temperature is the mean, a low one the highest cell.
    """

    layers: tuple[str, ...] = ()

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = _positive(temperature, "temperature")

    def forward(self, maps: Maps, cells: Cells) -> Masks:
        """Return the softmax over the cells of each map.

        Args:
            maps: Concept maps, `[image concept height width]`.
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `masks[image concept height width]`, each with the sum 1.
        """
        return (maps / self.temperature).flatten(2).softmax(2).view_as(maps)

    def settings(self) -> dict[str, object]:
        """Return what the constructor needs.

        Returns:
            Keyword arguments of the constructor, as JSON holds them.
        """
        return {"temperature": self.temperature}


class Peaks(nn.Module):
    """A Gaussian around each map's own peaks: `G_u = max_m exp(-|u - p_m|^2 / 2 r^2)`, `p_m` the peaks. (Loc-CBM.)

    `radius` is in cells; `count` peaks are taken at most, local maxima of 3 x 3 cells that reach half of the highest.
    The masks have no gradient, and their sum is 1. Loc-CBM's poster (ICCV 2025) shrinks the radius while training
    (`radius_at`); how it counts peaks is our reading.
    """

    layers: tuple[str, ...] = ()

    def __init__(self, radius: float, count: int = 1) -> None:
        super().__init__()
        self.radius = _positive(radius, "radius")
        if count < 1:
            raise InputError(f"{count} peaks were given; give at least 1")
        self.count = count

    def forward(self, maps: Maps, cells: Cells) -> Masks:
        """Return the Gaussian masks of the maps' peaks.

        Args:
            maps: Concept maps, `[image concept height width]`.
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `masks[image concept height width]`, each with the sum 1.
        """
        return peak_masks(maps, self.radius, self.count)

    def settings(self) -> dict[str, object]:
        """Return what the constructor needs.

        Returns:
            Keyword arguments of the constructor, as JSON holds them.
        """
        return {"radius": self.radius, "count": self.count}


class Parts(nn.Module):
    """One attention for each part, shared by the concepts that speak of it; the others take the whole image.

    `a_p = softmax_u(sum_layer w_p,layer . F_layer(u))` over the cells of the maps' grid, each layer's products brought
    there bilinearly (or averaged, from a finer grid). A concept of part p has the mask
    `(1 - share) a_p + share / cells`.
    Ours, not the paper's: see `bottleneck.fit.part_discovery` for how the weights are found without a keypoint.

    - `names[part]`, `part[concept]`: the index of each concept's part, -1 where it has none.
    - `layers`, `widths`: the layers that are read, and their channels.
    """

    part: Tensor

    def __init__(
        self,
        names: Sequence[str],
        part: Sequence[int],
        layers: Sequence[str],
        widths: Sequence[int],
        share: float = 0.0,
    ) -> None:
        super().__init__()
        self.names, self.layers, self.widths, self.share = tuple(names), tuple(layers), tuple(widths), share
        if not self.names or not self.layers or len(self.layers) != len(self.widths):
            raise InputError(
                f"{len(self.names)} parts, {len(self.layers)} layers and {len(self.widths)} widths are given; "
                "name at least one part and give one width for each layer"
            )
        if not 0 <= share < 1:
            raise InputError(f"the whole image's share is {share}; give a number from 0 to below 1")
        if any(not -1 <= one < len(self.names) for one in part):
            raise InputError(f"concepts name parts {sorted(set(part))}; there are {len(self.names)}, from 0")
        self.register_buffer("part", torch.tensor(list(part), dtype=torch.long), persistent=False)
        self.weight = nn.ParameterList(nn.Parameter(torch.zeros(len(self.names), width)) for width in self.widths)

    def attention(self, cells: Cells, size: tuple[int, int]) -> Float[Tensor, "image part height width"]:
        """Return each part's attention over a grid, which sums to 1.

        Args:
            cells: Cells of `layers`, `[image channel rows columns]` by layer.
            size: Rows and columns of the grid.

        Returns:
            `[image part height width]`.
        """
        logits = sum(
            resized(torch.einsum("nchw,pc->nphw", cells[name].to(weight.dtype), weight), size)
            for name, weight in zip(self.layers, self.weight, strict=True)
        )
        return logits.flatten(2).softmax(2).view_as(logits) if isinstance(logits, Tensor) else torch.empty(0)

    def forward(self, maps: Maps, cells: Cells) -> Masks:
        """Return the mask of each concept's part.

        Args:
            maps: Concept maps, `[image concept height width]`.
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `masks[image concept height width]`, each with the sum 1.
        """
        height, width = maps.shape[2:]
        found = self.attention(cells, (height, width)) * (1 - self.share) + self.share / (height * width)
        whole = torch.full_like(found[:, :1], 1 / (height * width))
        return torch.cat([found, whole], 1)[:, self.part]  # -1 is the last: the whole image

    def settings(self) -> dict[str, object]:
        """Return what the constructor needs.

        Returns:
            Keyword arguments of the constructor, as JSON holds them.
        """
        return {
            "names": list(self.names),
            "part": self.part.tolist(),
            "layers": list(self.layers),
            "widths": list(self.widths),
            "share": self.share,
        }


Locator = WholeImage | Pooling | Peaks | Parts
LOCATORS: dict[str, type[Locator]] = {"whole": WholeImage, "softmax": Pooling, "peaks": Peaks, "parts": Parts}


def peak_masks(maps: Maps, radius: float, count: int = 1) -> Masks:
    """Return `max_m exp(-|u - p_m|^2 / 2 radius^2)` around each map's peaks, divided by its sum; no gradient.

    Args:
        maps: Concept maps, `[image concept height width]`.
        radius: In cells.
        count: The largest number of peaks; 1 takes the highest cell, the first of several.

    Returns:
        `masks[image concept height width]`, each with the sum 1.
    """
    height, width = maps.shape[2:]
    indices = cell_coordinates(height, width, maps.device)
    squared = (indices[:, None] - indices[None]).square().sum(2)
    gaussian = torch.exp(-squared / (2 * radius**2)).to(maps.dtype)  # [peak, cell]
    peaks = find_peaks(maps.detach(), count)
    masks = torch.zeros_like(maps).flatten(2)
    for index in range(peaks.shape[2]):
        at = peaks[:, :, index]
        masks = torch.where((at >= 0)[..., None], torch.maximum(masks, gaussian[at.clamp_min(0)]), masks)
    return (masks / masks.sum(2, keepdim=True)).view_as(maps)


def find_peaks(maps: Maps, count: int = 1) -> Int[Tensor, "image concept peak"]:
    """Return the cells of the highest local maxima (3 x 3) that reach half of the highest value, -1 where there are
    fewer than `count`; the highest cell is always the first.

    Args:
        maps: `[image concept height width]`.
        count: The largest number of peaks.

    Returns:
        Indices of cells, row by row, `[image concept peak]`.
    """
    flat = maps.flatten(2)
    best = flat.argmax(2, keepdim=True)
    if count == 1:
        return best
    highest = flat.gather(2, best)
    local = functional.max_pool2d(maps, 3, 1, 1).flatten(2) == flat
    fit = local & (flat >= 0.5 * highest) & (highest > 0)
    fit.scatter_(2, best, True)
    ranked = torch.where(fit, flat, torch.full_like(flat, -torch.inf)).topk(min(count, flat.shape[2]), dim=2)
    return torch.where(ranked.values.isfinite(), ranked.indices, -1)


def cell_coordinates(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "cell 2"]:
    """Return the row and column of every cell, in cells.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        device: Where the result lies.

    Returns:
        `[cell 2]`, float32, row by row.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], 2).reshape(-1, 2).float().to(device)


def resized(maps: Maps, size: tuple[int, int]) -> Maps:
    """Return maps on another grid: bilinearly enlarged with cell centres kept, or averaged from a finer one.

    Args:
        maps: `[image concept height width]`.
        size: Rows and columns of the result.

    Returns:
        `[image concept rows columns]`; the maps themselves where they have that size.
    """
    height, width = maps.shape[2:]
    if (height, width) == tuple(size):
        return maps
    if height >= size[0] and width >= size[1]:
        return functional.adaptive_avg_pool2d(maps, size)
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise InputError(f"the {name} is {value}; give a number above 0")
    return float(value)
