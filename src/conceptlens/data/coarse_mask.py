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

    A pixel belongs to the shape where its centre does, so a sliver may be blank.

    Args:
        box: Left, top, right, bottom, in pixels.
        size: The photo's rows and columns; what lies beyond them is cut.
        shape: `"box"` or `"ellipse"`.

    Returns:
        Bool `[rows columns]`.

    Raises:
        InputError: The shape is another, or the box has no height or width.
    """
    if shape not in SHAPES:
        raise InputError(f"no coarse shape {shape!r}; shapes: {near(shape, SHAPES, len(SHAPES))}")
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise InputError(f"the box {box} is empty; expected left < right and top < bottom, in pixels")
    x = np.arange(size[1])[None, :] + 0.5 - (left + right) / 2
    y = np.arange(size[0])[:, None] + 0.5 - (top + bottom) / 2
    return SHAPES[shape](x, y, (right - left) / 2, (bottom - top) / 2)
