"""Local concept embeddings against the specification: full-size activations, autograd, plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from skimage.transform import resize
from torch import Tensor
from torch.nn import functional as F

from conceptlens.local_embeddings.modes import FitSettings, fit
from conceptlens.local_embeddings.problem import FitProblem, best_bias, overlap, soft_masks
from tolerance import assert_agree

SHAPES = [(16, 7, 7), (24, 28, 20), (40, 1, 5), (12, 10, 130)]


def cells_and_masks(channels: int, height: int, width: int, count: int = 3) -> FitProblem:
    generator = torch.Generator().manual_seed(channels)
    smooth = F.interpolate(torch.randn(count, 4, 4, 4, generator=generator), size=(height, width), mode="bilinear")
    mixing = torch.randn(channels, 4, generator=generator)
    noise = 0.3 * torch.randn(count, channels, height, width, generator=generator)
    cells = (torch.einsum("ck,nkhw->nchw", mixing, smooth) + noise).relu()
    masks = np.zeros((count, 90, 160), bool)
    for i in range(count):
        masks[i, 10 * i : 10 * i + 40, 20 : 70 + 20 * i] = True
    return FitProblem(cells, soft_masks(masks))


@pytest.mark.parametrize("shape", [(333, 487), (100, 100), (60, 80), (101, 99), (1, 1), (480, 640), (250, 3)])
def test_masks_are_those_of_an_anti_aliased_resize(shape: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((2, *shape)) > 0.6
    masks[1, : shape[0] // 2] = True
    for mine, mask in zip(soft_masks(masks), masks, strict=True):
        wanted = resize(mask.astype(float), (100, 100), order=1, anti_aliasing=True)
        assert np.abs(mine.numpy() - wanted).max() < 1e-6


def published(problem: FitProblem, fit_: int) -> Tensor:
    """One vector by AdamW over activations of 100 x 100, gradients by autograd."""
    cells = F.interpolate(problem.cells[fit_ : fit_ + 1], size=(100, 100), mode="bilinear")
    truth = problem.truth[fit_][None, None]
    alpha = 1 - (truth > 0).float().mean()
    vector = torch.zeros(1, cells.shape[1], 1, 1, requires_grad=True)
    optimiser = torch.optim.AdamW([vector], lr=0.1)
    for _ in range(50):
        optimiser.zero_grad()
        probability = torch.sigmoid((vector * cells).sum(1, keepdim=True))
        loss = -(alpha * truth * probability + (1 - alpha) * (1 - truth) * (1 - probability)).sum()
        loss.backward()
        optimiser.step()
    return vector.detach()[0, :, 0, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_paper_mode_is_the_published_optimiser(shape: tuple[int, int, int]) -> None:
    problem = cells_and_masks(*shape)
    found = fit(problem, FitSettings("paper"))
    for i, vector in enumerate(found.vectors):
        wanted = published(problem, i)
        assert float(F.cosine_similarity(vector, wanted, dim=0)) > 0.99999
        assert float((vector - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())
        large = F.interpolate(problem.cells[i : i + 1], size=(100, 100), mode="bilinear")[0]
        map_ = torch.einsum("c,chw->hw", wanted, large)
        union = int(((map_ > 0) | (problem.truth[i] > 0.5)).sum())
        assert float(found.iou[i]) == pytest.approx(
            int(((map_ > 0) & (problem.truth[i] > 0.5)).sum()) / union, abs=0.002
        )


def slow_loss(vector: np.ndarray, bias: float, cells: np.ndarray, truth: np.ndarray, ridge: float) -> float:
    """The balanced cross-entropy and the ridge, one pixel at a time."""
    alpha = 1 - sum(1 for t in truth.flat if t > 0) / truth.size
    total = weights = 0.0
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            z, t = float(vector @ cells[:, y, x]) + bias, float(truth[y, x])
            inside, outside = alpha * t, (1 - alpha) * (1 - t)
            total += inside * math.log1p(math.exp(-z)) + outside * math.log1p(math.exp(z))
            weights += inside + outside
    return total / weights + ridge / 2 * float(vector @ vector)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("ridge", [5.0, 0.01])
def test_exact_mode_finds_the_one_minimum(ridge: float, constant: bool) -> None:
    problem = cells_and_masks(16, 7, 7)
    found = fit(problem, FitSettings("exact", ridge, constant))
    assert bool(found.converged.all())
    for i, vector in enumerate(found.vectors.double()):
        large = F.interpolate(problem.cells[i : i + 1].double(), size=(100, 100), mode="bilinear")[0]
        truth = problem.truth[i].double()
        alpha = 1 - (truth > 0).double().mean()
        inside, outside = alpha * truth, (1 - alpha) * (1 - truth)
        total = (inside + outside).sum()

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            at = torch.from_numpy(v).requires_grad_()
            z = torch.einsum("c,chw->hw", at[:16], large) + constant * at[16]  # noqa: B023
            cost = (inside * F.softplus(-z) + outside * F.softplus(z)).sum() / total  # noqa: B023
            value = cost + ridge / 2 * at[:16].square().sum()
            value.backward()
            assert at.grad is not None
            return value.item(), at.grad.numpy()

        best = minimize(objective, np.zeros(17), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
        wanted = torch.from_numpy(best.x[:16])
        assert float(F.cosine_similarity(vector, wanted, dim=0)) > 0.9999
        assert float(found.bias[i]) == pytest.approx(best.x[16], rel=0.01, abs=1e-3)
        value = slow_loss(vector.numpy(), float(found.bias[i]), large.numpy(), truth.numpy(), ridge)
        assert value == pytest.approx(best.fun, rel=1e-4)
        assert float(found.loss[i]) == pytest.approx(value - ridge / 2 * float(vector @ vector), rel=1e-4)


def test_contrast_mode_is_the_difference_of_two_means() -> None:
    problem = cells_and_masks(24, 28, 20)
    found = fit(problem, FitSettings("mean_difference"))
    plain = fit(problem, FitSettings("mean_difference", bias=False))
    assert_agree(found.vectors, plain.vectors)
    assert not plain.bias.any()
    for i in range(3):
        share = np.zeros((28, 20))
        feeds = np.zeros((28, 20))
        down, across = problem.rows.numpy(), problem.columns.numpy()
        for y in range(28):
            for x in range(20):
                weight = down[:, y][:, None] * across[:, x]
                share[y, x] = (weight * problem.truth[i].numpy()).sum()
                feeds[y, x] = weight.sum()
        share /= feeds
        cells = problem.cells[i].numpy()
        inside = (cells * share).sum((1, 2)) / share.sum()
        rest = (cells * (1 - share)).sum((1, 2)) / (1 - share).sum()
        assert np.allclose(found.vectors[i].numpy(), inside - rest, atol=1e-5)
        assert np.allclose(fit(problem, FitSettings("mean")).vectors[i].numpy(), inside, atol=1e-5)


def test_the_bias_is_the_best_of_all_thresholds() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.randint(-3, 4, (5, 6, 7), generator=generator).float()
    truth = (torch.rand(5, 6, 7, generator=generator) > 0.6).float()
    found = overlap(maps + best_bias(maps, truth)[:, None, None], truth)
    for i in range(5):
        best = max(float(overlap(maps[i : i + 1] - t, truth[i : i + 1])) for t in torch.arange(-3.5, 4.0))
        assert float(found[i]) == pytest.approx(best)


@pytest.mark.parametrize("mode", ["exact", "mean_difference"])
def test_a_batch_gives_what_each_gives_alone(mode: str) -> None:
    problem = cells_and_masks(24, 14, 14, 5)
    together = fit(problem, FitSettings(mode))  # pyright: ignore[reportArgumentType]
    for i in range(5):
        alone = fit(problem.pick(torch.tensor([i])), FitSettings(mode))  # pyright: ignore[reportArgumentType]
        assert torch.allclose(alone.vectors[0], together.vectors[i], atol=1e-5)
