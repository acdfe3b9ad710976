"""Does a bottleneck's head read more from activations than the concepts they are named after: leakage.

A head that is right because of *how much* a concept is active, not *whether* it is there, uses information that no
reader of the concepts sees. All numbers compare accuracies of the same kind of head on the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from conceptlens.io.argument_kinds import check_function, check_type
from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import check_activations
from conceptlens.metrics.given_maps import tensor_of
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

LEVELS = (5, 95)  # percentiles of the train activations that stand for absent and present


class Classifier(Protocol):
    """What predicts classes from concepts: any of scikit-learn's classifiers."""

    def fit(self, features: Any, classes: Any, /) -> Any:
        """Learn `classes[image]` from `features[image concept]`."""
        ...

    def predict(self, features: Any, /) -> Any:
        """Return `classes[image]`."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledActivations:
    """Images as a bottleneck sees them: what it reads in them, and what is true of them.

    Args:
        activations: `[image concept]`, finite.
        labels: Bool `[image concept]`: whether the image shows the concept.
        classes: The class of each image, `[image]`, whole numbers.

    Raises:
        InputError: Shapes or types do not fit, there is no image, or an activation is not finite.
    """

    activations: Float[Tensor, "image concept"]
    labels: Bool[Tensor, "image concept"]
    classes: Int[Tensor, "image"]

    def __post_init__(self) -> None:
        """Check shapes, types and finiteness."""
        check_activations(self.activations, self.labels)
        check_type(self.classes, torch.Tensor, "classes", "a tensor of whole numbers")
        if tuple(self.classes.shape) != (len(self.labels),) or not len(self.labels) or self.classes.is_floating_point():
            raise InputError(
                f"classes have shape {tuple(self.classes.shape)} of {self.classes.dtype} for {len(self.labels)} "
                "images; expected one whole number for each of at least one image"
            )


@dataclass(frozen=True, eq=False)
class Leakage:
    """Which images each head got right, `[image 1]` with 1 or 0: their means are accuracies.

    - `soft`: trained and tested on activations.
    - `binary`: trained and tested on whether each activation reaches its threshold.
    - `hard`: trained on true labels, tested on those predictions: a hard bottleneck.
    - `true`: trained and tested on true labels: what the concepts can tell at all.
    - `corrected`: the soft head, with every concept of the test image set to its true state.
    """

    soft: Score
    binary: Score
    hard: Score
    true: Score
    corrected: Score

    def gap(self, head: Literal["binary", "hard", "true", "corrected"]) -> Score:
        """Return `soft` minus another head, image by image; its mean is a difference of accuracies, 0 no leakage.

        Args:
            head: `hard`: the gap that Havasi et al. (NeurIPS 2022) set out to close. Part of it is not leakage but
                labels that a threshold predicts badly; `binary` lies between. `binary`: what lies in the values beyond
                the side of the threshold. `true`: above 0, activations surely know more than the concepts do; negative
                says nothing, since labels that are constant within a class tell the class by themselves. `corrected`:
                above 0, the truth about the concepts makes the head worse; below 0, correcting helps.

        Returns:
            A value for each image, -1 to 1.
        """
        other: Score = getattr(self, head)
        return Score(self.soft.values - other.values, self.soft.applies)


def concept_leakage(
    train: LabelledActivations,
    test: LabelledActivations,
    thresholds: Float[Tensor, "concept"] | None = None,
    head: Callable[[], Classifier] | None = None,
) -> Leakage:
    """Return the five accuracies of `Leakage`, heads fitted on `train` and tested on `test`.

    `thresholds` say which activation counts as present, 0.5 for probabilities; by default `prevalence_thresholds` of
    the train images. Activations are standardised by the train images' mean and spread first, labels are 0 and 1. A
    concept is corrected to the 5th or 95th percentile of its train activations, as Koh et al. (ICML 2020) intervene
    on logits. `head` makes an untrained classifier, by default logistic regression with an L2 penalty of 1.

    Args:
        train: The images that heads are fitted on.
        test: The images that they are tested on.
        thresholds: `[concept]`, from which activation on a concept counts as present.
        head: Makes an untrained scikit-learn classifier.

    Returns:
        Which images each head gets right.

    Raises:
        InputError: Concepts differ, the train images are of one class, or thresholds do not fit.
    """
    for name, given in (("train", train), ("test", test)):
        check_type(given, LabelledActivations, name, "cl.metrics.LabelledActivations")
    if head is not None:
        check_function(head, "head", "that makes an untrained classifier")
    if train.labels.shape[1] != test.labels.shape[1]:
        raise InputError(f"train has {train.labels.shape[1]} concepts and test {test.labels.shape[1]}; give the same")
    if len(train.classes.unique()) < 2:
        raise InputError("the train images are of one class; a head needs at least two")
    soft, tested = (c.activations.detach().cpu().double().numpy() for c in (train, test))
    if thresholds is None:
        thresholds = prevalence_thresholds(train.activations, train.labels)
    thresholds = tensor_of(thresholds, "thresholds")
    if tuple(thresholds.shape) != (soft.shape[1],):
        raise InputError(f"thresholds have shape {tuple(thresholds.shape)}; expected one for each concept")
    cut = thresholds.double().numpy()
    labels, truth = (c.labels.cpu().numpy() for c in (train, test))
    low, high = np.percentile(soft, LEVELS, axis=0)
    mean, spread = soft.mean(0), soft.std(0)
    spread = np.where(spread > 0, spread, 1)
    made = head or _logistic
    on_soft, on_binary, on_true = (
        made().fit(features, train.classes.cpu().numpy())
        for features in ((soft - mean) / spread, (soft >= cut).astype(float), labels.astype(float))
    )
    classes = test.classes.cpu().numpy()
    binary = (tested >= cut).astype(float)
    return Leakage(
        soft=_right(on_soft, (tested - mean) / spread, classes),
        binary=_right(on_binary, binary, classes),
        hard=_right(on_true, binary, classes),
        true=_right(on_true, truth.astype(float), classes),
        corrected=_right(on_soft, (np.where(truth, high, low) - mean) / spread, classes),
    )


def prevalence_thresholds(
    activations: Float[Tensor, "image concept"], labels: Bool[Tensor, "image concept"]
) -> Float[Tensor, "concept"]:
    """Return, for each concept, the threshold that as many images reach as have the concept.

    Half-way between the two activations around it, so that of equal activations there all reach it; infinite for a
    concept that no image has, minus infinite for one that all have.

    Args:
        activations: `[image concept]`, finite.
        labels: Bool `[image concept]`.

    Returns:
        `thresholds[concept]`, in the unit of the activations.

    Raises:
        InputError: Shapes or types do not fit, or an activation is not finite.
    """
    values, positive = check_activations(activations, labels)
    falling = -np.sort(-values, axis=0)
    edges = np.concatenate([np.full((1, values.shape[1]), np.inf), falling, np.full((1, values.shape[1]), -np.inf)])
    reached, concept = positive.sum(0), np.arange(values.shape[1])
    return torch.from_numpy((edges[reached, concept] + edges[reached + 1, concept]) / 2)


def _right(head: Classifier, features: np.ndarray, classes: np.ndarray) -> Score:
    right = torch.from_numpy(np.asarray(head.predict(features)) == classes).double()[:, None]
    return Score(right, torch.ones_like(right, dtype=torch.bool))


def _logistic() -> Classifier:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000)
