"""Proximal Newton steps to the minimum of cross-entropy and penalty, one block for each class, all classes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.blocks import Blocks, descend, movable, no_blocks, refreshed
from conceptlens.bottleneck.sparse.certificate import Certificate, Penalty, certify
from conceptlens.bottleneck.sparse.standardized_rows import LossGradient, StandardizedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# Steps after which the curvature of every class is read anew.
REFRESH = 8
# A step must lower the objective by this share of what its model promised.
KEPT = 0.25
# Rounding in an objective, as a share of it.
ROUNDING = 1e-15
# Steps in a row that gain no more than that, after which nothing is to be gained.
IDLE = 10
STIFFEST = 2.0**40
# Steps from which one extrapolation is made.
REMEMBERED = 8


@dataclass(frozen=True, eq=False)
class SolverState:
    """The state of a minimisation: a point with its slope, the blocks, and for how many steps these were kept.

    `stiffness` is what the blocks' curvature is multiplied with. Of a support, the slope outside it is 0.
    """

    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]
    slope: LossGradient
    blocks: Blocks
    age: int = REFRESH
    stiffness: float = 1.0

    def objective(self, penalty: Penalty) -> float:
        """Return cross-entropy and penalty."""
        return float(self.slope.loss + penalty.of(self.weights))


def begin(rows: StandardizedRows, support: Tensor | None = None) -> SolverState:
    """Return the state at weights 0 and the best bias."""
    return SolverState(torch.zeros_like(rows.null.weights), rows.prior, _within(rows.null, support), no_blocks(rows))


def minimise(
    rows: StandardizedRows,
    penalty: Penalty,
    state: SolverState,
    support: Bool[Tensor, "class concept"] | None,
    goal: float,
    max_steps: int,
) -> tuple[SolverState, Certificate, int]:
    """Step until the duality gap is at most `goal`, nothing is gained any more, or `max_steps` steps were tried.

    Returns the last state, its certificate, and the number of steps that were tried.

    At each step every class minimises its own quadratic model plus penalty over its movable weights and its bias, with
    the second derivatives `mean p (1 - p) x x'` of one of the last `REFRESH` steps. Classes know nothing of one another
    in it. Three things make up for that:

    - Where together they overshoot, blocks are stiffened until the objective falls by enough. Near the minimum twice
      the curvature does, since `diag(p) - p p'` is at most `2 diag(p (1 - p))` (Gershgorin).
    - What a concept adds to all classes alike changes no probability: it is chosen in closed form after each step.
    - After every `REMEMBERED` steps their Anderson extrapolation is taken if it is lower (as Bertrand & Massias,
      AISTATS 2021, for coordinate descent).

    What is returned is the outcome of a step, so its zeros are exact.
    """
    small, steps, idle, trail = 0.3 * goal, 0, 0, [state]
    while steps < max_steps:
        before = state.objective(penalty)
        state, tried = _step(rows, penalty, _with_blocks(rows, penalty, state), support)
        steps += tried
        gained = before - state.objective(penalty)
        idle = idle + 1 if gained <= ROUNDING * before else 0
        if gained <= small:
            certificate = certify(rows, state.weights, state.bias, penalty, support)
            if certificate.gap <= goal or idle >= IDLE:
                return state, certificate, steps
            small *= 0.1
        trail.append(state)
        if len(trail) > REMEMBERED and steps < max_steps:
            there = _extrapolate(rows, trail, support)
            state = there if there.objective(penalty) < state.objective(penalty) else state
            trail = [state]
    return state, certify(rows, state.weights, state.bias, penalty, support), steps


def _extrapolate(rows: StandardizedRows, trail: list[SolverState], support: Tensor | None) -> SolverState:
    """Return the mean of the trail whose next change would be least, changes being linear; zeros and signs are kept."""
    points = torch.stack([torch.cat([state.weights, state.bias[:, None]], 1) for state in trail])
    changes = (points[1:] - points[:-1]).flatten(1)
    products = changes @ changes.T
    products.diagonal().add_(1e-12 * products.diagonal().sum() + 1e-300)
    shares = torch.linalg.solve(products, products.new_ones(len(products)))
    point = torch.einsum("s,sck->ck", shares / shares.sum(), points[1:])
    last = trail[-1]
    weights = torch.where(point[:, :-1] * last.weights > 0, point[:, :-1], 0.0)
    bias = point[:, -1].contiguous()
    return replace(last, weights=weights, bias=bias, slope=_within(rows.slope(weights, bias), support))


def _with_blocks(rows: StandardizedRows, penalty: Penalty, state: SolverState) -> SolverState:
    """Return the state with blocks that hold every movable weight, and are not too old."""
    members = movable(state.weights, penalty.violation(state.weights, state.slope.weights))
    old = state.age >= REFRESH
    stale = (members & ~state.blocks.members).any(1) | old
    if not stale.any():
        return state
    blocks = refreshed(state.blocks, rows, state.weights, state.bias, members, stale)
    return replace(state, blocks=blocks, age=0 if bool(stale.all()) else state.age)


def _step(
    rows: StandardizedRows, penalty: Penalty, state: SolverState, support: Tensor | None
) -> tuple[SolverState, int]:
    """Return the state after one step, and how often it was tried."""
    blocks, stiffness, tried = state.blocks, state.stiffness, 0
    slope = blocks.gather(state.slope.weights, state.slope.bias)
    start = blocks.gather(state.weights, state.bias)
    before = state.objective(penalty)
    while stiffness < STIFFEST:
        slots, bent = descend(blocks.curvature, stiffness, slope, start, penalty.lasso, penalty.ridge)
        weights, bias = blocks.scatter(slots, state.weights, state.bias)
        there = replace(state, weights=weights, bias=bias, slope=_within(rows.slope(weights, bias), support))
        tried += 1
        moved = slots - start
        promised = (slope * moved).sum() + (bent * moved).sum() / 2 + penalty.of(weights) - penalty.of(state.weights)
        if there.objective(penalty) <= before + KEPT * float(promised) + ROUNDING * before:
            weights = without_common_shift(weights, penalty, support)
            return replace(there, weights=weights, age=state.age + 1, stiffness=max(1.0, 0.7 * stiffness)), tried
        stiffness *= 2
    return replace(state, age=REFRESH, stiffness=1.0), tried


def without_common_shift(weights: Tensor, penalty: Penalty, support: Tensor | None) -> Tensor:
    """Return weights less, for each concept, what makes their penalty least when it is taken off every class's.

    The minimum over t of `lasso sum |w_c - t| + ridge / 2 sum (w_c - t)^2` is the median of all w and of
    `mean + lasso (C - 2i) / (ridge C)`, i = 0 to C. Of a lasso alone every median of w is one; the nearest to 0 counts.
    """
    count = len(weights)
    if penalty.ridge > 0:
        steps = torch.arange(count, -count - 1, -2, device=weights.device) * (penalty.lasso / (penalty.ridge * count))
        points = torch.cat([weights, weights.mean(0) + steps[:, None]])
        level = points.sort(0).values[count]
    else:
        ordered = weights.sort(0).values
        level = torch.zeros_like(ordered[0]).clamp(ordered[(count - 1) // 2], ordered[count // 2])
    if support is not None:
        level = torch.where(support.all(0), level, 0.0)
    return weights - level


def _within(slope: LossGradient, support: Tensor | None) -> LossGradient:
    return slope if support is None else replace(slope, weights=torch.where(support, slope.weights, 0.0))
