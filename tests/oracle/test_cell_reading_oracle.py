"""How often a cell in the changed block changes more than one outside, against a loop over pairs of cells."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from conceptlens.model.cell_experiment import IMAGES, LayerChanges, block_masks
from conceptlens.model.cell_reading import placed
from conceptlens.model.layout import Grid

SIZE, ROWS, COLUMNS = (64, 96), 6, 10


def share_of_pairs(change: list[list[float]], covered: list[list[float]]) -> float:
    """The mean over blocks of how often the cell of the block wins; equal cells win half."""
    blocks = []
    for b, cover in enumerate(covered):
        relative = [one[b] / (sum(one) / len(one)) for one in zip(*change, strict=True)]
        inside = [relative[i] for i, share in enumerate(cover) if share >= max(cover) / 2]
        outside = [relative[i] for i, share in enumerate(cover) if share == 0]
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
        blocks.append(sum(wins) / len(wins))
        if len(blocks) == 4 and sum(blocks) < 4 * 0.6:  # given up
            break
    return sum(blocks) / len(blocks)


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_that_of_all_pairs(strength: float, seed: int) -> None:
    """Many cells are equal; from a change that says nothing to a clear one."""
    masks = block_masks(SIZE)
    covered = F.adaptive_avg_pool2d(masks, (ROWS, COLUMNS))
    noise = torch.rand(len(masks), 1, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))
    ranks = (strength * covered + noise).argsort(0).argsort(0)
    change = torch.tensor([1.0, 1, 1, 2, 2, 2, 3, 4])[ranks]  # every cell's mean is 2: equal ones stay equal
    shape = (IMAGES, 4, ROWS, COLUMNS)
    found = placed(LayerChanges(shape, 0, {1: change}), Grid("image channel height width", ROWS, COLUMNS, 4), masks)
    wanted = share_of_pairs(change.flatten(1).tolist(), covered.flatten(1).tolist())
    assert found.share == pytest.approx(wanted, abs=1e-6)
