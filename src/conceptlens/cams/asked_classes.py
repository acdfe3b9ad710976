"""Classes as they are asked for: by name or index, one for all images or one for each, or the predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.class_names import is_class, is_integer
from conceptlens.model.observation import Observation
from conceptlens.model.score_checks import check_finite

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ClassName = str | int
# One class for all images, or one for each image; `None` is the class that each image is predicted as.
Classes = ClassName | Sequence[ClassName] | np.ndarray | Tensor | None


def plain_classes(target: Classes) -> ClassName | tuple[ClassName, ...] | None:
    """Return one class, or one for each image, as plain names and integers."""
    if target is None or is_class(target):
        return None if target is None else _plain_class(target)
    if isinstance(target, (Tensor, np.ndarray)):
        return _from_array(target)
    if not isinstance(target, Sequence) or not all(is_class(one) for one in target):
        raise InputTypeError(f"{target!r} is no class; give a name, an integer index, or one of them for each image")
    return tuple(_plain_class(one) for one in target)


def _plain_class(value: object) -> ClassName:
    return str(value) if isinstance(value, str) else int(value)  # pyright: ignore[reportArgumentType]


def _from_array(classes: Tensor | np.ndarray) -> tuple[ClassName, ...]:
    """Return the classes in a tensor or an array, refusing scores, one-hot rows and booleans."""
    whole = is_integer(classes.dtype) if isinstance(classes, Tensor) else classes.dtype.kind in "iuU"
    if not whole:
        raise InputTypeError(
            f"classes are given as {classes.dtype}; expected integers, one for each image (scores.argmax(1))"
        )
    if classes.ndim != 1:
        raise InputError(f"classes have shape {tuple(classes.shape)}; expected (image,), one class for each image")
    return tuple(classes.tolist())


def class_indices(observation: Observation, target: Classes) -> Int[Tensor, "image"]:
    """Return one class index for each image; `None` means the predicted one.

    Args:
        observation: One forward pass of a batch.
        target: A class for all images, one for each, or `None`.

    Raises:
        InputError: The model has no such class, its scores are not finite, the number of classes is not that of the
            images, or none is named of several quantities, of which none is predicted.
    """
    logits = observation.logits
    check_finite(observation)
    classes = plain_classes(target)
    if classes is None:
        if observation.answer.task == "regression" and logits.shape[1] > 1:
            raise InputError(
                f"{observation.model.name} gives {logits.shape[1]} quantities, of which none is the predicted one; say "
                "which by name or index, such as cl.Logit(0) (--target 0)"
            )
        return logits.detach().argmax(1)
    several = classes if isinstance(classes, tuple) else (classes,) * len(logits)
    if len(several) != len(logits):
        example = ", ".join(f"cl.Logit({name!r})" for name in several[:2]) or "cl.Logit(3)"
        raise InputError(
            f"{len(several)} classes were given for {len(logits)} images; a list of classes holds one for each image, "
            f"and several questions about every image are several targets, such as [{example}]"
        )
    return torch.tensor([class_index(observation, name) for name in several], device=logits.device)


def class_index(observation: Observation, name: ClassName) -> int:
    """Return the index of a class by name or index; refused where the model has no such class.

    Args:
        observation: One forward pass of a batch.
        name: The class.

    Raises:
        InputError: The model has no such class.
    """
    index, classes = observation.model.class_index(_plain_class(name)), observation.class_count
    if not 0 <= index < classes:
        raise InputError(f"no class {index} in {observation.model.name}; it has classes 0 to {classes - 1}")
    return index


def take(values: Float[Tensor, "row class"], index: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Return one value of every row; the index is gathered as it is, so ties cannot move it."""
    return values.gather(1, index[:, None])[:, 0]
