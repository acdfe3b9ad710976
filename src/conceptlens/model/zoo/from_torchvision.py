"""torchvision's classifiers, detectors and segmentation models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchvision
from torchvision.models import WeightsEnum

from conceptlens.io.errors import InputError, near_names
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.weights import load_weights

if TYPE_CHECKING:
    from conceptlens.model.answer import Task


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return a torchvision model by name, with its default weights' transform and categories; see `load_model`.

    Detectors and segmentation models see the photo squashed into a square of their short side, so that batches stay
    whole.

    Args:
        name: What follows `torchvision:`.
        pretrained: Whether its own weights are loaded.
        weights: A file of weights to load instead.
        class_names: Names of classes; the number of classes where no weights of its own are loaded.
        layers: Layers to observe.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched or do not fit.
    """
    known = names_of_models()
    if name not in known:
        raise InputError(f"no torchvision model '{name}'; {near_names(name, known)}")
    default: WeightsEnum = torchvision.models.get_model_weights(name)["DEFAULT"]
    categories: list[str] = default.meta["categories"]
    if pretrained:
        names = checked_class_names(class_names or categories, len(categories), f"torchvision:{name}")
        with fetching(f"torchvision:{name}", hub=False):
            module = torchvision.models.get_model(name, weights=default)
    else:
        names = tuple(class_names or categories)
        module = torchvision.models.get_model(name, num_classes=len(names), **_empty(name, default))
    if weights is not None:
        load_weights(module, weights)
    whole = not hasattr(default.transforms(), "crop_size")
    transform = whole_photo(default, module) if whole else preprocess_of(default)
    task = published_task(name) if weights is None else None
    return Backbone(module, f"torchvision:{name}", layers, transform, names, task=task)


def published_task(name: str) -> Task:
    """Return what a model of torchvision was trained for.

    Args:
        name: What follows `torchvision:`.
    """
    if name in torchvision.models.list_models(module=torchvision.models.detection):
        return "detection"
    return "dense" if name in torchvision.models.list_models(module=torchvision.models.segmentation) else "single_label"


def names_of_models() -> list[str]:
    """Return the names of torchvision's models for photos."""
    rooms = (torchvision.models, torchvision.models.detection, torchvision.models.segmentation)
    return [name for room in rooms for name in torchvision.models.list_models(module=room)]


def preprocess_of(weights: WeightsEnum) -> Preprocess:
    """Return torchvision's evaluation preset of a classifier's `weights` as a `Preprocess`."""
    preset = weights.transforms()
    side = preset.crop_size[0]
    return Preprocess(
        size=(side, side),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        resize=preset.resize_size[0],
    )


def whole_photo(weights: WeightsEnum, module: Any) -> Preprocess:
    """Return how a detector, which normalises by itself, or a segmentation model sees the whole photo.

    Args:
        weights: Its weights.
        module: The model.
    """
    preset: Any = weights.transforms()
    if hasattr(preset, "resize_size"):
        side = preset.resize_size[0]
        return Preprocess((side, side), tuple(preset.mean), tuple(preset.std), crop_mode="squash")
    known = module.transform
    columns, rows = known.fixed_size or (known.min_size[-1],) * 2
    return Preprocess((rows, columns), (0.0,) * 3, (1.0,) * 3, crop_mode="squash")


def _empty(name: str, weights: WeightsEnum) -> dict[str, Any]:
    """Return what an architecture is given when it is built without its default weights."""
    if name.startswith("vit_"):
        return {"image_size": weights.transforms().crop_size[0]}  # its position embeddings have this size
    if not hasattr(weights.transforms(), "crop_size"):
        return {"weights": None, "weights_backbone": None}
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
