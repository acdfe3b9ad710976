"""The ridge of a logistic head, chosen on held-out train photos; no other photo is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conceptlens.data.labelled_set import hold_out
from conceptlens.heads.logistic_head import fit_logistic
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DRAWS = 3  # times that photos are held out


@dataclass(frozen=True)
class HeldOut:
    """What heads of one strength get on held-out photos: means over the draws.

    Attributes:
        strength: The ridge's strength.
        accuracy: The share of photos whose class has the highest score.
        cross_entropy: In nats; that of equal probabilities is the logarithm of the number of classes.
    """

    strength: float
    accuracy: float
    cross_entropy: float


def choose_ridge(
    vectors: Float[Tensor, "view photo dimension"],
    labels: Int[Tensor, "photo"],
    holdout: float,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[HeldOut, tuple[HeldOut, ...]]:
    """Return the strength with the lowest mean cross-entropy on held-out photos; of equals, the larger.

    Cross-entropy and not accuracy: probabilities are read too, and it tells strengths apart that a few hundred photos
    rank by chance.

    Args:
        vectors: The embeddings of the train photos; of each photo one or several views, of which the first is shown
            when held out.
        labels: The class of each photo.
        holdout: The share of each class that is held out.
        seed: Decides which photos.
        strengths: The strengths to choose from.

    Returns:
        The one that is chosen, and all of them.

    Raises:
        InputError: A class would keep no photo, `holdout` is no share, or there is no strength.
    """
    if not strengths:
        raise InputError("no strength of the ridge was given; give at least one number above 0, such as 0.1")
    found: dict[float, list[tuple[float, float]]] = {strength: [] for strength in sorted(set(strengths), reverse=True)}
    for draw in range(DRAWS if len(found) > 1 else 1):
        kept, held = (torch.from_numpy(rows) for rows in hold_out(labels.numpy(), holdout, seed * DRAWS + draw))
        fitted, wanted = vectors[:, kept].flatten(0, 1), labels[kept].repeat(len(vectors))
        for strength, results in found.items():
            scores = fit_logistic(fitted, wanted, strength)(vectors[0, held])
            right = (scores.argmax(1) == labels[held]).double().mean()
            results.append((float(right), float(functional.cross_entropy(scores, labels[held]))))
    tried = tuple(HeldOut(strength, *np.mean(results, axis=0).tolist()) for strength, results in found.items())
    return min(tried, key=lambda one: one.cross_entropy), tried
