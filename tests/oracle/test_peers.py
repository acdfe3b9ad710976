"""The same maps as grad-cam 1.5.7 and torchcam 0.5.0 where they are right, and the proof where one of them is not.

Both rectify their maps; grad-cam also shifts and scales each to 0..1 and resizes it, so ours is treated alike here.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peer_grad_cam
import torch
import torchcam.methods as peer_torchcam
from architectures import CLASSES, build, observation, random_images, wrap
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.observe import Observation

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
    return observation(name).model.observe(random_images(SIZE), layers=PLACES[name])


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
    if rule in ("xgrad_cam", "grad_cam++") and rule_is_unstable(rule, name):
        pytest.skip("its epsilon is not small beside what it is added to; see the tests of epsilons")
    theirs = grad_cam_says(GRAD_CAM[rule], name, [ClassifierOutputTarget(c) for c in TARGETS])
    ours = cl.cam(seen_by(name), cl.Logit(TARGETS), rule=rule).maps[:, 0]
    np.testing.assert_allclose(as_grad_cam_shows(ours), theirs, atol=1e-4)


def rule_is_unstable(rule: str, name: str) -> bool:
    return False


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("rule", TORCHCAM)
def test_torchcam_agrees(rule: str, name: str) -> None:
    theirs = torchcam_says(TORCHCAM[rule], name, TARGETS)
    ours = cl.cam(seen_by(name), cl.Logit(TARGETS), rule=rule).maps[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))
