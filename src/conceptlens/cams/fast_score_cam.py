"""Score-CAM from a few masked images: run the channels that matter, predict the others, estimate the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.bound_target import BoundTarget
from conceptlens.cams.gradient_free import EPSILON, distinct_masks, masked_scores, precise, varies
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Weights = Float[Tensor, "image question channel 1 1"]

# How many channels are run at least, which part of them where that is more, and how many only measure the error.
MIN_CHANNELS, FRACTION, N_VALIDATION = 52, 1 / 16, 8
# How many possible maps stand behind an estimated correlation.
N_DRAWS = 64


def score_cam_fast(
    observation: Observation, questions: Sequence[BoundTarget], layer: str
) -> tuple[Weights, dict[str, object]]:
    """Score-CAM from a few masked images, with an estimate of how near its map is to the exact one.

    Of the channels that vary over the image, a sixteenth but at least 52 are run as masks:

    - 8 of them, drawn at random, only measure the error of the prediction;
    - two thirds of the rest are spread over the masks: farthest first, distance times the channel's norm;
    - a kernel regression from mask to score predicts all others, and the last third of the runs goes to the channels
      with the largest predicted part in any question's map.

    Measured scores, and predicted ones for the rest, enter `score_cam`'s softmax. As the mean of `exp(score)` exceeds
    `exp` of the mean, a prediction is raised by half its squared error.

    Args:
        observation: One forward pass of a batch.
        questions: Targets bound to `observation`.
        layer: An observed layer.

    Returns:
        The weights `image question channel 1 1`, and notes for `Explanation.source.settings`: for each image `channels`
        and `masked_images` (how many were run), and for each question `estimated_correlation` of the map with the
        exact one: the mean over maps that the regression holds possible, its errors scaled to the measured ones.
    """
    features = precise(observation.feature(layer))
    found = []
    for image, cells in enumerate(features):
        budget = max(MIN_CHANNELS, int(FRACTION * int(varies(cells).sum())))
        found.append(_predict(observation, questions, cells, image, budget))
    notes: dict[str, object] = {
        "channels": [len(cells) for cells in features],
        "masked_images": [one.runs for one in found],
        "estimated_correlation": [_estimate_correlation(*pair) for pair in zip(found, features, strict=True)],
    }
    return torch.stack([one.scores for one in found]).softmax(2)[..., None, None], notes


@dataclass(frozen=True)
class Predicted:
    """Scores of all channels of one image, other scores that are possible, and how many masked images were run."""

    scores: Float[Tensor, "question channel"]
    possible: Float[Tensor, "draw question channel"]
    runs: int


def _predict(
    observation: Observation, questions: Sequence[BoundTarget], cells: Tensor, image: int, budget: int
) -> Predicted:
    """Run `budget` channels that vary, `N_VALIDATION` of them to measure the error, and predict the rest."""
    score = partial(masked_scores, observation, questions, cells, image)
    varying, constant = varies(cells).nonzero()[:, 0], (~varies(cells)).nonzero()[:, 0]
    if len(varying) <= budget:
        scores = score(torch.arange(len(cells), device=cells.device))
        return Predicted(scores, scores[None], len(distinct_masks(cells)[0]))
    masks = cells.flatten(1) - cells.flatten(1).amin(1, keepdim=True)
    masks = masks / (masks.amax(1, keepdim=True) + EPSILON)
    size = cells.flatten(1).norm(dim=1)
    order = torch.randperm(len(varying), generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(cells.device)
    validation, others = varying[order[:N_VALIDATION]], varying[order[N_VALIDATION:]]

    run = others[_farthest(masks[others], size[others], (budget - N_VALIDATION) * 2 // 3)]
    if len(constant):
        run = torch.cat([run, constant[:1]])
    measured = score(run)
    part = (regress(masks[run], measured).predict(masks) + size.log()).log_softmax(1).amax(0)
    part[torch.cat([run, validation, constant])] = -math.inf
    leading = part.topk(budget - N_VALIDATION - len(run) + bool(len(constant))).indices
    runs = sum(len(distinct_masks(cells[part])[0]) for part in (run, leading, validation))
    run, measured = torch.cat([run, leading]), torch.cat([measured, score(leading)], dim=1)

    learned, validation_scores = regress(masks[run], measured), score(validation)
    unknown = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    unknown[torch.cat([run, validation, constant])] = False
    scores = learned.predict(masks)
    missed = validation_scores - scores[:, validation]
    errors = learned.draw_errors(masks[unknown], missed, masks[validation]).to(scores)
    scores[:, run], scores[:, validation] = measured, validation_scores
    if len(constant):
        scores[:, constant] = measured[:, run == constant[0]]
    possible = scores.repeat(N_DRAWS, 1, 1)
    possible[:, :, unknown] += errors
    scores[:, unknown] += learned.left_out.square().mean(1, keepdim=True) / 2
    return Predicted(scores, possible, runs)


def _farthest(points: Float[Tensor, "point cell"], size: Float[Tensor, "point"], count: int) -> Int[Tensor, "count"]:
    """Return `count` points, each the one with the largest `size * distance to the nearest chosen`."""
    chosen = [int(size.argmax())]
    nearest = _distance(points, points[chosen])[:, 0]
    while len(chosen) < count:
        value = nearest * size
        value[chosen] = -1
        chosen.append(int(value.argmax()))
        nearest = torch.minimum(nearest, _distance(points, points[chosen[-1:]])[:, 0])
    return torch.tensor(chosen, device=points.device)


@dataclass(frozen=True)
class Regression:
    """Kernel ridge regression, equally the mean of a Gaussian process, with a Matérn kernel of smoothness 3/2.

    `inverse` is `C = (K + ridge)^-1`; `left_out[question known]` are the errors at each known point when it is left
    out, in the units of the scores; `mean` and `spread` standardise them.
    """

    known: Float[Tensor, "known cell"]
    length: float
    ridge: float
    inverse: Float[Tensor, "known known"]
    solution: Float[Tensor, "known question"]
    left_out: Float[Tensor, "question known"]
    mean: Float[Tensor, "question 1"]
    spread: Float[Tensor, "question 1"]

    def predict(self, points: Float[Tensor, "point cell"]) -> Float[Tensor, "question point"]:
        """Return the expected scores at `points`."""
        return (self._near(points) @ self.solution).T.to(self.mean.dtype) * self.spread + self.mean

    def draw_errors(
        self, points: Float[Tensor, "point cell"], errors: Float[Tensor, "question held"], held_out: Tensor
    ) -> Float[Tensor, "draw question point"]:
        """Draw errors that are possible at `points`, correlated as the points are and as large as measured errors.

        The size is that of the left-out errors and of `errors`, those at the points `held_out`.
        """
        own = self.left_out.square() * self.inverse.diagonal()
        others = errors.square() / self._covariance(held_out).diagonal()
        variance = torch.cat([own, others], dim=1).mean(1)
        root = torch.linalg.cholesky(self._covariance(points))
        drawn = torch.randn(N_DRAWS, 1, len(points), generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(
            root
        )
        return drawn @ root.T * variance.sqrt()[:, None]

    def _near(self, points: Tensor) -> Tensor:
        return _matern(_distance(points, self.known), self.length).double()

    def _covariance(self, points: Tensor) -> Tensor:
        """Return the covariance of errors at `points`, up to the size of the scores."""
        near = self._near(points)
        own = _matern(_distance(points, points), self.length).double() - near @ self.inverse @ near.T
        return own + self.ridge * torch.eye(len(own), dtype=own.dtype, device=own.device)


def regress(known: Float[Tensor, "known cell"], values: Float[Tensor, "question known"]) -> Regression:
    """Learn `values` at `known`, with the length and ridge that give the smallest left-out error.

    That error has a closed form: with `C = (K + ridge)^-1` it is `(C y)_i / C_ii`.
    """
    mean, spread = values.mean(1, keepdim=True), values.std(1, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)
    target = ((values - mean) / spread).T.double()
    between = _distance(known, known)
    apart = between[between > 0]
    typical = float(apart.median()) if len(apart) else 1.0
    found = []
    for length in (typical / 2, typical, 2 * typical, 4 * typical):
        kernel = _matern(between, length).double()
        for ridge in (1e-3, 1e-2, 3e-2, 1e-1, 3e-1):
            inverse = torch.linalg.inv(
                kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
            )
            left_out = (inverse @ target / inverse.diagonal()[:, None]).T
            found.append((float(left_out.square().mean()), length, ridge, inverse, left_out))
    _, length, ridge, inverse, left_out = min(found, key=lambda one: one[0])
    in_units = (left_out * spread).to(values.dtype)
    return Regression(known, length, ridge, inverse, inverse @ target, in_units, mean, spread)


def _distance(a: Float[Tensor, "a cell"], b: Float[Tensor, "b cell"]) -> Float[Tensor, "a b"]:
    """Return distances from differences: by products, as is the default, a point would not be at 0 from itself."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _matern(distance: Tensor, length: float) -> Tensor:
    scaled = math.sqrt(3) * distance / length
    return (1 + scaled) * torch.exp(-scaled)


def _estimate_correlation(found: Predicted, cells: Float[Tensor, "channel height width"]) -> list[float]:
    """Return per question the mean correlation of its map with the maps of the scores that are possible."""
    weights = torch.cat([found.scores[None], found.possible]).softmax(2).to(cells.dtype)
    maps = (weights @ cells.flatten(1)).relu()
    maps = maps - maps.mean(2, keepdim=True)
    maps = maps / maps.norm(dim=2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return [round(float(r), 4) for r in torch.einsum("dqp,qp->dq", maps[1:], maps[0]).mean(0)]
