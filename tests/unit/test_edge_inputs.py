"""What people give: transforms of every kind, other channels, odd names, volumes; each is right or refused in words."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torchvision.transforms as v1
import torchvision.transforms.v2 as v2
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from tolerance import assert_agree

SIZE = (32, 32)


class Net(nn.Module):
    """A convolution and a head."""

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(colours, 6, 3, 4, 1), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).mean((2, 3)))


def photo(width: int = 48, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def floats(count: int = 2, colours: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, colours, *size, generator=torch.Generator().manual_seed(0))


def scaled(one: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(one.resize(SIZE))).permute(2, 0, 1).float() / 255


def model(transform: Any = None, colours: int = 3) -> cl.Backbone:
    torch.manual_seed(0)
    return cl.Backbone(Net(colours).eval(), "net", transform=transform, input_size=SIZE)


class Albumented:
    """Takes arrays under a name, as albumentations does."""

    def __call__(self, *given: Any, **named: Any) -> dict[str, Any]:
        if given:
            raise KeyError("You have to pass data to augmentations as named arguments, for example: aug(image=image)")
        return {"image": scaled(Image.fromarray(named["image"])), "mask": None}


class OnlyImage:
    """Takes nothing but `image=`."""

    def __call__(self, *, image: Any) -> dict[str, Any]:
        return Albumented()(image=image)


READ: dict[str, Callable[[Image.Image], Any]] = {
    "a tensor": scaled,
    "a batch of one": lambda p: scaled(p)[None],
    "a list of one": lambda p: [scaled(p)],
    "of a processor": lambda p: {"pixel_values": scaled(p)[None]},
    "of a processor, as lists of arrays": lambda p: UserDict({"pixel_values": [scaled(p).numpy()]}),
    "by name": lambda p: {"image": scaled(p), "mask": None},
    "in double precision": lambda p: scaled(p).double(),
    "in a graph": lambda p: scaled(p).requires_grad_(),
    "of albumentations, called by name": lambda p: Albumented()(image=np.asarray(p)),
}


@pytest.mark.parametrize("transform", READ.values(), ids=READ)
def test_what_transforms_give(transform: Callable[[Image.Image], Any]) -> None:
    found = model(transform).observe([photo(), photo(60)])
    assert_agree(found.images, torch.stack([scaled(photo()), scaled(photo(60))]))
    assert not found.images.requires_grad
    assert cl.cam(found, [cl.Logit(0), cl.Logit(1)], "random").maps.shape == (2, 2, 8, 8)


def fails(error: Exception) -> Callable[[Image.Image], Any]:
    def transform(_: Image.Image) -> Any:
        raise error

    return transform


REFUSED: dict[str, tuple[Any, str]] = {
    "an array": (lambda p: scaled(p).numpy(), "transform gave a ndarray; expected a tensor of colour rows columns"),
    "sizes that differ": (v1.Compose([v1.Resize(32), v1.ToTensor()]), r"for the photos of one batch; crop to one size"),
    "an array in a dictionary": (lambda p: {"image": np.zeros((32, 32, 3))}, r"an array of shape \(32, 32, 3\)"),
    "two images": (lambda p: {"image": scaled(p), "x": scaled(p)}, "a dict with image, x; expected a tensor"),
    "no image": (lambda p: {"mask": scaled(p)}, "transform gave a dict with mask; expected a tensor"),
    "a photo": (lambda p: p, "transform gave a Image; expected a tensor"),
    "nothing": (lambda p: None, "transform gave a NoneType; expected a tensor"),
    "a sample": (lambda p: (scaled(p), 3), "transform gave a tuple; expected a tensor"),
    "ten crops": (lambda p: torch.stack([scaled(p)] * 10), r"gave shape \(10, 3, 32, 32\); expected a tensor"),
    "no pixels": (lambda p: torch.zeros(3, 0, 0), r"gave shape \(3, 0, 0\); expected a tensor"),
    "bytes": (v2.Compose([v2.ToImage(), v2.Resize(SIZE)]), r"type torch.uint8; .* v2.ToDtype\(torch.float32, scale=T"),
    "complex numbers": (lambda p: scaled(p) * 1j, "values of type torch.complex64; expected floating ones"),
    "not a number": (lambda p: scaled(p) * torch.nan, "NaN or infinite values; expected finite ones"),
    "albumentations": (Albumented(), r"Albumented\) cannot read a photo .* such as transform=lambda photo: .*\(image="),
    "keywords alone": (OnlyImage(), r"positional argument.*\); expected a function .* such as transform=lambda photo"),
    "for tensors": (v1.Compose([v1.Normalize([0.5] * 3, [0.5] * 3)]), r"Compose\) cannot read a photo \(img should be"),
    "a failure of torch": (lambda p: torch.zeros(2) @ torch.zeros(3), "cannot read a photo .*; expected a function"),
    "a failure of numpy": (lambda p: np.zeros(3).reshape(2, 2), "cannot reshape array of size 3"),
    "a missing key": (fails(KeyError("mean")), r"cannot read a photo \('mean'\)"),
    "an empty error": (fails(ValueError()), r"cannot read a photo \(ValueError\)"),
    "an error of many lines": (fails(RuntimeError("one\ntwo")), r"cannot read a photo \(one\); expected"),
}


@pytest.mark.parametrize(("transform", "sentence"), REFUSED.values(), ids=REFUSED)
def test_transforms_that_are_refused(transform: Any, sentence: str) -> None:
    with pytest.raises(cl.InputError, match=sentence) as caught:
        model(transform).observe([photo(), photo(30)])
    assert "\n" not in str(caught.value)


class TestChannels:
    def test_one_mean_makes_grey_inputs(self) -> None:
        view = cl.Preprocess(SIZE, (0.5,), (0.25,), crop_mode="squash")
        grey = np.asarray(photo().resize(SIZE, Image.Resampling.BILINEAR).convert("L"), np.float32)
        expected = torch.from_numpy((grey / 255 - 0.5) / 0.25)[None, None]
        found = model(view, 1).observe(photo())
        assert_agree(found.images, expected)
        assert found.image_info[0].box == (0, 0, 1, 1)
        same = model(view, 1).observe(photo().convert("L"))
        assert same.images.shape == (1, 1, 32, 32)

    def test_four_means_are_for_tensors(self) -> None:
        network = model(cl.Preprocess(SIZE, (0.5,) * 4, (0.5,) * 4), 4)
        assert network.observe(floats(colours=4)).logits.shape == (2, 5)
        with pytest.raises(cl.InputError, match="with 4 means cannot prepare a photo, which is grey or has 3 colours"):
            network.observe(photo())

    @pytest.mark.parametrize(
        ("colours", "given", "sentence"),
        [
            (1, 3, r"it takes grey images: transform=cl.Preprocess\(size, mean=\(0.5,\), std=\(0.5,\)\)"),
            (3, 1, "it takes images of 3 colours: give photos, or tensors with three colours"),
            (3, 4, "it takes images of 3 colours"),
            (13, 3, "it takes images of 13 channels: give them as floating tensors, image x 13 x rows x columns"),
        ],
    )
    def test_a_wrong_number_is_told_with_the_right_one(self, colours: int, given: int, sentence: str) -> None:
        with pytest.raises(cl.InputError, match=sentence):
            model(colours=colours).observe(floats(colours=given))

    @pytest.mark.parametrize(("bands", "kind"), [(4, np.uint8), (13, np.uint16), (3, np.uint16), (5, np.float32)])
    def test_a_file_of_many_bands_is_said_to_be_one(self, tmp_path: Path, bands: int, kind: type[Any]) -> None:
        file = tmp_path / "bands.tif"
        tifffile.imwrite(file, np.ones((40, 48, bands), kind), planarconfig="contig", photometric="minisblack")
        bits = np.dtype(kind).itemsize * 8
        with pytest.raises(cl.InputError, match=rf"bands.tif' is a TIFF of {bands} bands of {bits} bits, which"):
            model(cl.Preprocess(SIZE)).observe(file)

    def test_a_broken_tiff_is_still_called_broken(self, tmp_path: Path) -> None:
        file = tmp_path / "broken.tif"
        file.write_bytes(b"II*\0\xff\xff\xff\xff")
        with pytest.raises(cl.InputError, match=r"is not a known kind of image|is broken or cut short"):
            model(cl.Preprocess(SIZE)).observe(file)


GIVEN: dict[str, tuple[Any, str]] = {
    "volumes": (torch.zeros(2, 3, 8, 32, 32), "a batch of volumes or videos, and maps are made of images alone"),
    "an array of volumes": (np.zeros((2, 3, 8, 32, 32), np.float32), "a batch of volumes or videos"),
    "a sparse tensor": (floats().to_sparse(), r"a tensor of layout sparse_coo was given; .*: tensor.to_dense\(\)"),
}


@pytest.mark.parametrize(("given", "sentence"), GIVEN.values(), ids=GIVEN)
def test_tensors_that_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(cl.InputError, match=sentence):
        model().observe(given)


@pytest.mark.parametrize(
    "given", [floats().to("meta"), [floats()[0], floats()[0].to("meta")], (floats().to("meta"), [1, 2])]
)
def test_images_without_values_are_refused(given: Any) -> None:
    with pytest.raises(cl.InputError, match=r"a tensor on the meta device was given, which holds no values"):
        model().observe(given)


def test_a_photo_whose_file_is_closed(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as opened:
        pass
    with pytest.raises(cl.InputError, match=r"a photo cannot be read .*; open it again, or give its path"):
        model(cl.Preprocess(SIZE)).observe(opened)


class Volumes(nn.Module):
    """A network of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv3d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.head(self.trunk(volumes).mean((2, 3, 4)))


def test_a_network_of_volumes_given_images() -> None:
    with pytest.raises(cl.InputError, match="it takes volumes or videos, and maps are made of images alone"):
        cl.Backbone(Volumes(), input_size=SIZE).observe(floats())


class OnlyByName(Net):
    """Takes its images by name alone."""

    def forward(self, *, pixels: Tensor, dim: float = 1.0) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(pixels * dim)


class Pair(Net):
    """Takes two images and what weighs them, which is called as labels are."""

    def forward(self, left: Tensor, right: Tensor, target: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(left + right * target[:, None, None, None])


class TestNames:
    @pytest.mark.parametrize("given", [floats(), {"pixels": floats(), "label": 3}, {"data": floats()}])
    def test_images_that_are_taken_by_name_alone(self, given: Any) -> None:
        torch.manual_seed(0)
        network = cl.Backbone(OnlyByName().eval(), input_size=SIZE)
        assert_agree(network.observe(given).logits.detach(), network.module(pixels=floats()).detach())
        assert_agree(network.observe(floats(), dim=2.0).logits.detach(), network.module(pixels=2 * floats()).detach())

    def test_the_first_argument_of_a_module_is_its_images_and_labels_are_passed_where_needed(self) -> None:
        network = cl.Backbone(Pair().eval(), input_size=SIZE)
        batch = {"left": floats(), "right": floats() * 2, "target": torch.tensor([1.0, 2.0]), "path": ["a", "b"]}
        observation = network.observe(batch)
        expected = network.module(floats(), floats() * 2, torch.tensor([1.0, 2.0]))
        assert_agree(observation.logits.detach(), expected.detach())
        assert cl.cam(observation, 1, "score_cam").maps.shape == (2, 1, 8, 8)


class Stumbles(Net):
    """Fails in torch, about nothing that has to do with shapes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) @ torch.zeros(5, 5, dtype=torch.float64)


def test_what_torch_says_within_a_module_is_one_sentence() -> None:
    with pytest.raises(
        cl.InputError, match=r"net cannot be run on images of shape .* \(RuntimeError: expected m1"
    ) as e:
        cl.Backbone(Stumbles(), "net", input_size=SIZE).observe(floats())
    assert "\n" not in str(e.value)
    assert isinstance(e.value.__cause__, RuntimeError)


class Choosy(Net):
    """Says itself what it does not like."""

    def forward(self, images: Tensor) -> Tensor:
        raise KeyError("weights of expert 3")


def test_what_a_module_says_itself_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError, match="weights of expert 3"):
        cl.Backbone(Choosy(), input_size=SIZE).observe(floats())
