"""Elastic-net multinomial regression: one penalty, or a path of them, each solution with its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

from torch import Tensor

from conceptlens.bottleneck.sparse.certificate import Certificate, Penalty
from conceptlens.bottleneck.sparse.newton import SolverState, begin, minimise
from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows
from conceptlens.io.errors import InputError
from conceptlens.metrics.bottleneck_metrics import effective_concepts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# LF-CBM's and VLG-CBM's share of the lasso.
ALPHA = 0.99
TOLERANCE = 1e-6
MAX_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Solution:
    """`weights[class concept]` and `bias[class]` for z-scored concepts, in double precision; biases have mean 0.

    `converged` says that the duality gap is at most the tolerance times the best cross-entropy without any concept
    (log of the number of classes where they are balanced). `steps` counts tried steps.
    """

    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]
    penalty: Penalty
    certificate: Certificate
    converged: bool
    steps: int

    @property
    def nec(self) -> float:
        """The number of effective concepts: weights that are not 0, for each class."""
        return effective_concepts(self.weights)


def largest_penalty(rows: StandardizedRows, alpha: float = ALPHA) -> float:
    """Return the smallest strength at which all weights are 0: `max |mean_n (f - y_n) x_n'| / alpha`, f frequencies.

    Raises `InputError` for an `alpha` that is not above 0 up to 1: without a lasso no weight is ever 0.
    """
    if not 0 < alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected above 0 up to 1, since only the lasso makes weights 0")
    highest = float(rows.null.weights.abs().max())
    if highest == 0:
        raise InputError("every concept is the same in all rows; expected one or more that vary")
    return highest / alpha


def elastic_net(
    rows: StandardizedRows,
    strength: float,
    alpha: float = ALPHA,
    support: Bool[Tensor, "class concept"] | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """Minimise `mean_n CE(softmax(W x_n + b), y_n) + strength (alpha |W|_1 + (1 - alpha) / 2 |W|^2)` over W and b.

    The objective of the PyPI package glm-saga at its own `lam` and `alpha`. LF-CBM and VLG-CBM hand theirs over as
    `max_reg` with `epsilon=1`, which glm-saga divides by alpha: their lam of 0.0002 is `strength=0.0002 / 0.99`.

    By proximal Newton steps, one block for each class (`sparse.newton`).

    Args:
        rows: Z-scored concepts and classes.
        strength: The penalty's strength, above 0: classes that can be told apart have no solution without one.
        alpha: The share of the lasso, 0 to 1.
        support: The only weights that may differ from 0; by default all.
        tolerance: See `Solution.converged`. Double precision allows about 1e-12, and 1e-8 of a lasso alone.
        max_steps: After so many steps, or where nothing is gained any more, the solution so far is returned.

    Raises:
        InputError: `alpha` or `strength` is out of range.
    """
    return _solve(rows, _penalty(strength, alpha), begin(rows, support), support, tolerance, max_steps)[0]


def elastic_net_path(
    rows: StandardizedRows,
    alpha: float = ALPHA,
    ratio: float = 2**-0.1,
    points: int = 150,
    max_nec: float = float("inf"),
    tolerance: float = TOLERANCE,
) -> tuple[Solution, ...]:
    """Return solutions from the largest penalty down, each begun at the one before, up to the first above `max_nec`.

    Strengths are `largest_penalty * ratio**k`, k = 0 to `points - 1`; at the first all weights are 0. VLG-CBM begins at
    0.1 whatever the data, with these ratio and points, and ends above NEC 30.

    Args:
        rows: Z-scored concepts and classes.
        alpha: The share of the lasso, above 0 up to 1.
        ratio: Each strength over the one before, between 0 and 1.
        points: The largest number of solutions.
        max_nec: The number of effective concepts after which the path ends.
        tolerance: See `Solution.converged`.

    Raises:
        InputError: `alpha` is out of range, or every concept is the same in all rows.
    """
    found: list[Solution] = []
    state = begin(rows)
    for strength in accumulate(repeat(ratio, points - 1), lambda a, b: a * b, initial=largest_penalty(rows, alpha)):
        solution, state = _solve(rows, Penalty(strength, alpha), state, None, tolerance, MAX_STEPS)
        found.append(solution)
        if solution.nec > max_nec:
            break
    return tuple(found)


def _penalty(strength: float, alpha: float) -> Penalty:
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected 0 (ridge alone) to 1 (lasso alone)")
    if not 0 < strength < float("inf"):
        raise InputError(f"the penalty's strength is {strength}; expected a number above 0")
    return Penalty(strength, alpha)


def _solve(
    rows: StandardizedRows,
    penalty: Penalty,
    state: SolverState,
    support: Tensor | None,
    tolerance: float,
    max_steps: int,
) -> tuple[Solution, SolverState]:
    goal = tolerance * rows.entropy
    at, certificate, steps = minimise(rows, penalty, state, support, goal, max_steps)
    bias = at.bias - at.bias.mean()
    return Solution(at.weights, bias, penalty, certificate, certificate.gap <= goal, steps), at
