"""A photo becomes the input its model was trained for, and the box says which part of it was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

import conceptlens as cl
from conceptlens.record import WHOLE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
# width x height: square, odd, tall, wide, extreme, smaller than the crop
PHOTOS = [(64, 64), (97, 61), (61, 97), (301, 200), (233, 401), (40, 37), (500, 71)]


def photo(size: tuple[int, int]) -> Image.Image:
    """A smooth random photo: noise enlarged, so that a shift of one pixel shows and resampling is not all there is."""
    noise = np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


TIMM: dict[str, dict[str, Any]] = {
    "bicubic .875": {"size": (48, 48), "interpolation": "bicubic", "share": 0.875, "mean": HALF, "std": HALF},
    "bilinear .95": {"size": (48, 48), "interpolation": "bilinear", "share": 0.95},
    "uncropped": {"size": (48, 48), "interpolation": "bicubic", "share": 1.0},
    "wide": {"size": (40, 56), "interpolation": "bicubic", "share": 0.9},
    "tall": {"size": (56, 40), "interpolation": "bilinear", "share": 1.0},
    "squashed": {"size": (40, 56), "interpolation": "bicubic", "share": 1.0, "crop_mode": "squash"},
}


@pytest.mark.parametrize("size", PHOTOS, ids=str)
@pytest.mark.parametrize("settings", TIMM.values(), ids=TIMM)
def test_as_timm(settings: dict[str, Any], size: tuple[int, int]) -> None:
    ours = cl.Preprocess(**settings)
    theirs = create_transform(
        input_size=(3, *ours.size),
        interpolation=ours.interpolation,
        mean=ours.mean,
        std=ours.std,
        crop_pct=ours.share,
        crop_mode="squash" if ours.crop_mode == "squash" else "center",
    )
    same(ours(photo(size)), theirs(photo(size)))


@pytest.mark.parametrize("size", PHOTOS, ids=str)
@pytest.mark.parametrize(("crop", "resize", "mode"), [(48, 56, "bilinear"), (48, 50, "bicubic"), (47, 47, "bilinear")])
def test_as_torchvision(crop: int, resize: int, mode: Any, size: tuple[int, int]) -> None:
    ours = cl.Preprocess((crop, crop), MEAN, STD, mode, resize=resize)
    theirs = ImageClassification(crop_size=crop, resize_size=resize, interpolation=InterpolationMode(mode))
    same(ours(photo(size)), theirs(photo(size)))


@pytest.mark.parametrize("size", PHOTOS, ids=str)
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_as_open_clip(crop_mode: Any, size: tuple[int, int]) -> None:
    ours = cl.Preprocess((48, 48), HALF, HALF, "bicubic", crop_mode=crop_mode)
    mode = {"center": "shortest", "squash": "squash"}[crop_mode]
    theirs = open_clip.image_transform(48, False, HALF, HALF, resize_mode=mode, interpolation="bicubic")
    same(ours(photo(size)), theirs(photo(size)))


settings = st.builds(
    cl.Preprocess,
    size=st.sampled_from([(48, 48), (40, 56), (56, 40), (31, 31)]),
    share=st.sampled_from([1.0, 0.95, 0.875, 0.5]),
    crop_mode=st.sampled_from(["center", "squash"]),
    resize=st.sampled_from([None, None, 64, (70, 90)]),
    crop_rounding=st.sampled_from(["even", "down"]),
)
sides = st.integers(30, 300)


@given(settings, sides, sides)
def test_the_box_is_what_the_model_sees(preprocess: cl.Preprocess, width: int, height: int) -> None:
    """Two ramps, one for each axis: the colours at the corners of the view say where in the photo it lies."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None].round()
    ramp[..., 1] = np.linspace(0, 255, height)[:, None].round()
    view = np.asarray(preprocess.view(Image.fromarray(ramp)), np.float64)
    left, top, right, bottom = preprocess.box((width, height))
    rows, columns = preprocess.size
    assert view.shape == (rows, columns, 3)
    assert 0 <= min(left, top) <= max(right, bottom) <= 1
    across = np.interp((left + (np.arange(columns) + 0.5) / columns * (right - left)) * width - 0.5,
                       np.arange(width), np.linspace(0, 255, width))  # fmt: skip
    down = np.interp((top + (np.arange(rows) + 0.5) / rows * (bottom - top)) * height - 0.5,
                     np.arange(height), np.linspace(0, 255, height))  # fmt: skip
    step = 255 / min(rows, columns)  # half a pixel of the view is the most that rounding may move it
    assert np.abs(view[rows // 2, 2:-2, 0] - across[2:-2]).max() < step / 2
    assert np.abs(view[2:-2, columns // 2, 1] - down[2:-2]).max() < step / 2


BOXES = {
    "all of a square": ({"size": (48, 48)}, (64, 64), WHOLE),
    "all of it, squashed": ({"size": (48, 48), "crop_mode": "squash"}, (300, 64), WHOLE),
    "the middle of a wide photo": ({"size": (50, 50)}, (200, 100), (0.25, 0, 0.75, 1)),
    "the middle of a tall photo": ({"size": (50, 50)}, (100, 200), (0, 0.25, 1, 0.75)),
    "the centre crop": ({"size": (80, 80), "share": 0.8}, (100, 100), (0.1, 0.1, 0.9, 0.9)),
    "wide of square": ({"size": (50, 100)}, (100, 100), (0, 0.25, 1, 0.75)),
}


@pytest.mark.parametrize(("settings", "size", "box"), BOXES.values(), ids=BOXES)
def test_box(settings: dict[str, Any], size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert cl.Preprocess(**settings).box(size) == pytest.approx(box, abs=1e-9)


def test_an_odd_pixel_is_cut_as_told() -> None:
    even, down = (cl.Preprocess((4, 4), resize=(7, 7), crop_rounding=r) for r in ("even", "down"))
    assert even.box((7, 7))[0] == pytest.approx(2 / 7)
    assert down.box((7, 7))[0] == pytest.approx(1 / 7)


def test_the_observation_records_the_box() -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )
    seen = cl.Backbone(module, transform=cl.Preprocess((48, 48))).observe(photo((96, 48)))
    (picture,) = seen.image_info
    assert (picture.width, picture.height, picture.box) == (96, 48, (0.25, 0.0, 0.75, 1.0))
    assert seen.images.shape == (1, 3, 48, 48)


WRONG: dict[str, dict[str, Any]] = {
    "a share above 1": {"share": 1.2},
    "a share of nothing": {"share": 0.0},
    "a resize below the crop": {"resize": 40},
    "one side below the crop": {"resize": (64, 40)},
    "another mode": {"crop_mode": "crop"},
    "another rounding": {"crop_rounding": "up"},
    "another interpolation": {"interpolation": "cubic"},
    "means that do not fit": {"mean": (0.5,)},
    "no deviation": {"std": (0.5, 0.0, 0.5)},
    "three sides": {"size": (3, 48, 48)},
}


@pytest.mark.parametrize("settings", WRONG.values(), ids=WRONG)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(cl.InputError, match=f"a Preprocess with {next(iter(settings))}="):
        cl.Preprocess(**{"size": (48, 48), **settings})


def test_a_photo_that_the_crop_leaves_is_refused() -> None:
    wide = cl.Preprocess((48, 96), resize=60)
    assert wide.box((200, 100)) == pytest.approx((0.1, 0.1, 0.9, 0.9))
    for ask in (wide.box, lambda size: wide(photo(size))):
        with pytest.raises(cl.InputError, match=r"of 50 x 100 is scaled to 60 x 120 .* less than the crop of 96 x 48"):
            ask((50, 100))
