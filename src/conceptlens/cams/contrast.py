"""Finer-CAM's target: a class, or a concept, against its look-alikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlens.cams.asked_classes import Classes, ClassName, plain_classes, take
from conceptlens.cams.asked_places import AskedPlaces, PlaceTarget
from conceptlens.cams.bound_target import BoundTarget, logits_of
from conceptlens.cams.concept_target import Concept
from conceptlens.cams.contrast_references import By, Weighting, choose_references, given_references, references_of
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.answer import wide
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

Of = Literal["logits", "probabilities"]
Objective = Literal["paper", "official"]


@dataclass(frozen=True)
class Contrast:
    """The evidence for a class against its look-alikes: `y_c - gamma sum_t pi_t y_{d_t}`.

    Finer-CAM (CVPR 2025, equations 5 to 8): aggregated before the ReLU, gamma 0.6, three references by default.

    Args:
        target: The class, as in `Logit`; or a `Concept`, and then `against` are concepts or texts (the multi-modal
            form); or a `Detection` or a `Region`, and then
            classes are compared there.
        against: Reference classes by name or index, the same for every image, or a list of them for each image
            (a tensor or array `(image, reference)`). Where empty, the `nearest` classes are chosen.
        nearest: How many references to choose, where none are named.
        gamma: How strongly references count, 0 or more; 0 is the class alone. One number, or one for each image.
        by: How references are chosen: closest in logit, above or below ("logit"), the highest other logits ("rank"),
            or the highest cosine of classifier rows ("weight").
        references: How references are weighted, always as constants that sum to 1: equally ("uniform", the paper), by
            the "softmax" of their logits, or by the "cosine" of their classifier rows.
        of: "logits", or "probabilities" for `p_c - gamma sum_t pi_t p_{d_t}`.
        objective: "paper" (and torch-cam); or, only to compare results, "official" (the released code: `sum p_t (y_c -
            gamma y_t) / (sum p_t + 1e-9)` with its weights inside the gradient).

    Raises:
        InputError: A number or word is out of range, a class is unknown, or a class stands against itself.
        InputTypeError: A class is neither a name nor an integer, or `gamma` is no number.

    Examples:
        >>> cl.cam(observation, cl.Contrast("tiger cat", against=["tabby"]))
    """

    target: Classes | Concept | PlaceTarget = None
    against: Sequence[ClassName | Concept | Sequence[ClassName]] | ClassName | np.ndarray | Tensor = ()
    nearest: int = 3
    gamma: float | Sequence[float] | np.ndarray | Tensor = 0.6
    by: By = "logit"
    references: Weighting = "uniform"
    of: Of = "logits"
    objective: Objective = "paper"

    def __post_init__(self) -> None:
        """Check the numbers and words, and keep classes as plain names and integers."""
        object.__setattr__(self, "gamma", _strength(self.gamma))
        if self.nearest < 1:
            raise InputError(f"nearest is {self.nearest}; expected at least one reference")
        if not isinstance(self.target, (Concept, PlaceTarget)):
            object.__setattr__(self, "target", plain_classes(self.target))
        object.__setattr__(self, "against", given_references(self.against))
        words = ((self.by, By), (self.references, Weighting), (self.of, Of), (self.objective, Objective))
        for value, allowed in words:
            if value not in allowed.__args__:
                raise InputError(f"'{value}' is not known to Contrast; expected one of {', '.join(allowed.__args__)}")

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix target, references and their weights for every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, labelled `target / references` for every image.

        Raises:
            InputError: A class is unknown or stands against itself, a concept and its bases have other encoders, or the
            model's answer has no look-alikes, no probabilities or no softmax.
        """
        if isinstance(self.target, Concept):
            return _concept_contrast(self, self.target, observation)
        if isinstance(self.target, PlaceTarget):
            return _place_contrast(self, self.target.ask(observation), observation)
        index, others, weights = choose_references(observation, self)
        name, answer = observation.model.class_name, observation.answer
        if self.objective == "official" and answer.task != "single_label":
            raise InputError(
                f"objective='official' takes the softmax of many classes, and {observation.model.name} gives "
                f"{answer.words}; use objective='paper'"
            )
        if self.of == "probabilities":
            answer.probabilities(observation.logits.detach(), observation.model.name)
        gammas = gammas_of(self, len(index)).to(weights)
        labels = tuple(
            contrast_label(name(int(c)), [name(int(o)) for o in row] if float(gamma) else [])
            for c, row, gamma in zip(index, others, gammas, strict=True)
        )

        def measure(logits: Tensor, rows: Tensor) -> Tensor:
            values = wide(logits)
            if self.objective == "official":
                return _official(values, index[rows], others[rows], gammas[rows])
            if self.of == "probabilities":
                values = answer.probabilities(values, observation.model.name)
            return take(values, index[rows]) - gammas[rows] * (weights[rows] * values.gather(1, others[rows])).sum(1)

        return BoundTarget(labels, logits_of, measure, "contrast", classes=tuple(index.tolist()))


def gammas_of(contrast: Contrast, images: int) -> Float[Tensor, "image"]:
    """Return the gamma of every image.

    Args:
        contrast: A contrast with one gamma, or one for each image.
        images: How many images there are.

    Raises:
        InputError: There are gammas of another number of images.
    """
    given = contrast.gamma if isinstance(contrast.gamma, tuple) else (contrast.gamma,) * images
    if len(given) != images:
        raise InputError(f"there are {len(given)} gammas and {images} images; give one, or one for each image")
    return torch.tensor(given, dtype=torch.float64)


def _strength(gamma: Any) -> float | tuple[float, ...]:
    """Return one gamma as a plain float, or one for each image as plain floats."""
    several = gamma.tolist() if isinstance(gamma, (Tensor, np.ndarray)) else gamma
    if isinstance(several, (list, tuple)):
        return tuple(_number(one) for one in several)
    return _number(several)


def _number(gamma: Any) -> float:
    """Return `gamma` as a plain float, from any real number of Python, numpy or torch."""
    one = gamma.item() if isinstance(gamma, Tensor) and gamma.ndim == 0 else gamma
    if isinstance(one, bool) or not isinstance(one, Real):
        raise InputTypeError(f"gamma is {gamma!r}; expected a finite number of 0 or more (0.6 in the paper)")
    number = float(one)
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"gamma is {number}; expected a finite number of 0 or more (0.6 in the paper)")
    return number


def _official(values: Tensor, index: Tensor, others: Tensor, gammas: Tensor) -> Tensor:
    """The released code's objective (FinerWeightedTarget), weights and epsilon included."""
    weights = values.softmax(1).gather(1, others)
    margins = take(values, index)[:, None] - gammas[:, None] * values.gather(1, others)
    return (weights * margins).sum(1) / (weights.sum(1) + 1e-9)


def _concept_contrast(contrast: Contrast, target: Concept, observation: Observation) -> BoundTarget:
    """`S(x, concept) - gamma mean S(x, base)`: the multi-modal form (section 4.3)."""
    if not contrast.against:
        raise InputError("a contrast of concepts needs base texts, such as against=['bird']")
    bases = [
        b if isinstance(b, Concept) else Concept(str(b), by=target.by, prompt=target.prompt)
        for b in given_references(contrast.against)
    ]
    questions = [c.bind(observation) for c in (target, *bases)]
    first = questions[0].root
    if any(q.root != first and q.root(observation) is not first(observation) for q in questions):
        raise InputError("a concept and its bases were encoded by different models; encode them all by the same one")
    labels = (f"{target.text} / {', '.join(b.text for b in bases)}",) * len(observation.images)
    gammas = gammas_of(contrast, len(labels))

    def measure(root: Tensor, rows: Tensor) -> Tensor:
        scores = [q.measure(root, rows) for q in questions]
        return scores[0] - gammas[rows.cpu()].to(scores[0]) * torch.stack(scores[1:]).mean(0)

    return BoundTarget(labels, first, measure, "contrast")


def _place_contrast(contrast: Contrast, asked: AskedPlaces, observation: Observation) -> BoundTarget:
    """`y_c - gamma sum_t pi_t y_{d_t}` of the logits at one place of each image."""
    if contrast.of != "logits" or contrast.objective != "paper":
        raise InputError("a contrast at one place is one of logits, as in the paper; leave out of= and objective=")
    here = asked.logits(asked.read(observation).detach(), torch.arange(len(asked.labels), device=asked.classes.device))
    index, others, weights = references_of(observation, contrast, here, asked.classes)
    name = observation.model.class_name
    against = [", ".join(name(int(o)).split(",")[0] for o in row) for row in others]
    labels = tuple(f"{label} / {rest}" for label, rest in zip(asked.labels, against, strict=True))

    gammas = gammas_of(contrast, len(index)).to(weights)

    def measure(values: Tensor, rows: Tensor) -> Tensor:
        own = asked.logits(values, rows)
        return take(own, index[rows]) - gammas[rows] * (weights[rows] * own.gather(1, others[rows])).sum(1)

    return BoundTarget(labels, asked.read, measure, "contrast", placed=True)


def contrast_label(target: str, references: Sequence[str]) -> str:
    """Return `target / reference, reference`, each by the first of its names.

    Args:
        target: A class name.
        references: Names of its references; without any, the whole name of the target is returned.
    """
    short = [name.split(",")[0] for name in (target, *references)]
    return f"{short[0]} / {', '.join(short[1:])}" if references else target
