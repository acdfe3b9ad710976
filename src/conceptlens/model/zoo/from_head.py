"""A network with a linear head for classes of one's own, from the folder that `conceptlens fit head` wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakSet

from conceptlens.io.errors import InputError
from conceptlens.model.backbone import Backbone
from conceptlens.model.class_head import ClassHead
from conceptlens.model.class_names import checked_class_names
from conceptlens.model.own_weights import check_own_weights
from conceptlens.model.zoo import load_model


def load(
    name: str, pretrained: bool, weights: str | Path | None, class_names: Sequence[str] | None, layers: tuple[str, ...]
) -> Backbone:
    """Return the network under a head, ending in the head; see `load_model`.

    Args:
        name: The folder.
        pretrained: Whether the network has its own weights; with random ones the head says nothing.
        weights: The network's weights, where it was fitted with `weights=`.
        class_names: Other names for the classes.
        layers: Layers to observe.

    Raises:
        InputError: The folder holds no head, or its network cannot be loaded or has other weights.
    """
    head, called = ClassHead.load(name), f"head:{name}"
    names = head.class_names if class_names is None else checked_class_names(class_names, len(head.class_names), called)
    try:
        model = load_model(head.model, pretrained=pretrained, weights=weights)
    except InputError as error:
        raise InputError(f"{called} cannot be loaded, since its network cannot: {error}") from error
    if pretrained or weights is not None:
        remedy = "give its weights with weights= (--weights), or fit a head for this network"
        check_own_weights(model, head.model_identity, WeakSet(), f"{called} was fitted on {head.model}", remedy)
    made = dataclasses.replace(head, class_names=names).on(model, called)
    return dataclasses.replace(made, layers=layers) if layers else made
