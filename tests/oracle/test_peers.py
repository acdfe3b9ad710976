"""The same maps as grad-cam 1.5.7 and torchcam 0.5.0 where they are right, and the proof where one of them is not.

Both rectify their maps; grad-cam also shifts and scales each to 0..1 and resizes it, so ours is treated alike here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer_grad_cam
import torch
import torchcam.methods as peer_torchcam
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

import conceptlens as cl
from architectures import CLASSES, build, observation_of, random_images
from conceptlens.model.observation import Observation

SIZE = (96, 160)
PLACES = {
    "timm resnet": "layer4",
    "timm efficientnet": "blocks",
    "timm convnext": "stages",
    "timm vit": "blocks.5.norm1",
}
TARGETS = [3, 7]

GRAD_CAM = {
    "grad_cam": peer_grad_cam.GradCAM,
    "grad_cam++": peer_grad_cam.GradCAMPlusPlus,
    "xgrad_cam": peer_grad_cam.XGradCAM,
    "hires_cam": peer_grad_cam.HiResCAM,
    "element_wise": peer_grad_cam.GradCAMElementWise,
    "layer_cam": peer_grad_cam.LayerCAM,
}
TORCHCAM = {
    "grad_cam": peer_torchcam.GradCAM,
    "xgrad_cam": peer_torchcam.XGradCAM,
    "layer_cam": peer_torchcam.LayerCAM,
}


@cache
def seen_by(name: str) -> Observation:
    return observation_of(name).model.observe(random_images(SIZE), layers=PLACES[name])


def tokens_to_cells(raw: Tensor) -> Tensor:
    return raw[:, 1:].transpose(1, 2).unflatten(2, (6, 10))


def reshape_for(name: str) -> dict[str, Any]:
    return {"reshape_transform": tokens_to_cells} if name == "timm vit" else {}


def as_grad_cam_shows(maps: Tensor) -> np.ndarray:
    """Rectify, shift, scale and resize as `BaseCAM` does, with its own function."""
    scaled = scale_cam_image(maps.relu().numpy(), (SIZE[1], SIZE[0]))
    return scale_cam_image(scaled)


def grad_cam_says(method: Any, name: str, targets: list[Any] | None, **options: Any) -> np.ndarray:
    module = build(name)
    with method(module, [module.get_submodule(PLACES[name])], **reshape_for(name)) as peer:
        return peer(seen_by(name).images, targets, **options)


def torchcam_says(method: Any, name: str, classes: list[int], layer: str | None = None, **options: Any) -> Tensor:
    module = build(name)
    with method(module, layer or PLACES[name], **reshape_for(name), **options) as peer:
        scores = module(seen_by(name).images)
        return peer(classes, scores, normalized=False)[0]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("rule", GRAD_CAM)
def test_grad_cam_agrees(rule: str, name: str) -> None:
    theirs = grad_cam_says(GRAD_CAM[rule], name, [ClassifierOutputTarget(c) for c in TARGETS])
    ours = cl.cam(seen_by(name), cl.Logit(TARGETS), rule=EPSILON if rule == "grad_cam++" else rule).maps[:, 0]
    np.testing.assert_allclose(as_grad_cam_shows(ours), theirs, atol=1e-4)


def grad_cam_plus_plus_with_epsilon(gradient: Tensor, feature: Tensor) -> Tensor:
    total = feature.sum((-2, -1), keepdim=True)
    share = gradient**2 / (2 * gradient**2 + total * gradient**3 + 1e-6)
    return (share * gradient.relu()).sum((-2, -1), keepdim=True)


EPSILON = cl.Rule("grad_cam++ with grad-cam's epsilon", grad_cam_plus_plus_with_epsilon, "")


def test_grad_cam_plus_plus_of_grad_cam_is_made_of_its_epsilon_where_gradients_are_small() -> None:
    """`G^2 / (2 G^2 + S G^3 + 1e-6)`: for a ViT's gradients of 1e-5 it is `1e6 G^2`, and no longer equation 19."""
    observation = seen_by("timm vit")
    gradient = observation.gradient(observation.logits[:, 3])
    assert float(2 * gradient.square().max()) < 0.01 * 1e-6
    ours, theirs = (cl.cam(observation, 3, rule=rule).weights for rule in ("grad_cam++", EPSILON))
    assert float(ours.max()) > 100 * float(theirs.max())
    alpha = 1 / (
        2 + observation.feature()[:, None].sum((-2, -1), keepdim=True) * gradient
    )  # equation 19, G^2 cancelled
    torch.testing.assert_close(ours, (alpha * gradient.relu()).sum((-2, -1), keepdim=True), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("rule", TORCHCAM)
def test_torchcam_agrees(rule: str, name: str) -> None:
    theirs = torchcam_says(TORCHCAM[rule], name, TARGETS)
    ours = cl.cam(seen_by(name), cl.Logit(TARGETS), rule=rule).maps[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))


@pytest.mark.parametrize("name", PLACES)
def test_grad_cam_plus_plus_of_torchcam_forgets_to_divide(name: str) -> None:
    """`alpha[mask].div_(...)` divides a copy, so its weights are `sum_ij G^2 ReLU(G)`: not equation 19."""
    undivided = cl.Rule("undivided", lambda g, a: (g**2 * g.relu()).sum((-2, -1), keepdim=True), "")
    theirs = torchcam_says(peer_torchcam.GradCAMpp, name, TARGETS)
    written_out, ours = (cl.cam(seen_by(name), cl.Logit(TARGETS), rule=r) for r in (undivided, "grad_cam++"))
    torch.testing.assert_close(written_out.maps[:, 0], theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))
    assert float(ours.weights.max()) > 1000 * float(written_out.weights.max())


# --- Finer-CAM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(("rule", "base"), [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM")])
@pytest.mark.parametrize(("gamma", "count"), [(0.6, 3), (1.0, 1)])
def test_finer_cam_of_torchcam_is_the_published_one_and_ours(
    name: str, rule: str, base: str, gamma: float, count: int
) -> None:
    options = {"gamma": gamma, "num_references": count, "base_method": getattr(peer_torchcam, base)}
    module = build(name)
    with peer_torchcam.FinerCAM(module, PLACES[name], **reshape_for(name), **options) as peer:
        theirs = peer(TARGETS, module(seen_by(name).images), normalized=False)[0]
    ours = cl.cam(seen_by(name), cl.Contrast(TARGETS, nearest=count, gamma=gamma, by="logit"), rule=rule)
    torch.testing.assert_close(ours.maps[:, 0], theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("target", [None, 3])
@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_finer_cam_of_grad_cam_is_the_official_objective(name: str, target: int | None, alpha: float) -> None:
    theirs = grad_cam_says(peer_grad_cam.FinerCAM, name, None, target_idx=target, alpha=alpha)
    ours = cl.cam(seen_by(name), cl.Contrast(target, gamma=alpha, objective="official"))
    np.testing.assert_allclose(as_grad_cam_shows(ours.maps[:, 0]), theirs, atol=1e-4)


def objective_slopes(logits: list[float], contrast: cl.Contrast, precision: torch.dtype = torch.float32) -> Tensor:
    """Return d objective / d logits of ours, on a model that hands its logits through."""
    observation = HandsThrough(logits).to(precision)
    question = contrast.bind(observed := wrap_plain(observation).observe(torch.ones(1, 3, 4, 4, dtype=precision)))
    return question.score_and_gradient(observed)[2][0]


class HandsThrough(nn.Module):
    """Four cells, whose logits are `logits` for an image of ones."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 3, 2, 2, bias=False)
        nn.init.constant_(self.cells.weight, 1 / 12)
        self.head = nn.Linear(3, len(logits), bias=False)
        self.head.weight.data = torch.tensor(logits)[:, None].expand(-1, 3) / 3

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cells(images).mean((2, 3)))


def wrap_plain(module: nn.Module) -> cl.Backbone:
    return cl.Backbone(module, "plain", layers="cells", classifier="head", input_size=(4, 4), channels_last=False)


def their_slopes(logits: list[float], target: int, references: list[int], alpha: float, **kind: Any) -> Tensor:
    point = torch.tensor(logits, requires_grad=True, **kind)
    FinerWeightedTarget(target, references, alpha)(point).backward()
    return point.grad


def test_the_released_objective_turns_against_a_confident_target() -> None:
    """`S / (S + 1e-9)` is no longer 1 once every reference is about 18 logits below: the target's sign flips."""
    logits = [21.0, 0.3, 0.2, 0.1, -5.0]
    theirs = their_slopes(logits, 0, [1, 2, 3], alpha=1.0)
    assert float(theirs[0]) < -1
    paper = objective_slopes(logits, cl.Contrast(0, gamma=1.0))
    torch.testing.assert_close(paper, torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3, 0.0]))
    for_comparison = objective_slopes(logits, cl.Contrast(0, gamma=1.0, objective="official"))
    torch.testing.assert_close(for_comparison, theirs, rtol=1e-3, atol=1e-3)
    # with nothing to compare with, alpha = 0, it is said to be Grad-CAM: it is not, and ours is
    assert float(their_slopes(logits, 0, [1, 2, 3], alpha=0.0)[0]) < -1
    torch.testing.assert_close(
        objective_slopes(logits, cl.Contrast(0, gamma=0.0)), objective_slopes(logits, cl.Logit(0))
    )


@pytest.mark.parametrize(("logits", "reinforced"), [([10.0, 9.0, 8.0, 7.0], [3]), ([10.0, 9.0, 5.0, 4.0], [2, 3])])
def test_the_released_objective_reinforces_references(logits: list[float], reinforced: list[int]) -> None:
    """Its weights are inside the gradient, so a reference a logit below their mean is raised, not suppressed."""
    theirs = their_slopes(logits, 0, [1, 2, 3], alpha=1.0)
    assert [i for i in (1, 2, 3) if float(theirs[i]) > 0] == reinforced
    for weighting in ("uniform", "softmax", "cosine"):
        ours = objective_slopes(logits, cl.Contrast(0, gamma=1.0, references=weighting))
        assert bool((ours[1:] < 0).all())
        assert float(ours[1:].sum()) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_logits(precision: torch.dtype) -> None:
    """In float16 the released 1e-9 is 0 and references more than 17 below have no probability: 0 / 0."""
    logits = [20.0, 2.0, 1.0, 0.0, -9.0]
    if precision == torch.float16:
        assert bool(their_slopes(logits, 0, [1, 2, 3], alpha=1.0, dtype=precision).isnan().all())
    for of in ("logits", "probabilities"):
        assert bool(objective_slopes(logits, cl.Contrast(0, of=of), precision).isfinite().all())
    expected = torch.tensor([1.0, -0.2, -0.2, -0.2, 0.0])
    torch.testing.assert_close(objective_slopes(logits, cl.Contrast(0), precision).float(), expected, rtol=0, atol=1e-3)


class TwoPlaces(nn.Module):
    """Class 2 looks at the left (red), class 5 at the right (green); the same light on both sides ties them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 3, 2, 2, bias=False)
        self.cells.weight.data = torch.eye(3)[:, :, None, None].expand(-1, -1, 2, 2) / 4
        self.head = nn.Linear(3, CLASSES, bias=False)
        self.head.weight.data = torch.zeros(CLASSES, 3)
        self.head.weight.data[2, 0] = self.head.weight.data[5, 1] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cells(images).mean((2, 3)))


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_an_exact_tie_keeps_the_class_that_was_asked(precision: torch.dtype) -> None:
    images = torch.zeros(1, 3, 4, 8)
    images[:, 0, :, :4] = images[:, 1, :, 4:] = 1.0
    module = TwoPlaces()
    observation = wrap_plain(TwoPlaces().to(precision)).observe(images)
    assert torch.equal(observation.logits[0, 2], observation.logits[0, 5])
    right = torch.tensor([False, False, True, True])
    for contrast in (cl.Contrast(5, nearest=1), cl.Contrast(5, nearest=3, gamma=1.0, by="rank")):
        ours = cl.cam(observation, contrast)
        assert ours.labels[0][0].startswith("class 5 / class 2")
        assert torch.equal(ours.maps[0, 0].amax(0) > 0, right)
    with peer_grad_cam.FinerCAM(module, [module.cells]) as peer:
        theirs = peer(images, target_idx=5)
    assert theirs[0].max(0).argmax() < 4, "grad-cam ranks all classes by closeness and takes the first: class 2"


def test_no_reference_is_another_epsilon() -> None:
    """A margin of nothing stays one: equal classes at gamma 1 cancel exactly, and no constant is added to them."""
    images = torch.zeros(1, 3, 4, 8)
    images[:, :2] = 1.0
    observation = wrap_plain(TwoPlaces()).observe(images)
    explained = cl.cam(observation, cl.Contrast(5, against=[2], gamma=1.0), signed=True)
    assert float(explained.scores[0, 0]) == 0.0
    assert float(explained.maps.abs().max()) == 0.0
