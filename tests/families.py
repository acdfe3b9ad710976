"""Families of networks beside those that every contract is held to: what segments, detects, embeds, mixes otherwise.

Each is held to the clauses that tell where its cells lie, and to the whole contract by `make test-slow`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torchvision
import transformers
from timm.models.mlp_mixer import MlpMixer
from timm.models.nest import Nest
from timm.models.volo import VOLO
from torch import Tensor, nn

from architecture import CLASSES, Architecture, hf
from tiny_detectors import CLASSES as PLACED_CLASSES
from tiny_detectors import DETECTORS, OTHER_INPUTS, SEGMENTERS

TOKENS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PATCHES = {"image_size": 64, "patch_size": 8}
SQUARE = (64, 64)


def small(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return how to build a timm model with a head of `CLASSES`."""
    return partial(timm.create_model, name, num_classes=CLASSES, **options)


def mean_token(found: Any) -> Tensor:
    """Return the mean token of an encoder without a pooler: `image dimension`."""
    return found.last_hidden_state.mean(1)


def mean_cell(found: Any) -> Tensor:
    """Return the mean cell of an encoder that gives a map: `image dimension`."""
    return found.last_hidden_state.mean((2, 3))


_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def vgg() -> nn.Module:
    """Return VGG's plan with few channels and one linear layer."""
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 24, "M", 32, 32, "M"])
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


_PERCEIVER = {
    "num_latents": 8, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 2, "num_labels": CLASSES,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 32, "v_channels": 32,
}  # fmt: skip
SAM = {**TOKENS, "image_size": 64, "patch_size": 8, "output_channels": 16, "window_size": 4,
        "global_attn_indexes": [1], "initializer_range": 0.1, "num_pos_feats": 8, "mlp_dim": 48}  # fmt: skip

_VOLO: dict[str, Any] = {
    "layers": (1,) * 4, "img_size": (64, 96), "embed_dims": (16, 32, 32, 32), "num_heads": (2,) * 4,
}  # fmt: skip

FAMILIES: dict[str, Architecture] = {
    "timm hiera": Architecture(
        small("hiera_tiny_224", img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)), SQUARE
    ),
    "timm volo": Architecture(
        lambda: VOLO(num_classes=CLASSES, **_VOLO), (64, 96)
    ),
    "timm cait": Architecture(small("cait_xxs24_224", img_size=64, depth=2, embed_dim=32, num_heads=2), SQUARE),
    "timm xcit": Architecture(
        small("xcit_nano_12_p16_224", img_size=(64, 96), depth=2, embed_dim=32, num_heads=2), (64, 96)
    ),
    "timm mixer": Architecture(
        lambda: MlpMixer(CLASSES, img_size=96, num_blocks=2, embed_dim=32), (96, 96)
    ),
    "timm poolformer": Architecture(small("poolformer_s12")),
    "timm mobilevit": Architecture(small("mobilevit_xxs")),
    "timm levit": Architecture(small("levit_128s"), (224, 224)),
    "timm tnt": Architecture(small("tnt_s_legacy_patch16_224", img_size=96, depth=2), (96, 96)),
    "timm twins": Architecture(small("twins_pcpvt_small", depths=(1, 1, 1, 1), img_size=(96, 160))),
    "timm pvt": Architecture(small("pvt_v2_b0", depths=(1, 1, 1, 1))),
    "timm edgenext": Architecture(small("edgenext_xx_small")),
    "timm fastvit": Architecture(small("fastvit_t8", layers=(1, 1, 1, 1))),
    "timm repvit": Architecture(small("repvit_m0_9")),
    "timm densenet": Architecture(small("densenet121", growth_rate=8, block_config=(2, 2, 2, 2))),
    "timm vgg": Architecture(vgg),
    "timm inception": Architecture(small("inception_v3"), (139, 171), settles=True),
    "timm mobilenetv3": Architecture(small("mobilenetv3_small_050"), settles=True),
    "timm regnet": Architecture(small("regnetx_002")),
    "timm pit": Architecture(small("pit_ti_224", img_size=96), (96, 96)),
    "timm nest": Architecture(
        lambda: Nest(img_size=64, num_levels=3, embed_dims=(16, 24, 32), num_heads=(1, 1, 1), depths=(1, 1, 1),
                     num_classes=CLASSES), SQUARE,
    ),
    "timm mvit": Architecture(small("mvitv2_tiny", img_size=96), (96, 96)),
    "timm efficientvit": Architecture(small("efficientvit_b0")),
    "timm without a head": Architecture(lambda: timm.create_model("test_convnext", num_classes=0), answers="embedding"),
    "timm crossvit": Architecture(small("crossvit_tiny_240"), (240, 240)),
    "timm coat": Architecture(small("coat_tiny", img_size=96), (96, 96)),
    "timm mobilevitv2": Architecture(small("mobilevitv2_050")),
    "torchvision googlenet": Architecture(
        lambda: torchvision.models.googlenet(num_classes=CLASSES, init_weights=False), settles=True
    ),
    "torchvision squeezenet": Architecture(lambda: torchvision.models.squeezenet1_1(num_classes=CLASSES)),
    "torchvision shufflenet": Architecture(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)),
    "hf i-jepa": Architecture(hf("IJepa", "Model", **TOKENS, **PATCHES), SQUARE, "embedding", mean_token),
    "hf dinov3": Architecture(
        hf("DINOv3ViT", "Model", **TOKENS, **PATCHES, num_register_tokens=2), SQUARE, "embedding"
    ),
    "hf dinov2": Architecture(
        hf("Dinov2", "Model", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, **PATCHES),
        SQUARE, "embedding",
    ),
    "hf sam vision": Architecture(
        lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**SAM)), SQUARE, "embedding", mean_cell
    ),
    "hf resnet": Architecture(hf("ResNet", num_labels=CLASSES, **_RESNET)),
    "hf focalnet": Architecture(hf("FocalNet", embed_dim=16, depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3],
                                   hidden_sizes=[16, 32], image_size=64, num_labels=CLASSES), SQUARE),
    "hf perceiver": Architecture(hf("Perceiver", "ForImageClassificationConvProcessing", **_PERCEIVER), (32, 48)),
    # As they are: what they answer and where it stands is known by their class.
    **{f"{name} by name" if name == "hf detr" else name: Architecture(build, classes=PLACED_CLASSES)
       for name, build in DETECTORS.items()},
    **{name: Architecture(build, classes=PLACED_CLASSES, others=OTHER_INPUTS.get(name)) for name, build in
       SEGMENTERS.items()},
}  # fmt: skip

# Those that take a second or more even once.
DEAR = {
    "timm inception", "timm levit", "timm poolformer", "timm twins", "timm mobilevit", "timm repvit", "timm pvt",
    "timm mvit", "timm edgenext", "timm fastvit", "timm efficientvit", "timm pit", "timm regnet", "timm crossvit",
    "timm coat", "timm mobilevitv2", "torchvision googlenet", "hf perceiver",
    *(name for name in FAMILIES if name.removesuffix(" by name") in {**DETECTORS, **SEGMENTERS}),
} - {"hf conditional detr", "hf yolos", "hf upernet"}  # fmt: skip
