"""A CLIP tower with class names: a zero-shot classifier like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.backbone import Backbone, answer_tensor
from conceptlens.error import InputError


class ZeroShot(nn.Module):
    """`logits = scale <E(x) / |E(x)|, t / |t|> + bias`: an image tower followed by the text vectors of its classes."""

    def __init__(self, tower: nn.Module, texts: Tensor, scale: float, bias: float = 0.0) -> None:
        super().__init__()
        self.tower = tower
        self.classifier = nn.Linear(texts.shape[1], texts.shape[0])
        self.classifier.weight = nn.Parameter(scale * F.normalize(texts, dim=1))
        self.classifier.bias = nn.Parameter(torch.full_like(self.classifier.weight[:, 0], bias))

    def forward(self, images: Tensor) -> Tensor:
        """Return `image class` logits."""
        embedding = answer_tensor(self.tower(images))
        return self.classifier(F.normalize(embedding, dim=-1))  # pyright: ignore[reportArgumentType]


def with_labels(tower: Backbone, labels: Sequence[str], prompt: str = "a photo of a {}") -> Backbone:
    """Return an embedding backbone as a zero-shot classifier over `labels`."""
    if not labels:
        raise InputError("no labels were given; a zero-shot classifier needs at least two")
    texts = tower.text.encode_text([prompt.format(label) for label in labels])
    module = ZeroShot(tower.module, texts.to(tower.parameter), tower.text.scale)
    layers = tuple(f"tower.{name}" for name in tower.layers)
    return dataclasses.replace(
        tower, module=module, labels=tuple(labels), embeds=False, classifier="classifier", layers=layers
    )
