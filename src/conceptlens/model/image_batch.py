"""From what people have at hand (paths, photos, arrays, tensors) to photos or to one input tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from conceptlens.io.errors import InputError, InputTypeError

Photo = str | Path | Image.Image | np.ndarray

_WANTED = "expected a path, a PIL image, an array, a tensor, a list of them, or a batch of a loader"


def photos_or_tensor(given: Any, colours: int) -> list[Photo] | Tensor:
    """Return photos that are still to be prepared, or a floating tensor `image colour rows columns` that is ready.

    Bytes (uint8) are photos; floating values are taken as already preprocessed.

    Args:
        given: A path, a PIL image, a numpy array or a torch tensor of one image or of a batch, or a list of them.
        colours: How many colours the model's inputs have, which tells `colour rows columns` from
            `rows columns colour` in arrays. Tensors always have their colours first.

    Raises:
        InputError: Nothing was given, or the axes fit no reading or two of them.
        InputTypeError: Something of another type was given.
    """
    if isinstance(given, (str, Path, Image.Image)):
        return [given]
    if isinstance(given, Tensor):
        return _from_tensor(given, colours)
    if isinstance(given, np.ndarray):
        return _from_array(given, colours)
    if isinstance(given, DataLoader):
        raise InputTypeError(
            "a DataLoader was given; loop over it: for images, labels in loader: observation = model.observe(images)"
        )
    if not isinstance(given, (list, tuple)):
        raise InputTypeError(f"a {type(given).__name__} was given; {_WANTED}")
    if not given:
        raise InputError("no photo was given; give a path, a PIL image, an array, a tensor or a list of them")
    return _from_list(given, colours)


def title(photo: Photo, index: int) -> str:
    """Return what a photo is called in records: its path, or its index in the batch."""
    return str(photo) if isinstance(photo, (str, Path)) else f"photo[{index}]"


def _from_list(given: Sequence[Any], colours: int) -> list[Photo] | Tensor:
    parts = [photos_or_tensor(one, colours) for one in given if not isinstance(one, (list, tuple))]
    if len(parts) != len(given):
        raise InputTypeError(f"a list of lists was given; {_WANTED}")
    tensors = [part for part in parts if isinstance(part, Tensor)]
    photos = [photo for part in parts if not isinstance(part, Tensor) for photo in part]
    if not tensors:
        return photos
    if photos:
        raise InputError("photos and preprocessed tensors are mixed in one list; give one kind")
    shapes = {tuple(part.shape[1:]) for part in tensors}
    if len(shapes) > 1:
        raise InputError(f"tensors of shapes {sorted(shapes)} were given in one list; give one size, or photos")
    return torch.cat(tensors)


def _from_tensor(tensor: Tensor, colours: int) -> list[Photo] | Tensor:
    about = f"a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}"
    if tensor.ndim not in (3, 4) or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        raise InputError(
            f"{about} was given; expected floating image colour rows columns, already preprocessed, or uint8 photos "
            "in the same order"
        )
    bytes_ = tensor.dtype == torch.uint8
    batch = tensor if tensor.ndim == 4 else tensor[None]
    fits = batch.shape[1] in (1, 3) if bytes_ else batch.shape[1] == colours
    if not fits and batch.shape[3] in ((1, 3) if bytes_ else (colours,)):
        order = "0, 3, 1, 2" if tensor.ndim == 4 else "2, 0, 1"
        raise InputError(f"{about} was given with its colours last; give them first: tensor.permute({order})")
    if not fits and (bytes_ or tensor.ndim == 3):
        wanted = "1 or 3" if bytes_ else str(colours)
        raise InputError(f"{about} was given; expected {wanted} colours first: (image) colour rows columns")
    if not bytes_:
        return batch
    return [_photo(one.permute(1, 2, 0).cpu().numpy()) for one in batch]


def _from_array(array: np.ndarray, colours: int) -> list[Photo] | Tensor:
    about = f"an array of shape {array.shape} and type {array.dtype}"
    if array.ndim not in (3, 4) or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise InputError(
            f"{about} was given; expected uint8 (image) height width 3, or floating values, already preprocessed"
        )
    batch = array if array.ndim == 4 else array[None]
    known = (1, 3) if array.dtype == np.uint8 else (colours,)
    first, last = batch.shape[1] in known, batch.shape[3] in known
    if first == last:
        what = "colours first and colours last" if first else "neither colours first nor colours last"
        raise InputError(
            f"{about} fits {what}; give one image as colour height width or height width colour, "
            f"with {' or '.join(map(str, known))} colours, or a torch tensor"
        )
    if array.dtype == np.uint8:
        return [_photo(one.transpose(1, 2, 0) if first else one) for one in batch]
    return torch.from_numpy(np.ascontiguousarray(batch if first else batch.transpose(0, 3, 1, 2)))


def _photo(pixels: np.ndarray) -> Image.Image:
    """Return `height width colour` bytes as a photo; one colour is grey."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
