"""What stands in the place of removed pixels. A metric's value means nothing without the name of its fill.

| Fill | Removed pixels become |
| --- | --- |
| `mean` | the mean colour of the image itself |
| `blur` | the image blurred by a Gaussian, its standard deviation `BLUR_SIGMA` of the shorter side |
| `black` | black, where it is known what black is in the network's input |
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

FILLS = ("mean", "blur", "black", "inpaint", "noisy_linear")
# Those that know what a whole image becomes, so that a soft mask can mix both.
WHOLE_FILLS = ("mean", "blur", "black")
# The blur's standard deviation as a share of the image's shorter side, and where the Gaussian is cut, in deviations.
BLUR_SIGMA, BLUR_CUT = 0.05, 4.0
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
    if fill == "blur":
        return PixelFill(fill, images, blurred(images))
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
    colours, height, width = images.shape[1:]
    sigma = BLUR_SIGMA * min(height, width)
    radius = max(1, int(BLUR_CUT * sigma + 0.5))
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    bell = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (bell / bell.sum()).to(images.device, torch.promote_types(images.dtype, torch.float32))
    parts = []
    for chunk in images.split(max(1, _BLUR_BYTES // (4 * math.prod(images.shape[1:])))):
        planes = chunk.to(kernel.dtype).reshape(-1, 1, height, width)
        wide = conv2d(pad(planes, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None])
        tall = conv2d(pad(wide, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
        parts.append(tall.reshape(-1, colours, height, width).to(images.dtype))
    return torch.cat(parts)
