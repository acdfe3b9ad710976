"""Does a map move with the image? Images shifted by a few pixels, explained again, and the maps shifted back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.io.argument_kinds import check_function, check_integer, check_number
from conceptlens.io.errors import InputError
from conceptlens.metrics.map_map import SimilarityName, map_similarity
from conceptlens.metrics.map_pairs import whole_maps
from conceptlens.metrics.removal_order import enlarged
from conceptlens.metrics.scored_images import check_images
from conceptlens.metrics.training_mode import only_in_eval_mode
from conceptlens.statistics.random_seed import check_seed
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps


def shift_stability(
    explain: Callable[[Tensor], Maps],
    images: Float[Tensor, "image colour rows columns"],
    largest: float = 0.05,
    samples: int = 4,
    similarity: SimilarityName = "map_spearman",
    seed: int = 0,
) -> Score:
    """Return how alike a map and that of the slightly shifted image are, once it is shifted back; higher is better.

    The mean over shifts. Each is by whole pixels, at most `largest` of the shorter side each way and not 0; pixels at
    the border are repeated where nothing moves in, and only pixels that both maps are about are compared. 1 is a map
    that moves with the image. A smooth map that stays where it is loses little, so a fixed map (`centre_maps`) is the
    control.

    Args:
        explain: Explains images again: from a batch as the network takes it to its maps, the questions fixed.
        images: The images as the network takes them.
        largest: The largest shift, as a share of the shorter side, above 0 and below 0.5; at least a pixel.
        samples: How many shifts, no two the same.
        similarity: A name of `MAP_MAP_METRICS`.
        seed: Draws the shifts, the same for every image.

    Returns:
        `values[image question]`; it does not apply where one of the maps is the same everywhere.

    Raises:
        InputError: Images have another shape, a number is out of range, or maps are not finite, come from a network in
            training mode, or change their images or questions.
        InputTypeError: `explain` cannot be called.
    """
    check_function(explain, "explain", "from images to their maps")
    explain = only_in_eval_mode()(explain)
    check_images(images)
    shifts = draw_shifts((images.shape[2], images.shape[3]), largest, samples, seed)
    before = _large_maps(explain(images), images)
    scores = []
    for down, right in shifts:
        after = _large_maps(explain(shifted(images, down, right)), images)
        if after.shape != before.shape:
            raise InputError(f"there were maps of {before.shape[1]} questions and now of {after.shape[1]}; fix them")
        rows, columns = _common(down, images.shape[2]), _common(right, images.shape[3])
        here, there = before[..., rows[0], columns[0]], after[..., rows[1], columns[1]]
        scores.append(map_similarity(similarity, here, there))
    applies = torch.stack([score.applies for score in scores]).all(0)
    mean = torch.stack([score.values for score in scores]).mean(0)
    return Score(torch.where(applies, mean, 0.0), applies)


def draw_shifts(size: tuple[int, int], largest: float, samples: int, seed: int) -> list[tuple[int, int]]:
    """Return shifts down and to the right, in whole pixels, none of them nowhere and no two the same.

    Args:
        size: Rows and columns of the image.
        largest: The largest, as a share of the shorter side; at least a pixel.
        samples: How many.
        seed: Draws them.

    Raises:
        InputError: `largest` is out of range, or there are not so many shifts.
    """
    wanted = "a share of the shorter side, above 0 and below 0.5"
    check_number(largest, "largest", wanted, lambda one: 0 < one < 0.5)
    check_integer(samples, "the number of samples")
    reach = max(1, round(largest * min(size)))
    if reach >= min(size):
        raise InputError(f"images of {size[0]} x {size[1]} pixels have nothing left after a shift; give larger ones")
    way = range(-reach, reach + 1)
    every = [(down, right) for down in way for right in way if (down, right) != (0, 0)]
    if samples > len(every):
        raise InputError(f"samples is {samples}; expected 1 to {len(every)}, the shifts of at most {reach} pixels")
    generator = np.random.default_rng(check_seed(seed))
    return [every[index] for index in generator.choice(len(every), samples, replace=False)]


def shifted(
    images: Float[Tensor, "image colour rows columns"], down: int, right: int
) -> Float[Tensor, "image colour rows columns"]:
    """Return images shifted by whole pixels; pixels at the border are repeated where nothing moves in.

    Args:
        images: The images.
        down: By how many rows.
        right: By how many columns.
    """
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    return images[:, :, rows][..., columns]


def _common(by: int, side: int) -> tuple[slice, slice]:
    """Return what is left of one side after a shift, in the image and in the shifted one."""
    return slice(max(-by, 0), side - max(by, 0)), slice(max(by, 0), side + min(by, 0))


def _large_maps(given: Maps, images: Tensor) -> Float[Tensor, "image question rows columns"]:
    """Return maps at the size of the images."""
    maps, size = whole_maps(given), (images.shape[2], images.shape[3])
    if len(maps) != len(images) or maps.shape[2] > size[0] or maps.shape[3] > size[1]:
        raise InputError(
            f"explain gave maps {tuple(maps.shape)} of images {tuple(images.shape)}; expected one for each image, no "
            "finer than it"
        )
    return enlarged(maps.flatten(0, 1), size).reshape(*maps.shape[:2], *size)


SHIFT_METRIC = Metric(
    "shift_stability", "stability under shifts", shift_stability, True, -1, 1, "that of a fixed map", "this package",
    ("explain again",),
)  # fmt: skip
