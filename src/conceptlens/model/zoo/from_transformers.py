"""transformers: image classifiers, CLIP and SigLIP towers, plain encoders, and detectors of the DETR family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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

from conceptlens.io.errors import InputError
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.encoders import Transformers
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.image_processor import check_same, preprocess_of
from conceptlens.model.zoo.weights import load_weights
from conceptlens.model.zoo.zero_shot import with_class_names


def load(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    class_names: Sequence[str] | None,
    layers: tuple[str, ...],
) -> Backbone:
    """Return a transformers model by hub name or local folder; see `load_model`."""
    called = f"hf:{name}"
    ready = pretrained and weights is None
    with fetching(called, hub=not Path(name).is_dir()):
        config = AutoConfig.from_pretrained(name)
        kind = _kind(config)
        if not ready:
            _empty(config, kind, class_names)
        processor = AutoImageProcessor.from_pretrained(name)
        transform = preprocess_of(processor, called)
        tokenizer = AutoTokenizer.from_pretrained(name) if _is_pair(config) else None
        module = _pretrained(kind, name, called) if ready else kind.from_config(config)
    if kind is not AutoModelForObjectDetection:
        check_same(transform, processor, called)
    if weights is not None:
        load_weights(module, weights)
    return adapt(module.float().eval(), transform, called, tokenizer, class_names, layers)


def adapt(
    module: nn.Module,
    transform: Preprocess,
    name: str,
    tokenizer: Any = None,
    class_names: Sequence[str] | None = None,
    layers: tuple[str, ...] = (),
) -> Backbone:
    """Return a transformers module as a backbone: its class scores, its detections read as such, or its embedding."""
    config: Any = module.config
    if _is_pair(config):
        language = Transformers(module, tokenizer, name)
        tower = Backbone(ImageTower(module), name, layers, transform, embeds=True, text=language)
        return tower if class_names is None else with_class_names(tower, class_names)
    if _kind(config) is AutoModel:
        if class_names is not None:
            raise InputError(f"{name} gives an embedding and no class scores, so class_names= has nothing to name")
        return Backbone(module, name, layers, transform, embeds=True)
    names = _class_names(config) if class_names is None else checked_class_names(class_names, config.num_labels, name)
    detector = _kind(config) is AutoModelForObjectDetection
    output = partial(best_query, classes=config.num_labels) if detector else None
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
    """Read a detector's `image query class` logits as class scores: for every class, the highest of its queries.

    The column for "no object", which comes last in the detectors that use a softmax, is left out.
    """
    return output.logits[..., :classes].amax(1)


# Pairs whose image half is `vision_model`, pooled, then `visual_projection` where there is one.
_PAIRS = ("clip", "siglip", "chinese_clip", "altclip", "metaclip_2")


def _is_pair(config: Any) -> bool:
    return config.model_type in _PAIRS and _kind(config) is AutoModel


def _kind(config: Any) -> Any:
    """Return the transformers class that loads the architecture a config was saved from."""
    architecture = (config.architectures or [""])[0]
    if "ForImageClassification" in architecture:
        return AutoModelForImageClassification
    if "ForObjectDetection" in architecture:
        return AutoModelForObjectDetection
    two_towers = hasattr(config, "vision_config") and hasattr(config, "text_config")
    if two_towers and config.model_type not in _PAIRS:
        raise InputError(
            f"a {config.model_type} model has no image tower that is understood; use one of {', '.join(_PAIRS)}, "
            "or give its vision module to cl.Backbone"
        )
    return AutoModel


def _empty(config: Any, kind: Any, class_names: Sequence[str] | None) -> None:
    """Make `config` one of a model without weights: classes of the caller's own, and no download of a trunk."""
    if kind is not AutoModel and class_names is not None:
        config.num_labels = len(class_names)
    if getattr(config, "use_pretrained_backbone", None):
        config.use_pretrained_backbone = False


def _pretrained(kind: Any, name: str, called: str) -> nn.Module:
    """Load weights, and refuse a checkpoint that would leave parameters random."""
    module, report = kind.from_pretrained(name, output_loading_info=True)
    missing = sorted(set(report["missing_keys"]) & {n for n, _ in module.named_parameters()})
    if missing:
        raise InputError(
            f"the weights of {called} lack {missing[0]} and {len(missing) - 1} more, which would stay random; "
            "use another checkpoint"
        )
    return module


def _class_names(config: Any) -> tuple[str, ...] | None:
    """Return a config's class names in order; `None` where it only numbers them."""
    names = tuple(str(name) for _, name in sorted(config.id2label.items()))
    numbered = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if numbered else names
