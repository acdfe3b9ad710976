"""The concept layer: vectors over channels whose pooled products follow the concepts' targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.bottleneck.fit.alignment_losses import ALIGNMENT_LOSSES
from conceptlens.bottleneck.fit.recipe import Recipe, radius_at
from conceptlens.bottleneck.locator import Parts, WholeImage, peak_masks, resized

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.features.cell_source import CellSource
    from conceptlens.training.loop import Gather

MAX_CELL_BYTES = 2**31  # bytes of cells that a training by maps holds
MAX_HALF = 6e4  # that half precision holds safely


@dataclass(frozen=True, eq=False)
class PooledCells:
    """The values' cells of every photo, pooled by each distinct mask of a locator that does not depend on the concepts.

    - `rows[image mask channel]`; `mask[concept]`: which of them each concept reads.
    """

    rows: Float[Tensor, "image mask channel"]
    mask: Int[Tensor, "concept"]
    indices: Int[Tensor, "image"]

    def activations(self, weight: Float[Tensor, "concept channel"], photos: Tensor | slice) -> Tensor:
        """Return `c_i = <w_i, pooled>` of some photos."""
        rows = self.rows[photos].to(weight.device)
        made = rows.new_zeros(len(rows), len(self.mask))
        for mask in self.mask.unique().tolist():
            own = (self.mask == mask).nonzero()[:, 0]
            made = made.index_copy(1, own, rows[:, mask] @ weight[own].T)
        return made


def pool_cells(
    source: CellSource,
    indices: Sequence[int],
    locator: WholeImage | Parts,
    layer: str,
    grid: tuple[int, int],
    concepts: int,
) -> PooledCells:
    """Return the pooled cells of photos, one batch of cells in memory at a time."""
    kept, found = [], []
    for batch in source.batches(indices):
        cells = resized(batch.cells[layer], grid)
        whole = cells.mean((2, 3))[:, None]
        if isinstance(locator, Parts):
            with torch.no_grad():
                attention = locator.attention(batch.cells, grid)
            attended = torch.einsum("nphw,nchw->npc", attention, cells)
            whole = torch.cat([(1 - locator.share) * attended + locator.share * whole, whole], 1)
        found.append(whole)
        kept.append(batch.indices)
    rows, order = torch.cat(found), torch.cat(kept)
    mask = torch.zeros(concepts, dtype=torch.long)
    if isinstance(locator, Parts):
        mask = torch.where(locator.part >= 0, locator.part, len(locator.names))
    return PooledCells(rows, mask, order)


def ridge(
    pooled: PooledCells, targets: Float[Tensor, "image concept"], strength: float
) -> Float[Tensor, "concept channel"]:
    """Return `argmin_w sum_n (<w_i, p_n> - t_ni)^2 + strength n s |w_i|^2`, without a constant; s the mean square of p.

    Cells are never negative after a ReLU and targets are shares from 0 to 1, so that without a constant the products
    stay positive where a concept is: its map can be read as presence.
    """
    weight = torch.zeros(len(pooled.mask), pooled.rows.shape[2])
    for index in pooled.mask.unique().tolist():
        own = (pooled.mask == index).nonzero()[:, 0]
        rows = pooled.rows[:, index].double()
        gram = rows.T @ rows
        size = gram.diagonal().mean().clamp_min(1e-12)
        gram.diagonal().add_(strength * size)
        weight[own] = torch.linalg.solve(gram, rows.T @ targets[:, own].double()).T.float()
    return weight


class ConceptVectors(nn.Module):
    """The concept vectors alone, as the optimiser sees them: a 1 x 1 convolution without bias."""

    def __init__(self, concepts: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(concepts, channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(
        self, cells: Float[Tensor, "image channel height width"] | PooledCells, rows: Tensor | None = None
    ) -> Tensor:
        """Return the concept maps of cells, or the activations of some rows of pooled cells."""
        if isinstance(cells, PooledCells):
            return cells.activations(self.weight, slice(None) if rows is None else rows)
        return torch.einsum("nchw,kc->nkhw", cells, self.weight)


@dataclass(frozen=True, eq=False)
class ConceptMapTask:
    """Training by whole maps, for locators that look for the peaks of the maps themselves. (Loc-CBM's poster.)

    Of `recipe`: its losses; with the locator `peaks`, the schedule of their radius after `warmup`; with `softmax`, the
    temperature of the pooling, `sum_u softmax_u(A / temperature) A`, where else the activation is the mean.
    """

    network: nn.Module
    take: Callable[[Tensor], Float[Tensor, "image channel height width"]]
    targets: Float[Tensor, "image concept"]
    recipe: Recipe

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.targets)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return the mean alignment loss over the concepts, plain while warming up, masked after it."""
        recipe, device = self.recipe, next(network.parameters()).device
        maps = network(self.take(mine).to(device))
        align, wanted = ALIGNMENT_LOSSES[recipe.loss], self.targets[whole].to(device)
        plain = align(gather(self._pooled(maps)), wanted).mean()
        if recipe.locator != "peaks" or done < recipe.warmup:
            return plain
        shrunk = (done - recipe.warmup) / max(1e-9, 1 - recipe.warmup)
        first = max(float(max(maps.shape[2:])), recipe.last) if recipe.first is None else recipe.first
        masks = peak_masks(maps, radius_at(recipe.schedule, shrunk, first, recipe.last), recipe.peaks)
        align = ALIGNMENT_LOSSES[recipe.masked_loss or recipe.loss]
        located = align(gather((maps * masks).sum((2, 3))), wanted).mean()
        return located if recipe.replace else plain + located

    def _pooled(self, maps: Tensor) -> Float[Tensor, "image concept"]:
        if self.recipe.locator != "softmax":
            return maps.mean((2, 3))
        flat = maps.flatten(2)
        return (flat * (flat / self.recipe.temperature).softmax(2)).sum(2)


@dataclass(frozen=True, eq=False)
class PooledCellsTask:
    """Training by pooled cells, for locators that do not look at the concepts' own maps."""

    network: ConceptVectors
    pooled: PooledCells
    targets: Float[Tensor, "image concept"]
    loss_name: str

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.targets)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return the mean alignment loss over the concepts."""
        made = network(self.pooled, mine)
        return ALIGNMENT_LOSSES[self.loss_name](gather(made), self.targets[whole].to(made.device)).mean()


def layer_cells(
    source: CellSource, indices: Sequence[int], layer: str, grid: tuple[int, int]
) -> Callable[[Tensor], Float[Tensor, "image channel height width"]]:
    """Return a function from rows of `indices` to their cells on the maps' grid.

    They are held in memory, in half precision, where they take at most `MAX_CELL_BYTES`; else each batch is read again.
    """
    one = next(iter(source.batches(indices[:1])))
    channels = one.cells[layer].shape[1]
    if 2 * len(indices) * channels * grid[0] * grid[1] > MAX_CELL_BYTES:
        return lambda rows: _read_again(source, [int(indices[row]) for row in rows.tolist()], layer, grid)
    held = torch.empty(len(indices), channels, *grid, dtype=torch.float16)
    row_of = {int(index): row for row, index in enumerate(indices)}
    for batch in source.batches(indices):
        cells = resized(batch.cells[layer], grid)
        if bool(cells.abs().amax() > MAX_HALF):  # too large for half precision
            held = held.float()
        held[[row_of[index] for index in batch.indices.tolist()]] = cells.to(held.dtype)
    return lambda rows: held[rows].float()


def _read_again(source: CellSource, indices: Sequence[int], layer: str, grid: tuple[int, int]) -> Tensor:
    """Return the cells of some photos, which may come more than once, in the order asked for."""
    found: dict[int, Tensor] = {}
    for batch in source.batches(sorted(set(indices))):
        cells = resized(batch.cells[layer], grid)
        found.update(zip(batch.indices.tolist(), cells, strict=True))
    return torch.stack([found[index] for index in indices])
