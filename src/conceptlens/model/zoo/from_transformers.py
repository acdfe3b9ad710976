"""transformers: image classifiers, CLIP and SigLIP towers, encoders, detectors of the DETR family, segmenters."""

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
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    AutoTokenizer,
)

from conceptlens.io.errors import InputError
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.encoders import Transformers
from conceptlens.model.preprocess import Interpolation, Preprocess
from conceptlens.model.torchvision_transform import agrees
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.local_folder import check_tokenizer, check_transformers_folder, is_folder
from conceptlens.model.zoo.weights import load_weights
from conceptlens.model.zoo.zero_shot import with_class_names

_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_ADVICE = "give its module and a transform of your own to cl.Backbone"


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return a transformers model by hub name or local folder; see `load_model`.

    Args:
        name: What follows `hf:`: `OWNER/MODEL` or a folder.
        pretrained: Whether its own weights are loaded.
        weights: A file of weights to load instead.
        class_names: Names of classes; the number of classes where no weights of its own are loaded.
        layers: Layers to observe.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched or do not fit.
    """
    called = f"hf:{name}"
    local = is_folder(name, called)
    if local:
        name = str(Path(name).expanduser())
        check_transformers_folder(Path(name), called, pretrained)
    with fetching(called, hub=not local, folder=local):
        config: Any = AutoConfig.from_pretrained(name)
        kind = _kind(config)
        if not pretrained:
            _empty(config, kind, class_names)
        processor = AutoImageProcessor.from_pretrained(name)
        transform = preprocess_of(processor, called)
        if local and _is_pair(config):
            check_tokenizer(Path(name), called)
        tokenizer = AutoTokenizer.from_pretrained(name) if _is_pair(config) else None
        module = _pretrained(kind, name, called) if pretrained else kind.from_config(config)
    if kind not in _SQUARE:
        check_same(transform, processor, called)
    if weights is not None:
        load_weights(module, weights)
    module = module.float().eval()
    if tokenizer is not None:
        language = Transformers(module, tokenizer, called)
        tower = Backbone(ImageTower(module), called, layers, transform, task="embedding", text=language)
        return tower if class_names is None else with_class_names(tower, class_names)
    if kind is AutoModel:
        if class_names is not None:
            raise InputError(f"{called} gives an embedding and no class scores, so class_names= has nothing to name")
        return Backbone(module, called, layers, transform, task="embedding")
    names = checked_class_names(class_names, config.num_labels, called) if class_names else _class_names(config)
    return Backbone(module, called, layers, transform, names)


class ImageTower(nn.Module):
    """The image half of a CLIP or SigLIP model: pixels to the shared embedding, before it is normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Return `image dimension`."""
        return self.visual_projection(self.vision_model(pixel_values=images).pooler_output)


# What takes photos of any size, and sees a square here.
_SQUARE = (AutoModelForObjectDetection, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)
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
    if "ForSemanticSegmentation" in architecture:
        return AutoModelForSemanticSegmentation
    if "ForUniversalSegmentation" in architecture or architecture == "MaskFormerForInstanceSegmentation":
        return AutoModelForUniversalSegmentation
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


def preprocess_of(processor: Any, name: str) -> Preprocess:
    """Return the settings of a transformers image processor as a `Preprocess`.

    Detectors and segmentation models take photos of any size; here they see a square of their short side, the photo
    squashed into it, so that batches stay whole.
    """
    settings = processor.to_dict()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    short, share = size.get("shortest_edge"), settings.get("crop_pct")
    mean, std = _colours(settings)
    how: dict[str, Any] = {"mean": mean, "std": std, "crop_rounding": "down"}
    how["interpolation"] = _RESAMPLING[int(settings.get("resample", 2))]
    if settings.get("do_center_crop") and crop:
        resize = int(short / (share or 1.0)) if short else (size["height"], size["width"])
        return Preprocess((crop["height"], crop["width"]), resize=resize, **how)
    if short and share and short < 384:  # ConvNeXt: from 384 on, nothing is cut off
        return Preprocess((short, short), resize=int(short / share), **how)
    rows, columns = (short, short) if short else (size.get("height"), size.get("width"))
    if not rows or not columns:
        raise InputError(f"{name} resizes photos to {dict(size)}, which is not understood; {_ADVICE}")
    return Preprocess((rows, columns), crop_mode="squash", **how)


def check_same(transform: Preprocess, processor: Any, name: str) -> None:
    """Refuse a processor that does something to a photo that `transform` does not."""
    if not agrees(transform, lambda photo: processor(photo, return_tensors="pt")["pixel_values"][0]):
        raise InputError(
            f"the {type(processor).__name__} of {name} does more than resize, crop and normalise; {_ADVICE}"
        )


def _colours(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels in 0..1, whatever factor the processor scales them by."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
        if settings.get("include_top"):  # EfficientNet divides by the deviation twice
            std = [s * s for s in std]
    factor = 255 * settings["rescale_factor"] if settings.get("do_rescale", True) else 255.0
    return tuple(m / factor for m in mean), tuple(s / factor for s in std)
