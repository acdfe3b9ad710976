"""The annotations of a labelled set for the concepts of a bottleneck: which photos show them, where their parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
from conceptlens.bottleneck.evaluate.map_metrics import MapAnnotations
from conceptlens.data.keypoints_in_view import keypoints_in_view, known_keypoints
from conceptlens.data.labelled_set import ClassAttributes, PhotoAttributes
from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import class_labels
from conceptlens.metrics.keypoint_baselines import constant_peaks
from conceptlens.metrics.keypoints import GRID, Keypoints

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.features.cell_source import CellSource
    from conceptlens.model.preprocess import Preprocess

MIN_SHARE = 0.5  # of a class's photos that must show an attribute for the class to have it
MIN_ACTIVE_STD = 1.2816  # training deviations above the mean: a tenth of a normal distribution
UNLABELLED = (
    "the set has no class attributes that are concepts of the bottleneck; a table of concepts says it (--table)"
)
BY_CLASS = "a photo shows a concept where at least half of its class's photos do, by the set's class attributes"
BY_CLASS_TABLE = "a photo shows a concept where its class does, by at least a half, in the table of concepts"
BY_PHOTO = (
    "a photo shows a concept where what is known of this one photo says so; photos of which nothing is known do not "
    "count for the concept"
)
BY_ACTIVITY = (
    "the set says of no concept which photos show it, so a photo is taken to show those that are 1.28 training "
    "deviations above their mean in it: metrics of maps then speak of the concepts' own choice of photos"
)


def known_attributes(photos: LabelledSet) -> ClassAttributes | PhotoAttributes | None:
    """Return what says which photos show which attributes: of their classes, or else of single photos."""
    return (photos.annotation.attributes or photos.annotation.photos) if photos.annotation else None


def attribute_indices(bottleneck: Bottleneck, photos: LabelledSet) -> list[int | None]:
    """Return which attribute of the set each concept is, by its words or its name."""
    known = known_attributes(photos)
    if known is None:
        return [None] * len(bottleneck.labels)
    indices: dict[str, int] = {}
    words = [concept.label for concept in known.concepts] if isinstance(known, ClassAttributes) else []
    for spelled in (words, known.names):
        for index, name in enumerate(spelled):
            indices.setdefault(name.casefold(), index)
    return [indices.get(label.casefold()) for label in bottleneck.labels]


def concept_presence(
    bottleneck: Bottleneck, photos: LabelledSet, attributes_of_concepts: Sequence[int | None], table: BottleneckTable
) -> Bool[Tensor, "photo concept"]:
    """Return whether each photo shows each concept, by its labels or its class's; by activity where none has any.

    `attributes_of_concepts`: the attribute of the set that each concept is (`attribute_indices`); no photo shows a
    concept that is none, or of which nothing is known (`concept_known`).
    """
    attributes = known_attributes(photos)
    if attributes is None or all(index is None for index in attributes_of_concepts):
        bar = bottleneck.mean + MIN_ACTIVE_STD * bottleneck.std
        return table.activations > bar.cpu()
    if isinstance(attributes, PhotoAttributes):
        return _of_photos(attributes.present & attributes.visible, attributes_of_concepts, table)
    shares = torch.zeros(len(attributes.shares), len(attributes_of_concepts), dtype=torch.float64)
    for concept, index in enumerate(attributes_of_concepts):
        if index is not None:
            shares[:, concept] = torch.from_numpy(attributes.shares[:, index])
    return class_labels(shares, torch.tensor(photos.labels)[table.indices], MIN_SHARE)


def concept_known(
    photos: LabelledSet, attributes_of_concepts: Sequence[int | None], table: BottleneckTable
) -> Bool[Tensor, "photo concept"]:
    """Return whether it is known of each photo that it shows each concept, or that it does not."""
    attributes = known_attributes(photos)
    if isinstance(attributes, PhotoAttributes):
        return _of_photos(attributes.visible, attributes_of_concepts, table)
    return torch.tensor([index is not None for index in attributes_of_concepts]).expand(len(table.indices), -1)


def _of_photos(
    attributes: Bool[np.ndarray, "photo attribute"],
    attributes_of_concepts: Sequence[int | None],
    table: BottleneckTable,
) -> Bool[Tensor, "photo concept"]:
    """Return the columns of concepts for the photos that were read; false for a concept that is no attribute."""
    found = torch.zeros(len(table.indices), len(attributes_of_concepts), dtype=torch.bool)
    for concept, index in enumerate(attributes_of_concepts):
        if index is not None:
            found[:, concept] = torch.from_numpy(attributes[:, index])[table.indices]
    return found


def concept_labels(
    bottleneck: Bottleneck, photos: LabelledSet, table: BottleneckTable
) -> Float[Tensor, "photo concept"] | None:
    """Return 1 where a photo or its class has a concept, else 0; NaN where it has no label, `None` if none has any."""
    attributes_of_concepts = attribute_indices(bottleneck, photos)
    if all(index is None for index in attributes_of_concepts):
        return None
    known = concept_known(photos, attributes_of_concepts, table)
    return torch.where(known, concept_presence(bottleneck, photos, attributes_of_concepts, table).float(), torch.nan)


def keypoints_in_input(
    bottleneck: Bottleneck,
    view: Preprocess,
    photos: LabelledSet,
    indices: Sequence[int],
    concepts: Sequence[int],
    present: Bool[Tensor, "photo concept"],
) -> Keypoints:
    """Return the set's keypoints as shares of what the network sees of each photo; one that is cut off is not visible.

    Args:
        bottleneck: The bottleneck, whose concepts name parts.
        view: How photos enter the network.
        photos: The labelled set.
        indices: Indices of photos.
        concepts: Indices of concepts.
        present: Which of these photos show which of these concepts.

    Raises:
        InputError: The set has no keypoints.
    """
    known = known_keypoints(photos)
    in_view = keypoints_in_view(photos, indices, view)
    parts = [known.parts.get(bottleneck.concepts[one].part or "", ()) for one in concepts]
    own = torch.tensor([[name in part for name in in_view.names] for part in parts]).reshape(
        len(parts), len(in_view.names)
    )
    return Keypoints(in_view.xy, in_view.visible, own, present, in_view.sizes)


def boxes_in_input(view: Preprocess, photos: LabelledSet, indices: Sequence[int]) -> Float[Tensor, "photo 4"]:
    """Return the set's boxes as shares of what the network sees of each photo; parts that are cut off may lie beyond.

    Raises `InputError` for a set without boxes.
    """
    known = photos.annotation.boxes if photos.annotation else None
    if known is None:
        raise InputError(f"{photos.name} has no boxes; give a set that has them, such as cub:FOLDER")
    at = [int(index) for index in indices]
    left, top, right, bottom = np.array([view.box(photos[index].size) for index in at]).reshape(-1, 4).T
    corners = known[at].reshape(-1, 2, 2)
    start, side = np.stack([left, top], 1)[:, None], np.stack([right - left, bottom - top], 1)[:, None]
    return torch.tensor(((corners - start) / side).reshape(-1, 4))


def map_annotations(
    bottleneck: Bottleneck, source: CellSource, part: BottleneckTable, present: Tensor, constant: Tensor | None
) -> MapAnnotations:
    """Return what is known of the photos of a table and its mapped concepts; nothing where the crop is unknown."""
    indices, photos, view = part.indices.tolist(), source.photos, source.model.preprocess
    if view is None:
        return MapAnnotations(indices, present)
    annotation, points, boxes = photos.annotation, None, None
    if annotation and annotation.keypoints:
        points = keypoints_in_input(bottleneck, view, photos, indices, part.mapped, present)
    if annotation and annotation.boxes is not None:
        boxes = boxes_in_input(view, photos, indices)
    return MapAnnotations(indices, present, points, boxes, constant)


def constant_part_peaks(
    bottleneck: Bottleneck, source: CellSource, train: LabelledSet | None, concepts: Sequence[int]
) -> tuple[Float[Tensor, "concept 2"] | None, str]:
    """Return the fixed cell of each concept's part, fitted on train photos, or the reason why there is none."""
    annotation, view = source.photos.annotation, source.model.preprocess
    if not (annotation and annotation.keypoints) or view is None:
        return None, ""
    if train is None:
        return None, "no train photos were given, on which it is fitted"
    if not (train.annotation and train.annotation.keypoints):
        return None, f"{train.name} has no keypoints, on which it is fitted"
    indices = replace(source, photos=train, folder=None, failures={}).readable_indices(range(len(train)))
    present = torch.ones(len(indices), len(concepts), dtype=torch.bool)
    keypoints = keypoints_in_input(bottleneck, view, train, indices, concepts, present)
    return constant_peaks(keypoints, 1, GRID)[0], ""
