"""Penalties chosen on held-out train photos: the concept layer's and the head's; no other split is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.sparse_head import fit_sparse_path, head_at
from conceptlens.data.labelled_set import hold_out
from conceptlens.heads.logistic_head import TOLERANCE, LinearHead, fit_logistic
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.fit.recipe import Recipe

DRAWS = 2  # times that photos are held out, where the concept layer's penalty is chosen too
STRENGTHS = (0.003, 0.01, 0.03, 0.1)  # of a dense head's ridge


@dataclass(frozen=True)
class PenaltyChoice:
    """The penalties with the highest held-out accuracy, of the concept layer and of the head, and that accuracy."""

    penalty: float
    strength: float
    accuracy: float


def choose(
    layer: Callable[[Int[Tensor, "row"], float, int], Float[Tensor, "photo concept"]],
    labels: Int[Tensor, "photo"],
    recipe: Recipe,
    seed: int,
) -> PenaltyChoice:
    """Return the choice with the highest mean accuracy over draws of held-out photos; of equals, the larger penalty.

    Args:
        layer: `layer(rows, penalty, draw)` fits a concept layer to `rows` and returns the activations of all photos.
        labels: The class of each photo.
        recipe: The penalties to choose from, the share of photos held out, and the kind of head: a dense one, or with
            `nec` one of so many concepts for each class. Where fewer tell all rows apart, the path ends before `nec`,
            and the head has as many as it reached.
        seed: Seed of the draws.
    """
    penalties = recipe.penalties if recipe.loss == "ridge" else (1.0,)
    found: dict[tuple[float, float], list[float]] = {}
    for draw in range(DRAWS if len(penalties) > 1 else 1):
        kept, held = (torch.tensor(rows) for rows in hold_out(labels.numpy(), recipe.holdout, seed * DRAWS + draw))
        for penalty in penalties:
            made = layer(kept, penalty, draw)
            for strength, head in _heads(made[kept], labels[kept], recipe):
                right = (head(made[held]).argmax(1) == labels[held]).double().mean()
                found.setdefault((penalty, strength), []).append(float(right))
    best = max(found, key=lambda pair: (np.mean(found[pair]), pair))
    return PenaltyChoice(*best, accuracy=float(np.mean(found[best])))


def fit_head(
    activations: Float[Tensor, "photo concept"], labels: Int[Tensor, "photo"], strength: float, recipe: Recipe
) -> LinearHead:
    """Return the head of all photos; of a dense one, `strength` is the ridge.

    Raises `InputError` where every concept has the same activation in all photos.
    """
    return next(head for _, head in _heads(activations, labels, recipe, (strength,)))


def _heads(
    activations: Tensor, labels: Tensor, recipe: Recipe, strengths: Sequence[float] = STRENGTHS
) -> Iterator[tuple[float, LinearHead]]:
    if not bool((activations.amax(0) > activations.amin(0)).any()):
        raise InputError(
            "every concept has the same activation in all photos, so the layer's cells do not differ from photo to "
            "photo; give another --layer, or photos that differ"
        )
    nec = recipe.nec
    if nec is not None:
        enough = nec - 0.5 / (int(labels.max()) + 1)  # half a weight less: the path ends where it has that many
        path = fit_sparse_path(activations, labels, max_nec=enough, tolerance=TOLERANCE)
        yield 0.0, head_at(path, min(nec, max(solution.nec for solution in path.solutions)), recipe.refit)
        return
    for strength in strengths:
        yield strength, fit_logistic(activations, labels, strength)
