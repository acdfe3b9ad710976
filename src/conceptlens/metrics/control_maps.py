"""Maps that know nothing of the model: what a method must beat before its score means anything.

They go where a map goes, into every metric: the middle of the image, random numbers, and the edges of the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, conv2d, pad

from conceptlens.io.argument_kinds import check_integer, check_names, check_size
from conceptlens.io.errors import InputError
from conceptlens.metrics.scored_images import check_images
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# The standard deviation of the centre's Gaussian, as a share of each side.
CENTRE_STD = 0.25


def centre_maps(images: int, questions: int, grid: tuple[int, int]) -> Float[Tensor, "image question height width"]:
    """Return `exp(-((x - 1/2)^2 + (y - 1/2)^2) / (2 0.25^2))`, x and y shares of the sides, the same for all.

    Photos have their subject in the middle more often than not.

    Args:
        images: How many images.
        questions: How many questions about each.
        grid: Rows and columns of a map, those of the method that it is compared with.

    Raises:
        InputError: A number is too small.
    """
    _check(images, questions, grid)
    y, x = (((torch.arange(size) + 0.5) / size - 0.5).square() for size in grid)
    bump = torch.exp(-(y[:, None] + x[None, :]) / (2 * CENTRE_STD**2))
    return bump.expand(images, questions, -1, -1)


def random_maps(
    names: Sequence[str], questions: int, grid: tuple[int, int], seed: int = 0
) -> Float[Tensor, "image question height width"]:
    """Return uniform random numbers from 0 to 1, another map for every image and question.

    They depend on the image's name, the question's index and `seed` alone, not on the batch.

    Args:
        names: What tells each image from the others, such as its fingerprint.
        questions: How many questions about each.
        grid: Rows and columns of a map, those of the method: a finer one is rougher when it is enlarged.
        seed: Draws the numbers.

    Raises:
        InputError: A number is too small, or two images have one name.
    """
    names = check_names(names, "names")
    _check(len(names), questions, grid)
    if len(set(names)) != len(names):
        raise InputError("two images have one name, and would get one map; give names that tell them apart")
    check_seed(seed)
    rows = [[named_noise(f"{seed} {name} {question}", grid) for question in range(questions)] for name in names]
    return torch.from_numpy(np.array(rows, np.float32).reshape(len(names), questions, *grid))


def edge_maps(
    images: Float[Tensor, "image colour rows columns"], questions: int = 1, grid: tuple[int, int] | None = None
) -> Float[Tensor, "image question height width"]:
    """Return how strong the edges of each image are: the size of the Sobel gradient of the mean over colours.

    The edge detector of Adebayo et al., NeurIPS 2018: its maps look like explanations and know no model.

    Args:
        images: The images as the network takes them; border pixels go on beyond the border.
        questions: How many questions about each; all get the same map.
        grid: Rows and columns to which the map is averaged, those of the method; by default every pixel.

    Raises:
        InputError: A number is too small, the grid is finer than the images, or they are not finite.
    """
    check_images(images)
    size = (images.shape[2], images.shape[3])
    wanted = size if grid is None else grid
    _check(len(images), questions, wanted)
    if wanted[0] > size[0] or wanted[1] > size[1]:
        raise InputError(f"grid is {wanted[0]} x {wanted[1]}, finer than images of {size[0]} x {size[1]} pixels")
    grey = images.detach().double().mean(1, keepdim=True).cpu()
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=grey.dtype)
    slopes = conv2d(pad(grey, (1, 1, 1, 1), mode="replicate"), torch.stack([across, across.T])[:, None])
    return adaptive_avg_pool2d(slopes.norm(dim=1, keepdim=True), wanted).float().expand(-1, questions, -1, -1)


def named_noise(key: str, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Return uniform random numbers that depend on a text alone.

    Args:
        key: The text.
        size: Rows and columns.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).random(size)


def _check(images: int, questions: int, grid: tuple[int, int]) -> None:
    check_integer(images, "the number of images", 0)
    check_integer(questions, "the number of questions", 0)
    check_size(grid, "grid")
