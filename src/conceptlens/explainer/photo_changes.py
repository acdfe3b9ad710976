"""The range of contributions among small changes of a photo that leave what it shows as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.targets import ClassName, class_indices
from conceptlens.concepts.vocabulary import ConceptName
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
) -> Explanation:
    """Return an explanation with the lowest and highest contribution of each concept among small changes of its photo.

    Args:
        observation: The photos that were explained.
        found: Their explanation.
        explain_again: Explains an observation; it takes concepts, `target` and `against`.
        target: The class that was explained; by default the predicted one, which stays that of the photo.
        against: The class that it is compared with.

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
    low, high = [], []
    for i, image in enumerate(observation.images.detach()):
        rows = zip(found.labels[i], found.concept_types[i], strict=True)
        named = [ConceptName(label, kind) for label, kind in rows]
        changed = observation.model.observe(photo_changes(image[None]), list(observation.layer_outputs))
        again = explain_again(changed, named, target=own[i], against=None if other is None else other[i])
        values = torch.cat([found.contributions[i : i + 1], _contributions(again)])
        low.append(values.amin(0))
        high.append(values.amax(0))
    return replace(found, contributions_low=torch.stack(low), contributions_high=torch.stack(high))


def _contributions(found: Explanation) -> Tensor:
    if found.contributions is None:
        raise InputError("the changed photos have no contributions")
    return found.contributions
