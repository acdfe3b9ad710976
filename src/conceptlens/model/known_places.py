"""Detectors and segmentation models that are known by their class: how they are called, read and looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.answer import Task
from conceptlens.model.detector_output import Detections
from conceptlens.model.model_output import Places
from conceptlens.model.pixel_scores import PixelScores
from conceptlens.model.torchvision_detectors import TorchvisionHeads, default_layer, torchvision_heads
from conceptlens.model.transformers_places import read_queries, transformers_reader

_SEGMENTERS = "torchvision.models.segmentation."


def readable(module: nn.Module) -> nn.Module:
    """Return a module whose answer keeps its graph: torchvision's detectors up to their heads, others as they are."""
    return torchvision_heads(module)


def known_reader(module: nn.Module) -> Callable[[Any], Places] | None:
    """Return how the answer of a known detector or segmentation model is read; `None` for any other module.

    Args:
        module: What `readable` returned.
    """
    if isinstance(module, TorchvisionHeads):
        return _as_it_is
    if _is_segmenter(module):
        return _out
    return transformers_reader(module)


def known_task(module: nn.Module) -> Task | None:
    """Return whether a module is known as a detector or a segmentation model; `None` for any other module.

    Args:
        module: What `readable` returned.
    """
    reader = known_reader(module)
    if reader is None:
        return None
    return "detection" if reader is _as_it_is or getattr(reader, "func", None) is read_queries else "dense"


def read_scores(places: Places) -> Tensor | None:
    """Return the class scores `(image, class)` of a detector, the highest of its candidates; `None` of other places.

    Args:
        places: What `as_places` returned.
    """
    return places.class_scores if isinstance(places, Detections) else None


def known_layers(module: nn.Module) -> tuple[str, ...]:
    """Return the layer to observe of torchvision's detectors; none where it is to be found.

    Args:
        module: What `readable` returned.
    """
    return (default_layer(module),) if isinstance(module, TorchvisionHeads) else ()


def known_input_size(module: nn.Module) -> tuple[int, int] | None:
    """Return rows and columns of the input of a detector that brings every input to one size; `None` otherwise.

    Args:
        module: What `readable` returned.
    """
    transform: Any = module.transform if isinstance(module, TorchvisionHeads) else None
    size = None if transform is None else transform.fixed_size
    return None if size is None else (size[1], size[0])


def as_places(answer: Any, images: Tensor) -> Places | None:
    """Return an answer as what stands where: boxes in pixels of the input, or scores of places.

    Args:
        answer: What `Backbone(output=)` returned, or the tensor that was found.
        images: The input `image colour rows columns`.

    Returns:
        `None` where the answer has no places.

    """
    if isinstance(answer, Tensor) and answer.ndim == 4:
        return PixelScores(answer)
    if isinstance(answer, Detections):
        return answer.in_pixels(images.shape[2], images.shape[3])
    return answer if isinstance(answer, PixelScores) else None


def check_places(places: Places | None, images: int) -> None:
    """Raise `InputError` where an answer is of another number of images than were given.

    Args:
        places: What `as_places` returned.
        images: How many images there were.
    """
    found = images if places is None else len(places.logits if isinstance(places, Detections) else places.scores)
    if found != images:
        raise InputError(f"output= returned {type(places).__name__} of {found} images for {images}")


def _is_segmenter(module: nn.Module) -> bool:
    """Whether a module is a segmentation model of torchvision."""
    return (type(module).forward.__module__ or "").startswith(_SEGMENTERS)


def _as_it_is(output: Any) -> Places:
    return output


def _out(output: Any) -> Places:
    return PixelScores(output["out"])
