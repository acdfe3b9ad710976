"""What vectors are fitted to: cells of a layer, a soft mask each of 100 x 100 pixels, and the balance of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
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
    found = torch.zeros(len(masks), SIDE, SIDE, dtype=torch.float32, device="cpu")
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
    matrix = torch.eye(side, dtype=torch.float64, device="cpu")
    if sigma <= 0:
        return matrix
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(side, device="cpu")[:, None].expand(-1, len(kernel))
    indices = _mirrored(rows + offsets.long(), side)
    return torch.zeros_like(matrix).index_put_((rows, indices), kernel.expand(side, -1), accumulate=True)


def _sampled(side: int) -> Float[Tensor, "100 side"]:
    """Return linear interpolation at the centres of the grid's pixels."""
    centres = (torch.arange(SIDE, dtype=torch.float64, device="cpu") + 0.5) * side / SIDE - 0.5
    lower = centres.floor()
    part = centres - lower
    matrix = torch.zeros(SIDE, side, dtype=torch.float64, device="cpu")
    rows = torch.arange(SIDE, device="cpu")
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
    cells = torch.eye(side, dtype=torch.float32, device="cpu")[None]
    return F.interpolate(cells, size=SIDE, mode="linear", align_corners=False)[0].T.contiguous()


@dataclass(frozen=True, eq=False)
class FitProblem:
    """A batch of fits: `cells[fit channel height width]`, each with the soft mask `truth[fit 100 100]` it should give.

    The map of a vector `v` is computed on the layer's grid and then enlarged: `U_rows (sum_c v_c A_c) U_columns'`.
    """

    cells: Float[Tensor, "fit channel height width"]
    truth: Float[Tensor, "fit 100 100"]

    @cached_property
    def flat(self) -> Float[Tensor, "fit channel cell"]:
        """The cells in one row for each channel."""
        return self.cells.flatten(2).contiguous()

    @cached_property
    def turned(self) -> Float[Tensor, "fit cell channel"]:
        """The same, one row for each cell: products with either run along contiguous memory."""
        return self.flat.transpose(1, 2).contiguous()

    @cached_property
    def rows(self) -> Float[Tensor, "100 height"]:
        """How rows of cells become rows of the map."""
        return enlargement(self.cells.shape[2]).to(self.cells)

    @cached_property
    def columns(self) -> Float[Tensor, "100 width"]:
        """How columns of cells become columns of the map."""
        return enlargement(self.cells.shape[3]).to(self.cells)

    @cached_property
    def balance(self) -> Float[Tensor, "fit 100 100"]:
        """`alpha t` and `beta (1 - t)` as one weight `alpha t - beta (1 - t)`, positive inside. (LoCE, IJCV 2025)

        `alpha` is the share of pixels that the soft mask does not touch, `beta` the rest.
        """
        inside, outside = self.shares
        return inside - outside

    @cached_property
    def shares(self) -> tuple[Float[Tensor, "fit 100 100"], Float[Tensor, "fit 100 100"]]:
        """Weight of each pixel as part of the concept, `alpha t`, and as part of the rest, `beta (1 - t)`."""
        alpha = 1 - (self.truth > 0).to(self.truth.dtype).mean((1, 2), keepdim=True)
        return alpha * self.truth, (1 - alpha) * (1 - self.truth)

    @cached_property
    def weights(self) -> tuple[Float[Tensor, "fit 100 100"], Float[Tensor, "fit 100 100"]]:
        """`shares` as weights that sum to 1; 0 everywhere for a mask that covers everything."""
        inside, outside = self.shares
        total = (inside + outside).sum((1, 2), keepdim=True).clamp_min(1e-12)
        return inside / total, outside / total

    @cached_property
    def importance(self) -> Float[Tensor, "fit 100 100"]:
        """Total weight of each pixel; they sum to 1."""
        return self.weights[0] + self.weights[1]

    @cached_property
    def inside(self) -> Float[Tensor, "fit cell"]:
        """Share of each cell that the mask covers: the mean of the soft mask over the cell's pixels."""
        feeds = (self.rows.sum(0)[:, None] * self.columns.sum(0)).flatten()
        return self.onto_cells(self.truth) / feeds

    def enlarged(self, values: Float[Tensor, "fit cell"]) -> Float[Tensor, "fit 100 100"]:
        """Return values of cells as a map of 100 x 100."""
        return self.rows @ values.unflatten(1, self.cells.shape[2:]) @ self.columns.T

    def onto_cells(self, pixels: Float[Tensor, "fit 100 100"]) -> Float[Tensor, "fit cell"]:
        """Return the adjoint of `enlarged`: gradients of pixels as gradients of cells."""
        return (self.rows.T @ pixels @ self.columns).flatten(1)

    def project(self, vectors: Float[Tensor, "fit channel"]) -> Float[Tensor, "fit 100 100"]:
        """Return the map of each vector, `sum_c v_c A_c`, enlarged."""
        return self.enlarged((vectors[:, None] @ self.flat)[:, 0])

    def collect(self, pixels: Float[Tensor, "fit 100 100"]) -> Float[Tensor, "fit channel"]:
        """Return the adjoint of `project`: the gradient of the vectors from that of the maps."""
        return (self.onto_cells(pixels)[:, None] @ self.turned)[:, 0]

    def scaled(self, scale: Float[Tensor, "fit channel"]) -> FitProblem:
        """Return the same with each channel divided by its scale."""
        return FitProblem(self.cells / scale[..., None, None], self.truth)

    def pick(self, rows: Tensor) -> FitProblem:
        """Return some of the fits, with the cached values that the minimizer uses."""
        picked = FitProblem(self.cells[rows], self.truth[rows])
        known = vars(self)
        if "turned" in known:
            vars(picked)["turned"] = self.turned[rows]
        if "weights" in known:
            vars(picked)["weights"] = (self.weights[0][rows], self.weights[1][rows])
        return picked


def overlap(maps: Float[Tensor, "fit rows columns"], truth: Float[Tensor, "fit rows columns"]) -> Float[Tensor, "fit"]:
    """Return the intersection over union of `map > 0` and `truth > 0.5`; 0 where both are empty."""
    found, wanted = maps > 0, truth > 0.5
    union = (found | wanted).flatten(1).sum(1)
    return (found & wanted).flatten(1).sum(1) / union.clamp_min(1)


def best_bias(
    maps: Float[Tensor, "fit rows columns"], truth: Float[Tensor, "fit rows columns"]
) -> Float[Tensor, "fit"]:
    """Return the constant to add to each map for the highest IoU of `map > 0` with its own mask."""
    values, inside = _falling(maps.flatten(1), truth.flatten(1) > 0.5)
    hits = inside.float().cumsum(1)  # whole numbers below 2^24
    taken = torch.arange(1.0, values.shape[1] + 1, device=maps.device)
    iou = hits / (hits[:, -1:] - hits).add_(taken)
    following = torch.cat([values[:, 1:], values[:, -1:] - 1], dim=1)
    index = torch.where(values > following, iou, -1.0).argmax(1, keepdim=True)  # equal values go together
    return -(values.gather(1, index) + following.gather(1, index))[:, 0] / 2


def _falling(values: Float[Tensor, "fit pixel"], inside: Bool[Tensor, "fit pixel"]) -> tuple[Tensor, Tensor]:
    """Return values in falling order, to the last bit but one, and which of them are inside.

    The last bit of a value says where it is from: whole numbers alone are sorted many times as fast as with indices.
    """
    bits = values.float().contiguous().view(torch.int32)
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # whole numbers in the order of their floats
    keys = (rising & ~1) | inside
    on_cpu = keys.device.type == "cpu"
    keys = (torch.from_numpy(np.sort(keys.numpy(), axis=1)) if on_cpu else keys.sort(dim=1).values).flip(1)
    rising = keys & ~1
    return torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising).view(torch.float32), keys & 1
