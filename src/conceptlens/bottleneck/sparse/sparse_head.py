"""A bottleneck's last layer: sparse weights on z-scored concepts, cut to a number of effective concepts (NEC).

Solved here and not by a library. glm-saga, which the papers use, and scikit-learn's SAGA minimise the same, one penalty
after another and much slower (`benchmarks/sparse_head.py`); glmnet walks the same path on the processor alone, four
times slower where we tried it; none says how far its answer is from the best. skglm and celer have no multinomial loss,
and adelie penalises a concept's weights of all classes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.elastic_net import TOLERANCE, Solution, elastic_net, elastic_net_path
from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows, read_rows
from conceptlens.io.errors import InputError
from conceptlens.metrics.bottleneck_metrics import effective_concepts

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_NEC = 30.0  # where VLG-CBM's path ends


@dataclass(frozen=True, eq=False)
class LinearHead:
    """`logits = (c - mean) / std . weights + bias`; a concept with std 0 counts nothing."""

    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]
    mean: Float[Tensor, "concept"]
    std: Float[Tensor, "concept"]

    def __call__(self, activations: Float[Tensor, "row concept"]) -> Float[Tensor, "row class"]:
        """Return logits of activations in double precision."""
        scaled = (activations.double() - self.mean) / torch.where(self.std > 0, self.std, 1.0)
        return scaled @ self.weights.T + self.bias


@dataclass(frozen=True, eq=False)
class SparsePath:
    """Solutions from the largest penalty down, and the rows they were fitted to."""

    rows: StandardizedRows
    solutions: tuple[Solution, ...]

    def reach(self, target: float) -> Solution | None:
        """Return the first solution with NEC `target` or more, none where the path ends before."""
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

    Raises:
        InputError: The path ends before `target`; VLG-CBM's code takes its last solution there.
    """
    solution = path.reach(target)
    if solution is None:
        most = max(solution.nec for solution in path.solutions)
        raise InputError(
            f"the path ends at NEC {most:g}, before {target}; take more points or a higher max_nec, or leave this out"
        )
    weights, bias = truncate(solution.weights, target), solution.bias
    if refit:
        kept = weights != 0
        again = elastic_net(path.rows, solution.penalty.strength, 0.0, support=kept)
        weights, bias = again.weights, again.bias
    return LinearHead(weights, bias, path.rows.standardization.mean, path.rows.standardization.std)
