"""open_clip image towers, ViT and ResNet, paired with their text towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conceptlens.backbone import Backbone
from conceptlens.concept.vision_language import OpenClip
from conceptlens.error import InputError, near
from conceptlens.preprocess import Preprocess
from conceptlens.zoo.weights import load_weights
from conceptlens.zoo.zero_shot import with_labels


def load(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    labels: Sequence[str] | None,
    layers: tuple[str, ...],
) -> Backbone:
    """Return an open_clip model by `MODEL/PRETRAINED`, `hf-hub:OWNER/REPO` or `local-dir:PATH`; see `load_model`."""
    open_clip = _import()
    architecture, _, tag = (name, "", "") if ":" in name else name.partition("/")
    if ":" not in architecture and architecture not in open_clip.list_models():
        raise InputError(
            f"no open_clip model '{architecture}'; near names: {near(architecture, open_clip.list_models())}"
        )
    if pretrained and weights is None and ":" not in architecture and not tag:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise InputError(f"open_clip:{name} names no weights; write {architecture}/TAG with one of {', '.join(tags)}")
    try:
        model = open_clip.create_model(architecture, pretrained=tag if pretrained and weights is None else None)
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # the hub's client raises its own kinds for an unreachable network
        raise InputError(
            f"open_clip:{name} could not be had ({type(error).__name__}); "
            "check the name and the network, or give a file with weights=, or use pretrained=False"
        ) from error
    if weights is not None:
        load_weights(model, weights)
    return adapt(model, tokenizer, f"open_clip:{name}", labels, layers)


def adapt(
    model: Any, tokenizer: Any, name: str, labels: Sequence[str] | None = None, layers: tuple[str, ...] = ()
) -> Backbone:
    """Return an open_clip model's image tower as a backbone that knows its text tower."""
    data = dict(model.visual.preprocess_cfg)
    size = data["size"] if isinstance(data["size"], (tuple, list)) else (data["size"], data["size"])
    mode = data.get("resize_mode", "shortest")
    transform = Preprocess(
        size=(size[0], size[1]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data.get("interpolation", "bicubic"),
        fit="squash" if mode == "squash" else "crop",
    )
    language = OpenClip(model, tokenizer, name)
    tower = Backbone(model.visual, name, layers, transform, embeds=True, text=language)
    return tower if labels is None else with_labels(tower, labels)


def _import() -> Any:
    try:
        import open_clip
    except ModuleNotFoundError:
        raise InputError("open_clip models need a package: pip install 'conceptlens[clip]'") from None
    return open_clip
