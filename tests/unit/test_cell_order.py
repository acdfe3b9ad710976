"""An order that moves cells by little passes blocks of the image; the gradients of the cells tell it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import FEW, backbone
from conceptlens.model.cell_order import order_problem
from conceptlens.model.layout import Grid

SIZES = ((64, 96), (112, 112), (128, 128))


class Net(nn.Module):
    """Patches of 8 x 8 in some order, as a map or as tokens, mixed a little, and averaged for the classes."""

    def __init__(self, order: Callable[[Tensor], Tensor], tokens: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.mix = nn.Linear(16, 16) if tokens else nn.Conv2d(16, 16, 1)
        self.order, self.tokens = order, tokens

    def forward(self, images: Tensor) -> Tensor:
        cells = self.order(self.patch(images))
        return self.head(
            self.mix(cells.flatten(2).transpose(1, 2)).mean(1) if self.tokens else self.mix(cells).mean((2, 3))
        )


def snake(maps: Tensor) -> Tensor:
    turned = maps.clone()
    turned[:, :, 1::2] = turned[:, :, 1::2].flip(3)
    return turned


def swapped(maps: Tensor) -> Tensor:
    return maps.unflatten(3, (-1, 2)).flip(4).flatten(3)


def swapped_rows(maps: Tensor) -> Tensor:
    return maps.unflatten(2, (-1, 2)).flip(3).flatten(2, 3)


def even_rows_first(maps: Tensor) -> Tensor:
    return torch.cat([maps[:, :, ::2], maps[:, :, 1::2]], 2)


def shuffled_columns(maps: Tensor) -> Tensor:
    order = torch.arange(maps.shape[3]).view(-1, 2).flip(1).flatten().roll(1)
    return maps[..., order]


def windows_by_columns(maps: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    parts = maps.unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))
    return parts.permute(0, 1, 2, 4, 5, 3).flatten(2).view_as(maps)


ORDERS = (snake, swapped, swapped_rows, even_rows_first, shuffled_columns, windows_by_columns)


def is_right(model: cl.Backbone, net: Net) -> bool:
    """Whether the default layer, if there is one, is read so that every cell stands at its place."""
    if model.anatomy.default != "mix":
        return True
    rows, columns = (side // 8 for side in model.input_size)
    numbers = torch.arange(float(rows * columns)).view(1, 1, rows, columns).expand(1, 16, -1, -1)
    given = net.order(numbers)
    raw = given.flatten(2).transpose(1, 2) if net.tokens else given
    return torch.equal(model.anatomy.grids["mix"].read(raw), numbers)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "map"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_moves_cells_by_little_is_not_misread(
    order: Callable[[Tensor], Tensor], tokens: bool, size: tuple[int, int]
) -> None:
    net = Net(order, tokens)
    assert is_right(cl.Backbone(net, input_size=size), net)


def test_the_refusal_says_what_was_seen() -> None:
    model = cl.Backbone(Net(snake, tokens=True), input_size=(64, 64))
    with pytest.raises(cl.InputError, match=r"layer 'mix' cannot be read: its cells are not in the order of the image"):
        _ = model.default_layers


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "map"])
def test_the_right_order_is_taken(tokens: bool) -> None:
    for size in SIZES:
        net = Net(lambda maps: maps, tokens)
        model = cl.Backbone(net, input_size=size)
        assert model.default_layers == ("mix",)
        assert is_right(model, net)


@pytest.mark.parametrize("name", FEW)
def test_networks_are_not_refused_for_the_order_of_their_cells(name: str) -> None:
    found = backbone(name).anatomy
    assert found.default is not None
    assert not any("order of the image" in why or "of the image alone" in why for why in found.refused.values())


def test_nothing_is_said_where_every_cell_sees_the_whole_image() -> None:
    images = torch.randn(1, 3, 16, 16, requires_grad=True)
    everywhere = torch.randn(4, 3, 16, 16)
    cells = torch.einsum("kchw,nchw->nk", everywhere, images)[:, :, None, None] * torch.randn(1, 4, 4, 4)
    assert order_problem((cells, images), lambda: (cells, images), Grid("image channel height width", 4, 4, 4)) == ""


def test_a_map_that_lies_one_cell_further_is_no_other_order() -> None:
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    cells = nn.Conv2d(3, 4, 4, 4)(nn.functional.pad(images, (4, 0, 0, 0)))[..., :-1]
    assert order_problem((cells, images), lambda: (cells, images), Grid("image channel height width", 8, 8, 4)) == ""


def test_a_network_that_crops_its_input_shows_no_map_of_the_whole() -> None:
    class Cropped(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(nn.functional.interpolate(images[:, :, 16:48, 16:48], scale_factor=2))

    model = cl.Backbone(Cropped(lambda maps: maps, tokens=False), input_size=(64, 64))
    with pytest.raises(cl.InputError, match="its cells see 25% of the image alone, and are no map of the whole"):
        _ = model.default_layers
