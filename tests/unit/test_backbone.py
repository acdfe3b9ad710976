"""How a backbone shows itself: short, and without a forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import conceptlens as cl


class Counted(nn.Module):
    """A network that says how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.times = resnet18(num_classes=3), 0

    def forward(self, images: object) -> object:
        self.times += 1
        return self.network(images)


def test_a_backbone_is_shown_in_a_few_lines() -> None:
    labels = tuple(f"class {i}" for i in range(1000))
    transform = cl.Preprocess((224, 224))
    model = cl.Backbone(resnet18().eval(), "own resnet18", ("layer3", "layer4"), transform, class_names=labels)
    assert repr(model).split("\n") == [
        "Backbone own resnet18",
        "  module: ResNet, 11.7 M weights, float32 on cpu",
        "  input:  photos, center to 224 x 224, bilinear",
        "  output: 1000 classes (class 0, class 1, class 2, …)",
        "  layers: layer3, layer4",
    ]
    plain = repr(dataclasses.replace(model, class_names=None, layers=(), transform=None))
    assert "preprocessed tensors (no transform)" in plain
    assert "class scores without names" in plain
    assert "layers: chosen at the first observation" in plain
    tower = cl.Backbone(nn.Conv2d(3, 4, 1), "tower", embeds=True, transform=lambda photo: torch.zeros(3, 4, 4))
    assert "output: an embedding" in str(tower)
    assert "which part of them is seen is not known" in str(tower)


@pytest.mark.filterwarnings("error")
def test_showing_a_backbone_runs_nothing() -> None:
    module = Counted().eval()
    model = cl.Backbone(module, "counted", class_names=("a", "b", "c"), input_size=(64, 64))
    assert "chosen at the first observation" in repr(model)
    assert module.times == 0
    assert model.default_layers == ("network.layer4",)
    assert "layers: network.layer4" in repr(model)
