"""Score-CAM from a few masked images: ask the channels that matter, predict the others, say how near that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.asking import TINY, masked_scores, precise, varies
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
    least: int = 48,
    share: float = 1 / 16,
    judges: int = 12,
) -> tuple[Weights, dict[str, object]]:
    """Score-CAM from a few masked images, and how near it is to the exact one.

    Of the channels that are not the same everywhere, `max(least, share * channels)` are asked.

    - `judges` of them, drawn at random, serve only to judge the prediction of the others.
    - Half of the rest are spread over the masks: farthest first, distance times the channel's norm.
    - A kernel regression from mask to score predicts the others, and the other half goes to the channels with the
      largest predicted part in any question's map.
    - The scores of what was asked, and the predicted ones of the rest, enter `score_cam`'s softmax.

    The second value is kept in `Explanation.source.settings`: for each image how many channels there are and were
    asked, and per question an `estimated_correlation` of the map with the exact one (1 where all were asked).
    """
    if judges < 1 or least - judges < 4:
        raise InputError(
            f"{judges} of {least} channels would judge the others; expected 1 or more, and 4 others to learn from"
        )
    features = precise(seen.feature(layer))
    found = []
    for image, cells in enumerate(features):
        budget = max(least, int(share * int(varies(cells).sum())))
        found.append(_predict(seen, questions, cells, image, budget, judges))
    notes = {
        "channels": [len(cells) for cells in features],
        "channels_asked": [int(one.asked.sum()) for one in found],
        "estimated_correlation": [
            [_estimate_correlation(one, question, cells) for question in range(len(questions))]
            for one, cells in zip(found, features, strict=True)
        ],
    }
    return torch.stack([one.scores for one in found]).softmax(2)[..., None, None], notes


def _predict(
    seen: Observation, questions: Sequence[Question], cells: Tensor, image: int, budget: int, judges: int
) -> Predicted:
    """Ask `budget` channels that vary, `judges` of them to judge, and predict the others that vary."""
    ask = partial(masked_scores, seen, questions, cells, image)
    alive = varies(cells)
    if int(alive.sum()) <= budget:
        everything = torch.arange(len(cells), device=cells.device)
        scores = ask(everything)
        return Predicted(scores, torch.ones_like(alive), torch.zeros_like(scores[:, :1]))
    masks = cells.flatten(1) - cells.flatten(1).amin(1, keepdim=True)
    masks = masks / (masks.amax(1, keepdim=True) + TINY)
    size = cells.flatten(1).norm(dim=1)
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0)).to(cells.device)
    order = order[alive[order]]
    judging, others = order[:judges], order[judges:]

    first = others[_farthest(masks[others], size[others], (budget - judges) // 2)]
    known = ask(first)
    part = regress(masks[first], known, masks).log_softmax(1) + size.clamp_min(torch.finfo(size.dtype).tiny).log()
    part = (part - part.logsumexp(1, keepdim=True)).amax(0).masked_fill(~alive, -math.inf)
    part[torch.cat([first, judging])] = -math.inf
    second = part.topk(budget - judges - len(first)).indices
    known, chosen = torch.cat([known, ask(second)], dim=1), torch.cat([first, second])

    scores = regress(masks[chosen], known, masks)
    truth = ask(judging)
    errors = truth - scores[:, judging]
    done = torch.cat([chosen, judging, (~alive).nonzero()[:, 0]])
    scores[:, done] = torch.cat([known, truth, *([ask(done[budget:])] if len(done) > budget else [])], dim=1)
    asked = torch.zeros_like(alive).index_fill(0, done, True)
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
