"""Maps and masks as metrics take them: an explanation, a tensor or an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.record import WHOLE, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
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
        InputError: The maps of an explanation cover only a part of a photo, or they hold no values.
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
        return tensor_of(given.maps, "maps")
    return tensor_of(given, "maps")


def check_cells(maps: Tensor) -> None:
    """Refuse maps of other axes, and cells that are no numbers.

    Args:
        maps: Raw maps.

    Raises:
        InputError: They have not four axes, no cell, or one that is NaN or infinite.
    """
    if maps.ndim != 4:
        raise InputError(f"maps have {maps.ndim} axes; expected image question height width")
    if 0 in maps.shape[2:]:
        raise InputError(
            f"maps have shape {tuple(maps.shape)}; expected image question height width, at least one cell"
        )
    wrong = int((~torch.isfinite(maps)).sum())
    if wrong:
        raise InputError(f"{wrong} of {maps.numel()} cells of the maps are NaN or infinite; only numbers can be ranked")


def classes_in(given: object, name: str) -> Int[Tensor, "..."]:
    """Return class indices, a tensor or an array of integers.

    Args:
        given: What was given.
        name: What it is called where it is refused.

    Raises:
        InputTypeError: It is something else.
        InputError: It holds no values.
    """
    found = held(given, name) if isinstance(given, torch.Tensor) else tensor_of(given, name)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputTypeError(f"{name} have type {found.dtype}; expected integers, the indices of classes")
    return found.detach().long()


def tensor_of(given: object, name: str) -> Tensor:
    """Return a tensor or an array of real numbers or bools as a tensor on the CPU without a gradient.

    Args:
        given: What was given.
        name: What it is called where it is refused.

    Raises:
        InputTypeError: It is neither, or holds something else, such as texts or complex numbers.
        InputError: It holds no values, on the device meta.
    """
    if not isinstance(given, (np.ndarray, torch.Tensor)):
        wanted = "an Explanation, a tensor or an array" if name == "maps" else "a tensor or an array"
        raise InputTypeError(f"{name} are of type {type(given).__name__}; expected {wanted}")
    real = given.dtype.kind in "fiub" if isinstance(given, np.ndarray) else not given.is_complex()
    if not real:
        raise InputTypeError(f"{name} hold values of type {given.dtype}; expected real numbers")
    if isinstance(given, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(given))
    return held(given, name).detach().cpu()


def held(given: Tensor, name: str) -> Tensor:
    """Return a tensor that holds values.

    Args:
        given: The tensor.
        name: What it is called where it is refused.

    Raises:
        InputError: It is on the device meta, where tensors have a shape alone.
    """
    if given.is_meta:
        raise InputError(f"{name} are on the device meta, which holds no values; give them on the CPU or a GPU")
    return given
