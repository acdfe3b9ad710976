"""Targets: the score that a map explains, of a class, a concept, or any function of the model's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from conceptlens.cams.asked_classes import Classes, class_indices, plain_classes, take
from conceptlens.cams.bound_target import BoundTarget, Target, logits_of
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.class_names import is_class
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation


@dataclass(frozen=True)
class _ClassScore(ABC):
    """A value of one class of every image, made of the logits."""

    target: Classes = None

    def __post_init__(self) -> None:
        """Keep classes as plain names and integers."""
        object.__setattr__(self, "target", plain_classes(self.target))

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix the class of every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the class of every image and its score.

        Raises:
            InputError: The model has no class scores or no such class, or the number of classes is not that of the
                images.
        """
        index = class_indices(observation, self.target)
        classes = tuple(index.tolist())
        labels = tuple(observation.model.class_name(one) for one in classes)
        values = self._values(observation)
        return BoundTarget(labels, logits_of, lambda logits, rows: take(values(logits), index[rows]), classes=classes)

    @abstractmethod
    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        """Return what makes of class scores what is asked about, `(row, class)`."""


@dataclass(frozen=True)
class Logit(_ClassScore):
    """The score of a class before the softmax: `y_c`.

    Where the model's task is another one (`Backbone(task=)`): the log-odds of a label or of one of two classes, the log
    probability of one of ordered classes, or a quantity itself.

    Args:
        target: A class name or index for all images; or one for each image, as a list, tuple, tensor or array
            `(image,)` of names or integers; or `None` for the class that each image is predicted as.

    Raises:
        InputTypeError: A class is neither a name nor an integer.
        InputError: The model has no such class, or the number of classes is not that of the images.

    Examples:
        >>> cl.cam(observation, cl.Logit("tabby"))  # one question
        >>> cl.cam(observation, [cl.Logit(281), cl.Logit(282)])  # two questions
    """

    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        return lambda logits: logits


@dataclass(frozen=True)
class Probability(_ClassScore):
    """The probability of a class: `p_c`, after the softmax; after a sigmoid for labels and for one of two classes.

    Where the model is sure, the gradient of `p_c` is close to zero, and with it the map; `Logit` has no such limit.

    Args:
        target: As in `Logit`.

    Raises:
        InputTypeError: A class is neither a name nor an integer.
        InputError: The model has no such class or gives quantities, or the number of classes is not that of the images.
    """

    def _values(self, observation: Observation) -> Callable[[Tensor], Tensor]:
        answer, name = observation.answer, observation.model.name
        answer.probabilities(observation.logits.detach(), name)  # refused here, where the question is asked
        return lambda logits: answer.probabilities(logits, name)


@dataclass(frozen=True)
class _Custom:
    """A callable target: its score hangs in the graph itself."""

    function: Callable[[ModelOutput], Tensor]

    def bind(self, observation: Observation) -> BoundTarget:
        label = getattr(self.function, "__name__", type(self.function).__name__)
        return BoundTarget((label,) * len(observation.images), self._root, lambda root, rows: root[:, 0])

    def _root(self, output: ModelOutput) -> Tensor:
        value = self.function(output)
        if not isinstance(value, Tensor):
            raise InputTypeError(f"a callable target gave {type(value).__name__}; {_ONE_EACH}")
        if value.ndim != 1:
            raise InputError(f"a callable target gave shape {tuple(value.shape)}; {_ONE_EACH}")
        return value[:, None]


_ONE_EACH = "expected one score per image, a tensor of shape (image,)"
# What `cam` takes for one question, and for one or several.
AnyTarget = Target | Callable[[ModelOutput], Tensor] | Classes
AnyTargets = AnyTarget | Sequence[Target | Callable[[ModelOutput], Tensor]]


def as_target(target: AnyTarget) -> Target:
    """Return `target` as one target: classes mean their logits, `None` the predicted classes, a callable itself."""
    if isinstance(target, type):
        raise InputTypeError(
            f"the class {target.__name__} was given as a target; give an instance, {target.__name__}()"
        )
    if hasattr(target, "bind"):
        return target  # pyright: ignore[reportReturnType]
    if target is None or is_class(target) or isinstance(target, (Tensor, np.ndarray)):
        return Logit(target)  # pyright: ignore[reportArgumentType]
    if callable(target):
        return _Custom(target)
    raise InputTypeError(
        f"a {type(target).__name__} is no target; expected cl.Logit, cl.Contrast, cl.Concept or a callable, "
        "or classes by name or integer index"
    )


def as_targets(target: AnyTargets) -> list[Target]:
    """Return one question or several as a list of targets: a list of classes is one question, with a class per image.

    Raises:
        InputError: The list is empty, or mixes classes and targets.
        InputTypeError: Something in it is neither.
    """
    if not isinstance(target, (list, tuple)):
        return [as_target(target)]  # pyright: ignore[reportArgumentType]
    if not target:
        raise InputError("the list of targets is empty; give at least one, or None for the predicted class")
    classes = [is_class(one) for one in target]
    if all(classes):
        return [Logit(target)]  # pyright: ignore[reportArgumentType, reportReturnType]
    if any(classes):
        raise InputError(
            "the list mixes classes and targets; give one class for each image, such as [3, 5], or targets alone, "
            "such as [cl.Logit(3), cl.Logit(5)], for several questions about every image"
        )
    refused = [type(one).__name__ for one in target if not (hasattr(one, "bind") or callable(one))]
    if refused:
        raise InputTypeError(
            f"the list of targets holds {refused[0]}; expected cl.Logit, cl.Contrast, cl.Concept or callables, "
            "or one class for each image, by name or integer index"
        )
    return [as_target(one) for one in target]
