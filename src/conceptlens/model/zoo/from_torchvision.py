"""torchvision classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torchvision
from torchvision.models import WeightsEnum

from conceptlens.io.errors import InputError, near_names
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.weights import load_weights


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return a torchvision classifier by name, with its default weights' transform and categories; see `load_model`.

    Args:
        name: What follows `torchvision:`.
        pretrained: Whether its own weights are loaded.
        weights: A file of weights to load instead.
        class_names: Names of classes; the number of classes where no weights of its own are loaded.
        layers: Layers to observe.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched or do not fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"no torchvision model '{name}'; {near_names(name, known)}")
    default: WeightsEnum = torchvision.models.get_model_weights(name)["DEFAULT"]
    categories: list[str] = default.meta["categories"]
    transform = preprocess_of(default)
    if pretrained:
        names = checked_class_names(class_names or categories, len(categories), f"torchvision:{name}")
        with fetching(f"torchvision:{name}", hub=False):
            module = torchvision.models.get_model(name, weights=default)
    else:
        names = tuple(class_names or categories)
        module = torchvision.models.get_model(name, num_classes=len(names), **_empty(name, transform.size[0]))
    if weights is not None:
        load_weights(module, weights)
    return Backbone(module, f"torchvision:{name}", layers, transform, names)


def preprocess_of(weights: WeightsEnum) -> Preprocess:
    """Return torchvision's evaluation preset of `weights` as a `Preprocess`."""
    preset = weights.transforms()
    side = preset.crop_size[0]
    return Preprocess(
        size=(side, side),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        resize=preset.resize_size[0],
    )


def _empty(name: str, side: int) -> dict[str, Any]:
    """Return what an architecture is given when it is built without its default weights."""
    if name.startswith("vit_"):
        return {"image_size": side}  # its position embeddings have the size that its transform gives
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
