"""Do the cells of a layer lie where they are said to? By blocks and by gradients, apart from the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from drawn_models import noise

BLOCKS, DIRECTIONS = 24, 3
# What is not right at first is looked at again with several images and more directions.
AGAIN_IMAGES, AGAIN_DIRECTIONS = 4, 24
# Cells look at places of their own where their gradients in two images are so much alike (correlation).
OWN_PLACES = 0.3
# What the mean of `order` and `nearer` is at least of a layer read rightly; chance is .5. Each of the two can be low
# where cells see nearly all of the image; both are near .5 where they lie elsewhere.
LEAST = 0.65
# On grids of six or more cells a side: how many cells blocks and gradients both may lie off, on one axis.
MOST_SHIFT, SHIFT_FROM = 0.75, 6


@dataclass(frozen=True)
class Places:
    """How far the cells of a layer lie where they are said to.

    Args:
        found: The share of blocks at whose place, give or take a cell, the cell lies that changes most, above chance
            and as a share of what is possible above it.
        order: Of all pairs of a cell in the block and one outside, the share in which the first changes more.
        nearer: Of all pairs of a cell and another, the share in which the gradient of the cell in the image lies
            nearer to it than to the other.
        shift: By how many cells both blocks and gradients lie off together, the larger of rows and columns.
        alike: The correlation over the image of where a cell's gradient is larger than that of others, between two
            images: near 0 where cells look at no place of their own, wherever they are said to lie.
    """

    found: float
    order: float
    nearer: float
    shift: float
    alike: float | None = None

    @property
    def right(self) -> bool:
        """Whether the cells lie where they are said to."""
        return (self.order + self.nearer) / 2 >= LEAST and self.shift <= MOST_SHIFT

    @property
    def nowhere(self) -> bool:
        """Whether the cells look at no place of their own, so that no order of them can be told from another."""
        return not self.right and self.shift <= MOST_SHIFT and self.alike is not None and self.alike < OWN_PLACES


def places(model: cl.Backbone, layers: Sequence[str], size: tuple[int, int]) -> dict[str, Places]:
    """Return how far the cells of each layer lie where they are said to; what does not is looked at again.

    Args:
        model: The model.
        layers: Names of layers.
        size: Rows and columns of its images.
    """
    found = {name: one for name, (one, _) in _seen(model, layers, size, DIRECTIONS).items()}
    return found | {name: _again(model, name, size) for name, one in found.items() if not one.right}


def _seen(
    model: cl.Backbone, layers: Sequence[str], size: tuple[int, int], n_directions: int
) -> dict[str, tuple[Places, Tensor]]:
    """Return the places of each layer, and where the gradient of some of its cells is larger than that of others."""
    images, masks = _changed(size)
    with torch.no_grad():
        seen = model.observe(images, layers=list(layers))
    cells = {name: seen.feature(name).detach().float() for name in layers}
    found = {}
    for name in layers:
        change = (cells[name][1:] - cells[name][:1]).norm(dim=1)
        relative = change / change.mean(0).clamp_min(1e-30)
        by_blocks, off = _by_blocks(relative, masks), _shift_of_blocks(relative, masks)
        chosen, reached = _gradients(model, name, images[:1], n_directions)
        nearer, gradients_off = _by_gradients(chosen, _centres(reached))
        both = torch.where(off.sign() == gradients_off.sign(), torch.minimum(off.abs(), gradients_off.abs()), 0.0)
        wide = torch.tensor([side >= SHIFT_FROM for side in relative.shape[1:]])
        found[name] = Places(*by_blocks, nearer, float((both * wide).max())), reached
    return found


def _again(model: cl.Backbone, layer: str, size: tuple[int, int]) -> Places:
    """Return the mean places over several images, and how much alike the gradients of a cell are in two of them."""
    several = [_seen(model, [layer], size, AGAIN_DIRECTIONS)[layer] for _ in range(AGAIN_IMAGES)]
    ones, reached = zip(*several, strict=True)
    maps = torch.stack([one.flatten(1) for one in reached])
    maps = maps - maps.mean(2, keepdim=True)
    alike = mean(float(F.cosine_similarity(a, b, dim=1).mean()) for a, b in combinations(maps, 2))
    means = [mean(getattr(one, name) for one in ones) for name in ("found", "order", "nearer")]
    return Places(*means, mean(one.shift for one in ones), alike)


def _changed(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return an image and the same with a block of each made of another image, and where the blocks lie."""
    base, masks = noise(size, 1), torch.zeros(BLOCKS, 1, *size)
    for number, mask in enumerate(masks):
        # Centres in each of 4 x 6 parts of the image, sides of a sixth to a third of it.
        part = torch.tensor([number // 6 / 4, number % 6 / 6])
        centre = part + (0.15 + 0.7 * torch.rand(2)) / torch.tensor([4, 6])
        side = 0.16 + 0.16 * torch.rand(2)
        first = ((centre - side / 2).clamp(0, 1) * torch.tensor(size)).round().int().tolist()
        last = ((centre + side / 2).clamp(0, 1) * torch.tensor(size)).round().int().tolist()
        mask[0, first[0] : last[0], first[1] : last[1]] = 1
    other = torch.cat([noise(size, BLOCKS // 2), torch.randn(BLOCKS // 2, 3, 1, 1).expand(-1, -1, *size)])
    return torch.cat([base, torch.where(masks > 0, other, base)]), masks


def _by_blocks(relative: Tensor, masks: Tensor) -> tuple[float, float]:
    grid = relative.shape[1:]
    covered = F.adaptive_avg_pool2d(masks, grid)
    # Where there are few cells the next one is another part of the image.
    reach = [2 * (side >= 6) + 1 for side in grid]
    near = F.max_pool2d(covered, reach, 1, [r // 2 for r in reach]).flatten(1) > 0
    hits = near.gather(1, relative.flatten(1).argmax(1, keepdim=True)).float().mean()
    chance = near.float().mean()
    shares = []
    for values, share in zip(relative.flatten(1), covered.flatten(1), strict=True):
        inside, outside = values[share >= share.max() / 2], values[share == 0]
        if len(outside):
            shares.append((inside[:, None] - outside).sign().mean() / 2 + 0.5)
    order = float(torch.stack(shares).mean()) if shares else 1.0
    return float((hits - chance) / (1 - chance)) if chance < 1 else 1.0, order


def _gradients(model: cl.Backbone, layer: str, image: Tensor, n_directions: int) -> tuple[Tensor, Tensor]:
    """Return the places of some cells, and how much larger the gradient of each is than that of others, by place."""
    kept: list[Tensor] = []
    # The input is the leaf here, not the layer, so the module is run by hand and only its output read by the package.
    handle = model.module.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(_tensor(out)))
    leaf = image.clone().requires_grad_()
    try:
        with torch.enable_grad():
            model.module(leaf)
    finally:
        handle.remove()
    cells = model.layer_output(layer, kept[0], image).cells[0]
    height, width = cells.shape[1:]
    rows = sorted({round((height - 1) * share) for share in (0.1, 0.5, 0.9)})
    columns = sorted({round((width - 1) * share) for share in (0.1, 0.5, 0.9)})
    chosen = [(row, column) for row in rows for column in columns]
    directions = torch.randn(n_directions, len(cells))  # and not the energy, which a norm keeps nearly constant
    weights = [
        sum(
            torch.autograd.grad(cells[:, row, column] @ direction, leaf, retain_graph=True)[0].square().sum(1)[0]
            for direction in directions
        ).sqrt()
        for row, column in chosen
    ]
    reached = F.adaptive_avg_pool2d(torch.stack(weights)[:, None], (height, width))[:, 0]
    # What every cell looks at alike says nothing of where a cell lies.
    reached = reached / reached.sum((1, 2), keepdim=True).clamp_min(1e-30)
    return torch.tensor(chosen).float(), (reached - reached.mean(0)).detach()


def _centres(reached: Tensor) -> Tensor:
    """Return the middle of each cell's gradient in the image, in cells."""
    reached = reached.clamp_min(0)
    total = reached.sum((1, 2)).clamp_min(1e-30)
    row = (reached.sum(2) * torch.arange(reached.shape[1])).sum(1) / total
    column = (reached.sum(1) * torch.arange(reached.shape[2])).sum(1) / total
    return torch.stack([row, column], 1)


def _by_gradients(cells: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """Return how often a cell's gradient lies nearer to it than to another, and by how much it lies off."""
    distances = (centres[:, None] - cells).norm(dim=2)
    others = ~torch.eye(len(cells), dtype=torch.bool)
    nearer = (distances.diagonal()[:, None] < distances)[others].float().mean()
    return float(nearer), (centres - cells).median(0).values


def _shift_of_blocks(relative: Tensor, masks: Tensor) -> Tensor:
    """Return by how many rows and columns the cell that changes most lies off the middle of the block."""
    height, width = relative.shape[1:]
    most = relative.flatten(1).argmax(1)
    places = torch.stack([most // width, most % width], 1)
    covered = F.adaptive_avg_pool2d(masks, (height, width))[:, 0]
    total = covered.sum((1, 2)).clamp_min(1e-30)
    rows = (covered.sum(2) * torch.arange(height)).sum(1) / total
    columns = (covered.sum(1) * torch.arange(width)).sum(1) / total
    return (places - torch.stack([rows, columns], 1)).median(0).values


def _tensor(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output
    first = output[0]  # type: ignore[index]  # tuples and the outputs of transformers
    assert isinstance(first, Tensor)
    return first
