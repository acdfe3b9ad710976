"""Ways to get a concept's vector from one image: the published one, a well-posed one, and two without fitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.problem import Problem, best_bias, overlap
from conceptlens.local_embeddings.quasi_newton import minimise

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Mode = Literal["paper", "exact", "contrast", "mean"]

# Of `exact`, for each channel: chosen on train photos, by retrieval and transfer first.
RIDGE = 0.03
STEPS = 50
RATE, DECAY = 0.1, 0.01
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Setting:
    """How vectors are fitted.

    - `mode`: `paper`, `exact`, `contrast` or `mean` (see `fit`).
    - `ridge`: of `exact`; by default 0.03 for each channel, since that is what a cell's square length grows with. A
      small one follows the one mask more closely, and its vectors carry less to other images.
    - `bias`: whether there is a constant. In `exact` it is fitted with the vector and not penalised: without it the
      vector has to hold what every cell shares, and means less. In `contrast` and `mean` it is the threshold at
      which the map overlaps most with its own mask, and changes no vector.
    """

    mode: Mode = "paper"
    ridge: float | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is '{self.mode}'; expected {', '.join(get_args(Mode))}")
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise InputError(f"ridge is {self.ridge}; expected a number above 0, or none for the default")


@dataclass(frozen=True, eq=False)
class Fitted:
    """Vectors and what each is worth.

    - `vectors[fit channel]`, in the units of the cells that were given; `bias[fit]`: what its map is shifted by.
    - `loss[fit]`: the mean loss of a pixel. Modes have different losses: compare within one.
    - `converged[fit]`: whether the gradient is small enough; `paper` stops after fifty steps whatever it is, and
      converged means there that its mask is not empty, as published.
    - `iou[fit]`: with its own mask, on 100 x 100. It measures what a vector can fit, not what it means.
    """

    vectors: Float[Tensor, "fit channel"]
    bias: Float[Tensor, "fit"]
    loss: Float[Tensor, "fit"]
    converged: Bool[Tensor, "fit"]
    iou: Float[Tensor, "fit"]


def fit(problem: Problem, setting: Setting) -> Fitted:
    """Return one vector for each cells and mask of `problem`.

    With `z = sum_c v_c A_c` enlarged to 100 x 100, `p = sigmoid(z)`, the soft mask `t`, and the class balance
    `alpha`, `beta` of the mask:

    - `paper`: minimise `-sum(alpha t p + beta (1 - t)(1 - p))` by fifty steps of AdamW from zero. (LoCE, IJCV 2025)
      It has no minimum at finite `v`: the steps decide, and so does the scale of the activations.
    - `exact`: minimise the cross-entropy of `sigmoid(z + b)` with the same balance, as weights that sum to 1, plus
      `ridge / 2 |v|^2`, over `v` and `b` together, to a gradient tolerance. One minimum.
    - `contrast`: the mean of the concept's cells less the mean of the rest. No loss is minimised.
    - `mean`: the mean of the concept's cells alone: what is there, and not what sets it apart.

    All but `paper` expect cells in units of their channels' root mean square (`Problem.scaled`).
    """
    return FITS[setting.mode](problem, setting)


def _paper(problem: Problem, _setting: Setting) -> Fitted:
    vectors = _adamw(problem)
    maps = problem.project(vectors)
    inside, outside = problem.shares
    probability = maps.sigmoid()
    loss = -(inside * probability + outside * (1 - probability)).mean((1, 2))
    iou = overlap(maps, problem.truth)
    return Fitted(vectors, torch.zeros_like(loss), loss, iou > 0, iou)


def fit_shared(problem: Problem) -> Float[Tensor, "channel"]:
    """Return the one vector for all cells and masks of `problem` by the published objective, as Net2Vec has it.

    The global vector that generalised embeddings are held against: `paper` with the mean of all gradients at every
    step. (Net2Vec, CVPR 2018, eq. 2, with LoCE's loss and optimiser)
    """
    return _adamw(problem, shared=True)[0]


def _adamw(problem: Problem, shared: bool = False) -> Float[Tensor, "fit channel"]:
    """Return fifty steps of `torch.optim.AdamW(lr=0.1)` from zero, by the gradient in closed form."""
    fits, channels = problem.flat.shape[:2]
    vectors = problem.flat.new_zeros(1 if shared else fits, channels)
    mean, square = torch.zeros_like(vectors), torch.zeros_like(vectors)
    for step in range(1, STEPS + 1):
        probability = problem.project(vectors.expand(fits, -1)).sigmoid_()
        slope = probability * (1 - probability) * problem.balance
        gradient = -problem.collect(slope)
        gradient = gradient.mean(0, keepdim=True) if shared else gradient
        mean.lerp_(gradient, 1 - FIRST)
        square.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        root = (square.sqrt() / (1 - SECOND**step) ** 0.5).add_(TINY)
        vectors.mul_(1 - RATE * DECAY).addcdiv_(mean, root, value=-RATE / (1 - FIRST**step))
    return vectors


def _exact(problem: Problem, setting: Setting) -> Fitted:
    found = minimise(problem, _loss_and_slope, setting.ridge or RIDGE * problem.cells.shape[1], setting.bias)
    maps = problem.project(found.vectors) + found.bias[:, None, None]
    return Fitted(found.vectors, found.bias, _loss(problem, maps), found.converged, overlap(maps, problem.truth))


def _loss(problem: Problem, maps: Float[Tensor, "fit 100 100"]) -> Float[Tensor, "fit"]:
    """Return the weighted cross-entropy of `sigmoid(maps)` with the mask."""
    inside, _ = problem.weights
    cost = torch.linalg.vecdot(problem.importance.flatten(1), torch.nn.functional.softplus(maps).flatten(1))
    return cost - torch.linalg.vecdot(inside.flatten(1), maps.flatten(1))


def _loss_and_slope(problem: Problem, maps: Tensor) -> tuple[Tensor, Tensor]:
    slope = maps.sigmoid().mul_(problem.importance).sub_(problem.weights[0])
    return _loss(problem, maps), slope


def _contrast(problem: Problem, setting: Setting) -> Fitted:
    concept, rest = _mean_cells(problem, problem.inside, 1 - problem.inside)
    return _unfitted(problem, setting, concept - rest)


def _mean(problem: Problem, setting: Setting) -> Fitted:
    (concept,) = _mean_cells(problem, problem.inside)
    return _unfitted(problem, setting, concept)


def _unfitted(problem: Problem, setting: Setting, vectors: Float[Tensor, "fit channel"]) -> Fitted:
    maps = problem.project(vectors)
    bias = best_bias(maps, problem.truth) if setting.bias else maps.new_zeros(len(maps))
    maps = maps + bias[:, None, None]
    iou = overlap(maps, problem.truth)
    return Fitted(vectors, bias, _loss(problem, maps), torch.ones_like(iou, dtype=torch.bool), iou)


def _mean_cells(problem: Problem, *shares: Float[Tensor, "fit cell"]) -> tuple[Float[Tensor, "fit channel"], ...]:
    """Return the mean of the cells by each of these shares of them; zero where there is none."""
    weights = torch.stack(shares, 1)
    total = weights.sum(2, keepdim=True)
    return ((weights @ problem.flat.transpose(1, 2)) / total.clamp_min(1e-6)).unbind(1)


FITS: dict[str, Callable[[Problem, Setting], Fitted]] = {
    "paper": _paper,
    "exact": _exact,
    "contrast": _contrast,
    "mean": _mean,
}
