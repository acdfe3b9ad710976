"""What a labelled set knows of the concepts of a bottleneck: which photos show them, where their parts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, boxes_seen, keypoints_seen
from conceptlens.bottleneck.evaluate.map_figures import Known
from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import class_labels
from conceptlens.metrics.keypoint_baselines import constant_peaks
from conceptlens.metrics.keypoints import GRID
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

LEAST = 0.5  # of a class's photos that must show an attribute for the class to have it
ACTIVE = 1.2816  # training deviations above the mean: a tenth of a normal distribution
UNLABELLED = "the set has no class attributes that are concepts of the bottleneck"
BY_CLASS = "a photo shows a concept where at least half of its class's photos do, by the set's class attributes"
BY_ACTIVITY = (
    "the set says of no concept which photos show it, so a photo is taken to show those that are 1.28 training "
    "deviations above their mean in it: figures of maps then speak of the concepts' own choice of photos"
)


def attributes_of(bottleneck: Bottleneck, photos: LabelledSet) -> list[int | None]:
    """Return which class attribute of the set each concept is, by its words or its name."""
    known = photos.annotation.attributes if photos.annotation else None
    if known is None:
        return [None] * len(bottleneck.labels)
    places: dict[str, int] = {}
    for spelled in ([concept.label for concept in known.concepts], known.names):
        for place, name in enumerate(spelled):
            places.setdefault(name.casefold(), place)
    return [places.get(label.casefold()) for label in bottleneck.labels]


def shown_in(
    bottleneck: Bottleneck, photos: LabelledSet, of_set: Sequence[int | None], table: BottleneckTable
) -> Bool[Tensor, "photo concept"]:
    """Return whether each photo shows each concept, by its class, or by activity where nothing is known of any.

    `of_set`: which attribute of the set each concept is (`attributes_of`); one that is none is shown by no photo.
    """
    attributes = photos.annotation.attributes if photos.annotation else None
    if attributes is None or all(place is None for place in of_set):
        bar = bottleneck.mean + ACTIVE * bottleneck.deviation
        return table.activations > bar.cpu()
    shares = torch.zeros(len(attributes.shares), len(of_set), dtype=torch.float64)
    for concept, place in enumerate(of_set):
        if place is not None:
            shares[:, concept] = torch.from_numpy(attributes.shares[:, place])
    return class_labels(shares, torch.tensor(photos.labels)[table.places], LEAST)


def known_labels(
    bottleneck: Bottleneck, photos: LabelledSet, table: BottleneckTable
) -> Float[Tensor, "photo concept"] | None:
    """Return 1 where a photo's class has a concept, else 0; NaN for a concept without labels, `None` if all are."""
    of_set = attributes_of(bottleneck, photos)
    told = torch.tensor([place is not None for place in of_set])
    if not bool(told.any()):
        return None
    return torch.where(told, shown_in(bottleneck, photos, of_set, table).float(), torch.nan)


def known_of(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    part: BottleneckTable,
    present: Tensor,
    constant: Tensor | None,
) -> Known:
    """Return what is known of the photos of a table, for its mapped concepts, of which `present` says who is shown."""
    places, annotation = part.places.tolist(), photos.annotation
    points = boxes = None
    if not isinstance(bottleneck.base.of(model).transform, Preprocess):
        return Known(places, present)  # nobody knows what such a view cuts off
    if annotation and annotation.keypoints:
        points = keypoints_seen(bottleneck, model, photos, places, part.mapped, present)
    if annotation and annotation.boxes is not None:
        boxes = boxes_seen(bottleneck, model, photos, places)
    return Known(places, present, points, boxes, constant)


def fixed_places(
    bottleneck: Bottleneck, model: Backbone, photos: LabelledSet, train: LabelledSet | None, looked: Sequence[int]
) -> tuple[Float[Tensor, "concept 2"] | None, str]:
    """Return the fixed cell of each concept's part, fitted on train photos, or the reason why there is none."""
    known = photos.annotation and photos.annotation.keypoints
    if not known or not isinstance(bottleneck.base.of(model).transform, Preprocess):
        return None, ""
    if train is None:
        return None, "no train photos were given, on which it is fitted"
    if not (train.annotation and train.annotation.keypoints):
        return None, f"{train.name} has no keypoints, on which it is fitted"
    places = []
    for place in range(len(train)):
        try:
            train[place]
        except InputError:
            continue
        places.append(place)
    present = torch.ones(len(places), len(looked), dtype=torch.bool)
    seen = keypoints_seen(bottleneck, model, train, places, looked, present)
    return constant_peaks(seen, 1, GRID)[0], ""
