"""The rules that ask the model, against their papers' formulas written as plain loops, and against grad-cam 1.5.7."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor

import conceptlens as cl
from architectures import build, observation_of, random_images
from conceptlens.cams import gradient_free
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.record import ImageInfo
from counted import DOUBLE, cosine, look, module_of


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def ask(observation: Observation, image: Tensor) -> list[float]:
    with torch.no_grad():
        return observation.model.module(image[None])[0].tolist()


def slow_masks(cells: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Enlarge with aligned corners by hand, then bring to 0..1."""
    masks = []
    for channel in cells:
        large = torch.zeros(size, dtype=DOUBLE)
        for y in range(size[0]):
            for x in range(size[1]):
                v, u = (p * (n - 1) / (m - 1) for p, n, m in zip((y, x), channel.shape, size, strict=True))
                top, left = min(int(v), channel.shape[0] - 2), min(int(u), channel.shape[1] - 2)
                a, b = v - top, u - left
                above = (1 - b) * channel[top, left] + b * channel[top, left + 1]
                below = (1 - b) * channel[top + 1, left] + b * channel[top + 1, left + 1]
                large[y, x] = (1 - a) * above + a * below
        spread = large.max() - large.min()
        masks.append((large - large.min()) / spread if spread > 0 else torch.zeros(size, dtype=DOUBLE))
    return masks


def test_score_cam_is_the_paper() -> None:
    """Masks, rises over the empty image, softmax, sum and ReLU, one by one."""
    observation = look()
    got = cl.cam(observation, cl.Logit([1, 3]), "score_cam")
    for image, index in enumerate([1, 3]):
        cells = observation.feature()[image]
        baseline = ask(observation, torch.zeros_like(observation.images[image]))[index]
        rises = [
            ask(observation, observation.images[image] * mask)[index] - baseline for mask in slow_masks(cells, (16, 24))
        ]
        powers = [np.exp(rise) for rise in rises]
        weights = [power / sum(powers) for power in powers]
        expected = sum(w * c for w, c in zip(weights, cells, strict=True)).clamp_min(0)
        assert torch.allclose(got.maps[image, 0], expected, atol=1e-7)


def test_finer_cam_over_score_cam_is_the_paper() -> None:
    """Equation 9, `alpha_k = f(x.H_k)^c - gamma f(x.H_k)^d - f(x_b)^c`, then Score-CAM's softmax."""
    observation = look()
    got = cl.cam(observation, cl.Contrast(1, against=[0, 4], gamma=0.7), "score_cam")
    for image in range(2):
        cells = observation.feature()[image]
        baseline = ask(observation, torch.zeros_like(observation.images[image]))[1]
        alphas = []
        for mask in slow_masks(cells, (16, 24)):
            y = ask(observation, observation.images[image] * mask)
            alphas.append(sum(y[1] - 0.7 * y[d] - baseline for d in (0, 4)) / 2)
        weights = torch.tensor(alphas, dtype=DOUBLE).softmax(0)
        assert torch.allclose(got.weights[image, 0, :, 0, 0].double(), weights, atol=1e-6)


def test_several_questions_share_the_masked_forwards() -> None:
    observation = look()
    module = module_of(observation)
    apart = [
        cl.cam(observation, target, "score_cam").maps for target in (cl.Logit(1), cl.Contrast(2), cl.Probability(0))
    ]
    module.batches.clear()
    together = cl.cam(observation, [cl.Logit(1), cl.Contrast(2), cl.Probability(0)], "score_cam")
    torch.testing.assert_close(
        together.maps, torch.cat(apart, 1), rtol=1e-9, atol=1e-12
    )  # other batches, other rounding
    assert sum(module.batches) == 2 * 6


def test_channels_of_the_same_mask_share_a_masked_forward() -> None:
    observation = look()
    cells = torch.rand(6, 4, 6)
    cells[1], cells[2] = 5.0, 0.0  # both the same everywhere
    cells[3], cells[4] = 0.0, 0.0
    cells[3, 1, 2], cells[4, 1, 2] = 2.0, 3.0  # one and the same cell alone
    questions = [cl.Logit(1).bind(observation), cl.Contrast(2).bind(observation)]
    module_of(observation).batches.clear()
    found = gradient_free.masked_scores(observation, questions, cells, 0, torch.tensor([4, 0, 1, 5, 3, 2]))
    assert sum(module_of(observation).batches) == 4
    for column, channel in enumerate([4, 0, 1, 5, 3, 2]):
        alone = gradient_free.masked_scores(observation, questions, cells, 0, torch.tensor([channel]))[:, 0]
        torch.testing.assert_close(found[:, column], alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("images_at_once", [0.1, 1, 4])
def test_score_cam_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch, images_at_once: float) -> None:
    observation = look()
    module = module_of(observation)
    expected = cl.cam(observation, 1, "score_cam").maps
    each = 4 * 16 * 24 * 8
    monkeypatch.setattr(gradient_free, "MASKED_BYTES", int(images_at_once * each))
    module.batches.clear()
    assert torch.allclose(cl.cam(observation, 1, "score_cam").maps, expected)
    assert max(module.batches) == max(1, images_at_once)


@pytest.mark.parametrize("variants_at_once", [1, 4])
def test_ablation_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch, variants_at_once: int) -> None:
    observation = look()
    given: list[int] = []
    rerun = Observation.rerun

    def counted(self: Observation, cells: Tensor, *place: Any) -> Any:
        given.append(len(cells))
        return rerun(self, cells, *place)

    monkeypatch.setattr(Observation, "rerun", counted)
    monkeypatch.setattr(gradient_free, "CELL_BYTES", variants_at_once * observation.feature()[0].numel() * 8)
    cl.cam(observation, 1, "ablation_cam")
    assert max(given) == variants_at_once
    assert sum(given) == 2 * 6


@pytest.mark.parametrize("rule", ["score_cam", "ablation_cam", "random", "eigen_cam"])
def test_a_map_does_not_depend_on_its_place_in_the_batch(rule: str) -> None:
    observation = look(images=3)
    turned = observation.model.observe(observation.images.flip(0))
    maps = cl.cam(observation, cl.Contrast(1), rule, signed=True).maps
    assert torch.allclose(cl.cam(turned, cl.Contrast(1), rule, signed=True).maps.flip(0), maps, atol=1e-6)


@pytest.mark.parametrize("name", ["timm resnet", "timm vit"])
def test_score_cam_gives_the_maps_of_grad_cam(name: str) -> None:
    layer = {"timm resnet": "layer4", "timm vit": "blocks.5.norm1"}[name]
    observation = observation_of(name).model.observe(random_images((96, 160)), layers=layer)
    module = build(name)
    reshape = (lambda raw: raw[:, 1:].transpose(1, 2).unflatten(2, (6, 10))) if "vit" in name else None
    with peer.ScoreCAM(module, [module.get_submodule(layer)], reshape) as method:
        theirs = method.get_cam_weights(
            observation.images, None, [ClassifierOutputTarget(c) for c in (3, 7)], observation.feature().numpy(), None
        )
    ours = cl.cam(observation, cl.Logit([3, 7]), "score_cam").weights[:, 0, :, 0, 0]
    assert np.allclose(ours.numpy(), theirs, rtol=2e-4)


@pytest.mark.parametrize("linear", [False, True])
def test_ablation_cam_is_the_paper(linear: bool) -> None:
    """Every channel set to zero in turn, the score read again, over the size of the score."""
    observation = look(linear)
    assert (observation.readout(observation.logits) is not None) == linear
    module = module_of(observation)
    got = cl.cam(observation, [cl.Logit([1, 3]), cl.Contrast(0), cl.Probability(2)], "ablation_cam", signed=True)
    contrast = cl.Contrast(0).bind(observation)
    rows = torch.arange(2)

    def scores(cells: Tensor) -> Tensor:
        y = module.read(cells)
        return torch.stack([y[rows, torch.tensor([1, 3])], contrast.measure(y, rows), y.float().softmax(1)[:, 2]], 1)

    with torch.no_grad():
        whole = scores(observation.feature())
        for k in range(6):
            without = observation.feature().clone()
            without[:, k] = 0
            expected = (whole - scores(without)) / whole.abs()
            assert torch.allclose(got.weights[:, :, k, 0, 0].double(), expected.double(), atol=1e-5)
    assert bool((whole < 0).any()), "no score is negative, so the absolute value proves nothing"


def test_the_closed_form_of_ablation_equals_running_again(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = look(linear=True)
    module = module_of(observation)
    targets = [cl.Logit(1), cl.Contrast(0), cl.Concept(direction=torch.randn(6, dtype=DOUBLE))]
    observation.readout(observation.logits)
    module.batches.clear()
    closed = cl.cam(observation, targets, "ablation_cam", signed=True)
    assert module.batches == []
    monkeypatch.setattr(Observation, "readout", lambda *_: None)
    assert torch.allclose(cl.cam(observation, targets, "ablation_cam", signed=True).maps, closed.maps, atol=1e-5)


def test_ablation_of_a_score_of_zero_divides_nothing() -> None:
    observation = look()

    def nothing(answer: ModelOutput) -> Tensor:
        return answer.logits[:, 0] * 0

    weights = cl.cam(observation, nothing, "ablation_cam").weights
    assert weights is not None
    assert bool((weights == 0).all())


@pytest.mark.parametrize("channels", [6, 40])
def test_eigen_cam_is_the_first_singular_vector(channels: int) -> None:
    """`A = U S V^T` of cells x channels, map `A v_1`; 24 cells, so fewer and more channels than cells."""
    observation = look(channels=channels)
    got = cl.cam(observation, [cl.Logit(0), cl.Logit(1)], "eigen_cam", signed=True)
    for image in range(2):
        matrix = observation.feature()[image].flatten(1).T
        projected = matrix @ torch.linalg.svd(matrix, full_matrices=True).Vh[0]
        projected = projected * projected.sum().sign()
        for question in range(2):
            assert torch.allclose(got.maps[image, question].flatten(), projected, atol=1e-9)


def test_eigen_cam_of_empty_features_is_empty() -> None:
    observation = look(channels=40)
    with torch.no_grad():
        module_of(observation).last.bias.fill_(-100)
    empty = observation.model.observe(observation.images)
    assert torch.equal(cl.cam(empty, 0, "eigen_cam").maps, torch.zeros(2, 1, 4, 6, dtype=DOUBLE))


def test_grad_cam_centres_eigen_cam_and_the_paper_does_not() -> None:
    """Their map is the first principal component: its mean is zero, so about half of it is lost to the ReLU."""
    observation = look(channels=40)
    paper = cl.cam(observation, 0, "eigen_cam", signed=True).maps[:, 0]
    theirs = torch.from_numpy(get_2d_projection(observation.feature().numpy()))
    for image, matrix in enumerate(observation.feature().flatten(2).mT):
        centred = matrix - matrix.mean(0)
        component = centred @ torch.linalg.svd(centred).Vh[0]
        assert abs(float(cosine(component, theirs[image].flatten().to(DOUBLE)))) > 1 - 1e-6
    assert bool((theirs.mean((1, 2)).abs() < 1e-5).all())
    assert bool((paper > 0).all())


def test_random_weights_follow_the_image_and_not_its_place() -> None:
    observation = look(images=3)
    weights = cl.cam(observation, [cl.Logit(0), cl.Logit(1)], "random").weights
    again = cl.cam(observation.model.observe(observation.images[2:]), [cl.Logit(0), cl.Logit(1)], "random").weights
    assert weights is not None
    assert again is not None
    assert torch.equal(weights[2:], again)
    assert float(weights.min()) > -1
    assert float(weights.max()) < 1
    assert len(set(weights.flatten().tolist())) == weights.numel()
    renamed = replace(observation, image_info=tuple(ImageInfo("a", "1234") for _ in range(3)))
    same = cl.cam(renamed, 0, "random").weights
    assert same is not None
    assert torch.equal(same[0], same[1])


def test_channels_that_are_the_same_everywhere_share_one_masked_image() -> None:
    observation = look(channels=12)
    module = module_of(observation)
    with torch.no_grad():
        module.last.bias[:7] = -100.0
        module.last.bias[8] = 0.3
        module.last.weight[8] = 0  # the same everywhere, and not zero: enlarging it must not make a mask of rounding
    observation = observation.model.observe(observation.images)
    module.batches.clear()
    weights = cl.cam(observation, 1, "score_cam").weights
    assert sum(module.batches) == 2 * (4 + 1)
    assert weights is not None
    assert bool((weights[:, :, :7] == weights[:, :, 8:9]).all())
    empty = [ask(observation, torch.zeros_like(observation.images[0]))[1]] * 2
    kept = [
        ask(observation, observation.images[i] * slow_masks(observation.feature()[i], (16, 24))[9])[1] for i in range(2)
    ]
    expected = (torch.tensor(kept, dtype=DOUBLE) - torch.tensor(empty, dtype=DOUBLE)).exp()
    assert torch.allclose((weights[:, 0, 9] / weights[:, 0, 0])[:, 0, 0], expected, rtol=1e-6)
