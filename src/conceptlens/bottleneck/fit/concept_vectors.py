"""The concept layer's vectors by any loss of a recipe, and what they make of every photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.fit.concept_layer import (
    ConceptMapTask,
    ConceptVectors,
    PooledCells,
    PooledCellsTask,
    layer_cells,
    pool_cells,
    ridge,
)
from conceptlens.bottleneck.locator import Locator, Parts, Peaks, Pooling, WholeImage, resized
from conceptlens.io.errors import InputError
from conceptlens.model.module_lock import seeded
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import StepSchedule

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.fit.recipe import Recipe
    from conceptlens.features.cell_source import CellSource


@dataclass(frozen=True, eq=False)
class PooledPhotos:
    """The photos that a concept layer is fitted to: their cells, and these pooled by the locator, row by row.

    - `indices[photo]`: of those that can be read, rising. `layer`, `grid`: the layer that is read, and the maps'.
    """

    source: CellSource
    indices: tuple[int, ...]
    layer: str
    grid: tuple[int, int]
    pooled: PooledCells
    locator: Locator

    @property
    def channels(self) -> int:
        """The width of the layer that is read."""
        return self.pooled.rows.shape[2]

    @property
    def whole(self) -> Float[Tensor, "photo channel"]:
        """The mean over all cells."""
        return self.pooled.rows[:, -1]

    def activations(self, weight: Float[Tensor, "concept channel"]) -> Float[Tensor, "photo concept"]:
        """Return what the concepts make of every photo with this locator."""
        if isinstance(self.locator, WholeImage | Parts):
            return self.pooled.activations(weight, slice(None))
        found = torch.empty(len(self.indices), len(weight))
        row_of = {index: row for row, index in enumerate(self.indices)}
        for batch in self.source.batches(self.indices):
            cells = batch.cells[self.layer]
            maps = resized(torch.einsum("nchw,kc->nkhw", cells, weight), self.grid)
            rows = [row_of[index] for index in batch.indices.tolist()]
            found[rows] = (maps * self.locator(maps, batch.cells)).sum((2, 3))
        return found


def read_photos(
    source: CellSource, indices: Sequence[int], locator: Locator, layer: str, grid: tuple[int, int], concepts: int
) -> PooledPhotos:
    """Return the photos at `indices` with their pooled cells."""
    pooling = locator if isinstance(locator, Parts) else WholeImage()
    pooled = pool_cells(source, indices, pooling, layer, grid, concepts)
    order = pooled.indices.argsort()
    pooled = replace(pooled, rows=pooled.rows[order], indices=pooled.indices[order])
    broken = pooled.indices[~pooled.rows.isfinite().all((1, 2))].tolist()
    if broken:
        raise InputError(
            f"layer '{layer}' has values that are not finite for {len(broken)} of {len(order)} photos, first "
            f"{source.photos.names[broken[0]]}; leave such photos out, or read another --layer"
        )
    return PooledPhotos(source, tuple(pooled.indices.tolist()), layer, grid, pooled, locator)


def unmasked(photos: PooledPhotos) -> PooledPhotos:
    """Return the photos as they are read without masks."""
    whole = torch.full_like(photos.pooled.mask, photos.pooled.rows.shape[1] - 1)
    return replace(photos, pooled=replace(photos.pooled, mask=whole), locator=WholeImage())


def concept_weights(
    photos: PooledPhotos,
    targets: Float[Tensor, "photo concept"],
    rows: Int[Tensor, "row"],
    penalty: float,
    recipe: Recipe,
    run: TrainingRun,
) -> Float[Tensor, "concept channel"]:
    """Return the concept vectors fitted to the photos `rows`; `penalty` is that of the loss `ridge` alone."""
    concepts = targets.shape[1]
    if recipe.loss == "channels":
        if concepts != photos.channels:
            raise InputError(f"{concepts} concepts are given for {photos.channels} channels; give one for each")
        return torch.eye(concepts)
    if recipe.loss == "random":
        return drawn_vectors(concepts, photos.channels, run.seed)
    own = replace(photos.pooled, rows=photos.pooled.rows[rows], indices=photos.pooled.indices[rows])
    if recipe.loss == "ridge":
        return ridge(own, targets[rows], penalty)
    with seeded(run.seed):
        layer = ConceptVectors(concepts, photos.channels)
    steps = StepSchedule(recipe.steps, recipe.batch, recipe.rate)
    if isinstance(photos.locator, Parts) or recipe.locator == "whole":
        task = PooledCellsTask(layer, own, targets[rows], recipe.loss)
    else:
        take = layer_cells(photos.source, [photos.indices[row] for row in rows.tolist()], photos.layer, photos.grid)
        task = ConceptMapTask(layer, take, targets[rows], recipe)
    train_network(task, steps, run)
    return layer.weight.detach()


def drawn_vectors(concepts: int, channels: int, seed: int) -> Float[Tensor, "concept channel"]:
    """Return concept vectors that mean nothing: drawn, even on the unit sphere.

    Args:
        concepts: How many.
        channels: The width of the layer that they read.
        seed: Of the draw.
    """
    drawn = torch.randn(concepts, channels, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def plain_locator(recipe: Recipe) -> WholeImage | Peaks | Pooling:
    """Return the locator of a recipe that needs no training of its own, as it acts when the bottleneck is used."""
    if not recipe.masked or recipe.locator == "whole":
        return WholeImage()
    if recipe.locator == "softmax":
        return Pooling(recipe.temperature)
    return Peaks(recipe.last, recipe.peaks)
