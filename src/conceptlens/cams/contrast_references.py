"""Which classes a contrast stands against, and how they are weighted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from conceptlens.cams.asked_classes import ClassName, class_index, class_indices, plain_classes, take
from conceptlens.cams.asked_places import PlaceTarget
from conceptlens.cams.concept_target import Concept
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.answer import wide
from conceptlens.model.class_names import is_class
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

By = Literal["logit", "rank", "weight"]
Weighting = Literal["uniform", "softmax", "cosine"]


class AskedReferences(Protocol):
    """What a `Contrast` says of its classes."""

    @property
    def target(self) -> Any:
        """The class."""
        ...

    @property
    def against(self) -> Any:
        """The reference classes; empty where they are to be chosen."""
        ...

    @property
    def nearest(self) -> int:
        """How many to choose."""
        ...

    @property
    def by(self) -> By:
        """How they are chosen."""
        ...

    @property
    def references(self) -> Weighting:
        """How they are weighted."""
        ...


def given_references(against: Any) -> tuple[ClassName | Concept | tuple[ClassName, ...], ...]:
    """Return references as plain names, integers and concepts, or as one tuple of classes for each image."""
    if isinstance(against, Concept) or is_class(against):
        against = (against,)
    if isinstance(against, (Tensor, np.ndarray)):
        against = list(against) if against.ndim == 2 else plain_classes(against)
    if not isinstance(against, Sequence):
        raise InputTypeError(f"against is a {type(against).__name__}; expected classes by name or index, or concepts")
    return tuple(one if isinstance(one, Concept) else plain_classes(one) for one in against)  # pyright: ignore[reportReturnType]


def choose_references(
    observation: Observation, contrast: AskedReferences
) -> tuple[Int[Tensor, "image"], Int[Tensor, "image reference"], Float[Tensor, "image reference"]]:
    """Return the classes of a contrast and the weights of its references.

    Args:
        observation: One forward pass of a batch.
        contrast: A contrast of classes.

    Returns:
        Target classes `(image,)`, reference classes `(image, reference)`, and reference weights of the same shape,
        constants that sum to 1.

    Raises:
        InputError: The contrast is of concepts, a class is unknown, or a class stands against itself.
    """
    logits = wide(observation.logits.detach())
    if isinstance(contrast.target, Concept):
        raise InputError("a contrast of concepts has no reference classes; its references are the texts in against=")
    if isinstance(contrast.target, PlaceTarget):
        raise InputError("a contrast at one place compares logits there; use cl.cam(observation, cl.Contrast(...))")
    return references_of(observation, contrast, logits, class_indices(observation, contrast.target))


def references_of(
    observation: Observation, contrast: AskedReferences, logits: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return classes, references and their weights, of logits `(image, class)`."""
    if contrast.against:
        others = _named(observation, given_references(contrast.against), len(logits))
        if bool((others == index[:, None]).any()):
            raise InputError("a class cannot stand against itself; leave the target out of against=")
    else:
        others = _nearest(observation, logits, index, contrast)
    return index, others, _reference_weights(observation, logits, index, others, contrast.references)


def _named(
    observation: Observation, against: Sequence[ClassName | Concept | Sequence[ClassName]], images: int
) -> Tensor:
    """Return `image reference` class indices: the same for every image, or a list for each."""
    rows = [list(row) for row in against if isinstance(row, (list, tuple))]
    if rows and (len(rows) != len(against) or len(rows) != images or len({len(row) for row in rows}) != 1):
        raise InputError(f"against= gives lists of references; expected one for each of {images} images, equally long")
    several = rows or [list(against)] * images
    named = [[class_index(observation, _as_class(name)) for name in row] for row in several]  # pyright: ignore[reportArgumentType]
    return torch.tensor(named, device=observation.images.device)


def _as_class(name: ClassName | Concept) -> ClassName:
    if isinstance(name, Concept):
        raise InputError("a concept stands against a class; make the target a cl.Concept too")
    return name


def _nearest(observation: Observation, logits: Tensor, index: Tensor, contrast: AskedReferences) -> Tensor:
    if observation.answer.task == "regression":
        raise InputError(
            f"{observation.model.name} gives a quantity, which has no look-alikes; use cl.Logit, or name another "
            "one of its quantities with against="
        )
    if contrast.nearest > logits.shape[1] - 1:
        raise InputError(
            f"nearest is {contrast.nearest} and the model has {logits.shape[1]} classes; give a smaller number"
        )
    if contrast.by == "logit":
        closeness = -(logits - take(logits, index)[:, None]).abs()
    elif contrast.by == "rank":
        closeness = logits.clone()
    else:
        closeness = _row_cosines(observation, index)
    closeness = closeness.scatter(1, index[:, None], -math.inf)
    return closeness.topk(contrast.nearest, dim=1).indices


def _reference_weights(
    observation: Observation, logits: Tensor, index: Tensor, others: Tensor, how: Weighting
) -> Tensor:
    if how == "softmax":
        return logits.gather(1, others).softmax(1)
    if how == "cosine":
        closeness = _row_cosines(observation, index).gather(1, others).clamp_min(0)
        total = closeness.sum(1, keepdim=True)
        return torch.where(total > 0, closeness / total.clamp_min(1e-12), 1.0 / others.shape[1])
    return torch.full(others.shape, 1.0 / others.shape[1], dtype=logits.dtype, device=logits.device)


def _row_cosines(observation: Observation, index: Tensor) -> Tensor:
    found = observation.class_rows
    if found is None:
        raise InputError(
            f"{observation.model.name} has no linear classifier to compare classes by; use by='logit' or 'rank'"
        )
    rows = torch.nn.functional.normalize(wide(found[0]), dim=1)
    return rows[index] @ rows.T
