"""Score-CAM from a few masked images: ask the channels that matter, predict the others, say how near that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.asking import TINY, masked_scores, precise, score_cam
from conceptlens.error import InputError
from conceptlens.observe import Observation
from conceptlens.target import Question

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Weights = Float[Tensor, "image question channel 1 1"]

# How many possible maps stand behind an estimated correlation.
DRAWS = 64


@dataclass(frozen=True)
class Predicted:
    """Scores of all channels of one image, `asked` or predicted, and the errors of prediction where that was judged."""

    scores: Float[Tensor, "question channel"]
    asked: Bool[Tensor, "channel"]
    errors: Float[Tensor, "question judge"]


def score_cam_fast(
    seen: Observation,
    questions: Sequence[Question],
    layer: str,
    least: int = 64,
    share: float = 1 / 16,
    judges: int = 16,
) -> tuple[Weights, dict[str, object]]:
    """Score-CAM from `max(least, share * channels)` masked images, and how near it is to the exact one.

    - `judges` channels, drawn at random, are asked only to judge the prediction of the others.
    - Half of the rest are spread over the masks: farthest first, distance times the channel's norm.
    - A kernel regression from mask to score predicts the others, and the other half goes to the channels with the
      largest predicted part in any question's map.
    - The scores of what was asked, and the predicted ones of the rest, enter `score_cam`'s softmax.

    The second value is kept in `Explanation.source.settings`: how many channels were asked, and per image and question
    an `estimated_correlation` of the map with the exact one. With no more channels than `least`, it is the exact one.
    """
    if judges < 1 or least - judges < 4:
        raise InputError(
            f"{judges} of {least} channels would judge the others; expected 1 or more, and 4 others to learn from"
        )
    features = precise(seen.feature(layer))
    channels = features.shape[1]
    budget = max(least, int(share * channels))
    if budget >= channels:
        return score_cam(seen, questions, layer), {"channels": channels, "channels_asked": channels}
    weights, estimates = [], []
    for image, cells in enumerate(features):
        found = _predict(seen, questions, cells, image, budget - judges, judges)
        weights.append(found.scores.softmax(1))
        estimates.append([_estimate_correlation(found, q, cells) for q in range(len(questions))])
    notes = {"channels": channels, "channels_asked": budget, "estimated_correlation": estimates}
    return torch.stack(weights)[..., None, None], notes


def _predict(
    seen: Observation, questions: Sequence[Question], cells: Tensor, image: int, budget: int, judges: int
) -> Predicted:
    masks = cells.flatten(1) - cells.flatten(1).amin(1, keepdim=True)
    masks = masks / (masks.amax(1, keepdim=True) + TINY)
    size = cells.flatten(1).norm(dim=1)
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0)).to(cells.device)
    judging, others = order[:judges], order[judges:]

    first = others[_farthest(masks[others], size[others], budget // 2)]
    known = masked_scores(seen, questions, cells, image, first)
    part = regress(masks[first], known, masks).log_softmax(1) + size.clamp_min(torch.finfo(size.dtype).tiny).log()
    part = (part - part.logsumexp(1, keepdim=True)).amax(0)
    part[torch.cat([first, judging])] = -math.inf
    second = part.topk(budget - len(first)).indices
    known = torch.cat([known, masked_scores(seen, questions, cells, image, second)], dim=1)

    chosen = torch.cat([first, second])
    scores = regress(masks[chosen], known, masks)
    truth = masked_scores(seen, questions, cells, image, judging)
    errors = truth - scores[:, judging]
    scores[:, torch.cat([chosen, judging])] = torch.cat([known, truth], dim=1)
    asked = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    asked[torch.cat([chosen, judging])] = True
    return Predicted(scores, asked, errors)


def _farthest(points: Float[Tensor, "point place"], size: Float[Tensor, "point"], count: int) -> Int[Tensor, "count"]:
    """Return `count` points, each the one with the largest `size * distance to the nearest chosen`."""
    chosen = [int(size.argmax())]
    nearest = torch.cdist(points, points[chosen])[:, 0]
    while len(chosen) < count:
        value = nearest * size
        value[chosen] = -1
        chosen.append(int(value.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(points, points[chosen[-1:]])[:, 0])
    return torch.tensor(chosen, device=points.device)


def regress(
    known: Float[Tensor, "known place"], values: Float[Tensor, "question known"], points: Float[Tensor, "point place"]
) -> Float[Tensor, "question point"]:
    """Predict `values` at `points` by kernel ridge regression with a Matérn kernel of smoothness 3/2.

    Its length and its ridge are those with the smallest leave-one-out error, which has a closed form: with
    `C = (K + ridge)^-1`, the error at `i` is `(C y)_i / C_ii`.
    """
    mean, spread = values.mean(1, keepdim=True), values.std(1, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)
    target = ((values - mean) / spread).T.double()
    between = torch.cdist(known, known)
    apart = between[between > 0]
    typical = float(apart.median()) if len(apart) else 1.0
    best, length, solution = math.inf, typical, torch.zeros_like(target)
    for factor in (0.5, 1.0, 2.0, 4.0):
        kernel = _matern(between, factor * typical).double()
        for ridge in (1e-3, 1e-2, 3e-2, 1e-1, 3e-1):
            inverse = torch.linalg.inv(
                kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
            )
            error = float(((inverse @ target) / inverse.diagonal()[:, None]).square().mean())
            if error < best:
                best, length, solution = error, factor * typical, inverse @ target
    return (_matern(torch.cdist(points, known), length).double() @ solution).T.to(values.dtype) * spread + mean


def _matern(distance: Tensor, length: float) -> Tensor:
    scaled = math.sqrt(3) * distance / length
    return (1 + scaled) * torch.exp(-scaled)


def _estimate_correlation(found: Predicted, question: int, cells: Tensor) -> float:
    """Return the mean correlation of the map with maps whose predicted scores are off by errors that were seen."""
    scores, errors = found.scores[question], found.errors[question]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(errors), (DRAWS, len(scores)), generator=generator).to(scores.device)
    possible = torch.where(found.asked, scores, scores + errors[drawn])
    weights = torch.cat([scores[None], possible]).softmax(1).to(cells.dtype)
    maps = (weights @ cells.flatten(1)).relu()
    maps = maps - maps.mean(1, keepdim=True)
    maps = maps / maps.norm(dim=1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return round(float((maps[1:] @ maps[0]).mean()), 4)
