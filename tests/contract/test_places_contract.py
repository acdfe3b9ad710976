"""A change in one block of the photo is found in that block of the map's features, on every architecture.

The images and blocks are not those of the experiment by which the package finds cells.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architecture_table import PAGE, refused_row, row, sentence
from architectures import DEAR_SLOW, EVERY, EVERY_SLOW, backbone, observe, random_images
from refused_families import REFUSED

BLOCKS = 12
# Of those refused: one that lacks an input, and one whose answer is not known.
FEW_REFUSED = ("hf siglip 2 naflex", "hf vitdet (trunk)")


def changed_images(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return an image and the same with a block of each of 3 x 4 parts made of others, and where the blocks lie."""
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(BLOCKS, 1, *size)
    for number, mask in enumerate(masks):
        part = torch.tensor([number // 4 / 3, number % 4 / 4])
        centre = part + (0.2 + 0.6 * torch.rand(2, generator=generator)) / torch.tensor([3, 4])
        half = 0.09 + 0.06 * torch.rand(2, generator=generator)
        top, left = ((centre - half).clamp(0, 1) * torch.tensor(size)).round().int().tolist()
        bottom, right = ((centre + half).clamp(0, 1) * torch.tensor(size)).round().int().tolist()
        mask[0, top:bottom, left:right] = 1
    base, others = random_images(size, 1, seed=6), random_images(size, BLOCKS, seed=7)
    return torch.cat([base, torch.where(masks > 0, 1.5 * others - 0.5, base)]), masks


def share_in_order(cells: Tensor, masks: Tensor) -> float:
    """Return of how many pairs of a cell in the block and one outside the first changes more; chance is .5."""
    change = (cells[1:] - cells[:1]).norm(dim=1)
    relative = change / change.mean(0).clamp_min(1e-30)
    covered = F.adaptive_avg_pool2d(masks, relative.shape[1:])[:, 0]
    shares = []
    for values, share in zip(relative, covered, strict=True):
        inside, outside = values[share >= share.max() / 2], values[share == 0]
        if len(outside):
            shares.append(float((inside[:, None] > outside).float().mean()))
    assert len(shares) >= 8
    return sum(shares) / len(shares)


@pytest.mark.parametrize("name", DEAR_SLOW)
def test_a_change_in_a_block_is_found_in_that_block(name: str) -> None:
    model = backbone(name)
    layers = [layer.name for layer in model.anatomy.layers]
    default, another = model.default_layers[0], layers[len(layers) // 2]
    images, masks = changed_images(EVERY[name].size)
    with torch.no_grad():
        observation = observe(name, model, images, list(dict.fromkeys([default, another])))
    for layer in (default, another):
        assert share_in_order(observation.feature(layer).float(), masks) >= 0.65, layer


@pytest.mark.parametrize("name", EVERY_SLOW)
def test_the_page_of_architectures_is_up_to_date(name: str) -> None:
    assert row(name) in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW_REFUSED else pytest.mark.slow) for name in REFUSED],
)
def test_the_page_of_architectures_shows_what_is_said_of_those_refused(name: str) -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert refused_row(name) in lines
    assert sentence(name) in lines


def test_the_page_of_architectures_has_a_row_of_each_and_no_others() -> None:
    rows = [line.split(" | ")[0] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert rows == ["| Architecture", "| ---", *(f"| {name}" for name in (*EVERY, *REFUSED))]
