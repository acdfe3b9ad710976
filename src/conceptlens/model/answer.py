"""What a model's answer means: how class scores, probabilities and units follow from the numbers it puts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.io.errors import InputError, near_names

if TYPE_CHECKING:
    from jaxtyping import Float

Task = Literal[
    "single_label", "multi_label", "binary", "regression", "ordinal", "conditional_ordinal", "embedding", "dense",
    "detection",
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the numbers `(image, number)` mean that a model puts out for an image.

    Args:
        task: What the model was trained for, in the field's word.
        words: The same in a sentence's words: "one class of many".
        read: From the numbers to class scores `(image, class)`; `None` where the model gives no class scores.
        probability: From class scores to the probability of each class; `None` where there is none.
        more_classes: How many classes there are more than numbers.
        rivals: Whether the classes exclude one another, so that what speaks for one speaks against the others.
        softmax_scale: Where they do: what class scores are multiplied with for a softmax to give their probabilities.
        unit: What margins and contributions are counted in.
        score: What one class score is called.
        assumed: Whether nothing says so: neither the user nor the model.
    """

    task: Task
    words: str
    read: Callable[[Tensor], Tensor] | None = None
    probability: Callable[[Tensor], Tensor] | None = None
    more_classes: int = 0
    rivals: bool = False
    softmax_scale: float = 1.0
    unit: str = "units of the output"
    score: str = "logit"
    assumed: bool = False

    @property
    def note(self) -> str:
        """What a result says where the task was assumed; empty where it is known."""
        if not self.assumed:
            return ""
        return (
            "the numbers are read as the scores of one class of many (softmax), but nothing says so; give "
            "task='single_label' if that is right, 'multi_label' if several classes can be right at once, 'regression' "
            "for quantities (--task)"
        )

    @property
    def linear(self) -> bool:
        """Whether class scores are linear in the numbers, so that every class has a row of the classifier."""
        return self.read in (as_they_are, two_sides)

    def probabilities(self, scores: Float[Tensor, "*rows class"], model: str) -> Float[Tensor, "*rows class"]:
        """Return the probability of each class.

        Args:
            scores: Class scores.
            model: What the model is called, for the message.

        Raises:
            InputError: There are none, as for a quantity.
        """
        if self.probability is None:
            raise InputError(
                f"{model} gives {self.words} (task='{self.task}'), which has no probability; ask for the score itself: "
                "cl.Logit"
            )
        return self.probability(scores)

    def competing(self, scores: Float[Tensor, "*rows class"]) -> Float[Tensor, "*rows class"]:
        """Return scores whose softmax is the probability of each of several classes that exclude one another.

        Args:
            scores: Class scores.
        """
        return wide(scores) * self.softmax_scale


def wide(values: Tensor) -> Tensor:
    """Return `values` in float32, or in float64 where they are: half precision is too narrow to compare classes in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def as_they_are(numbers: Float[Tensor, "image class"]) -> Float[Tensor, "image class"]:
    """Return numbers that are class scores themselves."""
    return numbers


def two_sides(numbers: Float[Tensor, "image 1"]) -> Float[Tensor, "image 2"]:
    """Return the log-odds of either of two classes, `(-z, z)`, from one logit `z` of the second."""
    return torch.cat([-numbers, numbers], 1)


def cumulative(numbers: Float[Tensor, "image threshold"]) -> Float[Tensor, "image class"]:
    """Return log probabilities of ordered classes from the logits of `P(y > k)`.

    With the sigmoid `s`: `p_k = s(z_{k-1}) - s(z_k) = s(z_{k-1}) s(-z_k) (1 - exp(z_k - z_{k-1}))` (proportional odds,
    McCullagh 1980; CORAL, Cao et al., 2020).

    Args:
        numbers: The logits, one for each threshold between neighbouring classes, which fall from left to right.

    Raises:
        InputError: They do not fall, so that a class would have a negative probability.
    """
    above = wide(numbers)
    step = above[:, 1:] - above[:, :-1]
    if bool((step > 0).any()):
        raise InputError(
            "a logit of P(y > k) is larger than the one before it, so a class would have a negative probability; where "
            "they are logits of P(y > k | y > k - 1), as in CORN, say task='conditional_ordinal'"
        )
    between = F.logsigmoid(above[:, :-1]) + F.logsigmoid(-above[:, 1:]) + (-torch.expm1(step)).log()
    return torch.cat([F.logsigmoid(-above[:, :1]), between, F.logsigmoid(above[:, -1:])], 1)


def conditional(numbers: Float[Tensor, "image threshold"]) -> Float[Tensor, "image class"]:
    """Return log probabilities of ordered classes from the logits of `P(y > k | y > k - 1)`.

    `p_k = s(-z_k) prod_{j < k} s(z_j)` (continuation ratios; CORN, Shi et al., 2023).

    Args:
        numbers: The logits, one for each threshold between neighbouring classes.
    """
    above = F.logsigmoid(wide(numbers)).cumsum(1)
    reached = torch.cat([torch.zeros_like(above[:, :1]), above[:, :-1]], 1)
    return torch.cat([reached + F.logsigmoid(-wide(numbers)), above[:, -1:]], 1)


def softmax(scores: Float[Tensor, "*rows class"]) -> Float[Tensor, "*rows class"]:
    """Return the probabilities of classes that exclude one another, from their logits."""
    return wide(scores).softmax(-1)


def sigmoid(scores: Float[Tensor, "*rows class"]) -> Float[Tensor, "*rows class"]:
    """Return the probability of each class by itself, from its log-odds."""
    return wide(scores).sigmoid()


def exponential(scores: Float[Tensor, "*rows class"]) -> Float[Tensor, "*rows class"]:
    """Return probabilities from their logarithms."""
    return wide(scores).exp()


_ORDERED: dict[str, Any] = {
    "probability": exponential, "more_classes": 1, "rivals": True, "unit": "log-odds", "score": "log probability",
}  # fmt: skip
ANSWERS: Mapping[Task, Answer] = {
    answer.task: answer
    for answer in (
        Answer("single_label", "one class of many", as_they_are, softmax, rivals=True, unit="logits"),
        Answer("multi_label", "any number of labels at once", as_they_are, sigmoid, unit="log-odds"),
        Answer("binary", "one of two classes", two_sides, sigmoid, 1, True, 0.5, "log-odds"),
        Answer("regression", "a quantity", as_they_are, score="value"),
        Answer("ordinal", "one of ordered classes", cumulative, **_ORDERED),
        Answer("conditional_ordinal", "one of ordered classes", conditional, **_ORDERED),
        Answer("embedding", "an embedding"),
        Answer("dense", "class scores of every pixel"),
        Answer("detection", "objects in boxes", as_they_are, score="score"),
    )
}


def check_task(task: object) -> None:
    """Refuse a word that is no task.

    Args:
        task: What was given as `task=`; `None` where it is left open.

    Raises:
        InputError: There is no such task; near names are offered.
    """
    if task is not None and task not in get_args(Task):
        raise InputError(f"no task {task!r}; {near_names(str(task), get_args(Task), len(ANSWERS))}")


def find_answer(task: Task | None, numbers: int, names: int | None, model: str) -> Answer:
    """Return what a model's numbers mean, as it is known from the task or follows from how many there are.

    Args:
        task: What the model was trained for, where it is known.
        numbers: How many numbers the model puts out for an image.
        names: How many class names there are; `None` where there are none.
        model: What the model is called, for messages.

    Raises:
        InputError: It cannot be told, or there is another number of class names than of classes.
    """
    if task is None and numbers == 1:
        if names != 2:
            raise InputError(
                f"{model} gives one number for each image, which may be the logit of one of two classes or a quantity; "
                "say Backbone(..., task='binary') or 'regression' (--task)"
            )
        task = "binary"
    answer = replace(ANSWERS["single_label"], assumed=True) if task is None else ANSWERS[task]
    if answer.task == "single_label" and numbers == 1:
        raise InputError(
            f"{model} gives one number for each image, and a softmax over one number is always 1; say task='binary' "
            "(two classes from one logit), 'multi_label' (one label, there or not) or 'regression'"
        )
    if answer.task == "binary" and numbers != 1:
        raise InputError(
            f"{model} gives {numbers} numbers for each image, and task='binary' is two classes from one logit; say "
            "task='single_label' (a softmax over them) or 'multi_label' (a sigmoid for each)"
        )
    _check_names(answer, numbers, names, model)
    return answer


def _check_names(answer: Answer, numbers: int, names: int | None, model: str) -> None:
    """Refuse another number of names than of classes, with the task under which they would fit."""
    classes = numbers + answer.more_classes
    if names is None or names == classes:
        return
    hint = ""
    if names == numbers + 1 and answer.task != "binary":
        hint = "; if the classes are ordered and the scores lie between them, say task='ordinal'"
    raise InputError(
        f"{model} gives {numbers} class scores for each image and has {names} class names; "
        f"give one name for each {'score' if classes == numbers else f'of the {classes} classes'}, in their order: "
        f"Backbone(..., class_names=...){hint}"
    )
