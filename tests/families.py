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
from torchvision.models import detection, segmentation

from architecture import CLASSES, Architecture, hf

TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PATCHES = {"image_size": 64, "patch_size": 8}
SQUARE = (64, 64)


def small(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return how to build a timm model with a head of `CLASSES`."""
    return partial(timm.create_model, name, num_classes=CLASSES, **options)


def mean_scores(found: Any) -> Tensor:
    """Return the mean class scores of a segmenter's pixels: `image class`."""
    maps = found if isinstance(found, Tensor) else found["out"] if "out" in found else found["logits"]
    return maps.mean((2, 3))


def mask_scores(found: Any) -> Tensor:
    """Return the largest score of each class over the masks of a MaskFormer."""
    return found.class_queries_logits[..., :CLASSES].amax(1)


def mean_token(found: Any) -> Tensor:
    """Return the mean token of an encoder without a pooler: `image dimension`."""
    return found.last_hidden_state.mean(1)


def mean_cell(found: Any) -> Tensor:
    """Return the mean cell of an encoder that gives a map: `image dimension`."""
    return found.last_hidden_state.mean((2, 3))


class Anchors(nn.Module):
    """A detector of torchvision up to its scores, without the boxes: the largest score of each class."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> Tensor:
        found = self.backbone(images)
        maps = [found] if isinstance(found, Tensor) else list(found.values())
        return self.head(maps)["cls_logits"].amax(1)[:, :CLASSES]


def anchors(build: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    """Return how to build a detector of torchvision up to its scores."""
    return lambda: Anchors(build(weights=None, weights_backbone=None, num_classes=CLASSES, **options))


def segmenter(build: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    """Return how to build a segmenter of torchvision."""
    return partial(build, weights=None, weights_backbone=None, num_classes=CLASSES)


_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "d_model": 32, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "num_queries": 5, "num_labels": CLASSES,
}  # fmt: skip


def conditional_detr() -> nn.Module:
    backbone = transformers.ResNetConfig(**_RESNET, out_features=["stage4"])
    return transformers.ConditionalDetrForObjectDetection(
        transformers.ConditionalDetrConfig(backbone_config=backbone, **_DETR)
    )


def upernet() -> nn.Module:
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=CLASSES, auxiliary_channels=8, auxiliary_in_channels=24
    )
    return transformers.UperNetForSemanticSegmentation(config)


def maskformer() -> nn.Module:
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = transformers.DetrConfig(**_DETR)
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, num_labels=CLASSES
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def vgg() -> nn.Module:
    """Return VGG's plan with few channels and one linear layer."""
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 24, "M", 32, 32, "M"])
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


_SEGFORMER = {
    "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2],
    "decoder_hidden_size": 16, "num_labels": CLASSES,
}  # fmt: skip
_YOLOS = {**TOKENS, "image_size": [64, 96], "patch_size": 8, "num_detection_tokens": 6, "num_labels": CLASSES}
_SAM = {**TOKENS, "image_size": 64, "patch_size": 8, "output_channels": 16, "window_size": 4,
        "global_attn_indexes": [1], "initializer_range": 0.1, "num_pos_feats": 8, "mlp_dim": 48}  # fmt: skip

FAMILIES: dict[str, Architecture] = {
    "timm hiera": Architecture(
        small("hiera_tiny_224", img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)), SQUARE
    ),
    "timm volo": Architecture(
        lambda: VOLO(layers=(1, 1, 1, 1), img_size=(64, 96), num_classes=CLASSES, embed_dims=(16, 32, 32, 32),
                     num_heads=(2,) * 4), (64, 96),
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
    "timm inception": Architecture(small("inception_v3"), (139, 171)),
    "timm mobilenetv3": Architecture(small("mobilenetv3_small_050")),
    "timm regnet": Architecture(small("regnetx_002")),
    "timm pit": Architecture(small("pit_ti_224", img_size=96), (96, 96)),
    "timm nest": Architecture(
        lambda: Nest(img_size=64, num_levels=3, embed_dims=(16, 24, 32), num_heads=(1, 1, 1), depths=(1, 1, 1),
                     num_classes=CLASSES), SQUARE,
    ),
    "timm mvit": Architecture(small("mvitv2_tiny", img_size=96), (96, 96)),
    "timm efficientvit": Architecture(small("efficientvit_b0")),
    "timm without a head": Architecture(lambda: timm.create_model("test_convnext", num_classes=0), answers="embedding"),
    "torchvision squeezenet": Architecture(lambda: torchvision.models.squeezenet1_1(num_classes=CLASSES)),
    "torchvision shufflenet": Architecture(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)),
    "torchvision lr-aspp": Architecture(segmenter(segmentation.lraspp_mobilenet_v3_large), output=mean_scores),
    "torchvision deeplab": Architecture(segmenter(segmentation.deeplabv3_mobilenet_v3_large), output=mean_scores),
    "torchvision fcn": Architecture(
        lambda: segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES), output=mean_scores
    ),
    "torchvision ssdlite": Architecture(anchors(detection.ssdlite320_mobilenet_v3_large)),
    "torchvision retinanet": Architecture(anchors(detection.retinanet_resnet50_fpn)),
    "torchvision fcos": Architecture(anchors(detection.fcos_resnet50_fpn)),
    "hf segformer": Architecture(hf("Segformer", "ForSemanticSegmentation", **_SEGFORMER), output=mean_scores),
    "hf upernet": Architecture(upernet, output=mean_scores),
    "hf maskformer": Architecture(maskformer, (64, 96), output=mask_scores),
    "hf conditional detr": Architecture(conditional_detr),
    "hf yolos": Architecture(
        hf("Yolos", "ForObjectDetection", **_YOLOS), (64, 96)
    ),
    "hf i-jepa": Architecture(hf("IJepa", "Model", **TOKENS, **PATCHES), SQUARE, "embedding", mean_token),
    "hf dinov3": Architecture(
        hf("DINOv3ViT", "Model", **TOKENS, **PATCHES, num_register_tokens=2), SQUARE, "embedding"
    ),
    "hf dinov2": Architecture(
        hf("Dinov2", "Model", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, **PATCHES),
        SQUARE, "embedding",
    ),
    "hf sam vision": Architecture(
        lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**_SAM)), SQUARE, "embedding", mean_cell
    ),
    "hf resnet": Architecture(hf("ResNet", num_labels=CLASSES, **_RESNET)),
    "hf focalnet": Architecture(hf("FocalNet", embed_dim=16, depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3],
                                   hidden_sizes=[16, 32], image_size=64, num_labels=CLASSES), SQUARE),
}  # fmt: skip

# Those that take a second or more even once.
DEAR = {
    "timm inception", "timm levit", "timm poolformer", "timm twins", "timm mobilevit", "timm repvit", "timm pvt",
    "timm mvit", "timm edgenext", "timm fastvit", "timm efficientvit", "timm pit", "timm regnet", "torchvision fcn",
    "torchvision fcos", "torchvision retinanet", "torchvision deeplab", "torchvision lr-aspp", "torchvision ssdlite",
    "hf maskformer", "hf segformer",
}  # fmt: skip
