"""Looking at a photo again at other input sizes, as far as a model accepts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.forward import Watch, forward
from conceptlens.model.layout import Grid
from conceptlens.model.observation import Observation
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone

STEP = 32  # input sizes other than the model's own are multiples of it


def larger_sizes(observation: Observation, factors: Sequence[float]) -> list[tuple[int, int]]:
    """Return the input sizes `(rows, columns)` that are the model's own times `factors` and that it accepts.

    A model with a transform of its own, or one that reads a single size (a ViT with fixed position embeddings), is
    left at its own size.
    """
    own = (observation.images.shape[2], observation.images.shape[3])
    if not isinstance(observation.model.transform, Preprocess):
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
    """Return the cells of `layers` for one photo shown at `size`, and for its mirror image turned back."""
    shown = _shown(observation, image, size)
    images = torch.cat([shown, shown.flip(3)]) if mirrored else shown
    cells: dict[str, Tensor] = {}
    known = {part.name: part.grid for part in observation.model.anatomy.layers}
    known.update({name: layer_output.grid for name, layer_output in observation.layer_outputs.items()})

    def keeping(name: str) -> Watch:
        def watch(raw: Tensor) -> None:
            grid = grid_at(observation.model, known.get(name), name, raw.shape, (len(images), *size))
            cells[name] = grid.read(raw.detach()).to(torch.float32, copy=True)  # what follows may work in place

        return watch

    with torch.no_grad():
        forward(observation.model.module, images, {name: keeping(name) for name in layers})
    return {name: [value[0], *(part.flip(2) for part in value[1:])] for name, value in cells.items()}


def grid_at(model: Backbone, known: Grid | None, layer: str, shape: torch.Size, image: tuple[int, int, int]) -> Grid:
    """Return how to read `layer` at another input size: four axes keep the order `known` at the model's own size.

    `image` is the number of images, and their rows and columns.
    """
    order = known.order if known is not None else None
    if order == "image channel height width":
        return Grid(order, shape[2], shape[3], shape[1])
    if order == "image height width channel":
        return Grid(order, shape[1], shape[2], shape[3])
    return model.grid_of(shape, image, layer)


def _shown(observation: Observation, image: int, size: tuple[int, int]) -> Float[Tensor, "1 colour rows columns"]:
    """Return one photo as an input of `size`, cropped or squashed as the model does it."""
    if size == tuple(observation.images.shape[2:]):
        return observation.images[image : image + 1]
    transform = observation.model.transform
    photo = observation.photos[image]
    if photo is None or not isinstance(transform, Preprocess):
        raise InputError("a tensor was observed, which cannot be shown at another size; observe the photo itself")
    return resized(transform, size)(photo)[None].to(observation.images)


def resized(transform: Preprocess, size: tuple[int, int]) -> Preprocess:
    """Return the same preparation of photos for another input size: the same part of each photo is observation."""
    factor = size[0] / transform.size[0]
    resize = transform.resize
    if isinstance(resize, tuple):
        resize = (round(resize[0] * factor), round(resize[1] * factor))
    elif resize is not None:
        resize = round(resize * factor)
    return dataclasses.replace(transform, size=size, resize=resize)


# What each model said when it was tried, for as long as it lives.
_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[int, int], bool]] = WeakKeyDictionary()


def _accepts(observation: Observation, size: tuple[int, int]) -> bool:
    """Whether the model runs on inputs of another size: tried on a blank one, once for each model and size."""
    tried = _TRIED.setdefault(observation.model.module, {})
    if size not in tried:
        tried[size] = _runs(observation, size)
    return tried[size]


def _runs(observation: Observation, size: tuple[int, int]) -> bool:
    blank = observation.images.new_zeros(1, observation.images.shape[1], *size)
    try:
        with torch.no_grad():
            forward(observation.model.module, blank, {})
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
