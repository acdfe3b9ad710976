"""The mean cross-entropy of a linear softmax on z-scored concepts, read a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Doubles held at once while rows are read.
CHUNK = 2**21


@dataclass(frozen=True, eq=False)
class Standardization:
    """How concepts are z-scored: `mean[concept]` and `std[concept]`, the sample's with N - 1, as LF-CBM has it.

    A concept with one value in all rows has `std` 0. Its z-score is 0, and so is its weight.
    """

    mean: Float[Tensor, "concept"]
    std: Float[Tensor, "concept"]

    def apply(self, features: Float[Tensor, "row concept"]) -> Float[Tensor, "row concept"]:
        """Return z-scores in double precision."""
        inverse = torch.where(self.std > 0, 1 / self.std, 0.0)
        return (features.double() - self.mean).mul_(inverse)


@dataclass(frozen=True, eq=False)
class LossGradient:
    """The mean cross-entropy at one point and its gradient; that of a bias is mean probability minus frequency."""

    loss: Tensor
    weights: Float[Tensor, "class concept"]
    bias: Float[Tensor, "class"]


@dataclass(frozen=True, eq=False)
class StandardizedRows:
    """`features[row concept]` and `labels[row]` of 0 to `classes - 1`.

    Every method makes one pass and holds about `CHUNK` doubles beside its result, however many rows there are.
    """

    features: Float[Tensor, "row concept"]
    labels: Int[Tensor, "row"]
    classes: int
    standardization: Standardization
    frequency: Float[Tensor, "class"]

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z-scores `[row concept]` and labels `[row]`."""
        chunk_rows = _rows_at_once(self.features.shape[1], self.classes)
        for features, labels in zip(self.features.split(chunk_rows), self.labels.split(chunk_rows), strict=True):
            yield self.standardization.apply(features), labels

    @cached_property
    def entropy(self) -> float:
        """The least cross-entropy without any concept."""
        return float(torch.special.entr(self.frequency).sum())

    @property
    def prior(self) -> Float[Tensor, "class"]:
        """The best bias without any concept, with mean 0."""
        return self.frequency.log() - self.frequency.log().mean()

    @cached_property
    def null(self) -> LossGradient:
        """The slope at weights of 0 and the best bias."""
        return self.slope(self.frequency.new_zeros(self.classes, self.features.shape[1]), self.prior)

    def slope(self, weights: Tensor, bias: Tensor) -> LossGradient:
        """Return cross-entropy and gradient."""
        loss, by_weight, by_bias = bias.new_zeros(()), torch.zeros_like(weights), torch.zeros_like(bias)
        for x, labels in self.chunks():
            log_chance = torch.addmm(bias, x, weights.T).log_softmax(1)
            loss -= log_chance.gather(1, labels[:, None]).sum()
            residual = log_chance.exp_()
            residual[torch.arange(len(labels), device=labels.device), labels] -= 1
            by_weight.addmm_(residual.T, x)
            by_bias += residual.sum(0)
        count = len(self.labels)
        return LossGradient(loss / count, by_weight / count, by_bias / count)

    def curvature(
        self, weights: Tensor, bias: Tensor, classes: Sequence[int], columns: Sequence[Tensor]
    ) -> list[Float[Tensor, "slot slot"]]:
        """Return for some classes the second derivatives by some of their weights, in single precision.

        `mean p (1 - p) x x'` for the class's probability p; column 0 is the bias, column k the concept k - 1.
        """
        found = [torch.zeros(len(c), len(c), device=bias.device) for c in columns]
        for x, labels in self.chunks():
            x = torch.cat([x.new_ones(len(labels), 1), x], 1).float()
            chance = (x @ torch.cat([bias[:, None], weights], 1).float().T).softmax(1)[:, list(classes)]
            root = (chance * (1 - chance) / len(self.labels)).sqrt_().T.contiguous()
            by_column = x.T.contiguous()
            for i, column in enumerate(columns):
                part = by_column.index_select(0, column).mul_(root[i])
                found[i].addmm_(part, part.T)
        return found

    def bias_curvature(self, weights: Tensor, bias: Tensor) -> Float[Tensor, "class class"]:
        """Return the second derivatives by the biases: mean of `diag(p) - p p'`."""
        found = bias.new_zeros(self.classes, self.classes)
        for x, _ in self.chunks():
            chance = torch.addmm(bias, x, weights.T).softmax(1)
            found += chance.sum(0).diag().addmm_(chance.T, chance, alpha=-1)
        return found / len(self.labels)

    def dual_entropy(
        self, weights: Tensor, bias: Tensor, excess: Tensor, mixed: float, shares: Sequence[float]
    ) -> list[float]:
        """Return the mean entropy of `share ((1 - mixed)(p - excess) + mixed frequency) + (1 - share) truth`."""
        found = bias.new_zeros(len(shares))
        for x, labels in self.chunks():
            chance = torch.addmm(bias, x, weights.T).softmax(1)
            feasible = ((chance - excess) * (1 - mixed) + mixed * self.frequency).clamp_min_(0)
            for i, share in enumerate(shares):
                point = share * feasible
                point[torch.arange(len(labels), device=labels.device), labels] += 1 - share
                found[i] += torch.special.entr(point).sum()
        return (found / len(self.labels)).tolist()


def read_rows(features: Tensor, labels: Tensor) -> StandardizedRows:
    """Return checked rows, z-scored by their own mean and std.

    Args:
        features: Activations, `[row concept]`.
        labels: The class of each row, from 0; the highest is the last class.

    Raises:
        InputError: Shapes or types do not fit, a value is not finite, there is one class, a label is negative, or a
            class has no row.
    """
    features, shape = features.detach(), tuple(features.shape)
    if len(shape) != 2 or tuple(labels.shape) != shape[:1] or 0 in shape or labels.is_floating_point():
        raise InputError(
            f"features have shape {shape} and labels {tuple(labels.shape)} of {labels.dtype}; expected row concept and "
            "one whole number for each row"
        )
    if int(labels.min()) < 0:
        raise InputError(f"labels begin at {int(labels.min())}; expected 0 or more")
    rows = torch.bincount(labels.long())
    if len(rows) < 2:
        raise InputError("there is one class; expected 2 or more, since one leaves nothing to tell apart")
    empty = (rows == 0).nonzero()[:, 0].tolist()
    if empty:
        named = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise InputError(f"no row has class {named} of {len(rows)}; leave such classes out and number the rest from 0")
    standard = _standard(features, _rows_at_once(features.shape[1], len(rows)))
    return StandardizedRows(features, labels.long(), len(rows), standard, rows.double() / len(labels))


def _rows_at_once(concepts: int, classes: int) -> int:
    return max(256, CHUNK // (2 * concepts + 4 * classes))


def _standard(features: Tensor, chunk_rows: int) -> Standardization:
    total = features.new_zeros(features.shape[1], dtype=torch.double)
    for chunk in features.split(chunk_rows):
        total += chunk.double().sum(0)
    mean = total / len(features)
    if not bool(mean.isfinite().all()):
        wrong = int((~features.isfinite()).sum())
        raise InputError(
            f"{wrong} values of the features are not finite; expected none, so mend or leave out those rows"
        )
    square = torch.zeros_like(mean)
    for chunk in features.split(chunk_rows):
        square += (chunk.double() - mean).square_().sum(0)
    varies = features.amax(0) > features.amin(0)
    return Standardization(mean, torch.where(varies, (square / (len(features) - 1)).sqrt(), 0.0))
