"""Many small strictly convex problems at once: L-BFGS with a step of its own for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from conceptlens.local_embeddings.problem import FitProblem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# From a problem and maps `[fit 100 100]` of its fits to each one's loss and its slope at every pixel.
LossAndSlope: TypeAlias = Callable[[FitProblem, Tensor], tuple[Tensor, Tensor]]

MEMORY = 4
MAX_STEPS = 200
MAX_HALVINGS = 20
TOLERANCE = 1e-3
DESCENT = 1e-4


def minimize(
    problem: FitProblem, loss_and_slope: LossAndSlope, ridge: float, bias: bool
) -> tuple[Float[Tensor, "fit channel"], Float[Tensor, "fit"], Bool[Tensor, "fit"]]:
    """Minimise `loss(maps of v + b) + ridge / 2 |v|^2` for every fit of `problem`, from zero; without `bias`, b = 0.

    A quarter of a pixel's importance bounds the curvature of its loss. With a bias, cells are taken
    about their mean by importance, which changes `b` alone and makes the problem rounder. Each fit has a step of its
    own, and its result is where it first converged, whatever the others need.
    """
    fits, channels = problem.flat.shape[:2]
    centre = problem.collect(problem.importance) if bias else None
    objective = _Objective(problem, loss_and_slope, ridge, centre)
    found = problem.flat.new_zeros(fits, channels + bias)  # the constant comes last
    converged = torch.zeros(fits, dtype=torch.bool, device=found.device)
    rows = torch.arange(fits, device=found.device)
    point, memory = found.clone(), _Memory(1 / (ridge + _spread(problem, centre) / 4))
    value, gradient = objective.at_zero()
    goal = TOLERANCE * gradient.norm(dim=1)
    for _ in range(MAX_STEPS):
        done = gradient.norm(dim=1) <= goal
        if bool((done & ~converged[rows]).any()):
            found[rows] = torch.where(converged[rows, None], found[rows], point)
            converged[rows] |= done
        if done.all():
            break
        if 2 * int(done.sum()) >= len(done):  # leaving some out copies the cells of the others
            left = ~done
            rows, point, value, gradient, goal = rows[left], point[left], value[left], gradient[left], goal[left]
            objective, memory = objective.pick(left), memory.pick(left)
        direction = memory.direction(gradient)
        step, value, new_gradient, moved = _search(objective, point, value, gradient, direction)
        change = step[:, None] * direction
        memory.remember(change, new_gradient - gradient)
        point, gradient = point + change, new_gradient
        if not moved.any():
            break
    found[rows] = torch.where(converged[rows, None], found[rows], point)
    vectors = found[:, :channels]
    constant = found.new_zeros(fits) if centre is None else found[:, channels] - (vectors * centre).sum(1)
    return vectors, constant, converged


@dataclass(frozen=True, eq=False)
class _Objective:
    """The objective, at points `[fit channel]`, or `[fit channel+1]` where cells are taken about a `centre`."""

    problem: FitProblem
    loss_and_slope: LossAndSlope
    ridge: float
    centre: Float[Tensor, "fit channel"] | None

    def __call__(self, point: Tensor) -> tuple[Float[Tensor, "fit"], Tensor]:
        channels = self.problem.flat.shape[1]
        vectors = point[:, :channels]
        maps = self.problem.project(vectors)
        if self.centre is not None:
            maps += (point[:, channels] - (vectors * self.centre).sum(1))[:, None, None]
        loss, gradient = self._of_maps(maps)
        gradient[:, :channels] += self.ridge * vectors
        return loss + self.ridge / 2 * (vectors**2).sum(1), gradient

    def at_zero(self) -> tuple[Float[Tensor, "fit"], Tensor]:
        """Return the same at vectors of zeros, whose maps need no cells."""
        return self._of_maps(torch.zeros_like(self.problem.importance))

    def _of_maps(self, maps: Tensor) -> tuple[Float[Tensor, "fit"], Tensor]:
        """Return loss and gradient of maps, without the ridge."""
        loss, slope = self.loss_and_slope(self.problem, maps)
        gradient = self.problem.collect(slope)
        if self.centre is None:
            return loss, gradient
        steep = slope.sum((1, 2))[:, None]
        return loss, torch.cat([gradient - steep * self.centre, steep], dim=1)

    def pick(self, rows: Tensor) -> _Objective:
        """Return that of some of the fits."""
        centre = None if self.centre is None else self.centre[rows]
        return _Objective(self.problem.pick(rows), self.loss_and_slope, self.ridge, centre)


def _spread(problem: FitProblem, centre: Tensor | None) -> Float[Tensor, "fit"]:
    """Return the mean square length of cells about their centre: no direction has more than it."""
    lengths = torch.linalg.vector_norm(problem.turned, dim=2)
    square = (problem.onto_cells(problem.importance) * lengths.square()).sum(1)
    return square if centre is None else (square - centre.square().sum(1)).clamp_min(0)


def _search(
    objective: _Objective, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each fit a step that lowers its value enough, halved until it does; 0 where none does."""
    fall = (gradient * direction).sum(1)
    step = torch.ones_like(value)
    new_value, new_gradient = objective(point + direction)
    high = new_value > value + DESCENT * fall
    for _ in range(MAX_HALVINGS):
        if not high.any():
            break
        step[high] /= 2
        rows = high.nonzero()[:, 0]
        tried = point[rows] + step[rows, None] * direction[rows]
        new_value[rows], new_gradient[rows] = objective.pick(rows)(tried)
        high = new_value > value + DESCENT * step * fall
    step[high] = 0  # at the end of its precision
    new_value = torch.where(high, value, new_value)
    new_gradient = torch.where(high[:, None], gradient, new_gradient)
    return step, new_value, new_gradient, ~high


class _Memory:
    """The last changes of points and gradients, for L-BFGS's two-loop recursion.

    `scale[fit]` is how far a step goes for a gradient of 1.
    """

    def __init__(self, scale: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]] | None = None) -> None:
        self.scale = scale
        self.pairs = pairs or []

    def direction(self, gradient: Float[Tensor, "fit channel"]) -> Float[Tensor, "fit channel"]:
        """Return the search direction."""
        found, shares = gradient.clone(), []
        for change, turn, inverse in reversed(self.pairs):
            share = (inverse * torch.linalg.vecdot(change, found))[:, None]
            found.addcmul_(share, turn, value=-1)
            shares.append(share)
        found *= self.scale[:, None]
        for (change, turn, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            found.addcmul_(share - (inverse * torch.linalg.vecdot(turn, found))[:, None], change)
        return -found

    def remember(self, change: Tensor, turn: Tensor) -> None:
        """Keep one more pair, and forget the oldest."""
        bent = torch.linalg.vecdot(change, turn)
        known = bent > 1e-12
        inverse = torch.where(known, 1 / bent.clamp_min(1e-12), 0.0)
        self.scale = torch.where(known, bent / torch.linalg.vecdot(turn, turn).clamp_min(1e-30), self.scale)
        self.pairs = [*self.pairs[-MEMORY + 1 :], (change, turn, inverse)]

    def pick(self, rows: Tensor) -> _Memory:
        """Return the memory of some of the fits."""
        return _Memory(
            self.scale[rows], [(change[rows], turn[rows], inverse[rows]) for change, turn, inverse in self.pairs]
        )
