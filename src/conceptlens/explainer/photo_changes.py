"""The range of contributions among small changes of a photo that leave what it shows as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.asked_classes import ClassName, class_indices
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.explainer.presence import MIN_PRESENCE
from conceptlens.io.errors import InputError
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

# How far a photo is shifted, and how much a crop leaves out, as a share of its side.
SHIFT, CROP = 1 / 14, 1 / 10


def photo_changes(image: Float[Tensor, "1 colour rows columns"]) -> Float[Tensor, "change colour rows columns"]:
    """Return a photo mirrored, shifted four ways by a fourteenth of its side, and without a tenth of it at the border.

    What a shift uncovers is a mirror image of the border.

    Args:
        image: The photo as it entered the model.
    """
    rows, columns = image.shape[2:]
    down, right = max(1, round(rows * SHIFT)), max(1, round(columns * SHIFT))
    padded = F.pad(image, (right, right, down, down), mode="reflect")
    places = ((0, right), (2 * down, right), (down, 0), (down, 2 * right))
    shifted = [padded[:, :, y : y + rows, x : x + columns] for y, x in places]
    top, left = round(rows * CROP / 2), round(columns * CROP / 2)
    inner = image[:, :, top : rows - top, left : columns - left]
    cropped = F.interpolate(inner, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([image.flip(3), *shifted, cropped])


def with_intervals(
    observation: Observation,
    found: Explanation,
    explain_again: Callable[..., Explanation],
    target: ClassName | Sequence[ClassName] | None = None,
    against: ClassName | Sequence[ClassName] | None = None,
    named: bool = True,
) -> Explanation:
    """Return an explanation with the lowest and highest contribution of each concept among small changes of its photo.

    Args:
        observation: The photos that were explained.
        found: Their explanation.
        explain_again: Explains an observation; it takes concepts, `target` and `against`.
        target: The class that was explained; by default the predicted one, which stays that of the photo.
        against: The class that it is compared with.
        named: Whether the concepts were named by the user; of those that were found, the unlikely ones stay at 0.

    Returns:
        The explanation with `contributions_low` and `contributions_high`, which enclose `contributions`; as it is where
        it has none.

    Raises:
        InputError: The model was observed with other inputs, which cannot be changed with the photo.
    """
    if found.contributions is None:
        return found
    if observation.given.others:
        raise InputError(
            f"{observation.model.name} was observed with {', '.join(observation.given.others)}, which cannot be "
            "shifted with the photo; leave intervals out"
        )
    own = class_indices(observation, target).tolist()
    other = None if against is None else class_indices(observation, against).tolist()
    low, high = found.contributions.clone(), found.contributions.clone()
    for i, image in enumerate(observation.images.detach()):
        counted = _counted(found, i, named)
        if not counted:
            continue
        concepts = [ConceptName(found.labels[i][q], found.concept_types[i][q]) for q in counted]
        changed = observation.model.observe(photo_changes(image[None]), list(observation.layer_outputs))
        again = explain_again(changed, concepts, target=own[i], against=None if other is None else other[i])
        values = torch.cat([found.contributions[i : i + 1, counted], _contributions(again)])
        low[i, counted], high[i, counted] = values.amin(0), values.amax(0)
    return replace(found, contributions_low=low, contributions_high=high)


def _counted(found: Explanation, image: int, named: bool) -> list[int]:
    """Return the concepts of one image that take evidence: all that were named, of others those that are likely."""
    if named or found.presence is None:
        return list(range(len(found.labels[image])))
    return [q for q, likely in enumerate(found.presence[image].tolist()) if likely >= MIN_PRESENCE]


def _contributions(found: Explanation) -> Tensor:
    if found.contributions is None:
        raise InputError("the changed photos have no contributions")
    return found.contributions
