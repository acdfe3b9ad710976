"""What anybody's transform makes of a photo, as one input tensor, or a sentence that says what it gave instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.model_input import IMAGE_KEYS

if TYPE_CHECKING:
    from jaxtyping import Float

_WANTED = "expected a function from an RGB PIL image to a tensor colour rows columns"


def transformed(transform: Callable[[Image.Image], Any], photo: Image.Image) -> Float[Tensor, "colour rows columns"]:
    """Return what a transform makes of a photo.

    A dictionary, as processors of transformers give it, is asked for its images; a batch or a list of one image is
    that image. Arrays are taken under `pixel_values` only, where their colours come first.

    Args:
        transform: From a photo to its input.
        photo: An upright RGB photo.

    Returns:
        Floating and finite values `(colour, rows, columns)`, detached.

    Raises:
        InputError: The transform fails, or it gives something else.
    """
    try:
        given = transform(photo)
    except InputError:
        raise
    except Exception as error:  # anybody's code: what it needs is said by what it says
        raise InputError(_failure(transform, error)) from error
    found = _single(given)
    if isinstance(found, np.ndarray) and isinstance(given, Mapping) and "pixel_values" in given:
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, Tensor) or found.ndim != 3 or 0 in found.shape:
        raise InputError(f"transform gave {_in_words(given, found)}; expected a tensor of colour rows columns")
    if not found.is_floating_point():
        raise InputError(
            f"transform gave values of type {found.dtype}; expected floating ones: add v2.ToDtype(torch.float32, "
            "scale=True), or, where the model takes values from 0 to 255, a step that calls .float()"
        )
    if not bool(found.isfinite().all()):
        raise InputError("transform gave NaN or infinite values; expected finite ones")
    return found.detach()


def _single(given: Any) -> Any:
    """Return the one image that a dictionary, a batch or a list holds; anything else as it is."""
    if isinstance(given, Mapping):
        keys = [key for key in IMAGE_KEYS if key in given]
        return _single(given[keys[0]]) if len(keys) == 1 else given
    if isinstance(given, (list, tuple)) and len(given) == 1:
        return _single(given[0])
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 4 and len(given) == 1:
        return given[0]
    return given


def _in_words(given: Any, found: Any) -> str:
    """Say what a transform gave: `found`, in `given`."""
    if isinstance(found, Tensor):
        return f"shape {tuple(found.shape)}"
    if isinstance(given, Mapping) and isinstance(found, np.ndarray):
        return f"a {type(given).__name__} with an array of shape {found.shape} (ToTensorV2 makes a tensor of it)"
    keys = f" with {', '.join(map(str, given))}" if isinstance(given, Mapping) and given else ""
    return f"a {type(given).__name__}{keys}"


def _failure(transform: Callable[..., Any], error: Exception) -> str:
    """Say why a transform has failed on a photo, and how one that takes arrays by name is given."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    called = getattr(transform, "__name__", type(transform).__name__)
    by_name = "image" in reason and ("named arguments" in reason or "image=" in reason)
    if by_name or "positional argument" in reason:
        how = (
            "transform=lambda photo: albumented(image=numpy.asarray(photo))['image'], with ToTensorV2 as its last step"
        )
        return f"transform ({called}) cannot read a photo ({reason}); {_WANTED}, such as {how}"
    return f"transform ({called}) cannot read a photo ({reason}); {_WANTED}"
