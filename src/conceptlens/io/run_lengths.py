"""COCO's masks of instances: polygons, and run lengths down the columns, plain or packed into text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MAX_COORDINATE = 100_000  # pixels
_MAX_CHARACTERS = 7  # of a packed number: 35 bits, more than the pixels of any photo


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
    return _filled(_runs(drawn["counts"]), size)


def check_drawn(drawn: Any, size: tuple[int, int]) -> None:
    """Raise `ValueError` or `TypeError`, saying why, where a `segmentation` cannot be drawn.

    Args:
        drawn: Polygons, or run lengths `{"size", "counts"}`, plain or packed.
        size: Rows and columns of the photo.
    """
    if isinstance(drawn, list):
        if not drawn:
            raise ValueError("no outline is given")
        for polygon in drawn:
            if not isinstance(polygon, list):
                raise TypeError(f"a polygon is {polygon!r:.40}; expected a list of x, y, x, y ...")
            if wrong := not_a_number(polygon):
                raise TypeError(f"a polygon holds {wrong}, which is no number")
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon needs at least 3 points, each with x and y")
            if not all(-MAX_COORDINATE <= at <= MAX_COORDINATE for at in polygon):  # edges are walked pixel by pixel
                raise ValueError("a polygon far outside its photo")
    elif not isinstance(drawn, dict) or not {"size", "counts"} <= drawn.keys():
        raise TypeError("neither polygons nor run lengths with size and counts are given")
    elif not isinstance(drawn["size"], (list, tuple)):
        raise TypeError(f"the size of its run lengths is {drawn['size']!r:.40}; expected rows and columns")
    elif tuple(drawn["size"]) != size:
        raise ValueError(f"run lengths for {tuple(drawn['size'])} rows and columns, the photo has {size}")
    else:
        _check_runs(_runs(drawn["counts"]), size)


def not_a_number(values: Sequence[Any]) -> str:
    """Return the first of `values` that is no number, such as a number in quotes; empty where all are.

    Args:
        values: What a file has where numbers are expected.
    """
    return next((f"{one!r:.40}" for one in values if not isinstance(one, (int, float)) or isinstance(one, bool)), "")


def unpacked(counts: str | bytes) -> list[int]:
    """Return the run lengths in COCO's packed text: five bits a character, from the third on as a difference.

    Raises `ValueError`, saying why, where it is no such text.
    """
    given = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8)
    if ((given < 48) | (given >= 112)).any():
        text = counts if isinstance(counts, str) else counts.decode("latin-1")
        raise ValueError(f"packed run lengths with the character {next(c for c in text if not '0' <= c < 'p')!r}")
    bits = given.astype(np.int64) - 48
    last = np.flatnonzero(bits & 32 == 0)  # the last character of each number; its fifth bit is the sign
    if len(bits) and (not len(last) or last[-1] != len(bits) - 1):
        raise ValueError("packed run lengths that end within a number")
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if (last - first >= _MAX_CHARACTERS).any():
        raise ValueError("packed run lengths with a number of too many characters")
    place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((bits & 31) << (5 * place), first) if len(bits) else bits
    runs = values - np.where(bits[last] & 16, 1 << (5 * (last - first + 1)), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs.tolist()


def _runs(counts: Any) -> list[int]:
    """Return run lengths, plain or packed, as whole numbers."""
    if isinstance(counts, (str, bytes)):
        return unpacked(counts)
    if not isinstance(counts, list):
        raise TypeError(f"the counts of its run lengths are {counts!r:.40}; expected a list or a text")
    if wrong := not_a_number(counts):
        raise TypeError(f"its run lengths hold {wrong}, which is no number")
    if any(one != one or one in (math.inf, -math.inf) or one != int(one) for one in counts):
        raise ValueError("run lengths that are no whole numbers")
    return [int(one) for one in counts]


def _filled(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return runs of off, on, off ... as a mask; they go down the columns."""
    _check_runs(counts, size)
    on = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(on, counts).reshape(size[::-1]).T)


def _check_runs(counts: Sequence[int], size: tuple[int, int]) -> None:
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError("run lengths that do not add up to the photo's pixels")
