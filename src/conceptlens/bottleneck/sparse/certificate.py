"""How near a given solution is to the best one: objective, duality gap, violation of the optimality conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.standardized_rows import LossGradient, StandardizedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# Bias residuals, as shares of the class's frequency, below which the biases count as balanced.
BALANCED = 1e-9
NEWTON_STEPS = 4


@dataclass(frozen=True)
class Penalty:
    """`strength (alpha |W|_1 + (1 - alpha) / 2 |W|^2)`, on the weights alone."""

    strength: float
    alpha: float

    @property
    def lasso(self) -> float:
        """What multiplies `|W|_1`."""
        return self.strength * self.alpha

    @property
    def ridge(self) -> float:
        """What multiplies `|W|^2 / 2`."""
        return self.strength * (1 - self.alpha)

    def of(self, weights: Tensor) -> Tensor:
        """Return the penalty of some weights."""
        return self.lasso * weights.abs().sum() + self.ridge / 2 * weights.square().sum()

    def violation(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Return how far 0 is from `gradient` plus the penalty's subdifferential, weight by weight."""
        bent = gradient + self.ridge * weights
        return torch.where(
            weights != 0, (bent + self.lasso * weights.sign()).abs(), (gradient.abs() - self.lasso).clamp_min(0)
        )


@dataclass(frozen=True)
class Certificate:
    """What is known of a solution.

    - `objective`: mean cross-entropy and penalty.
    - `gap`: how far the objective is above the least possible, at most. Not below 0.
    - `violation`: the largest distance of 0 from the objective's subdifferential, over all weights and biases.
    """

    objective: float
    gap: float
    violation: float


def certify(
    rows: StandardizedRows,
    weights: Float[Tensor, "class concept"],
    bias: Float[Tensor, "class"],
    penalty: Penalty,
    support: Bool[Tensor, "class concept"] | None = None,
) -> Certificate:
    """Return the certificate of any weights and bias, from any solver; with `support`, among weights within it.

    For probabilities q with `mean_n (q_n - y_n) = 0`, y one-hot, and `V = -mean_n (q_n - y_n) x_n'`, every solution's
    objective is at least

        D(q) = mean_n H(q_n) - sum max(|V| - lasso, 0)^2 / (2 ridge)

    (Fenchel's dual; H is the entropy, and without ridge `|V| <= lasso` must hold). Where q = softmax(W x + b), V is
    minus the gradient. To have the mean exact, biases are first balanced by Newton steps, the residual is taken off,
    and as much of the class frequencies mixed in as keeps q above 0. Of q and q drawn towards y until `|V| <= lasso`,
    the better bound counts.
    """
    slope = rows.slope(weights, bias)
    objective = float(slope.loss + penalty.of(weights))
    allowed = torch.ones_like(weights, dtype=torch.bool) if support is None else support
    violation = torch.where(allowed, penalty.violation(weights, slope.weights), 0.0).max()
    violation = float(torch.maximum(violation, slope.bias.abs().max()))
    bias, slope = _balance(rows, weights, bias, slope)
    mixed = _unbalanced(rows, slope)
    mixed = mixed / (1 + mixed)
    dual = torch.where(allowed, (1 - mixed) * slope.weights + mixed * rows.null.weights, 0.0).abs()
    highest = float(dual.max())
    shares = [1.0] if highest <= penalty.lasso else [1.0, penalty.lasso / highest * (1 - 1e-12)]
    entropies = rows.dual_entropy(weights, bias, slope.bias, mixed, shares)
    bounds = [e - _conjugate(share * dual, penalty) for e, share in zip(entropies, shares, strict=True)]
    return Certificate(objective, max(0.0, objective - max(bounds)), violation)


def _unbalanced(rows: StandardizedRows, slope: LossGradient) -> float:
    return float((slope.bias / rows.frequency).max().clamp_min(0))


def _balance(rows: StandardizedRows, weights: Tensor, bias: Tensor, slope: LossGradient) -> tuple[Tensor, LossGradient]:
    """Return biases nearer to the best for these weights, and the slope there."""
    for _ in range(NEWTON_STEPS):
        if _unbalanced(rows, slope) <= BALANCED:
            break
        bent = rows.bias_curvature(weights, bias)
        bent += bent.diagonal().mean() / rows.classes  # all biases may rise together
        tried = bias - torch.linalg.solve_ex(bent, slope.bias)[0]
        there = rows.slope(weights, tried)
        if not _unbalanced(rows, there) < _unbalanced(rows, slope):
            break
        bias, slope = tried, there
    return bias, slope


def _conjugate(dual: Tensor, penalty: Penalty) -> float:
    beyond = (dual - penalty.lasso).clamp_min(0)
    if penalty.ridge > 0:
        return float(beyond.square().sum() / (2 * penalty.ridge))
    return float("inf") if bool(beyond.any()) else 0.0
