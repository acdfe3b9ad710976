"""What class scores must be before a class is asked about: one row for each image, finite, no probabilities yet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.answer import Task
from conceptlens.model.observation import Observation

# Steps that make probabilities of scores, by the node of the graph that they leave, and how they are undone.
_MADE_BY = {"SigmoidBackward0": ("sigmoid", "torch.logit"), "SoftmaxBackward0": ("softmax", "torch.log")}
_KEEPING = ("View", "Squeeze", "Unsqueeze", "Reshape", "Clone", "Alias", "ToCopy")  # nodes that change no value


def check_kind(numbers: Tensor, model: str) -> None:
    """Refuse scores that no gradient or comparison can start from: integers, complex numbers, none at all.

    Args:
        numbers: Scores of classes, `(image, class, ...)`, or an embedding `(image, dimension)`.
        model: What the model is called, for the message.

    Raises:
        InputError: They are so.
    """
    kind = str(numbers.dtype).removeprefix("torch.")
    if numbers.is_complex():
        raise InputError(
            f"{model} gives complex scores (of type {kind}), and classes are compared by real ones; expected floating "
            "scores: Backbone(..., output=lambda found: found.real), or found.abs()"
        )
    if not (numbers.is_floating_point() or numbers.is_quantized):
        raise InputError(
            f"{model} gives scores of type {kind}; expected floating scores, as they are before an argmax or a "
            "threshold: give those, by leaving that step out or with Backbone(..., output=)"
        )
    if numbers.ndim > 1 and numbers.shape[1] == 0:
        raise InputError(
            f"{model} gives scores of shape {tuple(numbers.shape)}, which are of zero classes; give its head one "
            "output for each class"
        )


def check_numbers(numbers: Tensor, images: int | None, task: Task | None, model: str) -> None:
    """Refuse numbers that are no scores, not one row for each image, or probabilities where logits are expected.

    Args:
        numbers: What the model's answer is read from, `(image, number)`, in the graph of its forward pass.
        images: How many images there were; `None` where it is not known.
        task: What the model was trained for, where it is known.
        model: What the model is called, for messages.

    Raises:
        InputError: One of these is so.
    """
    check_kind(numbers, model)
    if images is not None and len(numbers) != images:
        raise InputError(
            f"{model} gives numbers of shape {tuple(numbers.shape)} for {images} image{'s' * (images != 1)}; expected "
            "one row for each image, so leave squeeze() out or read them with Backbone(..., output=)"
        )
    if task in ("regression", "embedding", "detection"):
        return
    made_by = _made_by(numbers)
    if made_by is not None:
        step, undone = made_by
        raise InputError(
            f"{model} puts out probabilities (its last step is a {step}), and class scores are read before it; say "
            f"Backbone(..., output={undone}), or task='regression' where they are quantities"
        )


def _made_by(numbers: Tensor) -> tuple[str, str] | None:
    """Return the step that made probabilities last, and the function that undoes it; `None` where none did."""
    node: Any = numbers.grad_fn
    while node is not None and node.name().startswith(_KEEPING) and node.next_functions:
        node = node.next_functions[0][0]
    return None if node is None else _MADE_BY.get(node.name())


def not_finite(observation: Observation) -> list[str]:
    """Say for each image which of its class scores is infinite or no number; empty where all are finite.

    Args:
        observation: One forward pass of a model with class scores.
    """
    scores = observation.logits.detach()
    wrong = ~scores.isfinite()
    if not bool(wrong.any()):
        return [""] * len(scores)
    first = torch.where(wrong.any(1), wrong.int().argmax(1), -1).tolist()
    return [
        ""
        if index < 0
        else f"class scores of {observation.model.name} are not finite for {info.name}: that of "
        f"{observation.model.class_name(index)} is {float(row[index])}; look for weights or activations that overflow, "
        "such as in half precision"
        for info, row, index in zip(observation.image_info, scores, first, strict=True)
    ]


def check_finite(observation: Observation) -> None:
    """Refuse class scores that are infinite or no numbers.

    Args:
        observation: One forward pass of a model with class scores.

    Raises:
        InputError: One of them is not finite.
    """
    reason = next(filter(None, not_finite(observation)), None)
    if reason is not None:
        raise InputError(reason)
