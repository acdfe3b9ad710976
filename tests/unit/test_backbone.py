"""How a backbone shows itself: short, and without a forward pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights, resnet18

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
    tower = cl.Backbone(nn.Conv2d(3, 4, 1), "tower", task="embedding", transform=lambda photo: torch.zeros(3, 4, 4))
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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ResNet18_Weights.DEFAULT, r"transform is the weights; .*transform=weights.transforms\(\)"),
        (ResNet18_Weights.DEFAULT.transforms, r"the class ImageClassification; .*transform=weights.transforms\(\)"),
        (transforms.ToTensor, r"the class ToTensor; .*transform=ToTensor\(\.\.\.\)"),
        ([transforms.ToTensor()], r"transform is a list; .*Compose\(steps\)"),
        ("x", "transform is a str; expected a function from a PIL image to a tensor"),
    ],
)
def test_what_cannot_read_a_photo_is_no_transform(given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words) as refused:
        cl.Backbone(nn.Identity(), transform=given)
    assert isinstance(refused.value, cl.InputError)


def test_a_transform_that_fails_on_a_photo_is_named() -> None:
    model = cl.Backbone(nn.Identity(), transform=transforms.Normalize((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(cl.InputError, match=r"transform \(Normalize\) cannot read a photo"):
        model.observe(Image.new("RGB", (32, 32)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("abc", "class_names is a str"),
        (3, "class_names is a int"),
        (["cat", 1, "dog"], "class_names hold 1; expected one text for each class"),
    ],
)
def test_class_names_are_a_list_of_texts(given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        cl.Backbone(nn.Identity(), class_names=given)


@pytest.mark.parametrize("names", [("cat", "dog"), ("a", "b", "c", "d"), ()])
def test_every_class_score_has_a_name(names: tuple[str, ...]) -> None:
    model = cl.Backbone(Counted().eval(), "counted", ("network.layer4",), class_names=names, input_size=(32, 32))
    with pytest.raises(cl.InputError, match=f"counted gives 3 class scores .* and has {len(names)} class names"):
        model.observe(torch.zeros(1, 3, 32, 32))


def test_name_and_output_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="name is a tuple; expected what the model is called"):
        cl.Backbone(nn.Identity(), ("layer4",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="output is a str; expected a function"):
        cl.Backbone(nn.Identity(), output="logits")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((0, 20, 3), np.uint8), "a photo of 20 x 0 pixels was given"),
        (Image.new("RGB", (0, 9)), "a photo of 0 x 9 pixels was given"),
        (torch.zeros(1, 3, 0, 0), "which has no pixels; expected at least one row"),
        (np.zeros((1, 3, 8, 0), np.float32), "which has no pixels; expected at least one row"),
        (torch.zeros(1, 5, 32, 32), r"counted cannot be run on images of shape 1 x 5 x 32 x 32, .* 3 channels"),
    ],
)
def test_images_that_cannot_be_run_are_refused(images: Any, words: str) -> None:
    model = cl.Backbone(Counted().eval(), "counted", ("network.layer4",), cl.Preprocess((32, 32)))
    with pytest.raises(cl.InputError, match=words):
        model.observe(images)


def test_a_module_that_takes_no_images_is_refused() -> None:
    with pytest.raises(cl.InputError, match="Linear cannot be run on images of shape 1 x 3 x 32 x 32"):
        cl.heatmaps(nn.Linear(4, 2), torch.zeros(1, 3, 32, 32))


class Unready(nn.Module):
    """Fails for a reason of its own, which has nothing to do with its input."""

    def forward(self, images: Tensor) -> Tensor:
        """Fail."""
        raise RuntimeError("the index has not been loaded")


def test_a_failure_of_the_module_itself_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="the index has not been loaded") as raised:
        cl.Backbone(Unready()).observe(torch.zeros(1, 3, 32, 32))
    assert not isinstance(raised.value, cl.InputError)


@pytest.mark.parametrize(
    ("titles", "words"), [([1], "a title is 1; expected one text"), (5, "titles are given as int")]
)
def test_titles_are_texts(titles: Any, words: str) -> None:
    model = cl.Backbone(Counted().eval(), "counted", ("network.layer4",), input_size=(32, 32))
    with pytest.raises(TypeError, match=words):
        model.observe(torch.zeros(1, 3, 32, 32), titles=titles)
