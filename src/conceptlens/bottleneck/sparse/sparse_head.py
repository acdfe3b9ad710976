"""A bottleneck's last layer: sparse weights on z-scored concepts, cut to a number of effective concepts (NEC).

Solved here and not by a library. glm-saga, which the papers use, and scikit-learn's SAGA minimise the same, one penalty
after another and much slower (`benchmarks/sparse_head.py`); glmnet walks the same path on the processor alone, four
times slower where we tried it; none says how far its answer is from the best. skglm and celer have no multinomial loss,
and adelie penalises a concept's weights of all classes together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.bottleneck.sparse.elastic_net import ALPHA, TOLERANCE, Solution, elastic_net, elastic_net_path
from conceptlens.bottleneck.sparse.standardized_rows import Standardization, StandardizedRows, read_rows
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# VLG-CBM's: ANEC-5 is the first, ANEC-avg the mean of all.
TARGETS = (5, 10, 15, 20, 25, 30)
RATIO, POINTS = 2**-0.1, 150
# Held-out rows in one product.
AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class SparseHead:
    """`weights[class concept]` and `bias[class]` on concepts z-scored by `standardization`.

    `solution` is what they were cut from or are, with its certificate; of a head that was cut or refitted, the
    certificate speaks of the solution and not of the head.
    """

    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]
    standardization: Standardization
    solution: Solution

    def __call__(self, features: Float[Tensor, "row concept"]) -> Float[Tensor, "row class"]:
        """Return logits of concepts as they are, not z-scored, in double precision."""
        if features.ndim != 2 or features.shape[1] != self.weights.shape[1]:
            raise InputError(f"features have shape {tuple(features.shape)}; expected row, {self.weights.shape[1]}")
        return torch.addmm(self.bias, self.standardization.apply(features), self.weights.T)

    def plain(self) -> tuple[Float[Tensor, "class concept"], Float[Tensor, "class"]]:
        """Return weights and bias for concepts as they are: the same logits without z-scores."""
        std = self.standardization.std
        weights = torch.where(std > 0, self.weights / std, 0.0)
        return weights, self.bias - weights @ self.standardization.mean


@dataclass(frozen=True, eq=False)
class SparsePath:
    """Solutions from the largest penalty down, and the rows they were fitted to."""

    rows: StandardizedRows
    solutions: tuple[Solution, ...]

    def reach(self, target: float) -> Solution | None:
        """Return the first solution with NEC `target` or more, none where the path ends before."""
        return next((solution for solution in self.solutions if solution.nec >= target), None)


@dataclass(frozen=True)
class NecAccuracy:
    """Accuracy at each NEC. Those in `unreached` are of the path's last point, with fewer concepts than they claim."""

    accuracy: dict[float, float]
    unreached: tuple[float, ...] = ()

    @property
    def anec_5(self) -> float:
        """Accuracy at NEC 5."""
        return self._mean(TARGETS[:1])

    @property
    def anec_average(self) -> float:
        """The mean accuracy at NEC 5, 10, 15, 20, 25 and 30."""
        return self._mean(TARGETS)

    def _mean(self, targets: Sequence[float]) -> float:
        missing = [target for target in targets if target not in self.accuracy]
        if missing:
            raise InputError(f"accuracy at NEC {', '.join(map(str, missing))} was not asked for; add it to the targets")
        return sum(self.accuracy[target] for target in targets) / len(targets)


def fit_sparse_head(
    features: Float[Tensor, "row concept"],
    labels: Int[Tensor, "row"],
    strength: float,
    alpha: float = ALPHA,
    classes: int | None = None,
    tolerance: float = TOLERANCE,
) -> SparseHead:
    """Return the head of one penalty (`sparse.elastic_net`); LF-CBM's lam is `strength = lam / 0.99`.

    `classes` is by default the highest label and one more. Raises `InputError` for rows that do not fit one another,
    values that are not finite, one class, a class without rows, and a wrong strength or alpha.
    """
    rows = read_rows(features, labels, classes)
    solution = elastic_net(rows, strength, alpha, tolerance=tolerance)
    return SparseHead(solution.weights, solution.bias, rows.standardization, solution)


def fit_sparse_path(
    features: Float[Tensor, "row concept"],
    labels: Int[Tensor, "row"],
    alpha: float = ALPHA,
    classes: int | None = None,
    ratio: float = RATIO,
    points: int = POINTS,
    max_nec: float = max(TARGETS),
    tolerance: float = TOLERANCE,
) -> SparsePath:
    """Return the path from weights 0 to the first point above `max_nec`; errors as in `fit_sparse_head`."""
    rows = read_rows(features, labels, classes)
    return SparsePath(rows, elastic_net_path(rows, alpha, ratio, points, max_nec, tolerance=tolerance))


def nec(weights: Float[Tensor, "class concept"]) -> float:
    """Return the number of effective concepts: weights that are not 0, for each class. (VLG-CBM, NeurIPS 2024)"""
    return int((weights != 0).sum()) / len(weights)


def truncate(weights: Float[Tensor, "class concept"], target: float) -> Float[Tensor, "class concept"]:
    """Return the weights with all but the largest absolute ones set to 0. (VLG-CBM, NeurIPS 2024)

    Of equal weights the first class's are kept, and there the first concept's.

    Args:
        weights: `[class concept]`.
        target: The number of effective concepts (NEC) that is left, weights over classes.

    Raises:
        InputError: There are fewer weights, or `target` times classes is no whole number.
    """
    count = round(target * len(weights))
    if count < 1 or abs(count - target * len(weights)) > 1e-6:
        raise InputError(
            f"NEC {target} of {len(weights)} classes is {target * len(weights):g} weights; expected a whole number"
        )
    if count > int((weights != 0).sum()):
        raise InputError(f"the weights have NEC {nec(weights):g}; expected {target} or more, so take a smaller penalty")
    kept = weights.abs().flatten().argsort(descending=True, stable=True)[:count]
    found = torch.zeros_like(weights).flatten()
    found[kept] = weights.flatten()[kept]
    return found.view_as(weights)


def head_at(path: SparsePath, target: float, refit: bool = False) -> SparseHead:
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
    return SparseHead(weights, bias, path.rows.standardization, solution)


def nec_accuracy(
    path: SparsePath,
    features: Float[Tensor, "row concept"],
    labels: Int[Tensor, "row"],
    targets: Sequence[float] = TARGETS,
    refit: bool = False,
    unreached: Literal["raise", "last"] = "raise",
) -> NecAccuracy:
    """Return the accuracy on held-out rows at each NEC.

    `unreached="last"` takes the path's last point for a target beyond its end, as VLG-CBM's code does, and names the
    target in the result. Raises `InputError` as `head_at` does, and for rows that do not fit.
    """
    if unreached not in ("raise", "last"):
        raise InputError(f"no unreached '{unreached}'; there are: raise, last")
    if labels.ndim != 1 or len(labels) != len(features) or not len(labels):
        raise InputError(f"there are {len(features)} rows and labels {tuple(labels.shape)}; expected one for each row")
    beyond = tuple(target for target in targets if path.reach(target) is None)
    found: dict[float, float] = {}
    for target in targets:
        if target in beyond and unreached == "last":
            last = path.solutions[-1]
            head = SparseHead(last.weights, last.bias, path.rows.standardization, last)
        else:
            head = head_at(path, target, refit)
        found[target] = _accuracy(head, features, labels)
    return NecAccuracy(found, beyond)


def _accuracy(head: SparseHead, features: Tensor, labels: Tensor) -> float:
    parts = zip(features.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    return sum(int((head(rows).argmax(1) == truth).sum()) for rows, truth in parts) / len(labels)
