"""Maps and masks as metrics take them: an explanation, a tensor or an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.record import WHOLE, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    Maps: TypeAlias = (
        Explanation | Float[Tensor, "image question height width"] | Float[np.ndarray, "image question height width"]
    )
    Masks: TypeAlias = (
        Bool[Tensor, "image rows columns"]
        | Bool[Tensor, "image question rows columns"]
        | Bool[np.ndarray, "image rows columns"]
        | Bool[np.ndarray, "image question rows columns"]
    )
    Ignored: TypeAlias = Bool[Tensor, "image rows columns"] | Bool[np.ndarray, "image rows columns"] | None


def maps_of(given: Maps) -> Tensor:
    """Return the maps of an explanation, such as `Explanation.from_maps` makes, or the tensor or array itself.

    Args:
        given: An `Explanation`, or maps as a tensor or an array.

    Returns:
        A tensor on the CPU without a gradient; its shape and values are not changed.

    Raises:
        InputTypeError: It is none of these.
        InputError: The maps of an explanation cover only a part of a photo.
    """
    if isinstance(given, Explanation):
        for info in given.source.image_info:
            if info.box != WHOLE:
                left, top, right, bottom = (f"{side:.2f}" for side in info.box)
                raise InputError(
                    f"the maps of {info.name} cover a part of the photo ({left} to {right} of its width, {top} to "
                    f"{bottom} of its height), masks and points the whole; give explanation.upsampled(), or load the "
                    "model with crop_mode='squash'"
                )
        return given.maps.detach().cpu()
    return tensor_of(given, "maps")


def tensor_of(given: object, name: str) -> Tensor:
    """Return a tensor or an array as a tensor on the CPU without a gradient."""
    if isinstance(given, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(given))
    if not isinstance(given, torch.Tensor):
        wanted = "an Explanation, a tensor or an array" if name == "maps" else "a tensor or an array"
        raise InputTypeError(f"{name} are of type {type(given).__name__}; expected {wanted}")
    return given.detach().cpu()
