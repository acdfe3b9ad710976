"""A dense linear head: multinomial logistic regression on z-scored features, with a ridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TOLERANCE = 1e-4
MAX_STEPS = 5000


@dataclass(frozen=True, eq=False)
class LinearHead:
    """`logits = (c - mean) / std . weights + bias`; a feature with std 0 counts nothing."""

    weights: Float[Tensor, "class feature"]
    bias: Float[Tensor, "class"]
    mean: Float[Tensor, "feature"]
    std: Float[Tensor, "feature"]

    def __call__(self, features: Float[Tensor, "row feature"]) -> Float[Tensor, "row class"]:
        """Return logits of features in double precision."""
        scaled = (features.double() - self.mean) / torch.where(self.std > 0, self.std, 1.0)
        return scaled @ self.weights.T + self.bias

    def folded(self) -> tuple[Float[Tensor, "class feature"], Float[Tensor, "class"]]:
        """Return weights and bias for features as they are: `logits = c . weights / std + bias - mean . weights / std`.

        Returns:
            The weights and the bias, in double precision; the weights of a feature with std 0 are 0.
        """
        weights = torch.where(self.std > 0, self.weights / torch.where(self.std > 0, self.std, 1.0), 0.0)
        return weights, self.bias - weights @ self.mean


def fit_logistic(
    features: Float[Tensor, "row feature"], labels: Int[Tensor, "row"], strength: float, tolerance: float = TOLERANCE
) -> LinearHead:
    """Return `argmin mean cross-entropy + strength / 2 |W|^2` on z-scored features; the bias is free.

    The optimum is unique, so no seed is needed. Solved by scikit-learn's L-BFGS.

    Args:
        features: `[row feature]`, finite.
        labels: The class of each row, from 0, each class at least once.
        strength: The ridge's strength, above 0.
        tolerance: The largest entry of the gradient at the end.

    Returns:
        The head, in double precision.

    Raises:
        InputError: There are fewer than two classes, one has no row, or `strength` is not above 0.
    """
    from sklearn.linear_model import LogisticRegression

    counts = labels.bincount()
    if len(counts) < 2 or not bool((counts > 0).all()):
        raise InputError(
            f"the rows are of {int((counts > 0).sum())} of {len(counts)} classes; a head needs at least two, and a row "
            "of each"
        )
    if not 0 < strength < float("inf"):
        raise InputError(f"the ridge's strength is {strength}; expected a number above 0")
    rows = features.double()
    mean, std = rows.mean(0), rows.std(0, unbiased=False)
    scaled = (rows - mean) / torch.where(std > 0, std, 1.0)
    # of two classes scikit-learn fits w, the margin: W = (-w, w) / 2 has half of w's |w|^2
    two = len(counts) == 2
    fitted = LogisticRegression(C=(1 + two) / (strength * len(rows)), tol=tolerance, max_iter=MAX_STEPS)
    fitted.fit(scaled.numpy(), labels.numpy())
    weights, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if two:
        weights, bias = torch.cat([-weights, weights]) / 2, torch.cat([-bias, bias]) / 2
    return LinearHead(weights, bias, mean, std)
