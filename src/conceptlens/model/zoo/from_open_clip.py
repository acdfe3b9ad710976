"""open_clip image towers, ViT and ResNet, paired with their text towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.io.errors import InputError, near_names
from conceptlens.model.backbone import Backbone
from conceptlens.model.encoders import OpenClip
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.zoo.fetch import fetching
from conceptlens.model.zoo.local_folder import check_local_dir
from conceptlens.model.zoo.weights import load_weights
from conceptlens.model.zoo.zero_shot import with_class_names


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return an open_clip model by `MODEL/PRETRAINED`, `hf-hub:OWNER/REPO` or `local-dir:PATH`; see `load_model`.

    Args:
        name: What follows `open_clip:`.
        pretrained: Whether its own weights are loaded.
        weights: A file of weights to load instead.
        class_names: Names of classes; the number of classes where no weights of its own are loaded.
        layers: Layers to observe.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched or do not fit.
    """
    open_clip = _import()
    called = f"open_clip:{name}"
    architecture, tag = _parts(open_clip, name, pretrained)
    local = check_local_dir(name, called, "open_clip_config.json")
    with fetching(called, hub=not local, folder=local):
        model = open_clip.create_model(
            architecture, pretrained=tag if pretrained else None, load_weights=pretrained, pretrained_text=False
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    if weights is not None:
        load_weights(model, weights)
    transform = preprocess_of(model.eval().visual.preprocess_cfg, called)
    language = OpenClip(model, tokenizer, called)
    tower = Backbone(model.visual, called, layers, transform, task="embedding", text=language)
    return tower if class_names is None else with_class_names(tower, class_names)


def names() -> list[str]:
    """Return every `MODEL/PRETRAINED` that open_clip knows."""
    return ["/".join(pair) for pair in _import().list_pretrained()]


def preprocess_of(settings: Mapping[str, Any], name: str) -> Preprocess:
    """Return the `preprocess_cfg` of an open_clip tower as a `Preprocess`."""
    size = settings["size"]
    rows, columns = size if isinstance(size, (tuple, list)) else (size, size)
    mode = settings.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise InputError(
            f"{name} resizes photos by '{mode}', which is not understood; give cl.Backbone(..., transform=...)"
        )
    return Preprocess(
        size=(rows, columns),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        crop_mode="squash" if mode == "squash" else "center",
    )


def _parts(open_clip: Any, name: str, ready: bool) -> tuple[str, str | None]:
    """Return the architecture and the tag of its weights, which must be named where they are wanted."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise InputError(f"no open_clip model '{architecture}'; {near_names(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if ready and tag not in tags:
        found = f"has no weights '{tag}'" if tag else "was named without weights"
        choice = f"{architecture}/TAG with one of {', '.join(tags)}" if tags else "weights= or pretrained=False"
        raise InputError(f"open_clip's {architecture} {found}; use {choice}")
    return architecture, tag or None


def _import() -> Any:
    try:
        import open_clip
    except ModuleNotFoundError:
        raise InputError("open_clip models need a package: pip install 'conceptlens[clip]'") from None
    return open_clip
