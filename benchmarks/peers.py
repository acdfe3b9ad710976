"""The tools side by side: each prepared once, then `run(images, classes)` makes one Grad-CAM map per image and class.

Each is used as its own documentation shows, and where that leaves a choice, the cheaper way.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from conceptlens.io.torchvision_operators import mend_torchvision

mend_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import conceptlens as cl  # noqa: E402

Run = Callable[[Tensor, Sequence[int]], Any]


@dataclass(frozen=True)
class Network:
    """An architecture with random weights, the layer that is explained, and its final linear layer."""

    name: str
    layer: str
    classifier: str
    tokens: bool = False

    def build(self, device: str) -> nn.Module:
        """Return the module with seeded random weights, in eval mode; its parameters require gradients, as built."""
        torch.manual_seed(0)
        return timm.create_model(self.name).eval().to(device)

    def cells(self, raw: Tensor) -> Tensor:
        """Patch tokens as `image channel height width`, for tools that cannot find them."""
        side = round((raw.shape[1] - 1) ** 0.5)
        return raw[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    @property
    def reshape(self) -> Callable[[Tensor], Tensor] | None:
        """What to give tools that must be told how to read tokens."""
        return self.cells if self.tokens else None


NETWORKS = {
    "vit_b16": Network("vit_base_patch16_224", "blocks.11.norm1", "head", tokens=True),
    "resnet50": Network("resnet50", "layer4", "fc"),
}


def observed(module: nn.Module, network: Network) -> cl.Backbone:
    """Return the network as a backbone whose layers have been read: once for a model, `probing` says what it costs."""
    model = cl.Backbone(module, network.name, (network.layer,), classifier=network.classifier)
    _ = model.anatomy
    return model


def conceptlens(module: nn.Module, network: Network) -> Run:
    """One forward, all classes from it; the trunk below the layer runs without a graph."""
    model = observed(module, network)
    return lambda images, classes: cl.cam(model.observe(images), [cl.Logit(c) for c in classes])


def grad_cam(module: nn.Module, network: Network) -> Run:
    """grad-cam: a forward and a backward per class."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run(images: Tensor, classes: Sequence[int]) -> list[Any]:
        with GradCAM(module, [module.get_submodule(network.layer)], network.reshape) as method:
            return [method(images, [ClassifierOutputTarget(c)] * len(images)) for c in classes]

    return run


def torchcam(module: nn.Module, network: Network) -> Run:
    """torch-cam: one forward, `retain_graph=True` for all classes but the last."""
    from torchcam.methods import GradCAM

    def run(images: Tensor, classes: Sequence[int]) -> list[Any]:
        with GradCAM(module, network.layer, reshape_transform=network.reshape) as method:
            scores = module(images)
            last = len(classes) - 1
            return [method(c, scores, normalized=False, retain_graph=i < last) for i, c in enumerate(classes)]

    return run


def captum(module: nn.Module, network: Network) -> Run:
    """captum: a forward and a backward per class. It takes tokens for channels: of those maps, only the cost counts."""
    from captum.attr import LayerGradCam

    def run(images: Tensor, classes: Sequence[int]) -> list[Any]:
        method = LayerGradCam(module, module.get_submodule(network.layer))
        return [method.attribute(images, target=c, relu_attributions=True).detach() for c in classes]

    return run


TOOLS: dict[str, Callable[[nn.Module, Network], Run]] = {
    "conceptlens": conceptlens,
    "grad-cam": grad_cam,
    "torchcam": torchcam,
    "captum": captum,
}


def our_score_cam(module: nn.Module, network: Network, rule: str = "score_cam") -> Run:
    model = observed(module, network)
    return lambda images, classes: cl.cam(model.observe(images), [cl.Logit(c) for c in classes], rule)


def our_fast_score_cam(module: nn.Module, network: Network) -> Run:
    return our_score_cam(module, network, "score_cam_fast")


def their_score_cam(module: nn.Module, network: Network) -> Run:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run(images: Tensor, classes: Sequence[int]) -> Any:
        with (
            ScoreCAM(module, [module.get_submodule(network.layer)]) as method,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return method(images, [ClassifierOutputTarget(c) for c in classes])

    return run


SCORE_CAMS: dict[str, Callable[[nn.Module, Network], Run]] = {
    "conceptlens": our_score_cam,
    "conceptlens, fast": our_fast_score_cam,
    "grad-cam": their_score_cam,
}
