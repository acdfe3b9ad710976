"""The target of segmentation models: the mean score of a class over a part of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from conceptlens.cams.asked_classes import ClassName, class_index
from conceptlens.cams.asked_places import AskedPlaces
from conceptlens.cams.bound_target import BoundTarget
from conceptlens.concepts.short_names import short_name
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.record import ImageInfo


@dataclass(frozen=True)
class Region:
    """The mean score of a class over a region: `mean_{u in mask} s_c(u)`.

    Args:
        label: The class by name or index; by default the one that most places of each image show.
        mask: bool `(rows, columns)` for all images or `(image, rows, columns)`, of any size, over the whole photo (or
            tensor); by default the places of the observation whose highest score is that of the class. The mask is kept
            where the image is changed.

    Raises:
        InputError: The model gives no scores of places, there is no such class, no place shows it, or the mask has
            another shape or is empty where the model looks.
        InputTypeError: The mask is no bool array or tensor.

    Examples:
        >>> cl.cam(observation, cl.Region("sky"))
        >>> cl.cam(observation, cl.Contrast(cl.Region("cat", mask), against="dog"))
    """

    label: ClassName | None = None
    mask: Any = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix class and region of every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the class of every image and its mean score over the region.

        Raises:
            InputError: As in `Region`.
        """
        return self.ask(observation).bound("region")

    def ask(self, observation: Observation) -> AskedRegions:
        """Return the region that is asked about in every image, at the places that the model scores.

        Args:
            observation: One forward pass of a batch.

        Raises:
            InputError: As in `Region`.
        """
        scores = observation.pixel_scores.detach()
        shown = scores.argmax(1)
        if self.label is None:
            classes = torch.stack([one.flatten().bincount().argmax() for one in shown])
        else:
            classes = torch.full((len(scores),), class_index(observation, self.label), device=scores.device)
        own = (shown == classes[:, None, None]).to(scores)
        weights = own if self.mask is None else _on_places(self.mask, observation, (own.shape[1], own.shape[2])).to(own)
        names = tuple(short_name(observation.model.class_name(int(c))) for c in classes)
        empty = [i for i, one in enumerate(weights) if not bool(one.any())]
        if empty:
            raise _nowhere(observation, empty[0], names[empty[0]], shown[empty[0]], self.mask is not None)
        return AskedRegions(classes, names, weights / weights.sum((1, 2), keepdim=True))


@dataclass(frozen=True, eq=False)
class AskedRegions(AskedPlaces):
    """The regions that a question is about.

    Args:
        weights: How much each place counts in each image's region; they sum to 1.
    """

    weights: Float[Tensor, "asked rows columns"]

    def read(self, output: ModelOutput) -> Float[Tensor, "row dimension"]:
        """Return the mean score of every class over every region.

        Args:
            output: An output of the model.
        """
        return torch.einsum("nchw,ahw->nac", output.pixel_scores, self.weights.to(output.pixel_scores)).flatten(1)


def _nowhere(observation: Observation, image: int, label: str, shown: Tensor, given: bool) -> InputError:
    """Return the refusal of a region without a place, with the classes that there are."""
    name = observation.image_info[image].name
    if given:
        return InputError(f"the mask is empty in the part of {name} that the model sees; give one with a place in it")
    counts = shown.flatten().bincount().sort(descending=True, stable=True)
    there = [
        f"{short_name(observation.model.class_name(int(c)))} {int(n) / shown.numel():.0%}"
        for n, c in zip(counts.values[:5], counts.indices[:5], strict=True)
        if int(n)
    ]
    return InputError(f"no place of {name} shows {label}; there are {', '.join(there)}; or give a mask")


def _on_places(mask: Any, observation: Observation, size: tuple[int, int]) -> Float[Tensor, "image rows columns"]:
    """Return how much of each place lies in the mask of its image, 0 to 1."""
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    images = len(observation.images)
    if values.dtype != np.bool_:
        raise InputTypeError(f"the mask is of type {values.dtype}; expected bool, such as mask > 0.5")
    if values.ndim not in (2, 3) or (values.ndim == 3 and len(values) != images) or not values.size:
        raise InputError(
            f"the mask has shape {values.shape}; expected (rows, columns), or ({images}, rows, columns), one each image"
        )
    several = values if values.ndim == 3 else np.broadcast_to(values, (images, *values.shape))
    seen = [
        _seen(torch.from_numpy(np.array(one)), info) for one, info in zip(several, observation.image_info, strict=True)
    ]
    return torch.stack([adaptive_avg_pool2d(one[None].float(), size)[0] for one in seen])


def _seen(mask: Bool[Tensor, "rows columns"], info: ImageInfo) -> Bool[Tensor, "rows columns"]:
    """Return the part of a mask of the whole photo that the model sees."""
    rows, columns = mask.shape
    left, top, right, bottom = info.box
    x0, y0 = math.floor(left * columns), math.floor(top * rows)
    return mask[y0 : max(y0 + 1, math.ceil(bottom * rows)), x0 : max(x0 + 1, math.ceil(right * columns))]
