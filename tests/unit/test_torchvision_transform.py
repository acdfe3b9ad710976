"""Transforms of torchvision: read for their resize and crop, or the box is said to be unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision import transforms as v1
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

import conceptlens as cl
from conceptlens.model.torchvision_transform import read_transform

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
BICUBIC = v1.InterpolationMode.BICUBIC
READ: dict[str, tuple[Callable[[], Any], cl.Preprocess]] = {
    "resize and crop": (
        lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        cl.Preprocess((48, 48), MEAN, STD, resize=64),
    ),
    "both sides": (
        lambda: v1.Compose([v1.Resize((48, 64), BICUBIC), v1.ToTensor()]),
        cl.Preprocess((48, 64), (0.0,) * 3, (1.0,) * 3, "bicubic", resize=None, crop_mode="squash"),
    ),
    "a wide crop": (
        lambda: v1.Compose([v1.Resize([64]), v1.CenterCrop((32, 48)), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        cl.Preprocess((32, 48), MEAN, STD, resize=64),
    ),
    "version 2": (
        lambda: v2.Compose([
            v2.Resize(64), v2.CenterCrop(48), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]),
        cl.Preprocess((48, 48), MEAN, STD, resize=64),
    ),
    "version 2, on tensors": (
        lambda: v2.Compose([
            v2.ToImage(), v2.Resize(64), v2.CenterCrop(48), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]),
        cl.Preprocess((48, 48), MEAN, STD, resize=64),
    ),
    "nested": (
        lambda: v1.Compose([v1.Compose([v1.Resize(64), v1.CenterCrop(48)]), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        cl.Preprocess((48, 48), MEAN, STD, resize=64),
    ),
    "a preset": (ResNet18_Weights.DEFAULT.transforms, cl.Preprocess((224, 224), resize=256)),
    "of timm": (
        lambda: create_transform((3, 48, 48), mean=MEAN, std=STD, crop_pct=0.75, interpolation="bilinear"),
        cl.Preprocess((48, 48), MEAN, STD, resize=64),
    ),
    "of open_clip": (
        lambda: open_clip.image_transform(48, False, MEAN, STD),
        cl.Preprocess((48, 48), MEAN, STD, "bicubic", resize=48),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "expected"), READ.values(), ids=READ)
def test_what_is_read(made: Callable[[], Any], expected: cl.Preprocess) -> None:
    assert read_transform(made()) == expected


class Rotated:
    """A step of one's own."""

    def __call__(self, photo: Image.Image) -> Image.Image:
        return photo.transpose(Image.Transpose.ROTATE_90)


class Shrunk(v1.Resize):
    """A step that says one size and gives another."""

    def forward(self, img: Any) -> Any:
        return v1.functional.resize(img, [self.size // 2])


UNKNOWN: dict[str, Callable[[], Any]] = {
    "a function": lambda: lambda photo: torch.zeros(3, 8, 8),
    "a random crop": lambda: v1.Compose([v1.RandomResizedCrop(48), v1.ToTensor()]),
    "a flip": lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48), v1.RandomHorizontalFlip(), v1.ToTensor()]),
    "a step of one's own": lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48), Rotated(), v1.ToTensor()]),
    "a lambda": lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48), v1.ToTensor(), v1.Lambda(lambda x: x)]),
    "a kind of Resize": lambda: v1.Compose([Shrunk(64), v1.CenterCrop(32), v1.ToTensor()]),
    "no crop": lambda: v1.Compose([v1.Resize(64), v1.ToTensor()]),
    "no resize": lambda: v1.Compose([v1.CenterCrop(48), v1.ToTensor()]),
    "a crop before the resize": lambda: v1.Compose([v1.CenterCrop(96), v1.Resize((48, 48)), v1.ToTensor()]),
    "a crop larger than the photo": lambda: v1.Compose([v1.Resize(32), v1.CenterCrop(48), v1.ToTensor()]),
    "a bounded side": lambda: v1.Compose([v1.Resize(64, max_size=80), v1.CenterCrop(48), v1.ToTensor()]),
    "no tensor": lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48)]),
    "bytes": lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(48), v1.PILToTensor()]),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("made", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_understood(made: Callable[[], Any]) -> None:
    assert read_transform(made()) is None


def backbone(transform: Any) -> cl.Backbone:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return cl.Backbone(net.eval(), "net", transform=transform, input_size=(48, 48))


def photo(width: int = 96, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_box_is_known_where_the_transform_is_read() -> None:
    transform = READ["resize and crop"][0]()
    found = backbone(transform).observe(photo())
    assert torch.equal(found.images[0], transform(photo())), "the transform itself prepares the photo"
    info = found.image_info[0]
    assert info.box_known
    assert info.box == pytest.approx((0.3125, 0.125, 0.6875, 0.875))


def test_the_box_is_said_to_be_unknown_elsewhere() -> None:
    found = backbone(v1.Compose([v1.CenterCrop(48), v1.ToTensor()])).observe(photo())
    assert not found.image_info[0].box_known
    assert found.image_info[0].box == (0, 0, 1, 1)
    assert backbone(None).observe(torch.zeros(1, 3, 48, 48)).image_info[0].box_known, "a tensor is seen whole"


def test_what_needs_to_know_the_crop_is_refused() -> None:
    own = backbone(lambda photo: torch.zeros(3, 48, 48))
    with pytest.raises(cl.InputError, match=r"net has a transform of its own, so it cannot be turned; give Backbone"):
        own.known_preprocess("it cannot be turned")
    with pytest.raises(cl.InputError, match=r"net has no transform, so it cannot be turned; give Backbone"):
        backbone(None).known_preprocess("it cannot be turned")
    assert backbone(READ["a preset"][0]()).known_preprocess("").size == (224, 224)
