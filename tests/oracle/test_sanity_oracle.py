"""Controls against loops and SciPy; the cascade against copies made by hand; the correction for many comparisons."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from conceptlens.metrics import (
    Score,
    beats_controls,
    bootstrap_difference,
    cascade_similarity,
    centre_maps,
    edge_maps,
)


def test_edges_are_sobels() -> None:
    images = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    for image, found in zip(images, edge_maps(images), strict=True):
        grey = image.double().mean(0).numpy()
        peer = np.hypot(ndimage.sobel(grey, 0, mode="nearest"), ndimage.sobel(grey, 1, mode="nearest"))
        assert found[0].numpy() == pytest.approx(peer, abs=1e-6)
    coarse = edge_maps(images, 2, (3, 4))
    assert coarse.shape == (2, 2, 3, 4)
    fine = edge_maps(images)[1, 0]
    for row in range(3):
        for column in range(4):
            mean = float(fine[3 * row : 3 * row + 3, 3 * column : 3 * column + 3].mean())
            assert float(coarse[1, 1, row, column]) == pytest.approx(mean, abs=1e-6)


def test_the_centre_is_a_gaussian() -> None:
    found = centre_maps(2, 3, (5, 8))[1, 2]
    for row in range(5):
        for column in range(8):
            away = ((row + 0.5) / 5 - 0.5) ** 2 + ((column + 0.5) / 8 - 0.5) ** 2
            assert float(found[row, column]) == pytest.approx(math.exp(-away / (2 * 0.25**2)), abs=1e-6)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.parametrize("redraw", ["own_scale", "reset"])
def test_each_stage_is_a_copy_with_random_weights_from_the_output_down(redraw: str) -> None:
    net, images = small_net(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net[2].weight.data.uniform_(0.5, 1.5)
    before, seen = copy.deepcopy(net.state_dict()), []

    def explain(module: nn.Module) -> Tensor:
        seen.append(copy.deepcopy(module.state_dict()))
        with torch.no_grad():
            return module(images)

    found = cascade_similarity(explain, net, redraw=redraw)  # pyright: ignore[reportArgumentType]
    assert found.values.shape == (2, 2, 3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in seen[0].items())
    changed = [{name[0] for name, value in state.items() if not torch.equal(value, before[name])} for state in seen]
    assert changed == [set(), {"3"}, {"3", "2"}, {"3", "2", "0"}]
    for stage, state in enumerate(seen[1:]):
        other = small_net()
        other.load_state_dict(state)
        with torch.no_grad():
            maps, plain = other(images), net(images)
        for image in range(2):
            for question in range(2):
                wanted = stats.spearmanr(maps[image, question].flatten(), plain[image, question].flatten()).statistic
                assert found.of(image, question, stage) == pytest.approx(float(wanted), abs=1e-9)


def test_weights_keep_their_scale() -> None:
    net = nn.Sequential(nn.Conv2d(40, 50, 3)).eval()
    with torch.no_grad():
        net[0].weight.normal_(0.3, 2)
    seen = []

    def explain(module: nn.Module) -> Tensor:
        seen.append(copy.deepcopy(module[0].weight.detach()))  # pyright: ignore[reportIndexIssue]
        return torch.rand(1, 1, 3, 3)

    cascade_similarity(explain, net)
    before, after = seen
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.1)
    assert float(after.std()) == pytest.approx(float(before.std()), rel=0.05)
    assert abs(float(np.corrcoef(after.flatten(), before.flatten())[0, 1])) < 0.05


def test_a_control_is_beaten_where_the_corrected_interval_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    applies = torch.rand(30, 2, generator=generator) > 0.2
    mine = Score(torch.where(applies, values, 0), applies)
    others = {
        "lower": Score(torch.where(applies, values - 0.3, 0), applies),
        "alike": Score(values + 0.05 * torch.randn(30, 2, generator=generator), torch.ones(30, 2, dtype=torch.bool)),
        "higher": Score(values + 0.3, torch.ones(30, 2, dtype=torch.bool)),
    }
    check = beats_controls(mine, others, True, comparisons=8, n_bootstrap=4000, seed=3)
    assert check.level == pytest.approx(1 - 0.05 / 8)
    pairs = [(image, question) for image in range(30) for question in range(2) if applies[image, question]]
    for one in check.comparisons:
        a, b = ([float(s.values[pair]) for pair in pairs] for s in (mine, others[one.control]))
        wanted = bootstrap_difference(a, b, [image for image, _ in pairs], 4000, 1 - 0.05 / 8, 3)
        assert one.difference == wanted
        assert one.difference.mean == pytest.approx(np.mean(np.subtract(a, b)))
    assert [one.beaten for one in check.comparisons] == [True, False, False]
    assert (check.passed, check.unbeaten) == (False, ("alike", "higher"))
    low_wins = beats_controls(mine, others, False, comparisons=8, n_bootstrap=4000, seed=3)
    assert [one.beaten for one in low_wins.comparisons] == [False, False, True]
