"""A tiny network that writes down the batches it is given, so that tests can count what a rule asks of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import random_images
from conceptlens.model.observation import Observation

DOUBLE = torch.float64
CLASSES = 5


class Tiny(nn.Module):
    """Two convolutions, a head on the pooled cells that is linear or not, and a record of the batches it was given."""

    def __init__(self, channels: int = 6, linear: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, channels, 3, stride=2, padding=1)
        self.cells = nn.ReLU()
        self.bend = nn.Identity() if linear else nn.Tanh()
        self.head = nn.Linear(channels, CLASSES)
        self.batches: list[int] = []
        with torch.no_grad():
            self.head.weight *= 8
            self.last.bias[0] = -100.0  # a dead channel: the same everywhere

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.read(self.cells(self.last(self.stem(images).relu())))

    def read(self, cells: Tensor) -> Tensor:
        return self.head(self.bend(cells.mean((2, 3))))


def look(linear: bool = False, channels: int = 6, images: int = 2) -> Observation:
    module = Tiny(channels, linear).to(DOUBLE)
    model = cl.Backbone(module, "tiny", ("cells",), input_size=(16, 24))
    return model.observe(random_images((16, 24), images).to(DOUBLE))


def module_of(observation: Observation) -> Tiny:
    assert isinstance(observation.model.module, Tiny)
    return observation.model.module


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (t.flatten(2) - t.flatten(2).mean(2, keepdim=True) for t in (a, b))
    return cosine(a, b)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(a, b, dim=-1)
