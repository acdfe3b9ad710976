"""What was made from a model's weights is refused by a model with others."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone


def check_own_weights(model: Backbone, identity: str, known: WeakSet[Backbone], made: str, remedy: str) -> None:
    """Refuse a model with other weights, of whatever name.

    Args:
        model: A backbone, compared by the fingerprint of its weights.
        identity: The fingerprint of the weights that something was made from.
        known: The models that have passed already; one that passes is added.
        made: What was made from which model, for the message.
        remedy: What to do.

    Raises:
        InputError: The weights differ.
    """
    if model in known:
        return
    found = weights_fingerprint(model.module)
    if found != identity:
        raise InputError(f"{made} with weights {identity}, and {model.name} with weights {found} was given; {remedy}")
    known.add(model)
