"""A planted network that understands the names of its colours, and scenes to ask it about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

import conceptlens as cl
from branches import text_vector
from conceptlens.concepts.vocabulary import CONCEPT_TYPES
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.explainer.calibration import ScoreCalibration, calibrate_presence, fit_calibration
from conceptlens.explainer.photo_observations import observe_labelled
from conceptlens.explainer.presence import PresenceWeights
from planted import LABELS, ColourNet


@dataclass(frozen=True)
class Colours:
    """Images are the network's pooled channels; a text points at the channels of the colours that it names."""

    name: str = "colours"
    scale: float = 1.0
    normalised: bool = False

    def encode_image(self, output: object) -> Tensor:
        return output.embedding[:, : len(LABELS)]  # pyright: ignore[reportAttributeAccessIssue]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(label in text.split()) for label in LABELS] for text in texts])


def planted_model() -> cl.Backbone:
    """Return a model whose channel c is colour c, and which sees whole photos."""
    return cl.Backbone(ColourNet(), "planted", ("features",), to_tensor, class_names=LABELS, text=Colours())


@dataclass(frozen=True)
class Words:
    """The same names; every other text points at random, with the length of a name, as an encoder's texts do."""

    name: str = "colours and words"
    scale: float = 1.0
    normalised: bool = False

    def encode_image(self, output: object) -> Tensor:
        return Colours().encode_image(output)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        named = Colours().encode_text(texts)
        others = torch.stack([F.normalize(text_vector(text, len(LABELS)), dim=0) for text in texts])
        return torch.where(named.any(1, keepdim=True), named, others)


@cache
def calibrated(count: int = 60) -> tuple[cl.Backbone, ScoreCalibration]:
    """Return a planted model that reads `Words`, and its calibration with presence, from labelled scenes."""
    model = cl.Backbone(ColourNet(), "planted", ("features",), to_tensor, class_names=LABELS, text=Words())
    data: Any = OnlyColours(count, "train")
    seen = list(observe_labelled(model, data, 0.0, 16))
    spread = fit_calibration(model, (observation for observation, _ in seen))
    return model, calibrate_presence(model, spread, seen, data.concepts, data.name)


@cache
def by_score() -> ScoreCalibration:
    """Return a calibration by which a concept is likely where its score lies half a deviation above the usual one."""
    weights = PresenceWeights(20.0, 0.0, 0.0, dict.fromkeys(CONCEPT_TYPES, -10.0), "nothing")
    return replace(calibrated()[1], presence=weights)


class OnlyColours:
    """DrawnSet scenes whose kinds of shape are not asked about: no colour tells them."""

    concepts = DrawnSet(1).concepts[: len(LABELS)]

    def __init__(self, count: int, split: str = "val") -> None:
        self.drawn = DrawnSet(count, split)
        self.name = f"colours {split}"
        self.names = self.drawn.names

    def __len__(self) -> int:
        return len(self.drawn)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> MaskedPhoto:
        one = self.drawn[index]
        count = one.groups.count("colour")
        return MaskedPhoto(one.name, one.photo, one.concepts[:count], one.groups[:count], one.masks[:count])
