"""Maps enlarged bilinearly, to a size or to the part of a photo that they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from conceptlens.io.errors import InputError, InputTypeError

WHOLE = (0.0, 0.0, 1.0, 1.0)

Box = Sequence[float]


def upsample(values: Any, height: int, width: int) -> Any:
    """Enlarge one map or a batch of maps bilinearly; cell centres stay where they are.

    Pixel centres lie at half pixels, as with torch's `align_corners=False`.

    Args:
        values: `... height width`, numpy or torch (or nested lists), with any number of axes before the two.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        `... height width` of the same type and precision, on the same device; integers, booleans and lists become
        float64 arrays (integer tensors float32 tensors).

    Raises:
        InputError: There are fewer than two axes, a size is below 1, or values are NaN or infinite.

    Examples:
        >>> cl.render.upsample(found.maps, 224, 224).shape
        torch.Size([1, 1, 224, 224])
    """
    if height < 1 or width < 1:
        raise InputError(f"size {height} x {width}; expected at least one pixel each way")
    if is_tensor(values):
        return _upsample_tensor(values, height, width)
    array = np.asarray(values)
    grid = checked(array.astype(np.float64))
    upper, lower, down = _between(grid.shape[-2], height)
    left, right, across = _between(grid.shape[-1], width)
    rows = grid[..., upper, :] * (1 - down)[:, None] + grid[..., lower, :] * down[:, None]
    large = rows[..., left] * (1 - across) + rows[..., right] * across
    return large.astype(array.dtype) if array.dtype.kind == "f" else large


def _upsample_tensor(values: Any, height: int, width: int) -> Any:
    import torch

    checked(values)
    narrow = values.dtype not in (torch.float32, torch.float64)
    grid = (values.float() if narrow else values).reshape(1, -1, *values.shape[-2:])
    large = torch.nn.functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    whole = large.reshape(*values.shape[:-2], height, width)
    return whole.to(values.dtype) if values.dtype.is_floating_point else whole


def upsample_in_box(values: Any, height: int, width: int, box: Box = WHOLE, fill: float = 0.0) -> Any:
    """Enlarge maps `... height width` to whole photos of `height` x `width`: they cover `box`, the rest is `fill`.

    A box that reaches beyond the photo (padding) is cut at its border. Type and precision stay, as in `upsample`.

    Args:
        values: `... height width`, numpy or torch.
        height: Rows of the photo.
        width: Columns of the photo.
        box: The part that the maps cover: left, top, right, bottom as shares of the photo.
        fill: The value outside of it.

    Returns:
        `... height width` of the whole photo; type, precision and device as in `upsample`.

    Raises:
        InputError: There are fewer than two axes, the box is empty or outside of the photo, or values are NaN or
            infinite.
    """
    left, top, right, bottom = pixels_of(box, width, height)
    large = upsample(values, bottom - top, right - left)
    if (left, top, right, bottom) == (0, 0, width, height):
        return large
    shape = (*large.shape[:-2], height, width)
    whole = large.new_full(shape, fill) if is_tensor(large) else np.full(shape, fill, large.dtype)
    inside = (slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width)))
    cut = (slice(inside[0].start - top, inside[0].stop - top), slice(inside[1].start - left, inside[1].stop - left))
    whole[(..., *inside)] = large[(..., *cut)]
    return whole


def is_tensor(values: Any) -> bool:
    """Say whether values are a torch tensor; nothing here loads torch.

    Args:
        values: Anything.

    Returns:
        Whether it has `detach`.
    """
    return hasattr(values, "detach")


def checked(maps: Any) -> Any:
    """Return maps `... height width` as they are, refusing those without cells or with values that are not finite.

    Args:
        maps: `... height width`, an array or a tensor.

    Returns:
        The maps.

    Raises:
        InputError: There are fewer than two axes, no cell, or a value is NaN or infinite.
    """
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise InputError(f"map has shape {tuple(maps.shape)}; expected ... height width, at least one cell each way")
    finite = maps.isfinite() if is_tensor(maps) else np.isfinite(maps)
    if not bool(finite.all()):
        raise InputError(f"map holds {int((~finite).sum())} values that are NaN or infinite; expected numbers")
    return maps


def _between(cells: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each pixel the cells before and after it and how far it is from the one to the other."""
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    before = np.floor(position).astype(int)
    return before, np.minimum(before + 1, cells - 1), position - before


def pixels_of(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box in pixels, at least one each way; beyond the photo where the box is.

    Args:
        box: Left, top, right, bottom as shares of the photo.
        width: Columns of the photo.
        height: Rows of the photo.

    Returns:
        Left, top, right, bottom in pixels.

    Raises:
        InputError: The box is empty or lies outside of the photo.
    """
    sides = tuple(box) if isinstance(box, (Sequence, np.ndarray)) and not isinstance(box, str) else ()
    if not all(isinstance(side, (Real, np.number)) for side in sides or ("",)):
        raise InputTypeError(f"box is {box!r}; expected left, top, right, bottom of the photo, as shares of its size")
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3] and max(box[0], box[1]) < 1 and min(box[2:]) > 0):
        raise InputError(f"box is {tuple(box)}; expected left, top, right, bottom of the photo, as shares of its size")
    left = min(math.floor(box[0] * width + 0.5), width - 1)
    top = min(math.floor(box[1] * height + 0.5), height - 1)
    right, bottom = math.floor(box[2] * width + 0.5), math.floor(box[3] * height + 0.5)
    return left, top, max(left + 1, right), max(top + 1, bottom)
