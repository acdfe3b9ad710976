"""Class names that a caller gives: as many as the model has classes."""

from __future__ import annotations

from collections.abc import Sequence

from conceptlens.io.errors import InputError


def checked_labels(labels: Sequence[str], classes: int, name: str) -> tuple[str, ...]:
    """Return `labels` where there is one per class."""
    if isinstance(labels, str) or len(labels) != classes:
        given = "one string" if isinstance(labels, str) else f"{len(labels)} labels"
        raise InputError(
            f"{given} given for the {classes} classes of {name}; give one label per class, "
            "or pretrained=False or weights= for a model with classes of your own"
        )
    return tuple(labels)
