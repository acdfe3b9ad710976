"""A layer's output read as cells and written back, whatever its layout; what is unclear is refused, never guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.hiera import Unroll

from architectures import ARCHITECTURES, backbone
from conceptlens.model.layout import MAP_ORDERS, TOKEN_ORDERS, Arrangement, Grid, possible_grids, prefix_tokens

ORDERS = (*MAP_ORDERS, *TOKEN_ORDERS)

sides = st.integers(1, 9)
arrangements = st.one_of(
    st.just(Arrangement()),
    st.just(Arrangement("columns")),
    st.builds(Arrangement, st.sampled_from(["windows"]), st.integers(2, 4)),
    st.builds(Arrangement, st.sampled_from(["halved", "interleaved"]), st.integers(1, 3)),
)


@st.composite
def all_grids(draw: st.DrawFn) -> Grid:
    """Return any grid; the sides of one in another order than row by row can be divided so."""
    order = draw(st.sampled_from(ORDERS))
    if order in MAP_ORDERS:
        return Grid(order, draw(sides), draw(sides), draw(st.integers(1, 6)))
    arrangement = draw(arrangements)
    unit = {"windows": arrangement.size, "halved": 2**arrangement.size, "interleaved": 2**arrangement.size}
    part = unit.get(arrangement.kind, 1)
    height, width = part * draw(st.integers(1, 3)), part * draw(st.integers(1, 3))
    others = [draw(st.integers(0, 3)) for _ in range(3)]
    return Grid(order, height, width, draw(st.integers(1, 6)), *others, arrangement)


def raw_shape(grid: Grid, images: int) -> tuple[int, ...]:
    tokens = grid.prefix + grid.suffix + grid.middle + grid.height * grid.width
    size = {
        "image": images, "token": tokens, "channel": grid.channels, "height": grid.height, "width": grid.width,
    }  # fmt: skip
    return tuple(size[name] for name in grid.order.split())


@given(all_grids(), st.integers(1, 3))
def test_what_is_read_and_written_back_is_the_same(grid: Grid, images: int) -> None:
    raw = torch.randn(raw_shape(grid, images))
    cells = grid.read(raw)
    assert cells.shape == (images, grid.channels, grid.height, grid.width)
    assert torch.equal(grid.write(raw, cells), raw)


@given(all_grids(), st.integers(1, 3))
def test_what_is_written_is_read_back_and_other_tokens_stay(grid: Grid, images: int) -> None:
    raw = torch.randn(raw_shape(grid, images))
    before = raw.clone()
    cells = torch.randn(images, grid.channels, grid.height, grid.width)
    written = grid.write(raw, cells)
    assert torch.equal(grid.read(written), cells)
    assert torch.equal(raw, before)
    if "token" in grid.order:
        assert int((written == raw).sum()) >= images * grid.channels * (grid.prefix + grid.suffix + grid.middle)


@given(all_grids(), st.integers(1, 3), st.integers(1, 4))
def test_questions_may_stand_in_front(grid: Grid, images: int, questions: int) -> None:
    raw = torch.randn(questions, *raw_shape(grid, images))
    assert torch.equal(grid.read(raw), torch.stack([grid.read(one) for one in raw]))


@given(all_grids(), st.integers(1, 4))
def test_one_image_is_repeated_along_its_own_axis(grid: Grid, times: int) -> None:
    raw = torch.randn(raw_shape(grid, 1))
    assert torch.equal(grid.read(grid.repeat(raw, times)), grid.read(raw).expand(times, -1, -1, -1))


@given(all_grids(), st.integers(1, 3))
def test_the_gradient_flows_to_the_cells_alone(grid: Grid, images: int) -> None:
    raw = torch.randn(raw_shape(grid, images), requires_grad=True)
    grid.read(raw).sum().backward()
    assert raw.grad is not None
    assert float(raw.grad.sum()) == images * grid.channels * grid.height * grid.width


def test_the_order_of_cells_in_words() -> None:
    """By hand, for 4 x 4 cells: which token each cell is, row by row."""
    by_hand = {
        Arrangement("columns"): [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15],
        Arrangement("windows", 2): [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
        Arrangement("halved", 2): [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
        Arrangement("interleaved", 1): [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15],
    }
    for arrangement, tokens in by_hand.items():
        numbers = arrangement.numbers(4, 4)
        assert numbers is not None
        assert numbers.tolist() == tokens, arrangement
    assert Arrangement("windows", 3).numbers(4, 4) is None


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_interleaved_is_the_order_of_hiera(levels: int) -> None:
    """Against timm's own `Unroll`, which puts the tokens in that order."""
    cells = torch.arange(24.0 * 16).view(1, -1, 1)
    unrolled = Unroll((24, 16), (1, 1), [(2, 2)] * levels)(cells)[0, :, 0].long()
    numbers = Arrangement("interleaved", levels).numbers(24, 16)
    assert numbers is not None
    assert torch.equal(unrolled[numbers], torch.arange(24 * 16))


# shape, (images, rows, columns), axis of the images, prefix -> a reading that is among the first
LIKELY = {
    "ResNet-50 layer4": ((2, 2048, 7, 7), (2, 224, 224), 0, 0, Grid(ORDERS[0], 7, 7, 2048)),
    "rounded up": ((1, 64, 8, 13), (1, 250, 400), 0, 0, Grid(ORDERS[0], 8, 13, 64)),
    "rounded down": ((1, 64, 7, 12), (1, 250, 400), 0, 0, Grid(ORDERS[0], 7, 12, 64)),
    "Inception loses cells": ((1, 2048, 8, 8), (1, 299, 299), 0, 0, Grid(ORDERS[0], 8, 8, 2048)),
    "Swin": ((2, 7, 7, 768), (2, 224, 224), 0, 0, Grid(ORDERS[1], 7, 7, 768)),
    "Swin, wide": ((2, 7, 14, 768), (2, 224, 448), 0, 0, Grid(ORDERS[1], 7, 14, 768)),
    "ViT-B/16": ((2, 197, 768), (2, 224, 224), 0, 1, Grid(ORDERS[4], 14, 14, 768, 1)),
    "ViT, patches alone": ((2, 196, 768), (2, 224, 224), 0, 1, Grid(ORDERS[4], 14, 14, 768)),
    "DINOv2 with registers": ((2, 261, 384), (2, 224, 224), 0, 5, Grid(ORDERS[4], 16, 16, 384, 5)),
    "ViT, tall": ((1, 25, 64), (1, 96, 64), 0, 1, Grid(ORDERS[4], 6, 4, 64, 1)),
    "OpenAI CLIP": ((50, 3, 512), (3, 224, 224), 1, 1, Grid(ORDERS[5], 7, 7, 512, 1)),
    "as many tokens as images": ((49, 49, 512), (49, 224, 224), 0, 0, Grid(ORDERS[4], 7, 7, 512)),
    "an unknown prefix": ((2, 198, 768), (2, 224, 224), 0, 0, Grid(ORDERS[4], 14, 14, 768, 2)),
    "a class token behind": ((2, 197, 768), (2, 224, 224), 0, 0, Grid(ORDERS[4], 14, 14, 768, 0, 1)),
    "a class token in the middle": ((2, 197, 192), (2, 224, 224), 0, 0, Grid(ORDERS[4], 14, 14, 192, middle=1)),
    "YOLOS": ((2, 297, 192), (2, 224, 224), 0, 1, Grid(ORDERS[4], 14, 14, 192, 1, 100)),
    "channels before tokens": ((2, 64, 49), (2, 224, 224), 0, 0, Grid(ORDERS[6], 7, 7, 64)),
}


@pytest.mark.parametrize(("shape", "image", "axis", "prefix", "expected"), LIKELY.values(), ids=LIKELY)
def test_the_right_reading_is_among_those_tried(shape: Any, image: Any, axis: int, prefix: int, expected: Grid) -> None:
    assert expected in list(possible_grids(shape, image, axis, prefix))[:80]


def test_what_has_no_cells_has_no_reading() -> None:
    for shape in [(2, 768), (2, 3, 8, 7, 7), (2, 300, 7, 7), (2, 211, 97)]:
        readings = list(possible_grids(shape, (2, 224, 448), 0))
        assert all("token" in grid.order or grid.height <= 224 for grid in readings)
        assert not [grid for grid in readings if len(shape) not in (3, 4)]


class TestAnotherBatchOrSize:
    grid = Grid("image token channel", 7, 7, 32, prefix=1)

    def test_the_order_of_axes_is_kept(self) -> None:
        """However many images there are: 50 images of 50 tokens are no tokens of images."""
        first = Grid("token image channel", 7, 7, 32, prefix=1)
        assert first.at((50, 50, 32), (50, 224, 224)) == first
        assert self.grid.at((50, 50, 32), (50, 224, 224)) == self.grid

    def test_another_size_has_another_grid(self) -> None:
        assert self.grid.at((2, 1 + 8 * 14, 32), (2, 256, 448)) == Grid("image token channel", 8, 14, 32, 1)

    def test_a_shape_that_does_not_fit_is_refused(self) -> None:
        assert self.grid.at((2, 51, 32), (2, 224, 224)) is None
        assert self.grid.at((2, 32, 7, 7), (2, 224, 224)) is None
        assert self.grid.at((3, 50, 32), (2, 224, 224)) is None

    def test_windows_that_do_not_fit_are_refused(self) -> None:
        windows = Grid("image token channel", 8, 8, 4, arrangement=Arrangement("windows", 4))
        assert windows.at((1, 16 * 16, 4), (1, 128, 128)) is not None
        assert windows.at((1, 10 * 10, 4), (1, 80, 80)) is None


PREFIXES = {
    "timm vit": 1,
    "timm vit3": 1,
    "timm vit_relpos": 0,
    "timm resnet": 0,
    "hf vit": 1,
    "hf deit distilled": 2,
    "hf dinov2 registers": 4,
    "hf beit": 1,
    "hf swin": 0,
    "hf clip vision": 1,
    "hf siglip vision": 0,
    "open_clip vit": 1,
    "open_clip resnet": 0,
    "torchvision vit": 1,
}


@pytest.mark.parametrize(("name", "count"), PREFIXES.items())
def test_prefix_tokens_are_counted(name: str, count: int) -> None:
    assert prefix_tokens(backbone(name).module) == count
    assert name in ARCHITECTURES
