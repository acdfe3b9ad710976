"""The cells of photo files at one layer, batch by batch, and a bounded sample of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.io.errors import Failure, InputError
from conceptlens.io.progress import progress
from conceptlens.model.layer_cells import layer_cells
from conceptlens.model.photo_reading import photos_ahead
from conceptlens.runs.local_engine import batches_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone

# Cells that are factorised: of each photo at most so many, and of all photos together.
MAX_CELLS_OF_PHOTO, MAX_CELLS = 16, 8192


@dataclass(frozen=True, eq=False)
class PhotoCells:
    """The cells of some photos.

    Attributes:
        files: The photos.
        boxes: The part of each upright photo that reached the model.
        cells: `[photo channel height width]`, float32, on the processor.
    """

    files: tuple[Path, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    cells: Float[Tensor, "photo channel height width"]


def photo_cells(
    model: Backbone, files: Sequence[Path], layer: str, batch_size: int, failures: list[Failure]
) -> Iterator[PhotoCells]:
    """Yield the cells of photo files, a batch at a time.

    Args:
        model: The model.
        files: The photos.
        layer: The layer.
        batch_size: Photos per forward pass.
        failures: A list to which the files are added that cannot be read.
    """
    batches = batches_of(len(files), batch_size)
    for batch, read in zip(batches, photos_ahead(model, files, batch_size, keep=False), strict=True):
        failures += [one for one in read if isinstance(one, Failure)]
        good = [(files[i], one) for i, one in zip(batch, read, strict=True) if not isinstance(one, Failure)]
        if good:
            images = torch.stack([one.image for _, one in good])
            cells = layer_cells(model, images, [layer])[layer].cpu()
            yield PhotoCells(tuple(file for file, _ in good), tuple(one.info.box for _, one in good), cells)


@dataclass(frozen=True, eq=False)
class CellSample:
    """Some cells of every photo that could be read.

    Attributes:
        files: The photos, in their order.
        cells: As many cells of each photo, drawn without replacement.
        failures: The files that could not be read.
    """

    files: tuple[Path, ...]
    cells: Float[Tensor, "photo cell channel"]
    failures: tuple[Failure, ...]


def sample_cells(model: Backbone, files: Sequence[Path], layer: str, batch_size: int, seed: int) -> CellSample:
    """Draw cells of every photo: at most `MAX_CELLS_OF_PHOTO` of each, and `MAX_CELLS` of all photos or one of each.

    So the memory does not grow with the grid, and hardly with the number of photos: 8192 cells of 2048 channels take
    64 MiB.

    Args:
        model: The model.
        files: The photos.
        layer: The layer.
        batch_size: Photos per forward pass.
        seed: Of the draw.

    Returns:
        The cells.

    Raises:
        InputError: No photo could be read.
    """
    draw = np.random.default_rng(seed)
    each = max(1, min(MAX_CELLS_OF_PHOTO, MAX_CELLS // len(files)))
    failures: list[Failure] = []
    kept: list[Tensor] = []
    read: list[Path] = []
    batches = photo_cells(model, files, layer, batch_size, failures)
    for batch in progress(batches, len(files), "reading photos", batch_size):
        for cells in batch.cells.flatten(2).transpose(1, 2):
            chosen = np.sort(draw.permutation(len(cells))[:each])
            kept.append(cells[torch.from_numpy(chosen)])
        read += batch.files
    if not kept:
        raise InputError(f"none of the {len(files)} photos could be read; the first: {failures[0].reason}")
    return CellSample(tuple(read), torch.stack(kept), tuple(failures))
