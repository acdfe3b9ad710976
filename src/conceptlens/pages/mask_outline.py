"""A mask drawn on its photo: a line along its border, and nothing over what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from conceptlens.data.masked_set import resize_mask

if TYPE_CHECKING:
    from jaxtyping import Bool

LINE, EDGE = (255, 255, 255), (20, 24, 30)
# How much darker the photo is outside the mask.
DIM = 0.45


def outlined(photo: Image.Image, mask: Bool[np.ndarray, "rows columns"]) -> Image.Image:
    """Return the photo with the mask's border as a white line with a dark edge, and the rest a little darker."""
    inside = resize_mask(mask, (photo.height, photo.width))
    pixels = np.asarray(photo.convert("RGB")).astype(np.float64)
    pixels[~inside] *= 1 - DIM
    return draw_outline(Image.fromarray(np.rint(pixels).astype(np.uint8)), inside)


def draw_outline(photo: Image.Image, inside: Bool[np.ndarray, "rows columns"]) -> Image.Image:
    """Return the photo with a white line with a dark edge along the border of a mask of its size.

    The photo's own border is no border of the mask.
    """
    wide = max(1, round(max(photo.size) / 230))
    line = inside & np.asarray(ndimage.binary_dilation(~inside, iterations=wide), bool)
    pixels = np.array(photo.convert("RGB"))
    pixels[np.asarray(ndimage.binary_dilation(line), bool) & ~line] = EDGE
    pixels[line] = LINE
    return Image.fromarray(pixels)
