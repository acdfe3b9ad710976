"""Coarse masks: the box or the ellipse around an object, where no more is drawn, or to ask what an outline is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from conceptlens.io.errors import InputError, near

Coarse = Literal["box", "ellipse"]

# Shape to "is this point in it", for points `x`, `y` from the centre and the half sides `a`, `b` of the box around it.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "box": lambda x, y, a, b: (-a <= x) & (x < a) & (-b <= y) & (y < b),
    "ellipse": lambda x, y, a, b: (x * b) ** 2 + (y * a) ** 2 <= (a * b) ** 2,
}


def coarse_mask(box: tuple[float, float, float, float], size: tuple[int, int], shape: Coarse = "box") -> np.ndarray:
    """Return a `box` (left, top, right, bottom, in pixels), or the ellipse in it, as a mask: bool `rows columns`.

    `size` is the photo's rows and columns; what lies beyond them is cut. A pixel belongs to the shape where its centre
    does, so a sliver may be blank. Raises `InputError` for another shape, or a box without height or width.
    """
    if shape not in SHAPES:
        raise InputError(f"no coarse shape {shape!r}; shapes: {near(shape, SHAPES, len(SHAPES))}")
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise InputError(f"the box {box} is empty; expected left < right and top < bottom, in pixels")
    x = np.arange(size[1])[None, :] + 0.5 - (left + right) / 2
    y = np.arange(size[0])[:, None] + 0.5 - (top + bottom) / 2
    return SHAPES[shape](x, y, (right - left) / 2, (bottom - top) / 2)


def coarse_masks(masks: np.ndarray, shape: Coarse = "box") -> np.ndarray:
    """Return `masks[concept rows columns]`, each as the box around its pixels, or the ellipse in that box.

    A blank mask stays blank. Give masks of one object each (`by="instance"`): the box around two objects holds what
    lies between them. An ellipse leaves out corners that the mask may have.
    """
    coarse = np.zeros(masks.shape, bool)
    for mask, made in zip(masks, coarse, strict=True):
        if mask.any():
            made[:] = coarse_mask(_around(mask), mask.shape, shape)
    return coarse


def _around(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box around the pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
