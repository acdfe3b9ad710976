"""Suppression and pooling of boxes against their definitions, written as loops, and against torchvision's operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conceptlens.model.box_operators import (
    box_overlap,
    compiled_operators,
    plain_pooling,
    plain_suppression,
    pool_boxes,
    suppress,
)

compiled = pytest.mark.skipif(not compiled_operators(), reason="torchvision's compiled operators do not load here")


def drawn_boxes(count: int, seed: int, rows: float = 60, columns: float = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64) * torch.tensor([columns, rows])
    return torch.cat([corners.amin(1), corners.amax(1) + 1], 1)


def overlap_of(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / both


def test_overlap_is_intersection_over_union() -> None:
    first, second = drawn_boxes(5, 0), drawn_boxes(7, 1)
    expected = [[overlap_of(a, b) for b in second.tolist()] for a in first.tolist()]
    assert torch.allclose(box_overlap(first, second), torch.tensor(expected, dtype=torch.float64))
    assert box_overlap(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_keeps_what_no_better_box_of_its_group_covers(seed: int, limit: float) -> None:
    boxes = drawn_boxes(40, seed)
    generator = torch.Generator().manual_seed(seed)
    scores, groups = torch.rand(40, generator=generator), torch.randint(3, (40,), generator=generator)
    kept: list[int] = []
    for i in sorted(range(40), key=lambda i: -float(scores[i])):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(overlap_of(boxes[i].tolist(), boxes[j].tolist()) <= limit for j in rivals):
            kept.append(i)
    assert suppress(boxes, scores, limit, groups, 40).tolist() == kept
    assert suppress(boxes, scores, limit, groups, 4).tolist() == kept[:4]
    assert suppress(boxes[:0], scores[:0], limit, groups[:0], 4).tolist() == []


def pooled_by_loops(cells: Tensor, box: list[float], size: tuple[int, int], scale: float, samples: int) -> Tensor:
    """Return RoIAlign of one box, straight from its definition."""
    height, width = cells.shape[1:]

    def read(y: float, x: float) -> Tensor:
        if y < -1 or y > height or x < -1 or x > width:
            return torch.zeros_like(cells[:, 0, 0])
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = math.floor(y), math.floor(x)
        down, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = cells[:, top, left] * (1 - x + left) + cells[:, top, right] * (x - left)
        lower = cells[:, down, left] * (1 - x + left) + cells[:, down, right] * (x - left)
        return upper * (1 - y + top) + lower * (y - top)

    left, top, right, bottom = (value * scale for value in box)
    high, wide = max(bottom - top, 1.0) / size[0], max(right - left, 1.0) / size[1]
    ny, nx = (samples, samples) if samples > 0 else (math.ceil(high), math.ceil(wide))
    pooled = torch.zeros(len(cells), *size, dtype=cells.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            points = [
                read(top + (row + (i + 0.5) / ny) * high, left + (column + (j + 0.5) / nx) * wide)
                for i in range(ny)
                for j in range(nx)
            ]
            pooled[:, row, column] = torch.stack(points).mean(0)
    return pooled


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("grid", [(13, 17), (1, 4)])
def test_pooling_is_the_mean_of_points_read_bilinearly(samples: int, grid: tuple[int, int]) -> None:
    cells = torch.randn(3, *grid, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    boxes = torch.cat(
        [drawn_boxes(5, 3), torch.tensor([[-30.0, -30, 40, 20], [10, 10, 10.5, 10.5], [60, 40, 400, 300]])]
    )
    expected = torch.stack([pooled_by_loops(cells, box, (3, 2), 0.2, samples) for box in boxes.tolist()])
    assert torch.allclose(plain_pooling(cells, boxes, (3, 2), 0.2, samples), expected)


def test_pooling_has_a_gradient() -> None:
    cells = torch.randn(2, 6, 7, dtype=torch.float64, requires_grad=True)
    boxes = drawn_boxes(3, 4, 30, 35)
    assert torch.autograd.gradcheck(lambda c: plain_pooling(c, boxes, (2, 2), 0.2, 2), (cells,))


@compiled
@pytest.mark.parametrize("limit", [0.3, 0.7])
def test_suppression_equals_torchvision(limit: float) -> None:
    import torchvision

    boxes, scores = drawn_boxes(200, 5).float(), torch.rand(200, generator=torch.Generator().manual_seed(5))
    assert torch.equal(plain_suppression(boxes, scores, limit), torchvision.ops.nms(boxes, scores, limit))


@compiled
@pytest.mark.parametrize("samples", [0, 2])
def test_pooling_equals_torchvision(samples: int) -> None:
    cells, boxes = torch.randn(3, 13, 17), drawn_boxes(20, 6).float()
    assert torch.allclose(
        plain_pooling(cells, boxes, (7, 7), 0.2, samples), pool_boxes(cells, boxes, (7, 7), 0.2, samples), atol=1e-5
    )
