"""Image processors of transformers, read as a `Preprocess` and held against their own output."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError
from conceptlens.model.preprocess import Interpolation, Preprocess

_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# How far a `Preprocess` may be from the processor's own output on average: libraries round pixels differently.
_TOLERANCE = 0.03
_ADVICE = "give its module and a transform of your own to cl.Backbone"


def preprocess_of(processor: Any, name: str) -> Preprocess:
    """Return the settings of a transformers image processor as a `Preprocess`.

    Detectors take photos of any size; here they see a square of their short side, the photo squashed into it, so
    that batches stay whole.
    """
    settings = processor.to_dict()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    short, share = size.get("shortest_edge"), settings.get("crop_pct")
    mean, std = _colours(settings)
    how: dict[str, Any] = {"mean": mean, "std": std, "crop_rounding": "down"}
    how["interpolation"] = _RESAMPLING[int(settings.get("resample", 2))]
    if settings.get("do_center_crop") and crop:
        resize = int(short / (share or 1.0)) if short else (size["height"], size["width"])
        return Preprocess((crop["height"], crop["width"]), resize=resize, **how)
    if short and share and short < 384:  # ConvNeXt: from 384 on, nothing is cut off
        return Preprocess((short, short), resize=int(short / share), **how)
    rows, columns = (short, short) if short else (size.get("height"), size.get("width"))
    if not rows or not columns:
        raise InputError(f"{name} resizes photos to {dict(size)}, which is not understood; {_ADVICE}")
    return Preprocess((rows, columns), crop_mode="squash", **how)


def check_same(transform: Preprocess, processor: Any, name: str) -> None:
    """Refuse a processor that does something to a photo that `transform` does not."""
    noise = np.random.default_rng(0).integers(0, 256, (29, 37, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((373, 291), Image.Resampling.BICUBIC)
    expected = np.asarray(processor(photo, return_tensors="np")["pixel_values"][0])
    found = transform(photo).numpy()
    same = expected.shape == found.shape and float(np.abs(expected - found).mean()) < _TOLERANCE
    if not same:
        raise InputError(
            f"the {type(processor).__name__} of {name} does more than resize, crop and normalise; {_ADVICE}"
        )


def _colours(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels in 0..1, whatever factor the processor scales them by."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
        if settings.get("include_top"):  # EfficientNet divides by the deviation twice
            std = [s * s for s in std]
    factor = 255 * settings["rescale_factor"] if settings.get("do_rescale", True) else 255.0
    return tuple(m / factor for m in mean), tuple(s / factor for s in std)
