"""Targets of detectors: the score of one detection, a coordinate of its box, the highest score of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from conceptlens.cams.asked_classes import Classes, ClassName, class_index
from conceptlens.cams.asked_places import AskedPlaces, own_part
from conceptlens.cams.bound_target import BoundTarget
from conceptlens.cams.targets import Logit
from conceptlens.concepts.short_names import short_name
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.answer import wide
from conceptlens.model.box_operators import box_overlap
from conceptlens.model.class_names import is_class
from conceptlens.model.detector_output import DetectedBox, Detections
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.model.photo_boxes import (
    box_numbers,
    box_words,
    on_input,
    on_photo,
    photo_corner,
    photo_scale,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Coordinate = Literal["left", "top", "right", "bottom", "width", "height"]
# A box that is given means a detection that overlaps it by at least this much, intersection over union.
LEAST_OVERLAP = 0.5
# So many detections a refusal lists.
_LISTED = 5


@dataclass(frozen=True)
class Detection:
    """The score of one detection before its sigmoid or softmax: the logit of its class at its box.

    Where the image is changed (Score-CAM, Ablation-CAM), the detection is followed: by its anchor or query where these
    are the same for every image; otherwise (R-CNNs, RT-DETR) by the candidate whose box overlaps it most, and where
    none does, the score is the lowest that any candidate has.

    Args:
        index: Which detection of each image, 0 for the one of the highest score, as `detections` lists them.
        box: Instead of an index: left, top, right and bottom; the detection that overlaps it most is meant, by at least
            one half. In pixels of the photo, or of the input where a tensor was observed or the transform is not known.
        label: A class by name or index. With `box`, the detection must be of this class; with an index it is the class
            whose score at that box is asked for.
        min_score: The lowest score of a detection, 0 to 1; by default the detector's own.

    Raises:
        InputError: An image has no such detection, and the message says which it has; the model is no detector; or
            there is no such class.
        InputTypeError: The index is no integer, or the box no four numbers.

    Examples:
        >>> cl.cam(observation, cl.Detection(0))
        >>> cl.cam(observation, cl.Detection(box=(34, 50, 210, 300), label="dog"))
        >>> cl.cam(observation, cl.Contrast(cl.Detection(0), against="cat"))
    """

    index: int | None = None
    box: Sequence[float] | None = None
    label: ClassName | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        """Check which detection is meant."""
        if (self.index is None) == (self.box is None):
            given = "neither" if self.index is None else "both"
            raise InputError(f"{given} of index and box given to Detection; give one, such as Detection(0)")
        if self.index is not None and (
            isinstance(self.index, bool) or not is_class(self.index) or isinstance(self.index, str)
        ):
            raise InputTypeError(
                f"the detection is {self.index!r}; expected its index, from 0, or box=(left, top, right, bottom)"
            )
        if self.box is not None:
            object.__setattr__(self, "box", box_numbers(self.box))

    def bind(self, observation: Observation) -> BoundTarget:
        """Find the detection in every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the class and the box of every image's detection and its score.

        Raises:
            InputError: An image has no such detection, or there is no such class.
        """
        return self.ask(observation).bound("detection")

    def ask(self, observation: Observation) -> AskedBoxes:
        """Return the candidate that is asked about in every image.

        Args:
            observation: One forward pass of a batch.

        Raises:
            InputError: An image has no such detection, or there is no such class.
        """
        found = observation.detections
        label = None if self.label is None else class_index(observation, self.label)
        own = [self._find(observation, image, label) for image in range(len(observation.images))]
        classes = [one.class_index if label is None else label for one in own]
        device = found.logits.device
        name, boxes = observation.model.class_name, found.class_boxes().detach()
        labels = tuple(
            f"{short_name(name(c))} at {box_words(on_photo(observation, i, one.box))}"
            for i, (c, one) in enumerate(zip(classes, own, strict=True))
        )
        return AskedBoxes(
            torch.tensor(classes, device=device),
            labels,
            torch.tensor([one.candidate for one in own], device=device),
            torch.tensor([one.class_index for one in own], device=device),
            torch.stack([boxes[i, one.candidate, one.class_index] for i, one in enumerate(own)]),
        )

    def _find(self, observation: Observation, image: int, label: int | None) -> DetectedBox:
        found = observation.detections.detected(image, self.min_score)
        if self.index is not None:
            if not 0 <= self.index < len(found):
                raise self._none(observation, image, found, f"no detection {self.index}")
            return found[self.index]
        meant = on_input(observation, image, self.box)  # pyright: ignore[reportArgumentType]
        right = [one for one in found if label is None or one.class_index == label]
        shares = [float(box_overlap(torch.tensor([meant]), torch.tensor([one.box]))) for one in right]
        if max(shares, default=0.0) < LEAST_OVERLAP:
            what = "" if label is None else f" of {observation.model.class_name(label)}"
            near = f", at most by {max(shares):.2f}" if shares else ""
            raise self._none(
                observation,
                image,
                found,
                f"no detection{what} overlaps {box_words(self.box)} by half or more{near}",  # pyright: ignore[reportArgumentType]
            )
        return right[shares.index(max(shares))]

    def _none(self, observation: Observation, image: int, found: Sequence[DetectedBox], what: str) -> InputError:
        """Return the refusal of a detection that is not there, with those that are."""
        name = observation.model.class_name
        listed = [
            f"{i}: {short_name(name(one.class_index))} {one.score:.2f} at "
            f"{box_words(on_photo(observation, image, one.box))}"
            for i, one in enumerate(found[:_LISTED])
        ]
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        least = observation.detections.min_score if self.min_score is None else self.min_score
        there = (
            f"found {'; '.join(listed)}{more}" if found else f"nothing was detected with a score of {least:g} or more"
        )
        return InputError(f"{what} in {observation.image_info[image].name}; {there}")


@dataclass(frozen=True, eq=False)
class AskedBoxes(AskedPlaces):
    """The candidates that a question is about, one for each image of an observation.

    Args:
        candidates: The index of each image's candidate.
        owners: The class of each detection, whose box it is.
        boxes: The boxes in pixels of the input, not clipped to it.
    """

    candidates: Int[Tensor, "asked"]
    owners: Int[Tensor, "asked"]
    boxes: Float[Tensor, "asked 4"]

    def read(self, output: ModelOutput) -> Float[Tensor, "row dimension"]:
        """Return the logits of every class at every asked box.

        Args:
            output: An output of the model.
        """
        found = output.detections
        index, overlap = _followed(found, self)
        own = found.logits.gather(1, index[..., None].expand(*index.shape, found.logits.shape[2]))
        if overlap is not None:
            own = torch.where(overlap[..., None] > 0, own, found.logits.amin(1)[:, None])
        return own.flatten(1)


def boxes_at(output: ModelOutput, asked: AskedBoxes) -> Float[Tensor, "row dimension"]:
    """Return left, top, right and bottom of every asked box, in pixels of the input.

    Args:
        output: An output of the model.
        asked: The boxes.
    """
    found = output.detections
    index, _ = _followed(found, asked)
    own = _owned(found, asked)
    return own.gather(2, index[..., None, None].expand(*index.shape, 1, 4))[:, :, 0].flatten(1)


def _owned(found: Detections, asked: AskedBoxes) -> Float[Tensor, "row asked candidate 4"]:
    """Return for every asked box the boxes of its class at all candidates."""
    return found.class_boxes()[:, :, asked.owners].transpose(1, 2)


def _followed(found: Detections, asked: AskedBoxes) -> tuple[Int[Tensor, "row asked"], Tensor | None]:
    """Return the candidate that each asked box is now; and how far it overlaps, where it is found by that."""
    if found.fixed:
        return asked.candidates.expand(len(found.logits), -1), None
    shares = box_overlap(asked.boxes[:, None].to(found.boxes), _owned(found, asked).detach())[:, :, 0]
    best = shares.max(2)
    before = asked.candidates.clamp_max(shares.shape[2] - 1).expand(len(shares), -1)
    same = shares.gather(2, before[..., None])[..., 0] >= best.values  # of equal boxes the one that is asked about
    return torch.where(same, before, best.indices), best.values


@dataclass(frozen=True)
class Box:
    """A coordinate of one detection's box, or its width or height: where lies what its edge rests on?

    Args:
        of: The detection, or its index.
        coordinate: "left", "top", "right", "bottom", "width" or "height". Its score is in pixels of the photo, or of
            the input where a tensor was observed or the transform is not known.

    Raises:
        InputError: There is no such coordinate, or an image has no such detection.

    Examples:
        >>> cl.cam(observation, cl.Box(0, "top"), signed=True)
    """

    of: Detection | int = 0
    coordinate: Coordinate = "left"

    def __post_init__(self) -> None:
        """Check the coordinate, and keep the detection as one."""
        if self.coordinate not in get_args(Coordinate):
            raise InputError(
                f"'{self.coordinate}' is no coordinate of a box; expected {', '.join(get_args(Coordinate))}"
            )
        if not isinstance(self.of, Detection):
            object.__setattr__(self, "of", Detection(self.of))

    def bind(self, observation: Observation) -> BoundTarget:
        """Find the detection in every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the coordinate of every image's detection.

        Raises:
            InputError: An image has no such detection.
        """
        asked = self.of.ask(observation)  # pyright: ignore[reportAttributeAccessIssue]
        images = range(len(observation.images))
        scale = asked.boxes.new_tensor([photo_scale(observation, i) * 2 for i in images])
        corner = asked.boxes.new_tensor([photo_corner(observation, i) * 2 for i in images])

        def measure(root: Tensor, rows: Tensor) -> Tensor:
            box = wide(own_part(root, rows, len(asked.labels))) * scale[rows] + corner[rows]
            if self.coordinate in ("width", "height"):
                first = 0 if self.coordinate == "width" else 1
                return box[:, first + 2] - box[:, first]
            return box[:, get_args(Coordinate).index(self.coordinate)]

        labels = tuple(f"{self.coordinate} of {label}" for label in asked.labels)
        return BoundTarget(labels, partial(boxes_at, asked=asked), measure, "box", placed=True)


@dataclass(frozen=True)
class MaxScore:
    """The highest logit of a class over all candidates of a detector, whichever they are.

    It says why the detector finds the class anywhere; `Detection` is about one object.

    Args:
        target: As in `Logit`; `None` is the class with the highest score.

    Raises:
        InputError: The model is no detector, or there is no such class.
    """

    target: Classes = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Fix the class of every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the class of every image and its highest logit.

        Raises:
            InputError: The model is no detector, or there is no such class.
        """
        observation.detections  # noqa: B018 - refuses other models
        return Logit(self.target).bind(observation)
