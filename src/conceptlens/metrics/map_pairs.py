"""Pairs of maps of the same images and questions, brought to one size and compared in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_size
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import check_cells, tensor_of
from conceptlens.metrics.removal_order import enlarged, ranked
from conceptlens.record import Explanation
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps

    Similarity = Callable[
        [Float[Tensor, "pair rows columns"], Float[Tensor, "pair rows columns"]], Float[Tensor, "pair"]
    ]

BATCH_PIXELS = 2**20  # bounds the memory, at about 100 bytes a pixel


def compare_maps(first: Maps, second: Maps, similarity: Similarity, size: tuple[int, int] | None) -> Score:
    """Return how alike two maps are, for every image and question where neither is the same everywhere.

    Args:
        first: Maps.
        second: Maps of the same images and questions, on any grid.
        similarity: From two maps of each pair, in float64 on the CPU and not constant, to a number.
        size: Rows and columns to which both are enlarged; by default the finer of both grids.

    Returns:
        `values[image question]`.

    Raises:
        InputError: They are of other images or questions, or another part of the photos, finer than `size`, or not
            finite.
        InputTypeError: They are no maps.
    """
    if isinstance(first, Explanation) and isinstance(second, Explanation):
        _check_same_photos(first, second)
    one, other = whole_maps(first), whole_maps(second)
    if one.shape[:2] != other.shape[:2]:
        raise InputError(
            f"maps have shapes {tuple(one.shape)} and {tuple(other.shape)}; expected the same images and questions"
        )
    finest = max(one.shape[2], other.shape[2]), max(one.shape[3], other.shape[3])
    common = finest if size is None else check_size(size, "size")
    if common[0] < finest[0] or common[1] < finest[1]:
        raise InputError(
            f"size is {common[0]} x {common[1]} and maps have up to {finest[0]} x {finest[1]} cells; maps are not made "
            "smaller, give a size as large"
        )
    applies = ranked(one) & ranked(other)
    values = torch.zeros(applies.shape, dtype=torch.float64)
    step = max(1, BATCH_PIXELS // (common[0] * common[1]))
    for pairs in applies.nonzero().split(step) if applies.any() else ():
        image, question = pairs[:, 0], pairs[:, 1]
        values[image, question] = similarity(
            *(enlarged(maps[image, question], common).double() for maps in (one, other))
        )
    return Score(values, applies)


def whole_maps(given: Maps) -> Float[Tensor, "image question height width"]:
    """Return maps on the CPU, checked, whatever part of a photo they cover.

    Args:
        given: An explanation, a tensor or an array.

    Raises:
        InputError: They have no four axes, no cell, or are not finite.
        InputTypeError: They are no maps.
    """
    maps = tensor_of(given.maps if isinstance(given, Explanation) else given, "maps")
    if maps.ndim != 4 or 0 in maps.shape:
        raise InputError(f"maps have shape {tuple(maps.shape)}; expected image question height width, none of them 0")
    check_cells(maps)
    return maps if maps.is_floating_point() else maps.double()


def _check_same_photos(first: Explanation, second: Explanation) -> None:
    for mine, other in zip(first.source.image_info, second.source.image_info, strict=False):
        if mine.fingerprint and other.fingerprint and mine.fingerprint != other.fingerprint:
            raise InputError(f"maps are of {mine.name} and {other.name}; give maps of the same photos, in one order")
        if mine.box != other.box:
            raise InputError(
                f"maps cover different parts of {mine.name}; give both as they are, or explanation.upsampled() of both"
            )
