"""Penalties chosen on held-out train photos: the concept layer's and the head's; no other split is ever looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.sparse_head import fit_sparse_path, head_at
from conceptlens.data.labelled_set import hold_out
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

DRAWS = 2  # times that photos are held out, where the concept layer's penalty is chosen too
STRENGTHS = (0.003, 0.01, 0.03, 0.1)  # of a dense head's ridge
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class DenseHead:
    """`logits = (c - mean) / std . weights + bias`; a concept with std 0 counts nothing."""

    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]
    mean: Float[Tensor, "concept"]
    std: Float[Tensor, "concept"]

    def __call__(self, activations: Float[Tensor, "photo concept"]) -> Float[Tensor, "photo class"]:
        """Return logits."""
        scaled = (activations.double() - self.mean) / torch.where(self.std > 0, self.std, 1.0)
        return scaled @ self.weights.T + self.bias


@dataclass(frozen=True)
class HeadSettings:
    """A dense head, or one of `nec` concepts for each class, whose weights are fitted anew with `refit`.

    Where fewer tell all rows apart, the path ends before `nec`, and the head has as many as it reached.
    """

    nec: float | None = None
    refit: bool = True


@dataclass(frozen=True)
class PenaltyChoice:
    """The penalties that held out best: the concept layer's, the head's strength, and the accuracy they reached."""

    penalty: float
    strength: float
    accuracy: float


def choose(
    layer: Callable[[Int[Tensor, "row"], float, int], Float[Tensor, "photo concept"]],
    labels: Int[Tensor, "photo"],
    penalties: Sequence[float],
    share: float,
    kind: HeadSettings,
    seed: int,
) -> PenaltyChoice:
    """Return the choice with the highest mean accuracy over draws of held-out photos; of equals, the larger penalty.

    `layer(rows, penalty, draw)` fits a concept layer to `rows` and returns the activations of all photos.
    """
    found: dict[tuple[float, float], list[float]] = {}
    for draw in range(DRAWS if len(penalties) > 1 else 1):
        kept, held = (torch.tensor(rows) for rows in hold_out(labels.numpy(), share, seed * DRAWS + draw))
        for penalty in penalties:
            made = layer(kept, penalty, draw)
            for strength, head in _heads(made[kept], labels[kept], kind):
                right = (head(made[held]).argmax(1) == labels[held]).double().mean()
                found.setdefault((penalty, strength), []).append(float(right))
    best = max(found, key=lambda pair: (np.mean(found[pair]), pair))
    return PenaltyChoice(*best, accuracy=float(np.mean(found[best])))


def fit_head(
    activations: Float[Tensor, "photo concept"], labels: Int[Tensor, "photo"], strength: float, kind: HeadSettings
) -> DenseHead:
    """Return the head of all photos; of a dense one, `strength` is the ridge.

    Raises `InputError` where every concept has the same activation in all photos.
    """
    return next(head for _, head in _heads(activations, labels, kind, (strength,)))


def _heads(
    activations: Tensor, labels: Tensor, kind: HeadSettings, strengths: Sequence[float] = STRENGTHS
) -> Iterator[tuple[float, DenseHead]]:
    if not bool((activations.amax(0) > activations.amin(0)).any()):
        raise InputError(
            "every concept has the same activation in all photos, so the layer's cells do not differ from photo to "
            "photo; give another --layer, or photos that differ"
        )
    nec = kind.nec
    if nec is not None:
        enough = nec - 0.5 / (int(labels.max()) + 1)  # half a weight less: the path ends where it has that many
        path = fit_sparse_path(activations, labels, max_nec=enough, tolerance=TOLERANCE)
        cut = head_at(path, min(nec, max(solution.nec for solution in path.solutions)), kind.refit)
        yield 0.0, DenseHead(cut.weights, cut.bias, cut.standardization.mean, cut.standardization.std)
        return
    for strength in strengths:
        yield strength, _dense(activations, labels, strength)


def _dense(activations: Tensor, labels: Tensor, strength: float) -> DenseHead:
    """Return `argmin mean cross-entropy + strength / 2 |W|^2` on z-scored concepts; the bias is free."""
    from sklearn.linear_model import LogisticRegression

    rows = activations.double()
    mean, std = rows.mean(0), rows.std(0, unbiased=False)
    scaled = (rows - mean) / torch.where(std > 0, std, 1.0)
    fitted = LogisticRegression(C=1 / (strength * len(rows)), tol=TOLERANCE, max_iter=1000)
    fitted.fit(scaled.numpy(), labels.numpy())
    weights, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(weights) == 1:  # of two classes it tells the second's margin alone
        weights, bias = torch.cat([-weights, weights]) / 2, torch.cat([-bias, bias]) / 2
    return DenseHead(weights, bias, mean, std)
