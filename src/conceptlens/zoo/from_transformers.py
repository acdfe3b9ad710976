"""transformers: image classifiers, CLIP and SigLIP towers, and detectors of the DETR family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoTokenizer,
)

from conceptlens.backbone import Backbone
from conceptlens.concept.vision_language import Transformers
from conceptlens.error import InputError
from conceptlens.preprocess import Preprocess
from conceptlens.zoo.weights import load_weights
from conceptlens.zoo.zero_shot import with_labels

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    labels: Sequence[str] | None,
    layers: tuple[str, ...],
) -> Backbone:
    """Return a transformers model by hub name or local folder; see `load_model`."""
    try:
        config = AutoConfig.from_pretrained(name)
        kind = _kind(config)
        module = kind.from_pretrained(name) if pretrained and weights is None else kind.from_config(config)
        processor = AutoImageProcessor.from_pretrained(name, use_fast=False)
        tokenizer = AutoTokenizer.from_pretrained(name) if kind is AutoModel else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"hf:{name} could not be had ({str(error).splitlines()[0]}); "
            "check the name and the network, or give a local folder"
        ) from error
    if weights is not None:
        load_weights(module, weights)
    return adapt(module, processor.to_dict(), f"hf:{name}", tokenizer, labels, layers)


def adapt(
    module: nn.Module,
    processor: dict[str, Any],
    name: str,
    tokenizer: Any = None,
    labels: Sequence[str] | None = None,
    layers: tuple[str, ...] = (),
) -> Backbone:
    """Return a transformers module as a backbone, with the preprocessing of its image processor's settings."""
    transform = preprocess_of(processor)
    config: Any = module.config
    if hasattr(module, "get_image_features"):
        language = Transformers(module, tokenizer, name)
        tower = Backbone(ImageTower(module), name, layers, transform, embeds=True, text=language)
        return tower if labels is None else with_labels(tower, labels)
    names = tuple(labels) if labels else tuple(str(v) for _, v in sorted(config.id2label.items()))
    detector = hasattr(config, "num_queries")
    output = (lambda out: best_query(out, len(names))) if detector else None
    return Backbone(module, name, layers, transform, names, output)


class ImageTower(nn.Module):
    """The image half of a CLIP or SigLIP model: pixels to the shared embedding, before it is normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Return `image dimension`."""
        return self.visual_projection(self.vision_model(pixel_values=images).pooler_output)


def best_query(output: Any, classes: int) -> Tensor:
    """Read a detector's `image query class` logits as class scores: the highest of its queries."""
    return output.logits[..., :classes].amax(1)


def preprocess_of(processor: dict[str, Any]) -> Preprocess:
    """Return the settings of a transformers image processor as a `Preprocess`."""
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    side = size.get("shortest_edge")
    common: dict[str, Any] = {
        "mean": tuple(processor.get("image_mean") or (0.0, 0.0, 0.0))
        if processor.get("do_normalize", True)
        else (0.0,) * 3,
        "std": tuple(processor.get("image_std") or (1.0, 1.0, 1.0))
        if processor.get("do_normalize", True)
        else (1.0,) * 3,
        "interpolation": _RESAMPLE.get(int(processor.get("resample", 2)), "bilinear"),
    }
    if processor.get("do_center_crop") and crop:
        resize = (size["height"], size["width"]) if "height" in size else side
        return Preprocess((crop["height"], crop["width"]), resize=resize, **common)
    if "height" in size:
        return Preprocess((size["height"], size["width"]), fit="squash", **common)
    if side is None:
        raise InputError(f"an image processor with size {size} is not understood; give Backbone(..., transform=...)")
    # Detectors take any size: a square of the short side keeps batches whole.
    return Preprocess((side, side), fit="squash", **common)


def _kind(config: Any) -> Any:
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return AutoModel
    if hasattr(config, "num_queries"):
        return AutoModelForObjectDetection
    return AutoModelForImageClassification
