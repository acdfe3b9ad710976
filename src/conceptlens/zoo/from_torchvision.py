"""torchvision classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchvision
from torchvision.models import WeightsEnum

from conceptlens.backbone import Backbone
from conceptlens.error import InputError, near
from conceptlens.preprocess import Preprocess
from conceptlens.zoo.weights import load_weights


def load(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    labels: Sequence[str] | None,
    layers: tuple[str, ...],
) -> Backbone:
    """Return a torchvision classifier by name, with its default weights' transform and categories; see `load_model`."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"no torchvision model '{name}'; near names: {near(name, known)}")
    default: WeightsEnum = torchvision.models.get_model_weights(name)["DEFAULT"]  # pyright: ignore
    try:
        module = torchvision.models.get_model(name, weights=default if pretrained and weights is None else None)
    except OSError as error:
        raise InputError(
            f"the weights of torchvision:{name} could not be had ({type(error).__name__}); "
            "check the network, or give a file with weights=, or use pretrained=False"
        ) from error
    if weights is not None:
        load_weights(module, weights)
    names = labels or default.meta["categories"]
    return Backbone(module, f"torchvision:{name}", layers, preprocess_of(default), tuple(names))


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
