"""The same crop for two networks: a part of a photo chosen by its own fingerprint, scaled to each one's input."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.model.backbone import Backbone

# As published: a part of 8 to 100 % of the photo for training, the centre 224 of 256 pixels of the short side else.
AREA = (0.08, 1.0)
PROPORTIONS = (3 / 4, 4 / 3)
CENTRE = 224 / 256


def random_crop(
    photo: Image.Image, fingerprint: str, view: int, seed: int, area: tuple[float, float] = AREA
) -> Image.Image:
    """Return a random part of the photo, flipped half of the time: torchvision's RandomResizedCrop before its resize.

    `area`: the least and greatest share of the photo. Photo, view and seed decide alone, so the same crop comes again
    in any order, process and run.
    """
    digest = hashlib.sha256(f"{fingerprint} {view} {seed}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest, "little"))
    left, top, width, height = _random_box(random, *photo.size, area)
    part = photo.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def centre_crop(photo: Image.Image) -> Image.Image:
    """Return what Resize(256) and CenterCrop(224) see of a photo, at its own resolution."""
    side = max(1, round(CENTRE * min(photo.size)))
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))


def is_held_out(fingerprint: str, share: float, seed: int) -> bool:
    """Whether a photo is kept for validation: its fingerprint decides, so equal photos are never on both sides."""
    digest = hashlib.sha256(f"held out {fingerprint} {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") < share * 2**64


def network_input(model: Backbone, crop: Image.Image) -> Float[Tensor, "colour height width"]:
    """Return a crop scaled to a model's own input size, in its own interpolation and colours."""
    return replace(preprocess_of(model), crop_mode="squash", resize=None)(crop)


def preprocess_of(model: Backbone) -> Preprocess:
    """Return a model's preprocessing, which must be known to be given the same crop as another's."""
    if not isinstance(model.transform, Preprocess):
        raise InputError(
            f"{model.name} has {'no transform' if model.transform is None else 'a transform of its own'}, so it cannot "
            "be shown a given crop; give Backbone(..., transform=cl.Preprocess(size, mean, std))"
        )
    return model.transform


def _random_box(
    random: np.random.Generator, width: int, height: int, share: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, width and height; after ten tries the largest centred part of allowed proportions."""
    low, high = (math.log(bound) for bound in PROPORTIONS)
    for _ in range(10):
        area, proportion = width * height * random.uniform(*share), math.exp(random.uniform(low, high))
        columns, rows = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = random.integers(0, width - columns + 1), random.integers(0, height - rows + 1)
            return int(left), int(top), columns, rows
    columns = min(width, round(height * PROPORTIONS[1]))
    rows = min(height, round(width / PROPORTIONS[0]))
    return (width - columns) // 2, (height - rows) // 2, columns, rows
