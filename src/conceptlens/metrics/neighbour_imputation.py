"""Pixels made up from their neighbours: ROAD's linear system, for many images at once and on their device.

An unknown pixel is the mean of its neighbours, those beside it with weight 1/6 and those across with 1/12, as far as
they lie in the image. Unknown neighbours are solved for with it, so this is one sparse system `(D - W) x = W known`,
symmetric and positive, with the same matrix for every colour. It is solved by conjugate gradients with one multigrid
cycle as preconditioner, which takes some fifteen steps whatever the shape of the hole; images and colours stand in one
batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d, pad

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    Plane = Float[Tensor, "1 plane rows columns"]  # images times colours: channels of one image, one after the other

NEIGHBOURS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
# The error left, as a share of the first guess's, in the norm of the system; and the steps after which rounding rules.
TOLERANCE, MAX_STEPS = 1e-6, 60
# How often the grid is halved, and how often the coarsest is smoothed.
LEVELS, COARSEST_SWEEPS = 5, 10


def impute(
    images: Float[Tensor, "variant colour rows columns"], removed: Bool[Tensor, "variant rows columns"]
) -> Float[Tensor, "variant colour rows columns"]:
    """Return images whose removed pixels are the weighted means of their neighbours, solved together.

    ROAD, Rong et al., ICML 2022, section 4.2, without its noise. An image of which nothing is left becomes its mean
    colour.

    Args:
        images: The images.
        removed: Which pixels are unknown.

    Returns:
        Images in float32, or in float64 where they are; known pixels are as they were.
    """
    variants, colours, rows, columns = images.shape
    own = images.to(torch.promote_types(images.dtype, torch.float32))
    unknown = removed[:, None].to(own.dtype).expand(-1, colours, -1, -1)
    inside = torch.ones_like(own)
    given, holes, inside = (_as_planes(part) for part in (own, unknown, inside))
    weights = own.new_tensor(NEIGHBOURS).expand(variants * colours, 1, 3, 3).contiguous()
    solved = _solve(_first_guess(given, holes, inside), holes, inside, weights)
    found = solved[..., :rows, :columns].reshape(variants, colours, rows, columns)
    return torch.where(removed[:, None], found, own)


def _as_planes(images: Tensor) -> Plane:
    """Return images as channels of one, which depthwise convolutions are fast on, sides raised to multiples of 32."""
    rows, columns = images.shape[2:]
    side = 2**LEVELS
    large = pad(images.reshape(1, -1, rows, columns), (0, -columns % side, 0, -rows % side))
    return large.contiguous(memory_format=torch.channels_last)


def _first_guess(given: Plane, unknown: Plane, inside: Plane) -> Plane:
    """Return the images with the mean of what is known, or of the image where nothing is, in every unknown pixel."""
    known = inside - unknown
    left = known.sum((2, 3), keepdim=True)
    counted = torch.where(left > 0, known, inside)
    mean = _dot(counted, given) / counted.sum((2, 3), keepdim=True)
    return known * given + unknown * mean


def _solve(x: Plane, unknown: Plane, inside: Plane, weights: Tensor) -> Plane:
    """Improve `x` in place where it is unknown. The residual is right there alone, and read nowhere else."""
    degree = _spread(inside, weights)
    inverses = _inverse_degrees(unknown, inside, weights)
    solvable = ((inside - unknown).sum((2, 3), keepdim=True) > 0).to(x.dtype)
    residual = (_spread(x, weights) - degree * x) * solvable
    step = _cycle(residual, inverses, weights)
    size = _dot(residual, step)
    goal = TOLERANCE**2 * size
    direction = step.clone()
    tiny = torch.finfo(x.dtype).tiny
    for _ in range(MAX_STEPS):
        if bool((size <= goal).all()):
            break
        image = (degree * direction).sub_(_spread(direction, weights))
        length = size / _dot(direction, image).clamp_min(tiny)
        x.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        step = _cycle(residual, inverses, weights)
        before, size = size, _dot(residual, step)
        direction.mul_(size / before.clamp_min(tiny)).add_(step)
    return x


def _cycle(residual: Plane, inverses: list[Plane], weights: Tensor, level: int = 0) -> Plane:
    """Return one multigrid cycle's answer to `residual`: a sweep of Jacobi's method, the coarser grid, another sweep.

    From `x = r / D`, the residual that a sweep leaves is `W x`; and a sweep is `(r + W x) / D`. What a coarse cell is
    told is the sum of its four, and it tells them all the same, so the cycle is symmetric, as conjugate gradients need.
    """
    inverse = inverses[level]
    x = residual * inverse
    if level + 1 == len(inverses):
        for _ in range(COARSEST_SWEEPS):
            x = _spread(x, weights).add_(residual).mul_(inverse)
        return x
    told = avg_pool2d(_spread(x, weights), 2, divisor_override=1)
    x += interpolate(_cycle(told, inverses, weights, level + 1), scale_factor=2, mode="nearest")
    return _spread(x, weights).add_(residual).mul_(inverse)


def _inverse_degrees(unknown: Plane, inside: Plane, weights: Tensor) -> list[Plane]:
    """Return `1 / D` of each grid, 0 where nothing is unknown: a coarse cell is where all of its four are."""
    found = []
    for _ in range(LEVELS + 1):
        degree = _spread(inside, weights)
        found.append(unknown / torch.where(degree > 0, degree, 1))
        coarse = max_pool2d(inside, 2)
        unknown = coarse * (1 - max_pool2d(1 - torch.maximum(unknown, 1 - inside), 2))
        inside = coarse
        if min(unknown.shape[2:]) < 2:
            break
    return found


def _spread(x: Plane, weights: Tensor) -> Plane:
    """Return `W x`, the weighted sum of every pixel's neighbours."""
    return conv2d(x, weights, padding=1, groups=x.shape[1])


def _dot(a: Plane, b: Plane) -> Float[Tensor, "1 plane 1 1"]:
    product = (a * b).permute(0, 2, 3, 1).reshape(-1, a.shape[1])
    return (product.new_ones(1, len(product)) @ product)[..., None, None]
