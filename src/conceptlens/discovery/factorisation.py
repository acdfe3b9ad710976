"""Cells as sums of few directions with coefficients that are never negative, and what is left of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.io.quiet_warnings import quiet_warnings

if TYPE_CHECKING:
    from jaxtyping import Float

# Of several random starts the one is carried on that is best after a few steps: NMF ends in the nearest optimum.
STARTS, FIRST_ITERATIONS, MAX_ITERATIONS, TOLERANCE = 4, 10, 60, 1e-3
# Steps of semi-NMF after the start from the split parts, for layers with negative values, and the sweeps of each.
SIGNED_STEPS, SIGNED_SWEEPS = 20, 10
MAX_SWEEPS, SWEEP_TOLERANCE = 200, 1e-4
# A direction this short, before it is made a unit vector, is one that no cell uses.
MIN_LENGTH = 1e-6


def factorise(cells: Float[Tensor, "cell channel"], count: int, seed: int = 0) -> Float[Tensor, "concept channel"]:
    """Return the directions `D` of `cells = H D + rest` with coefficients `H >= 0`.

    Cells without negative values, as after a ReLU, are factorised by NMF (Lee and Seung, Nature 1999; scikit-learn,
    coordinate descent from the best of four random starts): directions have no negative value either. Others by
    semi-NMF (Ding, Li, Jordan, PAMI 2010): directions take either sign. It starts from the NMF of the positive and the
    negative parts side by side, whose difference is a direction, and alternates `H` and `D`, each by least squares.
    Cutting negative values off, instead, leaves most of such a layer out.

    Args:
        cells: Cells of many photos.
        count: How many directions, at most as many as there are channels or cells.
        seed: Of the random start.

    Returns:
        Unit vectors (L2), float32; fewer than `count` where some are not needed.
    """
    own = cells.float()
    signed = bool((own < 0).any())
    found = _nmf(torch.cat([own.relu(), (-own).relu()], 1) if signed else own, count, seed)
    if signed:
        found = found[:, : own.shape[1]] - found[:, own.shape[1] :]
        weights = torch.zeros(len(own), len(found))
        for _ in range(SIGNED_STEPS):
            weights = _descend(own, found, weights, SIGNED_SWEEPS)
            found = _least_squares(own, weights)
    lengths = found.norm(dim=1)
    return F.normalize(found[lengths > MIN_LENGTH * lengths.max().clamp_min(1e-12)], dim=1)


def coefficients(
    cells: Float[Tensor, "cell channel"], directions: Float[Tensor, "concept channel"]
) -> Float[Tensor, "cell concept"]:
    """Return `argmin |x - h D|` over `h >= 0` for every cell `x`: non-negative least squares, by coordinate descent.

    Args:
        cells: Cells of any sign.
        directions: Directions of any sign.

    Returns:
        Coefficients, float32, on the device of `cells`.
    """
    own, rows = cells.float(), directions.to(cells.device).float()
    return _descend(own, rows, own.new_zeros(len(own), len(rows)), MAX_SWEEPS)


def shares(
    cells: Float[Tensor, "cell channel"],
    found: Float[Tensor, "cell concept"],
    directions: Float[Tensor, "concept channel"],
) -> Float[Tensor, "cell concept"]:
    """Return the share of each cell's activation that each direction accounts for.

    In channel `c` of a cell `x`, direction `k` adds `p_kc = h_k d_kc`. Those of the sign of `x_c` share what is
    accounted for, `a_c = |x_c|` or the sum of all `p_kc` in that sign, whichever is less and never below 0, in
    proportion: `share_k = sum_c a_c p_kc / sum_j p_jc / sum_c |x_c|`. Nothing is accounted for twice, nor more than
    is there, so shares lie between 0 and 1, and what they leave of 1 is the part that is not reconstructed.

    Args:
        cells: Cells of any sign.
        found: The coefficients of the cells.
        directions: The directions that they belong to.

    Returns:
        Shares that sum to at most 1 in every cell; 0 in a cell without any activation.
    """
    own, rows = cells.float(), directions.to(cells.device).float()
    above, below = rows.relu(), (-rows).relu()
    positive = own >= 0
    same = torch.where(positive, found @ above, found @ below)
    accounted = torch.minimum((found @ rows) * own.sign(), own.abs()).clamp_min(0)
    ratio = accounted / same.clamp_min(1e-12)
    each = (ratio * positive) @ above.T + (ratio * ~positive) @ below.T
    return found * each / own.abs().sum(1, keepdim=True).clamp_min(1e-12)


def explained_variance(
    cells: Float[Tensor, "cell channel"],
    directions: Float[Tensor, "concept channel"],
    mean: Float[Tensor, "channel"],
) -> float:
    """Return `1 - sum |x - h D|^2 / sum |x - mean|^2`: 1 where all is reconstructed, 0 where no better than the mean.

    Args:
        cells: Cells that the directions were not fitted on.
        directions: The directions.
        mean: The mean of the cells that they were fitted on.
    """
    rest = (cells - coefficients(cells, directions) @ directions).square().sum()
    return 1 - float(rest / (cells - mean).square().sum().clamp_min(1e-12))


def _descend(
    cells: Float[Tensor, "cell channel"],
    directions: Float[Tensor, "concept channel"],
    start: Float[Tensor, "cell concept"],
    sweeps: int,
) -> Float[Tensor, "cell concept"]:
    """Return better coefficients than those to start from: each in turn is set to its best value, in every cell."""
    gram, target = directions @ directions.T, cells @ directions.T
    squared, found = gram.diagonal().clamp_min(1e-12), start.clone()
    for _ in range(sweeps):
        before = found.clone()
        for k in range(len(directions)):
            found[:, k] = (found[:, k] + (target[:, k] - found @ gram[:, k]) / squared[k]).clamp_min(0)
        if not found.numel() or float((found - before).abs().max()) <= SWEEP_TOLERANCE * float(found.max()):
            break
    return found


def _nmf(cells: Float[Tensor, "cell channel"], count: int, seed: int) -> Float[Tensor, "concept channel"]:
    """Return the directions of scikit-learn's NMF; it need not have converged to the last digit."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    values, size = cells.cpu().numpy(), cast(Any, count)  # scikit-learn's annotation knows its word "auto" alone
    best, first = np.inf, {}
    with quiet_warnings(category=ConvergenceWarning):
        for state in np.random.default_rng(seed).integers(2**31, size=STARTS).tolist():
            model = NMF(size, init="random", random_state=state, max_iter=FIRST_ITERATIONS, tol=TOLERANCE)
            weights = model.fit_transform(values)
            if model.reconstruction_err_ < best:
                best, first = model.reconstruction_err_, {"W": weights, "H": model.components_}
        model = NMF(size, init="custom", max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        model.fit_transform(values, **first)
    return torch.from_numpy(model.components_).float()


def _least_squares(
    cells: Float[Tensor, "cell channel"], found: Float[Tensor, "cell concept"]
) -> Float[Tensor, "concept channel"]:
    gram = found.T @ found
    ridge = 1e-6 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram))
    return torch.linalg.solve(gram + ridge, found.T @ cells)
