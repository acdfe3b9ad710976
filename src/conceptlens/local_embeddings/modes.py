"""Fits of vectors to masks, in batches of bounded memory: a published one, a convex one, and means without a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.problem import FitProblem, best_bias, overlap
from conceptlens.local_embeddings.quasi_newton import minimize

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Mode = Literal["paper", "exact", "mean_difference", "mean"]

# Ridge of `exact` for each channel: chosen on train photos, by retrieval and transfer first.
RIDGE = 0.03
# Bytes of cells in one batch of fits, which fit a processor's cache; they are stored twice, in two orders.
BATCH_BYTES = 4 * 2**20
# AdamW of the published code.
N_STEPS, LEARNING_RATE, WEIGHT_DECAY = 50, 0.1, 0.01
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class FitSettings:
    """Mode of an embedding and its parameters.

    Args:
        mode: `paper`, `exact`, `mean_difference` or `mean` (see `fit`).
        ridge: Ridge penalty of `exact`; None takes 0.03 for each channel, since a cell's square length grows with
            their number. A smaller one follows the mask more closely, and its vectors transfer less to other images.
        bias: Whether the map has a constant. In `exact` it is fitted with the vector and not penalised; without it
            the vector also encodes what all cells share. In `mean_difference` and `mean` it is the threshold of
            highest IoU with the own mask, and changes no vector.

    Raises:
        InputError: The mode is unknown, the ridge is not a number above 0, or the mode has none.
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
        if self.ridge is not None and self.mode != "exact":
            raise InputError(f"a ridge was given for mode {self.mode}; only exact has one: leave it out")


@dataclass(frozen=True, eq=False)
class FittedVectors:
    """Vectors with their losses.

    Attributes:
        vectors: In the units of the cells; `sum_c v_c A_c + bias > 0` draws the mask.
        bias: Constant that is added to each map.
        loss: Mean loss of a pixel. Modes have different losses: compare within one.
        converged: Whether the gradient is small enough. `paper` always takes fifty steps; there it means that the map
            overlaps with its mask, as published.
        iou: Intersection over union with the own mask on 100 x 100 pixels, 0 to 1.
    """

    vectors: Float[Tensor, "fit channel"]
    bias: Float[Tensor, "fit"]
    loss: Float[Tensor, "fit"]
    converged: Bool[Tensor, "fit"]
    iou: Float[Tensor, "fit"]


def fit(problem: FitProblem, settings: FitSettings) -> FittedVectors:
    """Fit one vector for each pair of cells and mask.

    With `z = sum_c v_c A_c` enlarged to 100 x 100, `p = sigmoid(z)`, the soft mask `t`, and the class balance
    `alpha`, `beta` of the mask:

    - `paper`: minimize `-sum(alpha t p + beta (1 - t)(1 - p))` by fifty steps of AdamW from zero. (LoCE, IJCV 2025)
      It has no minimum at finite `v`: the steps decide, and so does the scale of the activations.
    - `exact`: minimize the cross-entropy of `sigmoid(z + b)` with the same balance, as weights that sum to 1, plus
      `ridge / 2 |v|^2`, over `v` and `b` together, to a gradient tolerance. One minimum.
    - `mean_difference`: the mean of the cells under the mask less the mean of the rest. No loss is minimised.
    - `mean`: the mean of the cells under the mask.

    All but `paper` expect cells in units of their channels' root mean square (`FitProblem.scaled`).

    Args:
        problem: Cells with their masks.
        settings: Mode, ridge and bias.

    Returns:
        A vector for each pair, with its loss and its IoU.
    """
    return FITS[settings.mode](problem, settings)


def _paper(problem: FitProblem, _settings: FitSettings) -> FittedVectors:
    vectors = _adamw(problem)
    maps = problem.project(vectors)
    inside, outside = problem.shares
    probability = maps.sigmoid()
    loss = -(inside * probability + outside * (1 - probability)).mean((1, 2))
    iou = overlap(maps, problem.truth)
    return FittedVectors(vectors, torch.zeros_like(loss), loss, iou > 0, iou)


def _adamw(problem: FitProblem) -> Float[Tensor, "fit channel"]:
    """Return fifty steps of `torch.optim.AdamW(lr=0.1)` from zero, by the gradient in closed form."""
    vectors = problem.flat.new_zeros(problem.flat.shape[:2])
    mean, square = torch.zeros_like(vectors), torch.zeros_like(vectors)
    for step in range(1, N_STEPS + 1):
        probability = problem.project(vectors).sigmoid_()
        slope = probability * (1 - probability) * problem.balance
        gradient = -problem.collect(slope)
        mean.lerp_(gradient, 1 - BETA_1)
        square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        root = (square.sqrt() / (1 - BETA_2**step) ** 0.5).add_(EPSILON)
        vectors.mul_(1 - LEARNING_RATE * WEIGHT_DECAY).addcdiv_(mean, root, value=-LEARNING_RATE / (1 - BETA_1**step))
    return vectors


def _exact(problem: FitProblem, settings: FitSettings) -> FittedVectors:
    ridge = settings.ridge or RIDGE * problem.cells.shape[1]
    vectors, bias, converged = minimize(problem, _loss_and_slope, ridge, settings.bias)
    maps = problem.project(vectors) + bias[:, None, None]
    return FittedVectors(vectors, bias, _loss(problem, maps), converged, overlap(maps, problem.truth))


def _loss(problem: FitProblem, maps: Float[Tensor, "fit 100 100"]) -> Float[Tensor, "fit"]:
    """Return the weighted cross-entropy of `sigmoid(maps)` with the mask."""
    inside, _ = problem.weights
    cost = torch.linalg.vecdot(problem.importance.flatten(1), torch.nn.functional.softplus(maps).flatten(1))
    return cost - torch.linalg.vecdot(inside.flatten(1), maps.flatten(1))


def _loss_and_slope(problem: FitProblem, maps: Tensor) -> tuple[Tensor, Tensor]:
    slope = maps.sigmoid().mul_(problem.importance).sub_(problem.weights[0])
    return _loss(problem, maps), slope


def _mean_difference(problem: FitProblem, settings: FitSettings) -> FittedVectors:
    concept, rest = _mean_cells(problem, problem.inside, 1 - problem.inside)
    return _unfitted(problem, settings, concept - rest)


def _mean(problem: FitProblem, settings: FitSettings) -> FittedVectors:
    (concept,) = _mean_cells(problem, problem.inside)
    return _unfitted(problem, settings, concept)


def _unfitted(problem: FitProblem, settings: FitSettings, vectors: Float[Tensor, "fit channel"]) -> FittedVectors:
    maps = problem.project(vectors)
    bias = best_bias(maps, problem.truth) if settings.bias else maps.new_zeros(len(maps))
    maps = maps + bias[:, None, None]
    iou = overlap(maps, problem.truth)
    return FittedVectors(vectors, bias, _loss(problem, maps), torch.ones_like(iou, dtype=torch.bool), iou)


def _mean_cells(problem: FitProblem, *shares: Float[Tensor, "fit cell"]) -> tuple[Float[Tensor, "fit channel"], ...]:
    """Return the mean of the cells by each of these shares of them; zero where there is none."""
    weights = torch.stack(shares, 1)
    total = weights.sum(2, keepdim=True)
    return ((weights @ problem.flat.transpose(1, 2)) / total.clamp_min(1e-6)).unbind(1)


FITS: dict[str, Callable[[FitProblem, FitSettings], FittedVectors]] = {
    "paper": _paper,
    "exact": _exact,
    "mean_difference": _mean_difference,
    "mean": _mean,
}


def embed_masks(
    cells: Float[Tensor, "image channel height width"],
    of: Int[Tensor, "mask"],
    truth: Float[Tensor, "mask 100 100"],
    settings: FitSettings,
    scale: Float[Tensor, "channel"],
) -> FittedVectors:
    """Return the embedding of each mask.

    Args:
        cells: Features of one layer, of any float type; the computation is float32.
        of: Index of the image that each mask belongs to.
        truth: Soft masks, 0 to 1 (`soft_masks`).
        settings: Mode and its parameters.
        scale: Unit of each channel, by which cells are divided; mode `paper` takes raw cells.

    Returns:
        The vectors, to be compared by cosine: in units of each channel's scale, or for raw cells in mode `paper`, as
        published. Where a cell is not finite, a mask is empty or covers everything, or all cells are 0, the vector is
        0 and `converged` is False.
    """
    unit = torch.where(scale > 0, scale, 1.0).float()
    of = of.to(cells.device)
    sound = _sound(cells)
    ready = torch.where(sound[:, None, None, None], cells, 0.0).float() if not sound.all() else cells.float()
    ready = ready if settings.mode == "paper" else ready / unit[:, None, None]
    size = cells[0].numel() * 4
    parts = [
        _embedded(ready[of[rows]], truth[rows], sound[of[rows]], settings)
        for rows in torch.arange(len(of), device=cells.device).split(max(1, BATCH_BYTES // max(1, size)))
    ]
    names = FittedVectors.__dataclass_fields__
    return FittedVectors(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def channel_weights(
    vectors: Float[Tensor, "mask channel"], settings: FitSettings, scale: Float[Tensor, "channel"]
) -> Float[Tensor, "mask channel"]:
    """Return the weights of a map of raw cells: the vectors over `scale`, in mode `paper` the vectors themselves.

    Args:
        vectors: Of `embed_masks`.
        settings: Their mode.
        scale: Unit of each channel, as `embed_masks` took it.
    """
    return vectors if settings.mode == "paper" else vectors / torch.where(scale > 0, scale, 1.0).float()


def channel_scale(cells: Float[Tensor, "image channel height width"]) -> Float[Tensor, "channel"]:
    """Return the root mean square of each channel over images and cells, 1 for a channel that is always 0."""
    found = cells.float().square().mean((0, 2, 3)).sqrt()
    return torch.where(found > 0, found, 1.0)


def _sound(cells: Float[Tensor, "image channel height width"]) -> Bool[Tensor, "image"]:
    """Return which images have cells that are all finite and not all 0."""
    low, high = cells.flatten(1).aminmax(dim=1)  # NaN where one cell is
    return low.isfinite() & high.isfinite() & ((low != 0) | (high != 0))


def _embedded(cells: Tensor, truth: Tensor, sound: Tensor, settings: FitSettings) -> FittedVectors:
    low, high = truth.flatten(1).aminmax(dim=1)
    valid = sound & (high > 0) & (low < 1)  # neither empty nor full masks
    found = fit(FitProblem(cells, truth), settings)
    return replace(
        found,
        vectors=torch.where(valid[:, None], found.vectors, 0.0),
        bias=torch.where(valid, found.bias, 0.0),
        converged=found.converged & valid,
        iou=torch.where(valid, found.iou, 0.0),
    )
