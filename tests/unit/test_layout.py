"""A layer's output read as cells and written back, whatever its layout; what is unclear is refused, never guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import conceptlens as cl
from architectures import ARCHITECTURES, backbone
from conceptlens.model.layout import Grid, find_grid, prefix_tokens

ORDERS = (
    "image channel height width",
    "image height width channel",
    "image token channel",
    "token image channel",
)

# shape, (images, rows, columns), settings -> (order, height, width, channels, prefix)
KNOWN = {
    "ResNet-50 layer4": ((2, 2048, 7, 7), (2, 224, 224), {}, (ORDERS[0], 7, 7, 2048, 0)),
    "one cell is a grid too": ((2, 2048, 1, 1), (2, 32, 32), {}, (ORDERS[0], 1, 1, 2048, 0)),
    "rounded up": ((1, 64, 8, 13), (1, 250, 400), {}, (ORDERS[0], 8, 13, 64, 0)),
    "rounded down": ((1, 64, 7, 12), (1, 250, 400), {}, (ORDERS[0], 7, 12, 64, 0)),
    "Inception loses cells to unpadded convolutions": ((1, 2048, 8, 8), (1, 299, 299), {}, (ORDERS[0], 8, 8, 2048, 0)),
    "Swin NHWC": ((2, 7, 7, 768), (2, 224, 224), {}, (ORDERS[1], 7, 7, 768, 0)),
    "Swin NHWC, wide": ((2, 7, 14, 768), (2, 224, 448), {}, (ORDERS[1], 7, 14, 768, 0)),
    "nearly as many channels as cells": ((1, 8, 6, 6), (1, 48, 48), {}, (ORDERS[0], 6, 6, 8, 0)),
    "as many channels as cells, told": ((1, 8, 8, 8), (1, 32, 32), {"channels_last": True}, (ORDERS[1], 8, 8, 8, 0)),
    "ViT-B/16": ((2, 197, 768), (2, 224, 224), {"prefix": 1}, (ORDERS[2], 14, 14, 768, 1)),
    "ViT, patches alone": ((2, 196, 768), (2, 224, 224), {"prefix": 1}, (ORDERS[2], 14, 14, 768, 0)),
    "DINOv2 with registers": ((2, 261, 384), (2, 224, 224), {"prefix": 5}, (ORDERS[2], 16, 16, 384, 5)),
    "ViT, tall": ((1, 1 + 6 * 4, 64), (1, 96, 64), {"prefix": 1}, (ORDERS[2], 6, 4, 64, 1)),
    "OpenAI CLIP": ((50, 3, 512), (3, 224, 224), {"prefix": 1}, (ORDERS[3], 7, 7, 512, 1)),
    "as many tokens as images": ((49, 49, 512), (49, 224, 224), {}, (ORDERS[2], 7, 7, 512, 0)),
}

REFUSED = {
    "a vector": ((2, 768), (2, 224, 224), {}, "expected three or four axes"),
    "a video": ((2, 3, 8, 7, 7), (2, 224, 224), {}, "expected three or four axes"),
    "both readings fit": ((1, 8, 8, 8), (1, 32, 32), {}, "both channels-first and channels-last.*channels_last=True"),
    "neither fits": ((1, 64, 7, 20), (1, 224, 224), {}, "neither channels-first nor channels-last"),
    "told wrongly": ((2, 2048, 7, 7), (2, 224, 224), {"channels_last": True}, "neither"),
    "finer than pixels": ((1, 64, 64, 64), (1, 32, 32), {}, "neither"),
    "other images": ((3, 197, 768), (2, 224, 224), {"prefix": 1}, "no axis for the 2 images"),
    "an unknown prefix": ((2, 198, 768), (2, 224, 224), {}, r"after 0 prefix tokens; if the first 2 stand before a "
                          r"14 x 14 grid, say Backbone\(\.\.\., prefix_tokens=2\)"),
    "no grid at all": ((2, 211, 768), (2, 224, 448), {}, "211 tokens for a 224 x 448 image do not form a grid"),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "image", "settings", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_layouts(shape: Any, image: Any, settings: dict[str, Any], expected: Any) -> None:
    assert find_grid(shape, image, **settings) == Grid(*expected)


@pytest.mark.parametrize(("shape", "image", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_layouts(shape: Any, image: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        find_grid(shape, image, **settings)


sides = st.integers(1, 9)
grids = st.builds(
    Grid,
    order=st.sampled_from(ORDERS),
    height=sides,
    width=sides,
    channels=st.integers(1, 6),
    prefix=st.integers(0, 5),
)


def raw_shape(grid: Grid, images: int) -> tuple[int, ...]:
    tokens = grid.prefix + grid.height * grid.width
    return {
        ORDERS[0]: (images, grid.channels, grid.height, grid.width),
        ORDERS[1]: (images, grid.height, grid.width, grid.channels),
        ORDERS[2]: (images, tokens, grid.channels),
        ORDERS[3]: (tokens, images, grid.channels),
    }[grid.order]


@given(grids, st.integers(1, 3))
def test_what_is_read_and_written_back_is_the_same(grid: Grid, images: int) -> None:
    raw = torch.randn(raw_shape(grid, images))
    cells = grid.read(raw)
    assert cells.shape == (images, grid.channels, grid.height, grid.width)
    assert torch.equal(grid.write(raw, cells), raw)


@given(grids, st.integers(1, 3))
def test_what_is_written_is_read_back_and_the_prefix_stays(grid: Grid, images: int) -> None:
    raw = torch.randn(raw_shape(grid, images))
    before = raw.clone()
    cells = torch.randn(images, grid.channels, grid.height, grid.width)
    written = grid.write(raw, cells)
    assert torch.equal(grid.read(written), cells)
    assert torch.equal(raw, before)
    axis = {ORDERS[2]: 1, ORDERS[3]: 0}.get(grid.order)
    if axis is not None:
        assert torch.equal(written.narrow(axis, 0, grid.prefix), raw.narrow(axis, 0, grid.prefix))


@given(grids, st.integers(1, 3), st.integers(1, 4))
def test_questions_may_stand_in_front(grid: Grid, images: int, questions: int) -> None:
    raw = torch.randn(questions, *raw_shape(grid, images))
    assert torch.equal(grid.read(raw), torch.stack([grid.read(one) for one in raw]))


@given(grids, st.integers(1, 4))
def test_one_image_is_repeated_along_its_own_axis(grid: Grid, times: int) -> None:
    raw = torch.randn(raw_shape(grid, 1))
    assert torch.equal(grid.read(grid.repeat(raw, times)), grid.read(raw).expand(times, -1, -1, -1))


@given(
    order=st.sampled_from(ORDERS),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    channels=st.sampled_from([1, 3, 8, 16, 384]),
    stride=st.sampled_from([4, 8, 14, 16, 32]),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    prefix=st.integers(0, 5),
    images=st.integers(1, 4),
)
def test_a_grid_is_found_or_refused_never_mistaken(
    order: Any, height: int, width: int, channels: int, stride: int, extra: tuple[int, int], prefix: int, images: int
) -> None:
    """For an image of whole cells and a few pixels more, no other grid than the true one is ever returned."""
    grid = Grid(order, height, width, channels, prefix if "token" in order else 0)
    shape = raw_shape(grid, images)
    assume(shape[0] != shape[1])
    size = (images, height * stride + extra[0], width * stride + extra[1])
    try:
        found = find_grid(shape, size, prefix if "token" in order else None)
    except cl.InputError:
        assert extra != (0, 0) or channels < 384, "whole cells are never in doubt"
        return
    assert found == grid


@given(
    height=st.integers(2, 24), width=st.integers(2, 24), prefix=st.integers(0, 5), patch=st.sampled_from([8, 14, 16])
)
def test_whole_patches_are_always_found(height: int, width: int, prefix: int, patch: int) -> None:
    found = find_grid((2, prefix + height * width, 64), (2, height * patch, width * patch), prefix)
    assert (found.height, found.width, found.prefix) == (height, width, prefix)


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


def test_prefix_tokens_may_be_told() -> None:
    class Odd(nn.Module):
        """A ViT that keeps two tokens of its own in a place nobody knows."""

        def __init__(self) -> None:
            super().__init__()
            self.patch, self.mix, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, 5)
            self.secret = nn.Parameter(torch.randn(2, 16))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.patch(images).flatten(2).transpose(1, 2)
            return self.head(self.mix(torch.cat([self.secret.expand(len(images), -1, -1), tokens], 1)).mean(1))

    images = torch.randn(2, 3, 32, 48)
    with pytest.raises(cl.InputError, match=r"layer 'mix' of odd: 26 tokens .* prefix_tokens=2"):
        cl.Backbone(Odd(), "odd", input_size=(32, 48)).observe(images, layers="mix")
    told = cl.Backbone(Odd(), "odd", prefix_tokens=2, input_size=(32, 48)).observe(images, layers="mix")
    assert told.feature().shape == (2, 16, 4, 6)
