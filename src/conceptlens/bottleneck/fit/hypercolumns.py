"""The features of a photo by which parts are found: principal components of several layers on one grid, and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.locator import resized
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.features.cell_source import CellSource

COMPONENTS = 64  # principal components of each layer that an attention sees
MAX_PHOTOS = 10_000  # in which parts are found: their hypercolumns are in memory
FEATURES = 9  # of a cell's three colours: they, their squares and products


@dataclass(frozen=True, eq=False)
class Projection:
    """The principal components of a layer's cells, brought to one scale: `(F - mean) basis / scale`."""

    mean: Tensor
    basis: Tensor
    scale: float

    def __call__(self, cells: Float[Tensor, "image channel rows columns"]) -> Tensor:
        """Return the components of cells."""
        centred = cells - self.mean[None, :, None, None]
        return torch.einsum("nchw,ck->nkhw", centred, self.basis) / self.scale


@dataclass(frozen=True, eq=False)
class Hypercolumns:
    """What the attentions see in a sample of photos: components of several layers on one grid, and colours.

    - `columns[image component cell]`, half precision; `readings[image cell 9]`: colours, squares and products.
    - `projections`: how each layer's components were made, so that weights can be given back in its own channels.
    """

    columns: Tensor
    readings: Float[Tensor, "image cell feature"]
    projections: Mapping[str, Projection]
    indices: Int[Tensor, "image"]
    grid: tuple[int, int]

    def weights(self, attention: Float[Tensor, "part component"]) -> list[Float[Tensor, "part channel"]]:
        """Return attention weights in the layers' own channels; a softmax over cells does not see the constant."""
        found, start = [], 0
        for projection in self.projections.values():
            width = projection.basis.shape[1]
            found.append(attention[:, start : start + width] @ projection.basis.T / projection.scale)
            start += width
        return found


def hypercolumns(source: CellSource, indices: Sequence[int], layers: Sequence[str]) -> Hypercolumns:
    """Return what attentions see in photos of a set; two passes over them, one photo batch in memory at a time."""
    projections = _projections(source, indices, layers)
    columns, readings, kept = [], [], []
    for batch in source.batches(indices):
        parts = [resized(make(batch.cells[name]), source.grid) for name, make in projections.items()]
        columns.append(torch.cat(parts, 1).flatten(2).half())
        readings.append(_colour_features(batch.colours.flatten(2).transpose(1, 2)))
        kept.append(batch.indices)
    if not columns:
        raise InputError("no photo could be read; give photos that open (JPEG, PNG, WebP ...)")
    values = torch.cat(readings)
    deviation = values.std((0, 1), keepdim=True).clamp_min(1e-6)
    return Hypercolumns(
        torch.cat(columns),
        (values - values.mean((0, 1), keepdim=True)) / deviation,
        projections,
        torch.cat(kept),
        source.grid,
    )


def _projections(source: CellSource, indices: Sequence[int], layers: Sequence[str]) -> dict[str, Projection]:
    """Return the principal components of each layer's cells, from moments in float64."""
    totals: dict[str, tuple[Tensor, Tensor, int]] = {}
    for batch in source.batches(indices):
        for name in layers:
            cells = batch.cells[name]
            step = next(step for step in (3, 5, 7, 1) if cells.shape[3] % step or step == 1)  # no column left out
            rows = cells.transpose(0, 1).flatten(1)[:, ::step].T
            mean, square, count = totals.get(name, (torch.zeros(rows.shape[1]).double(), 0, 0))
            totals[name] = (mean + rows.sum(0).double(), square + (rows.T @ rows).double(), count + len(rows))
    found = {}
    for name, (total, square, count) in totals.items():
        mean = total / count
        values, vectors = torch.linalg.eigh(square / count - mean[:, None] * mean[None])
        basis = vectors[:, -COMPONENTS:].flip(1)
        basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)
        scale = float(values[-COMPONENTS:].clamp_min(0).mean().sqrt().clamp_min(1e-12))
        found[name] = Projection(mean.float(), basis.float(), scale)
    return found


def _colour_features(colours: Float[Tensor, "image cell colour"]) -> Float[Tensor, "image cell feature"]:
    """Return colours, their squares and their products: what a reader with few weights can tell colours by."""
    count = colours.shape[2]
    pairs = [colours[..., i] * colours[..., j] for i in range(count) for j in range(i, count)]
    return torch.cat([colours, torch.stack(pairs, 2)], 2)
