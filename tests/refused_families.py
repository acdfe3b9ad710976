"""Networks that the package refuses, in the sentence that docs/architectures.md shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torchvision
import transformers
from torch import nn

from architecture import CLASSES, Architecture, hf
from families import PATCHES, SAM, SQUARE, TOKENS
from tiny_detectors import SEGMENTERS

_SIDES = {"text_config": {**TOKENS, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0,
                          "eos_token_id": 1},
          "vision_config": {**TOKENS, **PATCHES}, "projection_dim": 16}  # fmt: skip
_MAE = {**TOKENS, **PATCHES, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48}  # fmt: skip


def _trunk(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, features_only=True)


def _sam() -> nn.Module:
    prompts = {**PATCHES, "hidden_size": 16, "num_point_embeddings": 4, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "mlp_dim": 32, "num_attention_heads": 2,
               "iou_head_hidden_dim": 16}  # fmt: skip
    return transformers.SamModel(
        transformers.SamConfig(vision_config=SAM, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )


_DEPTH: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2],
                          "decoder_hidden_size": 16}  # fmt: skip
_POINTS: dict[str, Any] = {"encoder_hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 16,
                           "descriptor_decoder_dim": 16}  # fmt: skip
_PIXELS: dict[str, Any] = {"image_size": 32, "patch_size": 1, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
                           "window_size": 4}  # fmt: skip

REFUSED: dict[str, Architecture] = {
    "timm features_only": Architecture(_trunk("test_convnext")),
    "torchvision r3d (video)": Architecture(lambda: torchvision.models.video.r3d_18(num_classes=CLASSES), SQUARE),
    "hf siglip 2 naflex": Architecture(
        lambda: transformers.Siglip2VisionModel(
            transformers.Siglip2VisionConfig(**TOKENS, num_patches=64, patch_size=8)
        ), SQUARE, "embedding",
    ),
    "hf vit-mae, masked": Architecture(hf("ViTMAE", "Model", **_MAE), SQUARE, "embedding"),
    "hf vit-mae, masked, with decoder": Architecture(hf("ViTMAE", "ForPreTraining", **_MAE), SQUARE),
    "hf clip without texts": Architecture(hf("CLIP", "Model", **_SIDES), SQUARE),
    "hf owl-vit without texts": Architecture(hf("OwlViT", "ForObjectDetection", **_SIDES), SQUARE),
    "hf oneformer without a task": Architecture(SEGMENTERS["hf oneformer"]),
    "hf sam with prompts": Architecture(_sam, SQUARE),
    "hf glpn (depth)": Architecture(hf("GLPN", "ForDepthEstimation", **_DEPTH), (64, 96)),
    "hf swin2sr (images)": Architecture(hf("Swin2SR", "ForImageSuperResolution", **_PIXELS), (32, 48)),
    "hf superpoint (points)": Architecture(hf("SuperPoint", "ForKeypointDetection", **_POINTS), (64, 96)),
    "hf vitdet (trunk)": Architecture(
        hf("VitDet", "Backbone", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, **PATCHES), SQUARE
    ),
    "hf imagegpt": Architecture(
        hf("ImageGPT", n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=50, num_labels=CLASSES), SQUARE
    ),
    "hf videomae (video)": Architecture(
        hf("VideoMAE", "ForVideoClassification", **TOKENS, **PATCHES, num_frames=4, num_labels=CLASSES), SQUARE
    ),
}  # fmt: skip
