"""What a classifier predicts for one photo: classes with their logits and probabilities."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlens.concepts.short_names import short_names

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.model.observation import Observation


N_PREDICTIONS = 5


@dataclass(frozen=True)
class Prediction:
    """One class of one photo: its index, its full and short name, its logit, and its probability after the softmax."""

    index: int
    name: str
    short_name: str
    logit: float
    probability: float


def predictions(observation: Observation, image: int, classes: Tensor | None = None) -> tuple[Prediction, ...]:
    """Return the predictions of one image of a batch.

    Args:
        observation: The forward pass of a classifier.
        image: The index of the image in the batch.
        classes: The indices of the classes to return; by default the five with the highest logits.

    Returns:
        One `Prediction` per class, in the order of `classes`, or from the highest logit down.

    Raises:
        InputError: The model gives no class scores.
    """
    model = observation.model
    logits = observation.logits[image].detach().float()
    probability = logits.softmax(0)
    chosen = logits.topk(min(N_PREDICTIONS, len(logits))).indices if classes is None else classes
    names = tuple(model.class_name(i) for i in range(len(logits)))
    short = _short_names(names)
    return tuple(Prediction(i, names[i], short[i], float(logits[i]), float(probability[i])) for i in chosen.tolist())


# Counting the first synonyms of all classes again for each of thousands of photos would be slow.
_short_names = functools.lru_cache(maxsize=8)(short_names)
