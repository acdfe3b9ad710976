"""Fast Score-CAM against the exact one, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import conceptlens as cl
from conceptlens.cams import fast_score_cam
from counted import DOUBLE, correlation, look, module_of
from tolerance import assert_agree


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_fast_score_cam_is_near_the_exact_one_and_says_so() -> None:
    seen = look(channels=600)
    module = module_of(seen)
    targets = [cl.Logit(1), cl.Contrast(2)]
    exact = cl.cam(seen, targets, "score_cam", signed=True)
    module.batches.clear()
    fast = cl.cam(seen, targets, "score_cam_fast", signed=True)
    notes = fast.source.settings
    assert notes["channels"] == [600, 600]
    assert notes["masked_images"] == [53, 53]
    assert sum(module.batches) == 2 * 53
    real = correlation(fast.maps, exact.maps)
    assert float(real.min()) > 0.95
    assert torch.allclose(torch.tensor(notes["estimated_correlation"], dtype=DOUBLE), real, atol=0.03)


def test_fast_score_cam_says_when_scores_cannot_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores drawn at random, whatever the mask."""
    seen = look(channels=600, images=1)
    drawn = 3 * torch.randn(1, 600, dtype=DOUBLE)
    monkeypatch.setattr(fast_score_cam, "masked_scores", lambda *given: drawn[:, given[-1]])
    fast = cl.cam(seen, 0, "score_cam_fast")
    said = fast.source.settings["estimated_correlation"]
    exact = (drawn[0].softmax(0) @ seen.feature()[0].flatten(1)).reshape(1, 1, 4, 6)
    assert correlation(fast.maps, exact) < 0.9
    assert isinstance(said, list)
    assert said[0][0] < 0.95


def test_fast_score_cam_of_few_channels_is_exact() -> None:
    seen = look()
    fast = cl.cam(seen, 1, "score_cam_fast")
    assert_agree(fast.maps, cl.cam(seen, 1, "score_cam").maps)
    assert fast.source.settings["masked_images"] == [6, 6]
    assert fast.source.settings["estimated_correlation"] == [[1.0], [1.0]]


def test_regression_predicts_and_knows_its_errors() -> None:
    """Left-out errors against learning again without the point; drawn errors of the size that was seen."""
    points = torch.rand(200, 4, dtype=DOUBLE)
    values = torch.stack([points.sum(1), (3 * points[:, 0]).sin()])
    learned = fast_score_cam.regress(points[:60], values[:, :60])
    missed = learned.predict(points[60:]) - values[:, 60:]
    assert bool((missed.square().mean(1) < 0.05 * values.var(1)).all())
    kernel = fast_score_cam._matern(torch.cdist(points[1:60], points[1:60]), learned.length)
    near = fast_score_cam._matern(torch.cdist(points[:1], points[1:60]), learned.length)
    standard = (values[:, 1:60] - learned.mean) / learned.spread
    again = near @ torch.linalg.solve(kernel + learned.ridge * torch.eye(59, dtype=DOUBLE), standard.T)
    assert torch.allclose(learned.left_out[:, 0], values[:, 0] - again[0] * learned.spread[:, 0] - learned.mean[:, 0])
    drawn = learned.draw_errors(points[100:], -missed[:, :40], points[60:100])
    size = drawn.square().mean((0, 2)).sqrt() / missed[:, 40:].square().mean(1).sqrt()
    assert bool(((size > 0.5) & (size < 2)).all())
    constant = fast_score_cam.regress(points[:60], torch.ones(1, 60, dtype=DOUBLE))
    assert torch.allclose(constant.predict(points), torch.ones(1, 200, dtype=DOUBLE))
