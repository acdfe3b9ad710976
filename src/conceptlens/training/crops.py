"""The same crop for two networks: a part of a photo chosen by its own fingerprint, scaled to each one's input."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.model.backbone import Backbone

# As published: 8 to 100 % of the photo for training, else the centre 224 of 256 pixels of the short side.
CROP_AREA = (0.08, 1.0)
ASPECT_RATIOS = (3 / 4, 4 / 3)
CENTER_FRACTION = 224 / 256


def random_crop(
    photo: Image.Image, fingerprint: str, view: int, seed: int, area: tuple[float, float] = CROP_AREA
) -> Image.Image:
    """Return a random crop of a photo, mirrored half of the time: torchvision's RandomResizedCrop before its resize.

    Args:
        photo: The photo.
        fingerprint: Fingerprint of its pixels; with `view` and `seed` it decides the crop, in any order and process.
        view: Number of the crop.
        seed: Seed of the run.
        area: Smallest and largest share of the photo's area.

    Returns:
        The crop at the photo's own resolution.
    """
    digest = hashlib.sha256(f"{fingerprint} {view} {seed}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest, "little"))
    left, top, width, height = _random_box(random, *photo.size, area)
    part = photo.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def centre_crop(photo: Image.Image) -> Image.Image:
    """Return the part of a photo that Resize(256) and CenterCrop(224) keep, at its own resolution."""
    side = max(1, round(CENTER_FRACTION * min(photo.size)))
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))


def is_validation(fingerprint: str, share: float, seed: int) -> bool:
    """Return whether a photo is a validation photo: its pixels decide, so equal photos are on the same side.

    Args:
        fingerprint: Fingerprint of its pixels.
        share: Share of validation photos, from 0 to 1.
        seed: Seed of the run.
    """
    digest = hashlib.sha256(f"held out {fingerprint} {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") < share * 2**64


def network_input(model: Backbone, crop: Image.Image) -> Float[Tensor, "colour height width"]:
    """Return a crop scaled to a model's input size, normalised by its preprocessing.

    Raises:
        InputError: Where the model's preprocessing is not a `Preprocess`.
    """
    return replace(known_preprocess(model), crop_mode="squash", resize=None)(crop)


def known_preprocess(model: Backbone) -> Preprocess:
    """Return a model's `Preprocess`; another transform is refused, for it cannot be given a chosen crop."""
    return model.known_preprocess("it cannot be shown a given crop")


def _random_box(
    random: np.random.Generator, width: int, height: int, share: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, width and height; after ten tries the largest centred part of allowed proportions."""
    low, high = (math.log(bound) for bound in ASPECT_RATIOS)
    for _ in range(10):
        area, proportion = width * height * random.uniform(*share), math.exp(random.uniform(low, high))
        columns, rows = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = random.integers(0, width - columns + 1), random.integers(0, height - rows + 1)
            return int(left), int(top), columns, rows
    columns = min(width, round(height * ASPECT_RATIOS[1]))
    rows = min(height, round(width / ASPECT_RATIOS[0]))
    return (width - columns) // 2, (height - rows) // 2, columns, rows
