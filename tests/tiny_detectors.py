"""Detectors and segmentation models of every family at toy size, with random weights that are far from zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from torchvision.models import detection, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import backbone_utils
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

CLASSES = 4


def lively(module: nn.Module) -> nn.Module:
    """Return a module whose answers differ from place to place; the last layers of its heads have smaller weights."""
    generator = torch.Generator().manual_seed(5)
    last = ("cls_logits", "bbox_reg", "bbox_pred", "cls_score", "bbox_ctrness")
    for name, part in module.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            gain = 0.2 if name.rsplit(".", 1)[-1] in last else 1.0
            part.weight.data = (
                torch.randn(part.weight.shape, generator=generator) * gain * (1.6 / part.weight[0].numel()) ** 0.5
            )
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
    return module.eval()


class TwoStages(nn.Module):
    """A trunk as SSD has it: two maps, the second made from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, 4, 2),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.ReLU(),
        )
        self.extra = nn.Sequential(nn.Conv2d(16, 20, 3, 2, 1), nn.ReLU())
        self.out_channels = [16, 20]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return both maps."""
        first = self.features(images)
        return {"0": first, "1": self.extra(first)}


def _pyramid(*levels: int, **options: Any) -> nn.Module:
    trunk = ResNet(BasicBlock, [1, 1, 1, 1])
    return backbone_utils._resnet_fpn_extractor(trunk, 5, returned_layers=list(levels), **options)


def _ssd() -> nn.Module:
    anchors = DefaultBoxGenerator([[2], [2]])
    return lively(SSD(TwoStages(), anchors, (160, 96), CLASSES))


def _one_stage(build: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        trunk = _pyramid(2, 3, 4, extra_blocks=LastLevelP6P7(256, 256))
        return lively(build(trunk, CLASSES, **_SMALL, **options))

    return made


def _two_stage(build: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        parts: dict[str, Any] = {"box_head": TwoMLPHead(256 * 49, 32), "box_predictor": FastRCNNPredictor(32, CLASSES)}
        if build is detection.MaskRCNN:
            parts["mask_predictor"] = MaskRCNNPredictor(256, 16, CLASSES)
        return lively(build(_pyramid(1, 2, 3, 4), None, **parts, **_SMALL, rpn_post_nms_top_n_test=60))

    return made


_SMALL = {"min_size": 96, "max_size": 160}


def _resnet(**options: Any) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", **options
    )


def _detr(family: str, **options: Any) -> Callable[[], nn.Module]:
    sizes = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 6,
    }  # fmt: skip
    stages = ["stage2", "stage3", "stage4"] if family == "DeformableDetr" else ["stage4"]

    def build() -> nn.Module:
        config = getattr(transformers, f"{family}Config")(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_labels=CLASSES,
            backbone_config=_resnet(out_features=stages), **sizes, **options,
        )  # fmt: skip
        torch.manual_seed(1)
        return lively(getattr(transformers, f"{family}ForObjectDetection")(config))

    return build


def _rt_detr(family: str, **options: Any) -> Callable[[], nn.Module]:
    sizes = {
        "d_model": 32, "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32] * 3,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_layers": 2, "num_queries": 6,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 0,
    }  # fmt: skip

    def build() -> nn.Module:
        trunk = transformers.RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        config = getattr(transformers, f"{family}Config")(
            backbone_config=trunk, use_pretrained_backbone=False, backbone=None, num_labels=CLASSES, **sizes, **options
        )
        torch.manual_seed(1)
        return lively(getattr(transformers, f"{family}ForObjectDetection")(config))

    return build


def _yolos() -> nn.Module:
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=[96, 160],
        patch_size=16, num_detection_tokens=6, num_labels=CLASSES,
    )  # fmt: skip
    torch.manual_seed(1)
    return lively(transformers.YolosForObjectDetection(config))


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "torchvision ssd": _ssd,
    "torchvision ssdlite": lambda: lively(
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    ),
    "torchvision retinanet": _one_stage(detection.RetinaNet),
    "torchvision fcos": _one_stage(detection.FCOS, score_thresh=0.05),
    "torchvision faster rcnn": _two_stage(detection.FasterRCNN),
    "torchvision mask rcnn": _two_stage(detection.MaskRCNN),
    "hf detr": _detr("Detr"),
    "hf conditional detr": _detr("ConditionalDetr"),
    "hf deformable detr": _detr("DeformableDetr", num_feature_levels=3, with_box_refine=True),
    "hf deformable detr, two stages": _detr(
        "DeformableDetr", num_feature_levels=3, two_stage=True, with_box_refine=True
    ),
    "hf rt-detr": _rt_detr("RTDetr"),
    "hf d-fine": _rt_detr("DFine"),
    "hf yolos": _yolos,
}


def _deeplab(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return lively(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES))

    return build


def _fcn() -> nn.Module:
    trunk = IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer4": "out"})
    return lively(segmentation.FCN(trunk, segmentation.fcn.FCNHead(512, CLASSES)))


def _segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        num_labels=CLASSES,
    )  # fmt: skip
    return lively(transformers.SegformerForSemanticSegmentation(config))


def _upernet() -> nn.Module:
    trunk = transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=trunk, hidden_size=16, num_labels=CLASSES, use_auxiliary_head=False, auxiliary_in_channels=16
    )
    return lively(transformers.UperNetForSemanticSegmentation(config))


def _swin() -> Any:
    return transformers.SwinConfig(
        image_size=96, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def _mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=24,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=24, num_queries=6,
        num_labels=CLASSES, use_pretrained_backbone=False, backbone=None,
    )  # fmt: skip
    return lively(transformers.Mask2FormerForUniversalSegmentation(config))


def _maskformer() -> nn.Module:
    decoder = transformers.DetrConfig(
        d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, num_queries=6, encoder_layers=0,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=_swin(), decoder_config=decoder, num_labels=CLASSES
    )
    return lively(transformers.MaskFormerForInstanceSegmentation(config))


def _oneformer() -> nn.Module:
    config = transformers.OneFormerConfig(
        backbone_config=_swin(), num_queries=6, num_labels=CLASSES, task_seq_len=8, conv_dim=32, mask_dim=32,
        hidden_dim=32, encoder_feedforward_dim=24, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=24, text_encoder_width=16, text_encoder_num_layers=1, text_encoder_vocab_size=50,
        text_encoder_context_length=8, query_dec_layers=1,
    )  # fmt: skip
    torch.manual_seed(1)
    return lively(transformers.OneFormerForUniversalSegmentation(config))


SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision deeplabv3": _deeplab("deeplabv3_mobilenet_v3_large"),
    "torchvision lraspp": _deeplab("lraspp_mobilenet_v3_large"),
    "torchvision fcn": _fcn,
    "hf segformer": _segformer,
    "hf upernet": _upernet,
    "hf mask2former": _mask2former,
    "hf maskformer": _maskformer,
    "hf oneformer": _oneformer,
}

# What some take beside so many images: OneFormer the tokens of its task.
OTHER_INPUTS: dict[str, Callable[[int], dict[str, torch.Tensor]]] = {
    "hf oneformer": lambda images: {"task_inputs": torch.tensor([[48, 5, 31, 12, 7, 49, 0, 0]]).repeat(images, 1)},
}
