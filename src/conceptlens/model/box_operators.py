"""What detectors do with boxes, in plain torch: overlap, non-maximum suppression, and features pooled from a box.

torchvision's compiled operators are taken where they load; where they do not (see `torchvision_operators`), the same is
computed here, so that detectors run there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def box_overlap(first: Float[Tensor, "... n 4"], second: Float[Tensor, "... m 4"]) -> Float[Tensor, "... n m"]:
    """Return the intersection over union of every pair of boxes `x1 y1 x2 y2`; 0 where both are empty.

    Args:
        first: Boxes.
        second: Boxes in the same unit.
    """
    corner = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    opposite = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = (opposite - corner).clamp_min(0).prod(-1)
    union = _box_area(first)[..., :, None] + _box_area(second)[..., None, :] - shared
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def suppress(
    boxes: Float[Tensor, "box 4"],
    scores: Float[Tensor, "box"],
    overlap: float,
    groups: Int[Tensor, "box"],
    at_most: int,
) -> Int[Tensor, "kept"]:
    """Return the boxes that non-maximum suppression keeps, from the highest score down.

    The best box is kept, every box of its group that overlaps it by more than `overlap` is dropped, and so on.

    Args:
        boxes: Boxes `x1 y1 x2 y2`.
        scores: The score of each.
        overlap: The highest intersection over union that two boxes of one group may have.
        groups: What boxes compete within, such as their classes.
        at_most: How many are returned at most.

    Returns:
        Indices into `boxes`.
    """
    if not len(boxes):
        return groups.new_empty(0)
    boxes = boxes.detach().float()
    apart = boxes - boxes.amin() + (groups * (boxes.amax() - boxes.amin() + 1))[:, None]  # groups do not meet
    if compiled_operators():
        return torch.ops.torchvision.nms(apart, scores.detach().float(), overlap)[:at_most]
    return plain_suppression(apart, scores.detach(), overlap, at_most)


def plain_suppression(
    boxes: Float[Tensor, "box 4"], scores: Float[Tensor, "box"], overlap: float, at_most: int | None = None
) -> Int[Tensor, "kept"]:
    """Return what `torchvision.ops.nms` returns, without its compiled operator.

    Args:
        boxes: Boxes `x1 y1 x2 y2`.
        scores: The score of each; of equal ones the first comes first.
        overlap: The highest intersection over union that two kept boxes may have.
        at_most: How many are returned at most; by default all.

    Returns:
        Indices into `boxes`, from the highest score down.
    """
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left) and len(kept) != at_most:
        best, left = left[:1], left[1:]
        kept.append(best)
        left = left[box_overlap(boxes[best], boxes[left])[0] <= overlap]
    return torch.cat(kept) if kept else left


def compiled_operators() -> bool:
    """Whether torchvision's own operators have loaded; declared schemas alone are not counted."""
    return hasattr(torch.ops.torchvision, "roi_align")


def pool_boxes(
    cells: Float[Tensor, "channel height width"],
    boxes: Float[Tensor, "box 4"],
    size: tuple[int, int],
    scale: float,
    samples: int,
) -> Float[Tensor, "box channel rows columns"]:
    """Return the features of every box by RoIAlign, differentiable in `cells`.

    Each box is cut into `size` bins; a bin is the mean of `samples x samples` points, each read bilinearly (Mask R-CNN,
    ICCV 2017, section 3), as `torchvision.ops.roi_align(aligned=False)` computes it.

    Args:
        cells: The features of one image.
        boxes: Boxes `x1 y1 x2 y2` in pixels of the input.
        size: Rows and columns of bins.
        scale: Cells per pixel.
        samples: Points per bin and axis; 0 or less takes as many as a bin has cells.
    """
    if compiled_operators():
        import torchvision

        own = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
        return torchvision.ops.roi_align(cells[None], own.to(cells.dtype), size, scale, samples)
    return plain_pooling(cells, boxes, size, scale, samples)


def plain_pooling(
    cells: Float[Tensor, "channel height width"],
    boxes: Float[Tensor, "box 4"],
    size: tuple[int, int],
    scale: float,
    samples: int,
) -> Float[Tensor, "box channel rows columns"]:
    """Return what `pool_boxes` returns, without torchvision's compiled operator; the arguments are the same."""
    start, end = (boxes * scale).unflatten(1, (2, 2)).unbind(1)
    extent = (end - start).clamp_min(1)
    bins = extent / extent.new_tensor([size[1], size[0]])
    if samples > 0:
        return _pooled(cells, start, bins, size, (samples, samples))
    pooled = cells.new_zeros(len(boxes), len(cells), *size)
    counts = bins.ceil().int()
    for pair in counts.unique(dim=0):
        same = (counts == pair).all(1)
        pooled[same] = _pooled(cells, start[same], bins[same], size, (int(pair[1]), int(pair[0])))
    return pooled


def _pooled(
    cells: Tensor, start: Tensor, bins: Tensor, size: tuple[int, int], samples: tuple[int, int]
) -> Float[Tensor, "box channel rows columns"]:
    """Return the means of the points of every bin; `samples` are rows and columns of points."""
    height, width = cells.shape[1:]
    y = _points(start[:, 1], bins[:, 1], size[0], samples[0])
    x = _points(start[:, 0], bins[:, 0], size[1], samples[1])
    inside = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None, :]
    grid = torch.stack(torch.broadcast_tensors(_share(x, width)[:, None, :], _share(y, height)[:, :, None]), dim=-1).to(
        cells.dtype
    )
    read = F.grid_sample(
        cells[None], grid.flatten(0, 1)[None], mode="bilinear", padding_mode="border", align_corners=True
    )
    values = read[0].unflatten(1, (len(start), -1)).transpose(0, 1) * inside[:, None]
    return values.unflatten(3, (size[1], samples[1])).unflatten(2, (size[0], samples[0])).mean((3, 5))


def _points(start: Tensor, bins: Tensor, n_bins: int, samples: int) -> Float[Tensor, "box point"]:
    """Return where a box is read along one axis, in cells."""
    steps = (torch.arange(n_bins * samples, device=bins.device, dtype=bins.dtype) + 0.5) / samples
    return start[:, None] + steps * bins[:, None]


def _share(at: Tensor, cells: int) -> Tensor:
    """Return positions in cells as -1..1 between the first cell and the last."""
    return at.clamp(0, cells - 1) * (2 / max(1, cells - 1)) - 1
