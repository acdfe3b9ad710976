from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conceptlens import render
from conceptlens.io.errors import InputError
from conceptlens.render import overlays
from tolerance import assert_agree

GREY = Image.new("RGB", (60, 40), (120, 130, 140))


def luminance(table: np.ndarray) -> np.ndarray:
    """CIE lightness of sRGB colours."""
    share = table / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_a_shared_scale_spans_the_strongest_map() -> None:
    maps = [np.array([[0.0, 1.0]]), np.array([[0.5, 4.0], [0.1, 0.2]])]
    assert render.scale_of(maps, signed=False) == render.Scale(0.0, 4.0, False)


def test_a_signed_scale_is_symmetric_around_zero() -> None:
    assert render.scale_of([np.array([[-3.0, 1.0]])], signed=True) == render.Scale(-3.0, 3.0, True)


@pytest.mark.parametrize("signed", [False, True])
def test_an_empty_map_has_a_scale_and_leaves_the_photo_as_it_is(signed: bool) -> None:
    zeros = np.zeros((3, 3))
    scale = render.scale_of([zeros], signed)
    assert scale.low < scale.high
    assert not render.colour(zeros, scale)[..., 3].any()
    assert np.array_equal(render.overlay(GREY, zeros, scale), GREY)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(wrong: float) -> None:
    values = np.array([[0.0, wrong]])
    with pytest.raises(InputError, match="1 values that are NaN or infinite"):
        render.scale_of([values], signed=False)
    with pytest.raises(InputError, match="NaN or infinite"):
        render.overlay(GREY, values)


def test_shapes_sizes_and_scales_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2, 2\)"):
        render.colour(np.zeros((1, 2, 2)), render.Scale(0, 1, False))
    with pytest.raises(InputError, match="at least one"):
        render.scale_of([], signed=False)
    with pytest.raises(InputError, match="smaller first"):
        render.Scale(1.0, 1.0, False)
    with pytest.raises(InputError, match="same distance from zero"):
        render.Scale(-1.0, 2.0, True)
    with pytest.raises(InputError, match="box is"):
        render.overlay(GREY, np.ones((2, 2)), box=(0.5, 0, 0.2, 1))
    with pytest.raises(InputError, match="opacity is 60"):
        render.overlay(GREY, np.ones((2, 2)), opacity=60)
    with pytest.raises(InputError, match="2 maps and 1 titles"):
        render.panel(GREY, [np.ones((2, 2))] * 2, ["one"])
    with pytest.raises(InputError, match="'mine'"):
        render.panel(GREY, [np.ones((2, 2))], ["one"], scale="mine")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("signed", [False, True])
def test_colour_tables_have_256_colours(signed: bool) -> None:
    table = render.colour_table(signed)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert render.alpha_table(signed).shape == (256,)


def test_the_sequential_table_grows_lighter_all_the_way() -> None:
    lightness = luminance(render.colour_table(False))
    assert (np.diff(lightness) > -0.3).all()
    assert lightness[-1] - lightness[0] > 60


def test_the_signed_table_is_neutral_in_the_middle_and_as_dark_at_both_ends() -> None:
    table = render.colour_table(True).astype(int)
    assert np.ptp(table[127:129], axis=1).max() < 8
    assert table[30, 0] > table[30, 2]  # red below zero
    assert table[225, 2] > table[225, 0]  # blue above it
    lightness = luminance(table)
    assert np.abs(lightness - lightness[::-1]).max() < 15


@pytest.mark.parametrize("signed", [False, True])
def test_stronger_evidence_is_more_opaque(signed: bool) -> None:
    scale = render.Scale(-2.0 if signed else 0.0, 2.0, signed)
    alpha = render.colour(np.linspace(0, 2, 50)[None], scale)[0, :, 3].astype(int)
    assert alpha[0] == 0
    assert alpha[-1] == 255
    assert (np.diff(alpha) >= 0).all()
    if signed:
        below = render.colour(-np.linspace(0, 2, 50)[None], scale)[0, :, 3].astype(int)
        assert np.abs(alpha - below).max() <= 6


def test_values_beyond_a_scale_take_the_colour_of_its_end() -> None:
    painted = render.colour(np.array([[-5.0, 9.0]]), render.Scale(0.0, 1.0, False))
    assert painted[0, 0, 3] == 0
    assert tuple(painted[0, 1]) == (*render.colour_table(False)[255], 255)


@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(9, 40)] * 2), st.integers(0, 99))
def test_upsample_is_torchs_bilinear_with_cell_centres_aligned(
    cells: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=cells)
    truth = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0]
    assert np.allclose(render.upsample(values, *size), truth.numpy(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_of_tensors_keeps_its_precision(dtype: torch.dtype) -> None:
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    large = render.upsample(maps, 8, 20)
    assert (large.shape, large.dtype) == ((2, 3, 8, 20), dtype)
    one = render.upsample(maps[1, 2].to(torch.float64).numpy(), 8, 20)
    tolerance = 1e-6 if dtype.itemsize > 2 else 1e-2
    np.testing.assert_allclose(large[1, 2].to(torch.float64).numpy(), one, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_batch_of_arrays_keeps_its_precision(dtype: type) -> None:
    maps = np.random.default_rng(0).random((2, 3, 4, 5)).astype(dtype)
    large = render.upsample(maps, 8, 20)
    assert isinstance(large, np.ndarray)
    assert (large.shape, large.dtype) == ((2, 3, 8, 20), dtype)
    assert_agree(large[1, 2], render.upsample(maps[1, 2], 8, 20))


def test_whole_numbers_and_lists_become_fractions() -> None:
    assert render.upsample([[0, 1]], 1, 4).tolist() == [[0, 0.25, 0.75, 1]]
    assert render.upsample(np.array([[0, 1]]), 1, 4).dtype == np.float64
    assert render.upsample(torch.tensor([[0, 1]]), 1, 4).dtype == torch.float32
    assert render.upsample(np.array([[False, True]]), 1, 4).tolist() == [[0, 0.25, 0.75, 1]]


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.ones(3), r"map has shape \(3,\); expected \.\.\. height width"),
        (torch.ones(2, 0, 3), r"map has shape \(2, 0, 3\)"),
        (torch.tensor([[1.0, torch.nan]]), "map holds 1 values that are NaN or infinite"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(maps: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        render.upsample(maps, 4, 4)


def test_the_overlay_lies_in_its_box_and_the_rest_is_dimmed() -> None:
    painted = np.array(render.overlay(GREY, np.ones((2, 2)), opacity=1.0, box=(0.25, 0, 0.75, 1))).astype(int)
    assert (painted[:, 15:45] == render.colour_table(False)[255]).all()
    outside = painted[:, :15]
    assert (outside < np.array(GREY)[:, :15]).all()
    assert (outside > 0.3 * np.array(GREY)[:, :15]).all()


def test_opacity_zero_shows_the_bare_photo() -> None:
    assert np.array_equal(render.overlay(GREY, np.ones((2, 2)), opacity=0, box=(0.2, 0.2, 0.8, 0.8)), GREY)


def test_the_overlay_points_where_the_map_does() -> None:
    values = np.zeros((4, 6))
    values[3, 0] = 1.0
    change = np.abs(np.array(render.overlay(GREY, values)).astype(int) - np.array(GREY)).sum(2)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert row >= 30
    assert column < 10
    assert not change[:, 30:].any()


def test_tensors_and_lists_are_maps_too() -> None:
    values = torch.tensor([[0.0, 1.0]], requires_grad=True)
    expected = render.overlay(GREY, np.array([[0.0, 1.0]]))
    assert np.array_equal(render.overlay(GREY, values), expected)
    assert np.array_equal(render.overlay(GREY.convert("L").convert("RGB"), [[0, 1]]).size, GREY.size)


def test_inputs_are_left_as_they_are() -> None:
    values, photo = np.array([[0.0, -1.0]]), GREY.copy()
    render.overlay(photo, values)
    render.panel(photo, [values], ["one"])
    assert np.array_equal(photo, GREY)
    assert values.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("signed", [False, True])
def test_a_colour_bar_runs_from_low_to_high(signed: bool) -> None:
    bar = render.colour_bar(render.Scale(-1.0 if signed else 0.0, 1.0, signed), 200, 30)
    assert bar.size == (200, 30)
    row = np.array(bar).astype(int)[5]
    assert np.abs(row[198] - render.colour_table(signed)[254]).max() <= 8
    assert (row[100 if signed else 3] > 245).all()  # nothing at zero: the paper shows


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_a_panel_holds_every_tile_and_states_its_scale(scale: str) -> None:
    maps = [None, np.array([[0.0, 1.0]]), np.array([[0.0, 0.1]]), np.array([[0.2, 0.0]])]
    sheet = render.panel(GREY, maps, ["photo", "a", "b", "c"], scale=scale, columns=2, width=120)  # pyright: ignore[reportArgumentType]
    assert sheet.width == 120 * 2 + 3 * 8
    assert sheet.height > 2 * 80
    assert (np.array(sheet)[0, 0] == 255).all()


def test_a_shared_panel_shows_weak_maps_as_weak() -> None:
    maps = [np.ones((2, 2)), 0.1 * np.ones((2, 2))]
    shared = np.array(render.panel(GREY, maps, ["", ""], "shared", width=100)).astype(int)
    own = np.array(render.panel(GREY, maps, ["", ""], "own", width=100)).astype(int)
    change = [np.abs(s[40, 160] - GREY.getpixel((0, 0))).sum() for s in (shared, own)]
    assert change[0] < 60 < change[1]


def test_long_titles_are_cut() -> None:
    font = overlays._font(14)
    cut = overlays._fit("a very long title\nthat does not fit", font, 80)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 80
    assert overlays._fit("short", font, 80) == "short"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0312456, "−0.0312"), (1.0, "1"), (12345.6, "12300"), (2e-7, "2.0e−07"), (123.4, "123")],
)
def test_numbers_are_short_with_a_true_minus(value: float, text: str) -> None:
    assert render.number(value) == text


def test_rendering_does_not_load_torch() -> None:
    code = (
        "import sys, numpy as np; from PIL import Image; from conceptlens import render;"
        "render.panel(Image.new('RGB', (9, 9)), [np.ones((2, 2))], ['a']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_photos_on_one_scale() -> None:
    photos = [Image.new("RGB", (60, 40), "white"), Image.new("RGB", (40, 60), "white")]
    maps = [np.full((2, 2), 1.0), np.full((2, 2), 0.1)]
    shared = render.panel(photos, maps, ["strong", "weak"], "shared", columns=2)
    own = render.panel(photos, maps, ["strong", "weak"], "own", columns=2)
    right = (shared.width * 3 // 4, shared.height // 2)
    assert (
        np.abs(np.array(shared.getpixel(right), int) - 255).sum()
        < np.abs(np.array(own.getpixel(right), int) - 255).sum()
    )
    with pytest.raises(InputError, match="2 photos and 1 maps"):
        render.panel(photos, maps[:1], ["strong"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: render.Scale("a", 1, False), "an end of the scale is 'a'; expected two numbers"),
        (lambda: render.overlay(GREY, [[1, 2]], box=5), "box is 5; expected left, top, right, bottom"),
        (lambda: render.overlay(GREY, [[1, 2]], box="abcd"), "box is 'abcd'"),
        (lambda: render.overlay(GREY, [[1, 2]], opacity=None), "opacity is None"),
        (lambda: render.panel(GREY, 5, ["a"]), "maps are given as int; expected a list"),
        (lambda: render.panel(GREY, [[[1, 2]]], "a"), "titles are given as str"),
        (lambda: render.panel(GREY, [[[1, 2]]], ["a"], width="x"), "width is 'x'; expected an integer"),
        (lambda: render.panel(GREY, [[[1, 2]]], ["a"], columns=1.5), "columns is 1.5; expected an integer"),
        (lambda: render.panel(3, [[[1, 2]]], ["a"]), "the photo is given as int"),
    ],
)
def test_arguments_of_another_type_are_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words) as refused:
        call()
    assert isinstance(refused.value, InputError)
