"""Transformers and open_clip models of toy size, random and seeded, saved as their libraries save real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import open_clip
import torch
import transformers as hf
from PIL import Image

CLASSES = 6
NAMES = {index: f"kind {index}" for index in range(CLASSES)}
LABELED: dict[str, Any] = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
WIDTH: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DINO: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
PATCHES: dict[str, Any] = {"image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {
    **WIDTH,
    "vocab_size": 60,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": 4,
}
CNN: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SQUARE: dict[str, Any] = {"height": 32, "width": 32}

Made = tuple[Any, Any]


def _trunk(*stages: int, kind: Any = hf.ResNetConfig) -> Any:
    return kind(embedding_size=8, layer_type="basic", out_features=[f"stage{s}" for s in stages], **CNN)


def _detr(family: str, *stages: int, **more: Any) -> Made:
    config = getattr(hf, f"{family}Config")(
        use_timm_backbone=False, backbone=None, backbone_config=_trunk(*stages), d_model=32, num_queries=16,
        encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, **LABELED, **more,
    )  # fmt: skip
    processor = getattr(hf, f"{family}ImageProcessor")(size={"shortest_edge": 96, "longest_edge": 160})
    return getattr(hf, f"{family}ForObjectDetection")(config), processor


def _rt_detr() -> Made:
    kind: Any = hf.RTDetrConfig
    config = kind(
        use_timm_backbone=False, backbone=None, backbone_config=_trunk(2, 3, 4, kind=hf.RTDetrResNetConfig),
        encoder_hidden_dim=32, encoder_in_channels=[16, 24, 32], encoder_ffn_dim=48, encoder_attention_heads=2,
        d_model=32, num_queries=5, decoder_in_channels=[32, 32, 32], decoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, num_denoising=0, anchor_image_size=None, **LABELED,
    )  # fmt: skip
    return hf.RTDetrForObjectDetection(config), hf.RTDetrImageProcessor(size={"height": 96, "width": 96})


def _yolos() -> Made:
    config = hf.YolosConfig(**WIDTH, image_size=[32, 48], patch_size=8, num_detection_tokens=10, **LABELED)
    processor = hf.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})
    return hf.YolosForObjectDetection(config), processor


def _dino(family: str, kind: str, **more: Any) -> Made:
    config = getattr(hf, f"{family}Config")(**DINO, **PATCHES, **more)
    return getattr(hf, family + kind)(config), hf.BitImageProcessor(size={"shortest_edge": 37}, crop_size=SQUARE)


def _pair(family: str, processor: Any, **more: Any) -> Made:
    config = getattr(hf, f"{family}Config")(text_config=TEXT, vision_config={**WIDTH, **PATCHES}, **more)
    return getattr(hf, f"{family}Model")(config), processor


def _efficient_net() -> Made:
    config = hf.EfficientNetConfig(
        image_size=64, width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=256, initializer_range=0.3, **LABELED
    )
    processor = hf.EfficientNetImageProcessor(size={"height": 64, "width": 64})
    return hf.EfficientNetForImageClassification(config), processor


TRANSFORMERS: dict[str, Callable[[], Made]] = {
    "vit": lambda: (
        hf.ViTForImageClassification(hf.ViTConfig(**WIDTH, **PATCHES, **LABELED)), hf.ViTImageProcessor(size=SQUARE)
    ),
    "vit encoder": lambda: (hf.ViTModel(hf.ViTConfig(**WIDTH, **PATCHES)), hf.ViTImageProcessor(size=SQUARE)),
    "deit distilled": lambda: (
        hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**WIDTH, **PATCHES, **LABELED)),
        hf.DeiTImageProcessor(size={"height": 37, "width": 37}, crop_size=SQUARE),
    ),
    "swin": lambda: (
        hf.SwinForImageClassification(hf.SwinConfig(**SWIN, **LABELED)), hf.ViTImageProcessor(size=SQUARE)
    ),
    "convnext": lambda: (
        hf.ConvNextForImageClassification(hf.ConvNextConfig(**CNN, **LABELED)),
        hf.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
    ),
    "convnext 384": lambda: (
        hf.ConvNextForImageClassification(hf.ConvNextConfig(**CNN, **LABELED)),
        hf.ConvNextImageProcessor(size={"shortest_edge": 384}),
    ),
    "efficientnet": _efficient_net,
    "dinov2 registers": lambda: _dino(
        "Dinov2WithRegisters", "ForImageClassification", num_register_tokens=3, **LABELED
    ),
    "dinov2 encoder": lambda: _dino("Dinov2", "Model"),
    "clip": lambda: _pair(
        "CLIP", hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE), projection_dim=24
    ),
    "siglip": lambda: _pair("Siglip", hf.SiglipImageProcessor(size=SQUARE)),
    "detr": lambda: _detr("Detr", 4),
    "conditional detr": lambda: _detr("ConditionalDetr", 4),
    "deformable detr": lambda: _detr("DeformableDetr", 2, 3, 4, num_feature_levels=3),
    "rt-detr": _rt_detr,
    "yolos": _yolos,
}  # fmt: skip
DETECTORS = ("detr", "conditional detr", "deformable detr", "rt-detr", "yolos")
PAIRS = ("clip", "siglip")

_TOWER = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
_NETWORK = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
_WORDS = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "toy-vit": {"embed_dim": 24, "vision_cfg": _TOWER, "text_cfg": _WORDS},
    "toy-resnet": {"embed_dim": 24, "vision_cfg": _NETWORK, "text_cfg": _WORDS},
    "toy-sigmoid": {"embed_dim": 24, "vision_cfg": _TOWER, "text_cfg": _WORDS, "init_logit_bias": -10},
}


def save_transformers(name: str, folder: Path) -> Path:
    """Save the model called `name` with its image processor, and its tokenizer where it reads texts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = TRANSFORMERS[name]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name in PAIRS:
        tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """Return a CLIP tokenizer that spells: one token per letter."""
    letters = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    words = {word: index for index, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return hf.CLIPTokenizer(vocab=words, merges=[])


def register_open_clip(folder: Path) -> None:
    """Make open_clip know the toy architectures by name."""
    for name, config in OPEN_CLIP.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def photo(width: int = 151, height: int = 97, seed: int = 0) -> Image.Image:
    """Return a photo of odd sides with structure coarse enough to survive a resize, and fine enough to show a shift."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
