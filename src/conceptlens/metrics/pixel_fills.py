"""What stands in the place of removed pixels. A metric's value means nothing without the name of its fill.

| Fill | Removed pixels become |
| --- | --- |
| `mean` | the mean colour of the image itself |
| `blur` | the image blurred by a Gaussian, its standard deviation `BLUR_SIGMA` of the shorter side |
| `black` | black, where it is known what black is in the network's input |
| `zero` | 0 in the network's input: the mean colour of the training photos, where a model subtracts it |
| `rise_blur` | the image blurred as by RISE's authors: 11 x 11 pixels, standard deviation 5, 0 beyond the border |
| `inpaint` | the weighted mean of their neighbours, solved for all of them together |
| `noisy_linear` | the same with noise, so that a network cannot read the shape of the hole: ROAD's |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import conv2d, pad

from conceptlens.io.errors import InputError, near
from conceptlens.metrics.neighbour_imputation import impute
from conceptlens.statistics.random_seed import seeded_generator

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

FILLS = ("mean", "blur", "black", "zero", "rise_blur", "inpaint", "noisy_linear")
# Those that know what a whole image becomes, so that a soft mask can mix both.
WHOLE_FILLS = ("mean", "blur", "black", "zero", "rise_blur")
# The blur's standard deviation as a share of the image's shorter side, and where the Gaussian is cut, in deviations.
BLUR_SIGMA, BLUR_CUT = 0.05, 4.0
# The side of RISE's kernel and its standard deviation, in pixels of any image.
RISE_SIDE, RISE_SIGMA = 11, 5.0
# The standard deviation of ROAD's noise, in units of the network's input.
ROAD_NOISE = 0.01
_BLUR_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class PixelFill:
    """A fill made ready for a batch of images: see `prepare_fill`.

    Args:
        name: The fill's name.
        images: The images.
        replacement: What each of them becomes as a whole; `None` where pixels are made up from their neighbours.
        noise: What is added to pixels that are made up; the same for every image, so that its score does not depend on
            its batch. `None` for none.
    """

    name: str
    images: Float[Tensor, "image colour rows columns"]
    replacement: Float[Tensor, "image colour #rows #columns"] | None
    noise: Float[Tensor, "colour rows columns"] | None = None

    def remove(
        self, rows: Int[Tensor, "variant"], removed: Bool[Tensor, "variant rows columns"]
    ) -> Float[Tensor, "variant colour rows columns"]:
        """Return variants of the images without some of their pixels.

        Args:
            rows: The image of each variant.
            removed: Which pixels it loses.
        """
        own = self.images[rows]
        if self.replacement is not None:
            return torch.where(removed[:, None], self.replacement[rows], own)
        found = impute(own, removed)
        if self.noise is not None:
            found = torch.where(removed[:, None], found + self.noise.to(found), found)
        return found.to(own.dtype)

    def blend(
        self, rows: Int[Tensor, "variant"], kept: Float[Tensor, "variant rows columns"]
    ) -> Float[Tensor, "variant colour rows columns"]:
        """Return `kept * image + (1 - kept) * fill`, for masks that keep a pixel in part.

        Args:
            rows: The image of each variant.
            kept: How much of each pixel is kept, 0 to 1.

        Raises:
            InputError: The fill makes pixels up from their neighbours, which a soft mask does not name.
        """
        if self.replacement is None:
            raise InputError(
                f"the fill {self.name} needs pixels that are removed or not, and this metric's masks are soft; use one "
                f"of {', '.join(WHOLE_FILLS)}"
            )
        own, share = self.images[rows], kept[:, None]
        return (share * own + (1 - share) * self.replacement[rows]).to(own.dtype)


def prepare_fill(
    fill: str,
    images: Float[Tensor, "image colour rows columns"],
    black: Float[Tensor, "colour"] | None = None,
    seed: int = 0,
) -> PixelFill:
    """Return a fill made ready for a batch of images: a blur is computed once, noise drawn once.

    Args:
        fill: A name of `FILLS`.
        images: The images as the network takes them.
        black: What black is in them; `None` where it is not known.
        seed: Draws the noise of `noisy_linear`.

    Raises:
        InputError: There is no such fill, or it is not known what black is.
    """
    if fill not in FILLS:
        raise InputError(f"no fill '{fill}'; {near(str(fill), FILLS, 'there are', 5)}")
    if fill == "black" and black is None:
        raise InputError(
            "it is not known what black is in the network's input; prepare photos with a cl.Preprocess, or give "
            "ScoredImages(..., black=): one value for each colour"
        )
    if fill == "mean":
        return PixelFill(fill, images, images.mean((2, 3), keepdim=True))
    if fill == "black":
        colour = black.to(images)[None, :, None, None]  # pyright: ignore[reportOptionalMemberAccess]
        return PixelFill(fill, images, colour.expand(len(images), -1, -1, -1))
    if fill == "zero":
        return PixelFill(fill, images, torch.zeros_like(images[:, :, :1, :1]))
    if fill in ("blur", "rise_blur"):
        return PixelFill(fill, images, blurred(images) if fill == "blur" else rise_blurred(images))
    if fill == "inpaint":
        return PixelFill(fill, images, None)
    generator = seeded_generator(seed)
    noise = ROAD_NOISE * torch.randn(images.shape[1:], generator=generator, device="cpu")
    return PixelFill(fill, images, None, noise.to(images.device))


def blurred(images: Float[Tensor, "image colour rows columns"]) -> Float[Tensor, "image colour rows columns"]:
    """Return images blurred by a Gaussian of `BLUR_SIGMA` of their shorter side; border pixels go on beyond the border.

    Args:
        images: The images.
    """
    sigma = BLUR_SIGMA * min(images.shape[2:])
    radius = max(1, int(BLUR_CUT * sigma + 0.5))
    bell = _bell(radius, sigma)
    return _smoothed(images, bell / bell.sum(), "replicate")


def rise_blurred(images: Float[Tensor, "image colour rows columns"]) -> Float[Tensor, "image colour rows columns"]:
    """Return images blurred as by RISE's authors, Petsiuk et al., BMVC 2018: 0 beyond the border.

    Their kernel is a single 1 in `RISE_SIDE` x `RISE_SIDE` zeros, blurred by SciPy with `RISE_SIGMA`: a Gaussian whose
    tail, cut at four deviations, is mirrored back into the kernel at its edges, so that nothing is lost.

    Args:
        images: The images.
    """
    tail = int(BLUR_CUT * RISE_SIGMA + 0.5)
    bell = _bell(tail, RISE_SIGMA)
    kernel = torch.zeros(RISE_SIDE, dtype=bell.dtype)
    for place, weight in enumerate(bell, RISE_SIDE // 2 - tail):
        within = place % (2 * RISE_SIDE)
        kernel[min(within, 2 * RISE_SIDE - 1 - within)] += weight / bell.sum()
    return _smoothed(images, kernel, "constant")


def _bell(radius: int, sigma: float) -> Float[Tensor, "place"]:
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return torch.exp(-0.5 * (places / sigma) ** 2)


def _smoothed(images: Tensor, weights: Float[Tensor, "place"], beyond: str) -> Tensor:
    """Return images, each colour convolved with the same weights along rows and along columns."""
    colours, height, width = images.shape[1:]
    radius = len(weights) // 2
    kernel = weights.to(images.device, torch.promote_types(images.dtype, torch.float32))
    parts = []
    for chunk in images.split(max(1, _BLUR_BYTES // (4 * math.prod(images.shape[1:])))):
        planes = chunk.to(kernel.dtype).reshape(-1, 1, height, width)
        wide = conv2d(pad(planes, (radius, radius, 0, 0), mode=beyond), kernel[None, None, None])
        tall = conv2d(pad(wide, (0, 0, radius, radius), mode=beyond), kernel[None, None, :, None])
        parts.append(tall.reshape(-1, colours, height, width).to(images.dtype))
    return torch.cat(parts)
