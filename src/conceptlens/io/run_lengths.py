"""COCO's masks of instances: polygons, and run lengths down the columns, plain or packed into text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MAX_COORDINATE = 100_000  # pixels


def decode_mask(drawn: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the mask that a COCO `segmentation` means, for a photo of `size` rows and columns: bool `rows columns`.

    Polygons are filled by pycocotools, so that their edges fall where COCO's own tools put them. Raises `ValueError`
    or `TypeError`, saying why, where it is not drawn for such a photo.

    Args:
        drawn: Polygons, or run lengths `{"size", "counts"}`, plain or packed.
        size: Rows and columns of the photo.

    Returns:
        Bool `[rows columns]`.
    """
    check_drawn(drawn, size)
    if isinstance(drawn, list):
        mask = np.zeros(size, bool)
        for polygon in drawn:
            for filled in coco_mask.frPyObjects([polygon], *size):
                mask |= _filled(unpacked(filled["counts"]), size)
        return mask
    counts = drawn["counts"]
    return _filled(counts if isinstance(counts, list) else unpacked(counts), size)


def check_drawn(drawn: Any, size: tuple[int, int]) -> None:
    """Raise `ValueError` or `TypeError`, saying why, where a `segmentation` cannot be drawn; packed text is not read.

    Args:
        drawn: Polygons, or run lengths `{"size", "counts"}`, plain or packed.
        size: Rows and columns of the photo.
    """
    if isinstance(drawn, list):
        if not drawn:
            raise ValueError("no outline is given")
        for polygon in drawn:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon needs at least 3 points, each with x and y")
            if not all(-MAX_COORDINATE <= at <= MAX_COORDINATE for at in polygon):  # edges are walked pixel by pixel
                raise ValueError("a polygon far outside its photo")
    elif not isinstance(drawn, dict) or not {"size", "counts"} <= drawn.keys():
        raise TypeError("neither polygons nor run lengths with size and counts are given")
    elif tuple(drawn["size"]) != size:
        raise ValueError(f"run lengths for {tuple(drawn['size'])} rows and columns, the photo has {size}")
    elif isinstance(drawn["counts"], list):
        _check_runs(drawn["counts"], size)


def unpacked(counts: str | bytes) -> list[int]:
    """Return the run lengths in COCO's packed text: five bits a character, from the third on as a difference."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii") if isinstance(counts, str) else counts:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"packed run lengths with the character {chr(character)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last character of this number; its fifth bit is the sign
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("packed run lengths that end within a number")
    return runs


def _filled(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return runs of off, on, off ... as a mask; they go down the columns."""
    _check_runs(counts, size)
    on = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(on, counts).reshape(size[::-1]).T)


def _check_runs(counts: Sequence[int], size: tuple[int, int]) -> None:
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError("run lengths that do not add up to the photo's pixels")
