"""A bottleneck's last layer: sparse weights on z-scored concepts, cut to a number of effective concepts (NEC).

Solved here and not by a library. glm-saga, which the papers use, and scikit-learn's SAGA minimise the same, one penalty
after another and much slower (`benchmarks/sparse_head.py`); glmnet walks the same path on the processor alone, four
times slower where we tried it; none says how far its answer is from the best. skglm and celer have no multinomial loss,
and adelie penalises a concept's weights of all classes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.certificate import Certificate, Penalty
from conceptlens.bottleneck.sparse.newton import SolverState, begin, minimise
from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows, read_rows
from conceptlens.heads.logistic_head import LinearHead
from conceptlens.io.errors import InputError
from conceptlens.metrics.bottleneck_metrics import effective_concepts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

MAX_NEC = 30.0  # where VLG-CBM's path ends
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

    Args:
        rows: Z-scored concepts and classes.
        alpha: The share of the lasso, above 0 up to 1: without a lasso no weight is ever 0.

    Returns:
        The strength, above 0.

    Raises:
        InputError: `alpha` is out of range, or every concept is the same in all rows.
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

    Returns:
        The solution, with a certificate of how far it is from the best.

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

    Returns:
        The solutions, the strongest penalty first.

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


@dataclass(frozen=True, eq=False)
class SparsePath:
    """Solutions from the largest penalty down, and the rows they were fitted to."""

    rows: StandardizedRows
    solutions: tuple[Solution, ...]

    def reach(self, target: float) -> Solution | None:
        """Return the first solution with NEC `target` or more, none where the path ends before.

        Args:
            target: The number of effective concepts (NEC).

        Returns:
            The solution, or `None`.
        """
        return next((solution for solution in self.solutions if solution.nec >= target), None)


def fit_sparse_path(
    features: Float[Tensor, "row concept"],
    labels: Int[Tensor, "row"],
    max_nec: float = MAX_NEC,
    tolerance: float = TOLERANCE,
) -> SparsePath:
    """Return the solutions from weights 0 to the first one above `max_nec` effective concepts.

    Args:
        features: Activations, `[row concept]`.
        labels: The class of each row, from 0.
        max_nec: The number of effective concepts (NEC) after which the path ends.
        tolerance: See `Solution.converged`.

    Returns:
        The rows as they were z-scored, and the solutions.

    Raises:
        InputError: Rows do not fit one another, a value is not finite, there is one class, or a class has no row.
    """
    rows = read_rows(features, labels)
    return SparsePath(rows, elastic_net_path(rows, max_nec=max_nec, tolerance=tolerance))


def truncate(weights: Float[Tensor, "class concept"], target: float) -> Float[Tensor, "class concept"]:
    """Return the weights with all but the largest absolute ones set to 0. (VLG-CBM, NeurIPS 2024)

    Of equal weights the first class's are kept, and there the first concept's.

    Args:
        weights: `[class concept]`.
        target: The number of effective concepts (NEC) that is left, weights over classes.

    Returns:
        Weights of the same shape with that NEC.

    Raises:
        InputError: There are fewer weights, or `target` times classes is no whole number.
    """
    count, found_nec = round(target * len(weights)), effective_concepts(weights)
    if count < 1 or abs(count - target * len(weights)) > 1e-6:
        raise InputError(
            f"NEC {target} of {len(weights)} classes is {target * len(weights):g} weights; expected a whole number"
        )
    if target > found_nec:
        raise InputError(f"the weights have NEC {found_nec:g}; expected {target} or more, so take a smaller penalty")
    kept = weights.abs().flatten().argsort(descending=True, stable=True)[:count]
    found = torch.zeros_like(weights).flatten()
    found[kept] = weights.flatten()[kept]
    return found.view_as(weights)


def head_at(path: SparsePath, target: float, refit: bool = False) -> LinearHead:
    """Return the head with a number of effective concepts, from the first solution of a path that has as many.

    Args:
        path: Solutions from the largest penalty down.
        target: The NEC; the solution's weights are cut by `truncate`, its bias is kept.
        refit: Fit the kept weights and the bias anew to the path's rows, with the solution's strength as a ridge alone.
            Our own, not VLG-CBM's.

    Returns:
        The head, in double precision.

    Raises:
        InputError: The path ends before `target`; VLG-CBM's code takes its last solution there.
    """
    solution = path.reach(target)
    if solution is None:
        end = max(solution.nec for solution in path.solutions)
        raise InputError(
            f"the path ends at NEC {end:g}, before {target}; take more points or a higher max_nec, or leave this out"
        )
    weights, bias = truncate(solution.weights, target), solution.bias
    if refit:
        kept = weights != 0
        again = elastic_net(path.rows, solution.penalty.strength, 0.0, support=kept)
        weights, bias = again.weights, again.bias
    return LinearHead(weights, bias, path.rows.standardization.mean, path.rows.standardization.std)
