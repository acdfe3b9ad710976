"""From an upright photo to a model's input, with the geometry kept: which part of the photo the model saw."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from conceptlens.io.errors import InputError
from conceptlens.io.image_file import MAX_PIXELS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash"]
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as a model's own configuration says.

    `crop_mode="center"` scales the photo's short side to `size / share` and cuts the centre, as classifiers are
    evaluated; `crop_mode="squash"` scales the whole photo to `size`, so that nothing is cut off and proportions change.
    Where an odd number of pixels is cut off, `crop_rounding` says where the crop begins: at the even half, as
    torchvision and timm round it, or at the half rounded down, as transformers does.

    Args:
        size: Rows and columns of the input.
        mean: The mean of each colour, of values in 0..1, that is subtracted. One mean makes grey inputs of one channel.
        std: The standard deviation of each colour that values are divided by.
        interpolation: How the photo is scaled: nearest, bilinear, bicubic or lanczos.
        share: The part of the scaled photo's side that the crop keeps (timm's `crop_pct`), above 0 and up to 1; read
            where `resize` is not given.
        resize: The length of the short side after scaling, or rows and columns, at least as large as the crop.
        crop_mode: "center" or "squash".
        crop_rounding: "even" or "down".

    Raises:
        InputError: A value is out of its range, or the crop is larger than the scaled photo.

    Examples:
        >>> cl.Preprocess((224, 224), share=0.875)(photo).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    share: float = 1.0
    resize: int | tuple[int, int] | None = None
    crop_mode: CropMode = "center"
    crop_rounding: Literal["even", "down"] = "even"

    def __post_init__(self) -> None:
        """Check every setting."""
        object.__setattr__(self, "size", tuple(self.size))
        chosen = {
            "size": len(self.size) == 2 and min(self.size) > 0,
            "mean": len(self.mean) == len(self.std),
            "std": min(self.std) > 0,
            "interpolation": self.interpolation in _RESAMPLING,
            "share": 0 < self.share <= 1,
            "resize": self._keeps_the_crop(),
            "crop_mode": self.crop_mode in ("center", "squash"),
            "crop_rounding": self.crop_rounding in ("even", "down"),
        }
        wrong = [f"{name}={getattr(self, name)!r}" for name, right in chosen.items() if not right]
        if wrong:
            raise InputError(
                f"a Preprocess with {', '.join(wrong)} is impossible; size is rows and columns, share above 0 and up "
                "to 1, resize at least the size, crop_mode center or squash, crop_rounding even or down"
            )

    def _keeps_the_crop(self) -> bool:
        """Whether the crop lies within the scaled photo, as far as that can be known without a photo."""
        if isinstance(self.resize, int):
            return self.resize >= min(self.size)
        return self.resize is None or (self.resize[0] >= self.size[0] and self.resize[1] >= self.size[1])

    def __call__(self, photo: Image.Image) -> Float[Tensor, "colour height width"]:
        """Return the normalised input `(colour, height, width)` of a photo, float32: its three colours, or one grey.

        Raises:
            InputError: There are neither one nor three means, or the photo, once scaled, is smaller than the crop.
        """
        if len(self.mean) not in (1, 3):
            raise InputError(
                f"a Preprocess with {len(self.mean)} means cannot prepare a photo, which is grey or has 3 colours; "
                "give the model's inputs as floating tensors, image channel rows columns"
            )
        view = self.view(photo)
        pixels = np.asarray(view if len(self.mean) == 3 else view.convert("L"), dtype=np.float32)
        values = pixels.reshape(*pixels.shape[:2], len(self.mean)) / 255.0
        normal = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(normal.transpose(2, 0, 1).copy())

    def view(self, photo: Image.Image) -> Image.Image:
        """Return what the model sees, before its colours are normalised.

        Args:
            photo: An upright photo of any size.

        Returns:
            A photo of `size`, scaled and cropped.

        Raises:
            InputError: The photo, once scaled, is smaller than the crop or has more than 100 megapixels.
        """
        width, height = self._resized(photo.size)
        resized = photo.resize((width, height), _RESAMPLING[self.interpolation])
        top, left = self._corner(width, height)
        return resized.crop((left, top, left + self.size[1], top + self.size[0]))

    def box(self, photo_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of a photo of `(width, height)` that is seen.

        Args:
            photo_size: Width and height of the upright photo in pixels.

        Returns:
            Left, top, right and bottom as shares of the photo, each in 0..1.

        Raises:
            InputError: The photo, once scaled, is smaller than the crop or has more than 100 megapixels.
        """
        width, height = self._resized(photo_size)
        top, left = self._corner(width, height)
        return left / width, top / height, (left + self.size[1]) / width, (top + self.size[0]) / height

    def _resized(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Return the photo's `(width, height)` after scaling, which the crop lies within."""
        width, height = self._scaled(photo_size)
        if width < self.size[1] or height < self.size[0]:
            raise InputError(
                f"a photo of {photo_size[0]} x {photo_size[1]} is scaled to {width} x {height} (width x height), which "
                f"is less than the crop of {self.size[1]} x {self.size[0]}; give Preprocess a larger resize, or "
                'crop_mode="squash"'
            )
        if width * height > MAX_PIXELS:
            raise InputError(
                f"a photo of {photo_size[0]} x {photo_size[1]} is scaled to {width} x {height} (width x height), more "
                f"than {MAX_PIXELS // 1_000_000} megapixels, before it is cropped; give a part of it, "
                'or crop_mode="squash" (--crop-mode squash)'
            )
        return width, height

    def _scaled(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Return the photo's `(width, height)` after scaling: the short side as torchvision's Resize rounds it."""
        if self.crop_mode == "squash":
            return self.size[1], self.size[0]
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        width, height = photo_size
        if self.resize is None and self.size[0] != self.size[1]:
            rows, columns = (int(side / self.share) for side in self.size)
            scale = max(columns / width, rows / height)
            return round(width * scale), round(height * scale)
        short = self.resize or int(self.size[0] / self.share)
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        halve = round if self.crop_rounding == "even" else math.floor
        return halve((height - self.size[0]) / 2.0), halve((width - self.size[1]) / 2.0)


def preparation_settings(known: Preprocess | None, transform: object) -> dict[str, Any] | str:
    """Return how photos are prepared, for settings that say how a number was made.

    Args:
        known: The preparation, where it is known.
        transform: What prepares photos.

    Returns:
        The fields of the preparation; the type's name of a transform that is not read.
    """
    return type(transform).__qualname__ if known is None else asdict(known)
