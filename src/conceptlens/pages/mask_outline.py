"""A mask drawn on its photo: a line along its border, and nothing over what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.data.masked_set import resize_mask

if TYPE_CHECKING:
    from jaxtyping import Bool

LINE, EDGE = (255, 255, 255), (20, 24, 30)
# How much darker the photo is outside the mask.
DIM = 0.45


def outlined(photo: Image.Image, mask: Bool[np.ndarray, "rows columns"]) -> Image.Image:
    """Return a photo with the border of a mask as a white line with a dark edge, and the rest a little darker.

    Args:
        photo: The photo.
        mask: The mask, of any size; it covers the whole photo.

    Returns:
        An RGB image of the photo's size.
    """
    inside = resize_mask(mask, (photo.height, photo.width))
    pixels = np.asarray(photo.convert("RGB")).astype(np.float64)
    pixels[~inside] *= 1 - DIM
    wide = max(1, round(max(photo.size) / 230))
    line = inside & _grown(~inside, wide)
    edge = _grown(line, 1) & ~line
    pixels[edge] = EDGE
    pixels[line] = LINE
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """Return a mask grown by so many pixels each way; the photo's own border is no border of the mask."""
    grown = mask.copy()
    for _ in range(by):
        before = grown
        grown = before.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
    return grown
