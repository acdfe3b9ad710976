"""What a model predicts for one photo: classes with their scores and probabilities, or quantities."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.concepts.short_names import short_names
from conceptlens.model.score_checks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.model.observation import Observation


N_PREDICTIONS = 5


@dataclass(frozen=True)
class Prediction:
    """One class of one photo: its index, its full and short name, its score, and its probability where there is one.

    The score is the logit; of a label or one of two classes its log-odds, of one of ordered classes the logarithm of
    its probability, of a quantity the quantity itself, which has no probability.
    """

    index: int
    name: str
    short_name: str
    logit: float
    probability: float | None


def predictions(observation: Observation, image: int, classes: Tensor | None = None) -> tuple[Prediction, ...]:
    """Return the predictions of one image of a batch.

    Args:
        observation: The forward pass of a model with class scores.
        image: The index of the image in the batch.
        classes: The indices of the classes to return; by default the five with the highest scores, of quantities the
            first five.

    Returns:
        One `Prediction` per class, in the order of `classes`, or from the highest score down.

    Raises:
        InputError: The model gives no class scores, or they are not finite.
    """
    check_finite(observation)
    model, answer = observation.model, observation.answer
    scores = observation.logits[image].detach().float()
    chance = None if answer.probability is None else answer.probability(scores)
    if classes is None:
        count = min(N_PREDICTIONS, len(scores))
        classes = torch.arange(count) if answer.task == "regression" else scores.topk(count).indices
    names = model.class_names
    if names is None or len(names) < len(scores):
        names = tuple(model.class_name(i) for i in range(len(scores)))
    short = _short_names(names)
    return tuple(
        Prediction(i, names[i], short[i], float(scores[i]), None if chance is None else float(chance[i]))
        for i in classes.tolist()
    )


# Counting the first synonyms of all classes again for each of thousands of photos would be slow.
_short_names = functools.lru_cache(maxsize=8)(short_names)
