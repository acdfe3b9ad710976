"""Soft masks of LoCE (IJCV 2025): resized to 100 x 100 with anti-aliasing; cells are enlarged to the same grid."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.io.errors import InputError
from conceptlens.model.forward import full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# Rows and columns on which masks and activations meet. (LoCE, IJCV 2025)
SIDE = 100


def soft_masks(masks: Bool[np.ndarray, "mask rows columns"]) -> Float[Tensor, "mask 100 100"]:
    """Return how much of each pixel of a 100 x 100 grid a mask covers, blurred as an anti-aliased resize blurs it.

    The same numbers as `skimage.transform.resize(mask.astype(float), (100, 100))`: a Gaussian of
    `(factor - 1) / 2` pixels where a side shrinks, then linear interpolation. Raises `InputError` for other than
    bool masks with three axes.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_ or 0 in masks.shape[1:]:
        raise InputError(f"masks have shape {masks.shape} and type {masks.dtype}; expected bool mask rows columns")
    down, across = (_shrink(side) for side in masks.shape[1:])
    found = torch.zeros(len(masks), SIDE, SIDE)
    for one, mask in zip(found, masks, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):  # what is blank adds nothing
            y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            values = torch.from_numpy(mask[y, x].astype(np.float32))
            with full_precision(values):
                torch.mm(down[:, y] @ values, across[:, x].T, out=one)
    return found.clamp_(0, 1)


@lru_cache(maxsize=512)
def _shrink(side: int) -> Float[Tensor, "100 side"]:
    """Return the matrix that blurs and samples one side."""
    return (_sampled(side) @ _blur(side)).float()


def _blur(side: int) -> Float[Tensor, "side side"]:
    """Return the Gaussian of scipy's `gaussian_filter`, cut at four standard deviations, mirrored at the edges."""
    sigma = max(0.0, (side / SIDE - 1) / 2)
    matrix = torch.eye(side, dtype=torch.float64)
    if sigma <= 0:
        return matrix
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(side)[:, None].expand(-1, len(kernel))
    indices = _mirrored(rows + offsets.long(), side)
    return torch.zeros_like(matrix).index_put_((rows, indices), kernel.expand(side, -1), accumulate=True)


def _sampled(side: int) -> Float[Tensor, "100 side"]:
    """Return linear interpolation at the centres of the grid's pixels."""
    centres = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * side / SIDE - 0.5
    lower = centres.floor()
    part = centres - lower
    matrix = torch.zeros(SIDE, side, dtype=torch.float64)
    rows = torch.arange(SIDE)
    for indices, weight in ((lower, 1 - part), (lower + 1, part)):
        matrix.index_put_((rows, _mirrored(indices.long(), side)), weight, accumulate=True)
    return matrix


def _mirrored(indices: Tensor, side: int) -> Tensor:
    """Return indices beyond an edge mirrored, the edge's pixel itself once: `d c b | a b c d | c b a`."""
    if side == 1:
        return torch.zeros_like(indices)
    turned = indices.remainder(2 * (side - 1))
    return torch.where(turned < side, turned, 2 * (side - 1) - turned)


@lru_cache(maxsize=64)
def enlargement(side: int) -> Float[Tensor, "100 side"]:
    """Return the matrix `U` of bilinear interpolation from `side` cells to 100 pixels.

    Enlarging commutes with the sum over channels: `U_rows (sum_c v_c A_c) U_columns'` is one map, not a hundred.
    """
    cells = torch.eye(side)[None]
    return F.interpolate(cells, size=SIDE, mode="linear", align_corners=False)[0].T.contiguous()
