"""What a transform of torchvision does to a photo, read from its steps and compared with its own output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from conceptlens.model.preprocess import Interpolation, Preprocess

# Libraries whose steps are what their names say.
_LIBRARIES = ("torchvision.transforms", "timm.data", "open_clip")
_TO_TENSOR = ("ToTensor", "MaybeToTensor", "PILToTensor", "ToImage", "ToPureTensor", "ConvertImageDtype", "ToDtype")
_NOTHING = ("_convert_to_rgb", "MaybeConvertMode", "RGB", "Identity")  # photos are RGB already
_INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos")
# How far a `Preprocess` may be from the transform's own output on average, in normalised units: torchvision resizes
# tensors a little differently from photos.
_TOLERANCE = 0.03


def read_transform(transform: Callable[[Image.Image], Tensor] | None) -> Preprocess | None:
    """Return the `Preprocess` that does what a torchvision transform does, or `None` where it does something else.

    Understood are `Compose` (of `transforms` and `transforms.v2`) of Resize, CenterCrop, conversion to a tensor and
    Normalize, and the presets of `torchvision.models` weights (`ImageClassification`). The result is compared with
    the transform's own output on two drawn photos, one wide and one tall.

    Args:
        transform: Any callable from a photo to a tensor, or `None`.
    """
    steps = None if transform is None else _steps(transform)
    found = None if steps is None else _from_steps(steps)
    return found if found and transform and agrees(found, transform) else None


def _steps(transform: Any) -> list[tuple[str, Any]] | None:
    """Return name and object of every step; `None` where one is unknown. A preset is a single step."""
    made_by = transform if hasattr(transform, "__name__") else type(transform)  # a function, or the class of a step
    if not str(made_by.__module__).startswith(_LIBRARIES):
        return None
    name = made_by.__name__
    if name in ("Compose", "Sequential"):
        parts = [_steps(step) for step in getattr(transform, "transforms", ())]
        return None if any(part is None for part in parts) else [step for part in parts for step in part or ()]
    return [(name, transform)]


def _from_steps(steps: Iterable[tuple[str, Any]]) -> Preprocess | None:
    """Return the steps as a `Preprocess`; `None` where there is an unknown one, or one out of place."""
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    how: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    for name, step in steps:
        if name == "ImageClassification":
            resize, crop = _side(step.resize_size), _pair(step.crop_size)
            how |= {"mean": _numbers(step.mean), "std": _numbers(step.std), "interpolation": _interpolation(step)}
        elif name == "Resize" and resize is None and crop is None and getattr(step, "max_size", None) is None:
            resize = _side(step.size)
            how["interpolation"] = _interpolation(step)
        elif name == "CenterCrop" and crop is None:
            crop = _pair(step.size)
        elif name == "Normalize" and len(step.mean) == 3:
            how |= {"mean": _numbers(step.mean), "std": _numbers(step.std)}
        elif name not in (*_TO_TENSOR, *_NOTHING):
            return None
    if how.get("interpolation", "") is None or resize is None:
        return None
    if isinstance(resize, tuple) and crop in (None, resize):
        return Preprocess(resize, crop_mode="squash", **how)
    rows, columns = resize if isinstance(resize, tuple) else (resize, resize)
    if crop is None or rows < crop[0] or columns < crop[1]:  # a larger crop would be filled up with black
        return None
    return Preprocess(crop, resize=resize, **how)


def _numbers(values: Any) -> tuple[float, ...]:
    """Return means or deviations as they were written: timm keeps them in single precision."""
    return tuple(round(float(value), 6) for value in values)


def _interpolation(step: Any) -> Interpolation | None:
    value = getattr(step.interpolation, "value", step.interpolation)
    return value if value in _INTERPOLATIONS else None


def _side(size: Any) -> int | tuple[int, int]:
    """Return a short side, or rows and columns."""
    if isinstance(size, (list, tuple)):
        return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))
    return int(size)


def _pair(size: Any) -> tuple[int, int]:
    found = _side(size)
    return found if isinstance(found, tuple) else (found, found)


def agrees(found: Preprocess, transform: Callable[[Image.Image], Any]) -> bool:
    """Whether `found` gives what another transform gives, of a wide and of a tall photo.

    Args:
        found: What the transform was read as.
        transform: From a photo to a tensor `(colour, rows, columns)`.
    """
    for width, height in ((373, 291), (211, 340)):
        noise = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        photo = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        try:
            expected = transform(photo)
        except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes something else than photos
            return False
        ours = found(photo)
        if not isinstance(expected, Tensor) or expected.shape != ours.shape:
            return False
        if float((expected.float() - ours).abs().mean()) > _TOLERANCE:
            return False
    return True
