"""A planted network that understands the names of its colours, and scenes to ask it about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.functional import to_tensor

import conceptlens as cl
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.data.masked_set import MaskedPhoto
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
