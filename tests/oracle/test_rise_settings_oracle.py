"""RISE's own settings of deletion and insertion against the authors' loop, restated: `evaluation.py` and its notebook.

One image after the other is changed in place, `step` pixels more in every turn, and the area is theirs: the sum of the
scores less half of the first and of the last, over the number of steps.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from conceptlens import metrics
from conceptlens.metrics import Score, ScoredImages, score_module
from conceptlens.metrics.pixel_fills import prepare_fill

SIDE = 224  # the authors' images are of 224 x 224 pixels, and their notebook takes steps of as many


def authors_blur(images: Tensor) -> Tensor:
    point = np.zeros((11, 11))
    point[11 // 2, 11 // 2] = 1
    kernel = np.zeros((3, 3, 11, 11))
    for colour in range(3):
        kernel[colour, colour] = gaussian_filter(point, 5)
    return nn.functional.conv2d(images, torch.from_numpy(kernel.astype("float32")), padding=11 // 2)


def authors_scores(net: nn.Module, image: Tensor, saliency: np.ndarray, about: int, mode: str, step: int) -> np.ndarray:
    pixels = image.shape[2] * image.shape[3]
    steps = (pixels + step - 1) // step
    start, finish = image.clone(), torch.zeros_like(image)
    if mode == "insertion":
        start, finish = authors_blur(image), image.clone()
    order = np.flip(np.argsort(saliency.reshape(-1, pixels), axis=1), axis=-1)
    scores = np.empty(steps + 1)
    for turn in range(steps + 1):
        with torch.no_grad():
            scores[turn] = net(start).softmax(1)[0, about]
        if turn < steps:
            now = order[0, step * turn : step * (turn + 1)].copy()
            start.reshape(1, 3, pixels)[0, :, now] = finish.reshape(1, 3, pixels)[0, :, now]
    return scores


def authors_area(scores: np.ndarray) -> float:
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (scores.shape[0] - 1)


def net_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 5, 3), nn.Tanh(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*layers).eval()


def case(rows: int, columns: int) -> tuple[nn.Module, ScoredImages, Tensor]:
    """Smooth images whose mean is not 0, and maps without two equal pixels."""
    drawn = torch.Generator().manual_seed(1)
    coarse = torch.randn(2, 3, 6, 6, generator=drawn)
    images = 2 * nn.functional.interpolate(coarse, (rows, columns), mode="bilinear", align_corners=False)
    images += 0.7 + 0.3 * torch.randn(images.shape, generator=drawn)
    maps = torch.stack([torch.randperm(rows * columns, generator=drawn) for _ in range(2)]).float()
    net = net_of(0)
    return net, score_module(net, images, torch.tensor([[1], [3]])), maps.reshape(2, 1, rows, columns)


METRICS = {"deletion": metrics.rise_deletion, "insertion": metrics.rise_insertion}


def expected(mode: str, net: nn.Module, scored: ScoredImages, maps: Tensor, step: int) -> np.ndarray:
    about = [1, 3]
    return np.array(
        [
            authors_area(authors_scores(net, scored.images[i : i + 1], maps[i].numpy(), about[i], mode, step))
            for i in range(2)
        ]
    )


def same(found: Score, values: np.ndarray) -> None:
    np.testing.assert_allclose(found.values[:, 0].numpy(), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", METRICS)
def test_the_authors_loop_on_images_of_their_size(mode: str) -> None:
    net, scored, maps = case(SIDE, SIDE)
    found = METRICS[mode](maps, scored)
    same(found, expected(mode, net, scored, maps, SIDE))
    assert found.fill == {"deletion": "zero", "insertion": "rise_blur"}[mode]


@pytest.mark.parametrize("mode", METRICS)
def test_images_that_are_not_square_take_a_row_of_pixels_a_step(mode: str) -> None:
    net, scored, maps = case(40, 28)
    same(METRICS[mode](maps, scored), expected(mode, net, scored, maps, 28))
    other = {"deletion": metrics.deletion, "insertion": metrics.insertion}[mode](maps, scored)
    assert (other.values - METRICS[mode](maps, scored).values).abs().max() > 0.005  # another fill is another number


@pytest.mark.parametrize("size", [(224, 224), (30, 9), (3, 4)])
def test_the_authors_blur(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    ready = prepare_fill("rise_blur", images)
    torch.testing.assert_close(ready.replacement, authors_blur(images), rtol=0, atol=1e-6)
    inner = prepare_fill("rise_blur", torch.ones(1, 3, 24, 24)).replacement
    assert inner is not None
    assert float(inner[0, 0, 12, 12]) == pytest.approx(1, abs=1e-6)
    assert float(inner[0, 0, 0, 0]) < 0.5  # black beyond the border
