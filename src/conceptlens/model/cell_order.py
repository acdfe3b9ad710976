"""Whether cells lie where a reading of a layer says, cell by cell, by where in the image their gradients are large.

Changed blocks (`cell_experiment`) find a reading but are larger than a cell: an order that moves cells by little passes
(every second row reversed, neighbours swapped). Here the cells of every second column have a gradient in the image, and
then the others: at the place of a cell, the half that it belongs to must be the larger. The same by rows. A network
whose cells see the whole image shows no such difference, and nothing is said against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.model.gradients import has_gradient

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.model.layout import Grid

# A layer's output in the graph of images, and the images.
Seen: TypeAlias = tuple[Tensor, Tensor]

# The least correlation of what cells look at in two images: that of cells which see a place of their own is near 1.
LEAST_ALIKE = 0.5
# Below this mean difference between the halves (0 to 1), cells see too much of the image for their order to show.
LEAST_CONTRAST = 0.7
# The mean agreement (-1 to 1) from which cells lie where they are said to, or all of them one cell further.
LEAST_AGREEMENT = 0.5
# Cells of an image together see at least this share of its places, but for those that a stride steps over.
LEAST_COVERAGE = 0.8
# A gradient below this share of the largest one is none.
NO_GRADIENT = 1e-6


def order_problem(seen: Seen, again: Callable[[], Seen], grid: Grid) -> str:
    """Return why a layer's cells do not lie where a grid says, in words; empty where nothing speaks against it.

    It takes three to nine gradients of one image, and as many of another one where something does: in a network whose
    gradients are wild, what one image says another does not.

    Args:
        seen: The layer's output in the graph of the images, and the images, of which the first is looked at.
        again: Returns the same of another image.
        grid: The reading of the output.
    """
    found = _problem(*seen, grid)
    if not found:
        return ""
    other = again()
    if not _problem(*other, grid):
        return ""
    first, second = (_energy(*one, grid, _bands(grid, 1, 1)) for one in (seen, other))
    return found if first is not None and second is not None and _alike(first, second) >= LEAST_ALIKE else ""


def _alike(first: Tensor, second: Tensor) -> float:
    """Return the correlation over places of the logarithms of two energies, -1 to 1."""
    logs = [
        (energy / energy.mean().clamp_min(1e-30)).clamp_min(NO_GRADIENT).log().flatten() for energy in (first, second)
    ]
    centred = [one - one.mean() for one in logs]
    return float(F.cosine_similarity(centred[0], centred[1], dim=0))


def _problem(cells: Tensor, images: Tensor, grid: Grid) -> str:
    if not has_gradient(cells):
        return ""
    energy = _energy(cells, images, grid, torch.ones(grid.height, grid.width, dtype=torch.bool, device=images.device))
    covered = 1.0 if energy is None else float((energy > NO_GRADIENT * energy.max()).float().mean())
    if covered < LEAST_COVERAGE:
        return f"its cells see {covered:.0%} of the image alone, and are no map of the whole"
    for axis, (word, length) in enumerate((("row", grid.height), ("column", grid.width))):
        single = _agreement(cells, images, grid, axis, 1) if length >= 2 else None
        pairs = _agreement(cells, images, grid, axis, 2) if length >= 4 else None
        if single is not None and single <= -LEAST_AGREEMENT and abs(pairs or 0.0) < LEAST_AGREEMENT:
            continue  # all cells lie one further, as strided convolutions may leave a map
        if any(found is not None and found < LEAST_AGREEMENT for found in (single, pairs)):
            worst = min(found for found in (single, pairs) if found is not None)
            return (
                f"its cells are not in the order of the image: the gradients of every second {word} of cells, or pair "
                f"of {word}s, lie where they should in {0.5 + worst / 2:.0%} of the image"
            )
    return ""


def _agreement(cells: Tensor, images: Tensor, grid: Grid, axis: int, period: int) -> float | None:
    """Return how far gradients of bands of cells lie in these bands of the image, -1 to 1; `None` where it is unclear.

    Args:
        cells: The layer's output.
        images: The images.
        grid: The reading of the output.
        axis: 0 for bands of rows, 1 for bands of columns.
        period: How many rows or columns make a band.
    """
    first = _bands(grid, axis, period).to(images.device)
    here, there = (_energy(cells, images, grid, band) for band in (first, ~first))
    if here is None or there is None:
        return None
    # What one half looks at more than the other everywhere says nothing of where.
    here, there = (energy / energy.mean().clamp_min(1e-30) for energy in (here, there))
    contrast = (here - there) / (here + there).clamp_min(1e-30)
    if float(contrast.abs().mean()) < LEAST_CONTRAST:
        return None
    return float(torch.where(first, contrast, -contrast).sum() / contrast.abs().sum())


def _bands(grid: Grid, axis: int, period: int) -> Bool[Tensor, "height width"]:
    """Return the cells of every second band of rows (axis 0) or columns (axis 1)."""
    place = torch.arange((grid.height, grid.width)[axis], device="cpu") // period % 2 == 0
    return (place[:, None] if axis == 0 else place[None]).expand(grid.height, grid.width)


def _energy(
    cells: Tensor, images: Tensor, grid: Grid, band: Bool[Tensor, "height width"]
) -> Float[Tensor, "height width"] | None:
    """Return how large the gradient of a random direction of each cell of a band is, by place in the image."""
    with torch.enable_grad():
        read = grid.read(cells)[:1]
        generator = torch.Generator("cpu").manual_seed(0)
        directions = torch.randn(read.shape, generator=generator, dtype=torch.float32, device="cpu").to(read) * band.to(
            read.device
        )
        try:
            (gradient,) = torch.autograd.grad(read, images, directions, retain_graph=True, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):  # an operation without a gradient, or values changed in place
            return None
    if gradient is None or not bool(gradient.isfinite().all()):
        return None
    return F.adaptive_avg_pool2d(gradient[:1].float().square().sum(1, keepdim=True), (grid.height, grid.width))[0, 0]
