"""The same numbers as torchcam 0.5.0, grad-cam 1.5.7 and Quantus 0.6.0, given the same maps, and where not, why.

- torchcam sets removed pixels to zero, the mean colour of the training photos, and orders equal pixels as a stable sort
  does, from the top left.
- grad-cam's ROAD takes shares as percentiles of the map: one pixel more than a rounded share, or as many. Its noise is
  not seeded, so its values change from run to run; without noise they are ours.
- torchcam divides an average drop by `p + 1e-7`.
- Quantus flips colours one by one, so only every third of its steps ends with a whole pixel; its curve begins after the
  first step. No extra installs it, for its licence is the GPL: the test runs where it is installed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor, nn
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from conceptlens import metrics
from conceptlens.metrics import ScoredImages, score_module

SIDE, STEPS = 32, 16  # 32 * 32 pixels are 16 times 64: both round shares alike
PERCENTILES = (20, 50, 90)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 5)).eval()


@pytest.fixture(scope="module")
def scored(net: nn.Module) -> ScoredImages:
    images = 3 * torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return score_module(net, images, torch.tensor([[0], [3], [2], [4]]), torch.zeros(3))


@pytest.fixture(scope="module")
def maps() -> Tensor:
    """Maps as torchcam makes them: 0 in large regions, 1 at the highest pixel."""
    drawn = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).relu()
    return drawn / drawn.amax((2, 3), keepdim=True)


class Given:
    """What torchcam's metrics need of an extractor, with maps that are given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps[:, 0]]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_torchcams_deletion_and_insertion(net: nn.Module, scored: ScoredImages, maps: Tensor) -> None:
    assert scored.classes is not None
    peer = DeletionInsertionMetric(Given(net, maps), partial(torch.softmax, dim=-1), steps=STEPS)
    peer.update(scored.images, scored.classes[:, 0].tolist())
    found = peer.summary()
    ours = {
        "deletion_auc": metrics.deletion(maps, scored, "black", STEPS, ties="rows").mean(),
        "insertion_auc": metrics.insertion(maps, scored, "black", STEPS, ties="rows").mean(),
    }
    assert ours == pytest.approx(found, abs=1e-6)
    seeded = metrics.deletion(maps, scored, "black", STEPS).mean()
    assert seeded != pytest.approx(found["deletion_auc"], abs=1e-6)  # half of the pixels are equal


def test_torchcams_average_drop_and_increase(net: nn.Module, scored: ScoredImages, maps: Tensor) -> None:
    assert scored.classes is not None
    peer = ClassificationMetric(Given(net, maps), partial(torch.softmax, dim=-1))
    peer.update(scored.images, scored.classes[:, 0].tolist())
    found = peer.summary()
    ours = {
        "avg_drop": metrics.average_drop(maps, scored, "black").mean(),
        "conf_increase": metrics.increase_in_confidence(maps, scored, "black").mean(),
    }
    assert ours == pytest.approx(found, abs=1e-5)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # grad-cam hands tensors to NumPy
def test_grad_cams_road(net: nn.Module, scored: ScoredImages) -> None:
    assert scored.classes is not None
    maps = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    targets = [ClassifierOutputSoftmaxTarget(int(one)) for one in scored.classes[:, 0]]
    pixels = SIDE * SIDE
    # what is at or above the percentile p: all but the ceil(p (n - 1)) lowest
    counts = [pixels - int(np.ceil(p / 100 * (pixels - 1))) for p in reversed(PERCENTILES)]
    shares = [count / pixels for count in counts]
    for order, remove in (("most", RemoveMostRelevantFirst), ("least", RemoveLeastRelevantFirst)):
        theirs = []
        for percentile in PERCENTILES:
            peer = PerturbationConfidenceMetric(remove(percentile, NoisyLinearImputer(noise=0)))
            theirs.append(peer(scored.images, maps[:, 0].numpy(), targets, net))
        ours = metrics.road(maps, scored, "inpaint", order, shares)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(ours.values[:, 0].numpy(), np.mean(theirs, 0), rtol=0, atol=1e-5)


def test_quantus_pixel_flipping(
    net: nn.Module, scored: ScoredImages, maps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("quantus", reason="Quantus is no dependency (GPL): pip install --no-deps quantus")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import metric_tools

    assert scored.classes is not None
    slope = torch.linspace(0, 0.05, SIDE * SIDE).reshape(SIDE, SIDE)  # Quantus leaves equal pixels as its sort does
    case = metric_tools.Case(net, scored, maps + slope, scored.classes[:, 0].tolist())
    theirs = np.array(metric_tools.quantus_curve(case))[:, 2::3]
    ours = metrics.removal_curves(case.maps, scored, STEPS, "black").scores[:, 0].numpy()
    assert theirs.shape == (4, STEPS)
    np.testing.assert_allclose(ours[:, 1:], theirs, rtol=0, atol=1e-6)
    assert np.ptp(theirs, axis=1).min() > 1e-3
    other = metrics.removal_curves(case.maps, scored, STEPS, "mean").scores[:, 0].numpy()
    assert np.abs(other[:, 1:] - theirs).max() > 1e-3  # another fill is another curve
