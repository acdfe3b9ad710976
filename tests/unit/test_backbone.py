"""How a backbone shows itself: short, and without a forward pass."""

from __future__ import annotations

import dataclasses

import pytest
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


def test_a_backbone_is_shown_in_one_line() -> None:
    labels = tuple(f"class {i}" for i in range(1000))
    model = cl.Backbone(resnet18().eval(), "own resnet18", ("layer3", "layer4"), class_names=labels)
    assert repr(model) == "Backbone(own resnet18: ResNet, at layer3 and layer4, 1000 classes)"
    assert (
        repr(dataclasses.replace(model, class_names=None, layers=()))
        == "Backbone(own resnet18: ResNet, unnamed classes)"
    )
    tower = cl.Backbone(nn.Conv2d(3, 4, 1), "tower", embeds=True)
    assert str(tower) == "Backbone(tower: Conv2d, an embedding)"


@pytest.mark.filterwarnings("error")
def test_showing_a_backbone_runs_nothing() -> None:
    module = Counted().eval()
    model = cl.Backbone(module, "counted", class_names=("a", "b", "c"), input_size=(64, 64))
    assert repr(model) == "Backbone(counted: Counted, 3 classes)"
    assert module.times == 0
    assert model.default_layers == ("network.layer4",)
    assert repr(model) == "Backbone(counted: Counted, at network.layer4, 3 classes)"
