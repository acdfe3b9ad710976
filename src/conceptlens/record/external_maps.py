"""Maps that somebody else made, read into the fields of a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.images import as_photo, fingerprint
from conceptlens.record.source import ImageInfo, Source, hold_weakly

if TYPE_CHECKING:
    Labels: TypeAlias = str | Sequence[str] | Sequence[Sequence[str]]


def read_maps(
    array: np.ndarray | Tensor,
    labels: Labels,
    images: Any,
    scores: np.ndarray | Tensor | None,
    signed: bool | None,
    method: str,
    model: str,
) -> dict[str, Any]:
    """Return the fields of the `Explanation` that `Explanation.from_maps` describes."""
    given = _tensor(array, "maps")
    if given.ndim not in (3, 4) or 0 in given.shape[1:]:
        raise InputError(
            f"maps have shape {tuple(given.shape)}; expected image height width, or image question height width"
        )
    if not bool(given.isfinite().all()):
        raise InputError(
            f"maps hold {int((~given.isfinite()).sum())} values that are NaN or infinite; expected numbers"
        )
    maps = given[:, None] if given.ndim == 3 else given
    below = bool((maps < 0).any())
    if signed is False and below:
        raise InputError("maps hold values below zero; leave out signed=False, or cut them off with maps.clip(0)")
    info, photos = _image_info(images, len(maps))
    return {
        "maps": maps,
        "weights": None,
        "scores": maps.amax((2, 3)) if scores is None else _scores(scores, maps),
        "labels": _labels(labels, given.ndim == 3, *maps.shape[:2]),
        "source": Source(model, "", method, info, photos=photos),
        "activation": "identity" if signed or (signed is None and below) else "relu",
    }


def _tensor(values: Any, what: str) -> Tensor:
    """Return numbers as a detached floating tensor."""
    if not isinstance(values, (np.ndarray, Tensor)):
        raise InputTypeError(f"{what} are given as {type(values).__name__}; expected a numpy array or a torch tensor")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "fiub":
        raise InputTypeError(f"{what} are of type {values.dtype}; expected real numbers")
    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values.detach()
    if tensor.is_complex():
        raise InputTypeError(f"{what} are of type {tensor.dtype}; expected real numbers")
    return tensor if tensor.is_floating_point() else tensor.float()


def _scores(scores: Any, maps: Tensor) -> Tensor:
    values = _tensor(scores, "scores").to(maps.device)
    images, questions = maps.shape[:2]
    if values.shape == (images,) and questions == 1:
        values = values[:, None]
    if values.shape != (images, questions):
        raise InputError(f"scores have shape {tuple(values.shape)}; expected {(images, questions)}, image question")
    return values


def _labels(labels: Labels, one_question: bool, images: int, questions: int) -> tuple[tuple[str, ...], ...]:
    """Return a label for each image and question."""
    if isinstance(labels, str):
        labels = [labels]
    if not isinstance(labels, Sequence):
        raise InputTypeError(f"labels are given as {type(labels).__name__}; expected a text or a list of texts")
    if not all(isinstance(one, str) for one in labels):
        wrong = [one for one in labels if isinstance(one, str) or not isinstance(one, Sequence)]
        wrong += [one for row in labels if isinstance(row, Sequence) for one in row if not isinstance(one, str)]
        if wrong:
            kinds = sorted({type(one).__name__ for one in labels})
            raise InputTypeError(
                f"labels hold {wrong[0]!r} in a list of {' and '.join(kinds)}; expected texts, or a list of texts for "
                "each image"
            )
        rows = tuple(tuple(row) for row in labels)
    elif one_question and len(labels) == images:
        rows = tuple((str(one),) for one in labels)
    else:
        rows = (tuple(map(str, labels)),) * images
    if len(rows) != images or any(len(row) != questions for row in rows):
        expected = f"1 label or {images}, one for each image" if one_question else f"{questions}, one for each question"
        raise InputError(f"{len(labels)} labels were given; expected {expected}")
    return rows


def _image_info(images: Any, count: int) -> tuple[tuple[ImageInfo, ...], tuple[Any, ...]]:
    """Return what the maps speak of, and weak references to the photos given."""
    if images is None:
        return tuple(ImageInfo(f"image[{i}]") for i in range(count)), ()
    observed = getattr(images, "image_info", None)
    if observed is not None:
        several, held = list(observed), images.photo_references
    else:
        one = isinstance(images, (str, Path, Image.Image, ImageInfo))
        if not one and not isinstance(images, (Sequence, np.ndarray)):
            raise InputTypeError(
                f"images are given as {type(images).__name__}; expected a list of photos, paths, names or ImageInfo, "
                "or an observation"
            )
        several = [images] if one else list(images)
        if isinstance(images, np.ndarray) and images.ndim == 3:
            several = [images]
        held = hold_weakly(several)
    if len(several) != count:
        raise InputError(f"{len(several)} images were given for {count} maps; expected one for each")
    info = tuple(_info(one, i) for i, one in enumerate(several))
    return info, held


def _info(given: Any, index: int) -> ImageInfo:
    """Return one image's entry: of a photo, of the photo in a file, or of a name alone."""
    if isinstance(given, ImageInfo):
        return given
    if isinstance(given, (str, Path)):
        if not Path(given).is_file():
            return ImageInfo(str(given))
        photo, name = as_photo(given), str(given)
    else:
        photo, name = as_photo(given), f"photo[{index}]"
    return ImageInfo(name, fingerprint(photo), *photo.size)
