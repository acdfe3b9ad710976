"""Looking at a photo again at other input sizes, as far as a model accepts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.io.errors import InputError
from conceptlens.model.forward import forward
from conceptlens.model.layer_cells import input_cells
from conceptlens.model.model_input import ModelInput
from conceptlens.model.observation import Observation
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Float

STEP = 32  # input sizes other than the model's own are multiples of it


def larger_sizes(observation: Observation, factors: Sequence[float]) -> list[tuple[int, int]]:
    """Return the input sizes `(rows, columns)` that are the model's own times `factors` and that it accepts.

    A model with other inputs, and one that reads a single size (a ViT with fixed position embeddings), are left at
    their own size.

    Args:
        observation: What was observed.
        factors: Factors of the model's own rows and columns; the results are rounded to multiples of 32.
    """
    own = (observation.images.shape[2], observation.images.shape[3])
    if observation.given.others:
        return [own]
    wanted = [own if f == 1 else (_stepped(own[0] * f), _stepped(own[1] * f)) for f in factors]
    others = [size for size in wanted if size != own]
    if not others or not _accepts(observation, others[-1]):
        return [own]
    return wanted


def _stepped(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)


def cells_at(
    observation: Observation, image: int, size: tuple[int, int], layers: Iterable[str], mirrored: bool
) -> dict[str, list[Float[Tensor, "channel height width"]]]:
    """Return the cells of `layers` for one photo shown at `size`, and for its mirror image turned back.

    Raises:
        InputError: The model has other inputs, which cannot be mirrored or resized with the photo.

    Args:
        observation: What was observed.
        image: The index of the photo in the batch.
        size: Rows and columns of the input.
        layers: Names of layers.
        mirrored: Whether the mirror image is run too.

    Returns:
        For each layer a list of cells, one entry or, `mirrored`, two.
    """
    given, own = observation.given, tuple(observation.images.shape[2:])
    if given.others and (mirrored or size != own):
        raise InputError(
            f"{observation.model.name} was observed with {', '.join(given.others)}, which cannot be mirrored or "
            "resized with the photo; use Competition(input_scales=(1.0,), mirrored=False)"
        )
    names = tuple(dict.fromkeys(layers))
    known = observation.kept_cells(names) if size == own and not mirrored else None
    if known is not None:
        return {name: [cells[image]] for name, cells in known.items()}
    shown = _shown(observation, image, size)
    images = torch.cat([shown, shown.flip(3)]) if mirrored else shown
    cells = input_cells(observation.model, given.of_one(image, images), names)
    return {name: [value[0], *(part.flip(2) for part in value[1:])] for name, value in cells.items()}


def _shown(observation: Observation, image: int, size: tuple[int, int]) -> Float[Tensor, "1 colour rows columns"]:
    """Return one photo as an input of `size`, cropped or squashed as the model does it; a tensor is interpolated."""
    if size == tuple(observation.images.shape[2:]):
        return observation.images[image : image + 1]
    prepared = observation.larger_inputs[image].get(size) if observation.larger_inputs else None
    if prepared is not None:
        return prepared[None].to(observation.images)
    known, photo = observation.model.preprocess, observation.photos[image]
    if photo is None or known is None:
        own = observation.images[image : image + 1]
        return F.interpolate(own, size=size, mode="bilinear", align_corners=False)
    return resized(known, size)(photo)[None].to(observation.images)


def resized(transform: Preprocess, size: tuple[int, int]) -> Preprocess:
    """Return the same preparation of photos for another input size `(rows, columns)`: the same part is seen.

    Args:
        transform: The preparation of photos.
        size: Rows and columns of the input.
    """
    factor = size[0] / transform.size[0]
    resize = transform.resize
    if isinstance(resize, tuple):
        resize = (max(size[0], round(resize[0] * factor)), max(size[1], round(resize[1] * factor)))
    elif resize is not None:
        resize = max(min(size), round(resize * factor))
    return dataclasses.replace(transform, size=size, resize=resize)


# Whether each model ran when it was tried, for as long as it lives.
_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[int, int], bool]] = WeakKeyDictionary()


def _accepts(observation: Observation, size: tuple[int, int]) -> bool:
    """Whether the model runs on inputs of another size: tried on a blank one, once for each model and size."""
    tried = _TRIED.setdefault(observation.model.module, {})
    if size not in tried:
        blank = ModelInput(observation.images.new_zeros(1, observation.images.shape[1], *size))
        try:
            with torch.no_grad():
                forward(observation.model.module, blank, {})
            tried[size] = True
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError):
            tried[size] = False
    return tried[size]
