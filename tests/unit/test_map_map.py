"""Metrics of two maps: extremes, chance, invariances, batches, and what is refused or has no answer."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.metrics import (
    MAP_MAP_METRICS,
    SHIFT_METRIC,
    agreement_matrix,
    map_pairs,
    map_pearson,
    map_spearman,
    map_ssim,
    shift_stability,
    top_overlap,
)
from conceptlens.metrics.shift_stability import draw_shifts, shifted
from tolerance import assert_agree

PAGE = Path(__file__).parents[2] / "docs" / "controls.md"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_page_holds_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+?) \| [^|]+ \| (.+) \|$", PAGE.read_text("utf-8"), re.M)
    assert rows == [(metric.name, metric.chance, metric.source) for metric in MAP_MAP_METRICS.values()]


@pytest.mark.parametrize("name", MAP_MAP_METRICS)
def test_a_map_agrees_with_itself_and_its_negative_disagrees(name: str) -> None:
    metric, maps = MAP_MAP_METRICS[name], noise(2, 3, 14, 14)
    relu = (maps - 0.97).relu()  # fewer cells above 0 than the top 5 %
    for same in (maps, relu):
        alike = metric.compute(same, same)
        assert_agree(alike.values[alike.applies], torch.ones(alike.count, dtype=torch.float64))
    worst = metric.compute(maps, -maps)
    assert bool((worst.values < 0.05).all())
    assert bool((worst.values >= metric.low).all())
    if name in ("map_spearman", "map_pearson"):
        assert_agree(worst.values, -torch.ones(2, 3, dtype=torch.float64))


def test_random_maps_have_the_level_of_chance() -> None:
    first, second = noise(1, 40, 56, 56), noise(1, 40, 56, 56, seed=1)
    for name, level in {"map_spearman": 0, "map_pearson": 0, "map_ssim": 0, "top_overlap": 0.05}.items():
        assert MAP_MAP_METRICS[name].compute(first, second).mean() == pytest.approx(level, abs=0.02), name


def test_order_metrics_ignore_monotone_changes_and_others_scale_and_offset() -> None:
    first, second = (noise(2, 2, 12, 12) * 9).floor(), (noise(2, 2, 12, 12, seed=1) * 9).floor()
    for compute in (map_spearman, top_overlap):
        for changed in (first * 7 + 3, first**3, first.exp()):
            assert_agree(compute(changed, second).values, compute(first, second).values)
    for name, metric in MAP_MAP_METRICS.items():
        plain = metric.compute(first, second).values  # enlarged pixels are rounded to float32
        torch.testing.assert_close(metric.compute(first * 4 - 8, second).values, plain, atol=1e-7, rtol=0)
        assert_agree(metric.compute(second, first).values, plain)
        assert metric.name == name
    assert not torch.allclose(map_pearson(first.exp(), second).values, map_pearson(first, second).values)


@pytest.mark.parametrize("name", MAP_MAP_METRICS)
def test_a_flat_map_has_no_answer(name: str) -> None:
    first, second = noise(2, 2, 7, 7), noise(2, 2, 7, 7, seed=1)
    first[0, 0], second[1, 1] = 0.1, 0.0
    score = MAP_MAP_METRICS[name].compute(first, second)
    assert score.applies.tolist() == [[False, True], [True, False]]
    assert score.of(0, 0) is None


@pytest.mark.parametrize("name", MAP_MAP_METRICS)
def test_a_batch_gives_what_its_parts_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, first, second = MAP_MAP_METRICS[name].compute, noise(3, 2, 7, 9), noise(3, 2, 14, 14, seed=1)
    whole = compute(first, second)
    monkeypatch.setattr(map_pairs, "BATCH_PIXELS", 1)
    assert_agree(compute(first, second).values, whole.values)
    assert_agree(compute(first[1:2], second[1:2].numpy()).values, whole.values[1:2])


def test_maps_of_other_things_are_refused() -> None:
    maps = noise(1, 2, 7, 7)
    for name, metric in MAP_MAP_METRICS.items():
        for value in (math.nan, math.inf):
            wrong = maps.clone()
            wrong[0, 1, 2, 3] = value
            with pytest.raises(cl.InputError, match="1 of 98 cells of the maps are NaN or infinite"):
                metric.compute(maps, wrong)
        with pytest.raises(cl.InputError, match="expected the same images and questions"):
            metric.compute(maps, maps[:, :1])
        with pytest.raises(cl.InputError, match="expected image question height width"):
            metric.compute(maps[0], maps[0])
        with pytest.raises(cl.InputError, match=r"maps are not made smaller|at least 11"):
            metric.compute(noise(1, 2, 64, 64), maps, size=(5, 5) if name != "map_ssim" else (20, 20))
    with pytest.raises(cl.InputError, match="SSIM's window takes at least 11 x 11 pixels"):
        map_ssim(maps, maps, size=(7, 7))
    for share in (0, 1):
        with pytest.raises(cl.InputError, match="above 0 and below 1"):
            top_overlap(maps, maps, share=share)


def test_maps_of_other_photos_are_refused() -> None:
    photos = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    one, other = (cl.Explanation.from_maps(noise(1, 4, 4), "cat", [photo]) for photo in photos)
    assert map_spearman(one, one).of(0) == pytest.approx(1)
    with pytest.raises(cl.InputError, match="give maps of the same photos, in one order"):
        map_spearman(one, other)


def test_a_matrix_holds_every_two_methods() -> None:
    first = noise(3, 2, 7, 7)
    methods = {"one": first, "turned": -first, "finer": noise(3, 2, 14, 14, seed=2), "flat": torch.zeros(3, 2, 7, 7)}
    matrix = agreement_matrix(methods)
    assert matrix.labels == tuple(methods)
    assert matrix.of("one", "one") == pytest.approx(1)
    assert matrix.of("one", "turned") == pytest.approx(-1)
    assert matrix.of("finer", "one") == matrix.of("one", "finer") == map_spearman(first, methods["finer"]).mean()
    assert matrix.of("flat", "one") is None
    assert matrix.of("flat", "flat") is None
    assert agreement_matrix(methods, "map_ssim").of("one", "finer") == map_ssim(first, methods["finer"]).mean()
    with pytest.raises(cl.InputError, match="agreement needs at least two"):
        agreement_matrix({"one": first})
    with pytest.raises(cl.InputError, match=r"no similarity 'map_spearmen'; near names: .*map_spearman"):
        agreement_matrix(methods, "map_spearmen")  # pyright: ignore[reportArgumentType]


def pixelwise(images: torch.Tensor) -> torch.Tensor:
    return images.mean(1, keepdim=True).exp()


@pytest.mark.parametrize("name", MAP_MAP_METRICS)
def test_a_map_that_moves_with_the_image_is_stable(name: str) -> None:
    images = noise(2, 3, 24, 30)
    assert_agree(shift_stability(pixelwise, images, similarity=name).values, torch.ones(2, 1, dtype=torch.float64))


def test_a_fixed_map_is_less_stable_the_rougher_it_is() -> None:
    images, rough = noise(2, 3, 32, 32), noise(1, 1, 32, 32, seed=3)
    smooth = torch.nn.functional.interpolate(noise(1, 1, 4, 4, seed=4), (32, 32), mode="bicubic")
    found = [shift_stability(lambda x, m=m: m.expand(len(x), 1, 32, 32), images).mean() for m in (rough, smooth)]
    assert abs(found[0]) < 0.1
    assert 0.7 < found[1] < 1
    assert shift_stability(lambda x: 0 * x[:, :1], images).count == 0
    again = shift_stability(lambda x: x[:, :1] * rough, images)
    assert torch.equal(again.values, shift_stability(lambda x: x[:, :1] * rough, images).values)
    assert not torch.equal(again.values, shift_stability(lambda x: x[:, :1] * rough, images, seed=1).values)
    alone = shift_stability(lambda x: x[:, :1] * rough, images[1:])
    assert_agree(alone.values, again.values[1:])
    assert SHIFT_METRIC.compute is shift_stability


def test_shifts_are_small_and_all_different() -> None:
    shifts = draw_shifts((20, 40), 0.1, 24, 0)
    assert len(set(shifts)) == 24
    assert (0, 0) not in shifts
    assert all(abs(down) <= 2 and abs(right) <= 2 for down, right in shifts)
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert shifted(image, 0, 1)[0, 0].tolist() == [[0, 0, 1], [3, 3, 4]]
    assert shifted(image, -1, 0)[0, 0].tolist() == [[3, 4, 5], [3, 4, 5]]


def test_what_cannot_be_shifted_is_refused() -> None:
    images = noise(2, 3, 8, 8)
    with pytest.raises(cl.InputError, match=r"largest is 0\.5"):
        shift_stability(pixelwise, images, largest=0.5)
    with pytest.raises(cl.InputError, match="samples is 9; expected 1 to 8, the shifts of at most 1 pixels"):
        shift_stability(pixelwise, images, samples=9)
    with pytest.raises(cl.InputError, match=r"images have shape \(3, 8, 8\); expected image colour rows columns"):
        shift_stability(pixelwise, images[0])
    with pytest.raises(cl.InputError, match="cells of the maps are NaN"):
        shift_stability(lambda x: x[:, :1] * math.nan, images)
    with pytest.raises(cl.InputError, match="expected one for each image, no finer than it"):
        shift_stability(lambda x: noise(1, 1, 4, 4), images)
    with pytest.raises(cl.InputError, match="explain is of type Tensor; expected a function"):
        shift_stability(images, images)  # pyright: ignore[reportArgumentType]
    calls = iter((1, 2, 2, 2, 2))
    with pytest.raises(cl.InputError, match="maps of 1 questions and now of 2"):
        shift_stability(lambda x: x[:, : next(calls)], images)
