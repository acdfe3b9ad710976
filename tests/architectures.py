"""Architectures at toy size, with random weights that leave nothing zero: what every contract is held to.

Photos are wider than tall wherever the architecture allows, so that a swapped axis cannot hide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
import transformers
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer, resnet18

import conceptlens as cl
from architecture import CLASSES, LABELS, Architecture, hf
from conceptlens.model.observation import Observation
from families import DEAR, FAMILIES


def _timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **options)


def _flat(name: str) -> Callable[[], nn.Module]:
    return partial(_timm, name)


def _sized(name: str) -> Callable[[], nn.Module]:
    return partial(_timm, name, img_size=(96, 160))


_TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_PATCHES = {"image_size": (48, 64), "patch_size": 8, "num_labels": CLASSES}


def _hf_tower(family: str) -> Callable[[], nn.Module]:
    config = {**_TOKENS, "image_size": 48, "patch_size": 8}

    def build() -> nn.Module:
        return getattr(transformers, family + "VisionModel")(getattr(transformers, family + "VisionConfig")(**config))

    return build


def _detr() -> nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, backbone=None,
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


def best_query(found: Any) -> Tensor:
    """Return the best score of each class over a detector's queries: read as a classifier."""
    return found.logits[..., :CLASSES].amax(1)


def _open_clip(**config: Any) -> Callable[[], nn.Module]:
    return lambda: _build_vision_tower(16, CLIPVisionCfg(**config))


def _torchvision_vit() -> nn.Module:
    return VisionTransformer(48, 8, 2, 2, hidden_dim=32, mlp_dim=48, num_classes=CLASSES)


def _torchvision_swin() -> nn.Module:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


# With odd sizes a stride of two starts and ends on the border, so both directions see the same cells.
_ODD = (97, 161)
_EVEN = (96, 160)

ARCHITECTURES: dict[str, Architecture] = {
    "timm byobnet": Architecture(_flat("test_byobnet")),
    "timm coatnet": Architecture(_sized("test_coatnet")),
    "timm convnext": Architecture(_flat("test_convnext"), flips=_EVEN),
    "timm convnext2": Architecture(_flat("test_convnext2"), flips=_EVEN),
    "timm convnext3": Architecture(_flat("test_convnext3"), flips=_EVEN),
    "timm efficientnet": Architecture(_flat("test_efficientnet"), flips=_ODD),
    "timm efficientnet_evos": Architecture(_flat("test_efficientnet_evos"), flips=_ODD),
    "timm efficientnet_gn": Architecture(_flat("test_efficientnet_gn"), flips=_ODD),
    "timm efficientnet_ln": Architecture(_flat("test_efficientnet_ln"), flips=_ODD),
    "timm mambaout": Architecture(_flat("test_mambaout"), flips=_ODD),
    "timm maxvit": Architecture(_sized("test_maxvit")),
    "timm nfnet": Architecture(_flat("test_nfnet")),
    "timm resnet": Architecture(_flat("test_resnet")),
    "timm vit": Architecture(_sized("test_vit"), flips=_EVEN),
    "timm vit2": Architecture(_sized("test_vit2"), flips=_EVEN),
    "timm vit3": Architecture(_sized("test_vit3"), flips=_EVEN),
    "timm vit4": Architecture(_sized("test_vit4"), flips=_EVEN),
    "timm vit_relpos": Architecture(_sized("test_vit_relpos")),
    "hf vit": Architecture(hf("ViT", **_TOKENS, **_PATCHES), (48, 64)),
    "hf deit distilled": Architecture(
        hf("DeiT", "ForImageClassificationWithTeacher", **_TOKENS, **_PATCHES), (48, 64)
    ),
    "hf swin": Architecture(
        hf("Swin", image_size=64, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4,
            num_labels=CLASSES), (48, 64),
    ),
    "hf dinov2 registers": Architecture(
        hf("Dinov2WithRegisters", **{k: v for k, v in _TOKENS.items() if k != "intermediate_size"}, mlp_ratio=2,
            num_register_tokens=3, image_size=48, patch_size=8, num_labels=CLASSES), (48, 64),
    ),
    "hf convnext": Architecture(
        hf("ConvNext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=CLASSES), flips=_EVEN
    ),
    "hf beit": Architecture(hf("Beit", **_TOKENS, **{**_PATCHES, "image_size": 48}), (48, 48)),
    "hf clip vision": Architecture(_hf_tower("CLIP"), (48, 48), "embedding"),
    "hf siglip vision": Architecture(_hf_tower("Siglip"), (48, 48), "embedding"),
    "hf detr": Architecture(_detr, output=best_query),
    "open_clip vit": Architecture(
        _open_clip(layers=2, width=32, head_width=16, patch_size=8, image_size=(48, 64)), (48, 64), "embedding"
    ),
    "open_clip resnet": Architecture(
        _open_clip(layers=(1, 1, 1, 1), width=8, head_width=16, image_size=96), (96, 96), "embedding"
    ),
    "torchvision resnet18": Architecture(lambda: resnet18(num_classes=CLASSES), flips=_ODD),
    "torchvision swin": Architecture(_torchvision_swin, (64, 96)),
    "torchvision vit": Architecture(_torchvision_vit, (48, 48)),
}  # fmt: skip

# Every architecture there is: those above, and the families.
EVERY = {**ARCHITECTURES, **FAMILIES}
# One of each kind of layout: for checks too dear to hold everyone to.
FEW = ("timm resnet", "timm vit", "hf swin", "hf dinov2 registers", "open_clip vit", "torchvision swin")
FEW_FLIPPED = ("timm efficientnet", "timm vit")
# What rests on the observation, which is tested on every architecture, is tested on a few; on the others if asked.
MOST_SLOW = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in ARCHITECTURES]
EVERY_SLOW = [*MOST_SLOW, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)]
DEAR_SLOW = [pytest.param(name, marks=pytest.mark.slow if name in DEAR else ()) for name in EVERY]
MOST_FLIPPED_SLOW = [
    pytest.param(name, marks=() if name in FEW_FLIPPED else pytest.mark.slow)
    for name, architecture in ARCHITECTURES.items()
    if architecture.flips
]


@torch.no_grad()
def stir(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic that starts constant (a zero head, a unit norm) seeded noise, in place."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for parameter in module.parameters():
        if parameter.max() == parameter.min():
            parameter += 0.2 * noise(parameter)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * noise(buffer)
        if name.endswith("running_var"):
            buffer *= 0.5 + torch.rand(buffer.shape, generator=generator)
    return module


@torch.no_grad()
def settle(module: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of what they see of `images`, in place."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    return module


@torch.no_grad()
def make_symmetric(module: nn.Module, columns: int | None = None) -> nn.Module:
    """Make every kernel its own mirror image, and position embeddings for a grid of `columns` likewise, in place."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.copy_((part.weight + part.weight.flip(-1)) / 2)
    embedding = getattr(module, "pos_embed", None)
    if embedding is not None and columns is not None:
        prefix = embedding.shape[1] % columns
        cells = embedding[:, prefix:].unflatten(1, (-1, columns))
        cells.copy_((cells + cells.flip(2)) / 2)
    return module


def random_images(size: tuple[int, int], count: int = 2, seed: int = 1) -> Tensor:
    """Return seeded noise at two scales, so that cells differ: `image 3 rows columns`."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.randn(count, 3, *size, generator=generator)
    coarse = torch.randn(count, 3, 4, 5, generator=generator)
    return fine + 2 * nn.functional.interpolate(coarse, size=size, mode="bilinear")


@cache
def backbone(name: str, precision: torch.dtype = torch.float32) -> cl.Backbone:
    """Return the architecture called `name`, built once a session."""
    model = wrap(name, build(name).to(precision))
    if EVERY[name].others is not None:  # it cannot be called without, so only an observation tells its layers
        observe(name, model, random_images(EVERY[name].size))
    return model


def build(name: str) -> nn.Module:
    """Return a fresh module, seeded and in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = stir(EVERY[name].build()).eval()
    return settle(module, random_images(EVERY[name].size, 4, seed=2)) if EVERY[name].settles else module


def wrap(name: str, module: nn.Module) -> cl.Backbone:
    """Return `module` as the backbone that the table says it is."""
    a = EVERY[name]
    task = "embedding" if a.answers == "embedding" else "single_label" if a.output is best_query else None
    labels = None if task else LABELS[: a.classes]
    return cl.Backbone(module, name, class_names=labels, output=a.output, task=task, input_size=a.size)


@cache
def observation_of(name: str, precision: torch.dtype = torch.float32) -> Observation:
    """Return two images seen by the architecture called `name`, observed once a session."""
    return observe(name, backbone(name, precision), random_images(EVERY[name].size))


def observe(name: str, model: cl.Backbone, images: Tensor, layers: Sequence[str] | None = None) -> Observation:
    """Return images seen by a backbone of the architecture called `name`, with what it takes beside them."""
    return model.observe(images, layers, **EVERY[name].beside(len(images)))


def fresh(name: str, precision: torch.dtype = torch.float32) -> cl.Backbone:
    """Return a copy that a test may change."""
    return wrap(name, copy.deepcopy(backbone(name, precision).module))
