"""Every metric of a map and a mask against plain loops from its definition: slow, float64, no code of the package."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from conceptlens.metrics import map_mask_scores, pixel_precision, pixel_roc, ranked_area, ranked_area_corrected

STEPS = 200  # parts of a pixel, for the area under a curve


def falling_blocks(values: list[float], inside: list[bool]) -> list[tuple[int, int]]:
    """For each distinct value from the highest down: how many pixels have it, and how many of these lie inside."""
    found = []
    for value in sorted(set(values), reverse=True):
        here = [i for i, v in enumerate(values) if v == value]
        found.append((len(here), sum(inside[i] for i in here)))
    return found


def area_under_iou(values: list[float], inside: list[bool]) -> float:
    """Take pixel by pixel from the highest down, each in small parts; equal pixels bring their mean."""
    size, taken, within, total = sum(inside), 0.0, 0.0, 0.0
    for count, hits in falling_blocks(values, inside):
        for _ in range(count * STEPS):
            half_taken, half_within = taken + 0.5 / STEPS, within + 0.5 * hits / count / STEPS
            total += half_within / (size + half_taken - half_within) / STEPS
            taken, within = taken + 1 / STEPS, within + hits / count / STEPS
    return total / len(values)


def ideal_area(r: float) -> float:
    """IoU is x / r until the mask is full, then r / x; summed by the midpoint rule."""
    points = [(i + 0.5) / 20000 for i in range(20000)]
    return sum(x / r if x < r else r / x for x in points) / len(points)


def random_area(r: float) -> float:
    """Random pixels: of a share x, r x lie inside and the union is r + x - r x."""
    points = [(i + 0.5) / 20000 for i in range(20000)]
    return sum(r * x / (r + x - r * x) for x in points) / len(points)


def expected(values: list[float], inside: list[bool]) -> dict[str, float]:
    """Return every metric, from its definition."""
    pixels, size = len(values), sum(inside)
    r = size / pixels
    area, highest, lowest = area_under_iou(values, inside), max(values), min(values)
    nra = max(area - r / 2, 0) / (ideal_area(r) - r / 2)
    positive = [max(v, 0) for v in values]
    raised = [v - lowest for v in values]
    peaks = [i for i, v in enumerate(values) if v == highest]
    ious, precisions, before = [], 0.0, 0
    for threshold in sorted(set(values), reverse=True):
        cut = [v >= threshold for v in values]
        both = sum(c and m for c, m in zip(cut, inside, strict=True))
        ious.append(both / sum(c or m for c, m in zip(cut, inside, strict=True)))
        precisions += (both - before) / size * both / sum(cut)
        before = both
    half = [highest > 0 and v >= highest / 2 for v in values]
    return {
        "pointing_energy": sum(v for v, m in zip(positive, inside, strict=True) if m) / (sum(positive) or 1),
        "pointing_energy_minmax": sum(v for v, m in zip(raised, inside, strict=True) if m) / (sum(raised) or 1),
        "pointing_game": sum(inside[i] for i in peaks) / len(peaks),
        "ranked_area": nra,
        "ranked_area_corrected": (area - random_area(r)) / (ideal_area(r) - random_area(r)),
        "hit": float(nra > 0.5),
        "best_iou": max(ious),
        "iou": sum(h and m for h, m in zip(half, inside, strict=True))
        / sum(h or m for h, m in zip(half, inside, strict=True)),
        "pixel_precision": precisions,
        "pixel_roc": pairs_in_order(values, inside),
        "relevance_rank": inside_of_highest(values, inside, size) / size,
        "top_inside": inside_of_highest(values, inside, max(1, round(0.05 * pixels)))
        / min(size, max(1, round(0.05 * pixels))),
    }


def pairs_in_order(values: list[float], inside: list[bool]) -> float:
    """Of all pairs of a pixel inside and one outside, the share where the one inside is higher; half where equal."""
    within = [v for v, m in zip(values, inside, strict=True) if m]
    without = [v for v, m in zip(values, inside, strict=True) if not m]
    return sum((a > b) + 0.5 * (a == b) for a in within for b in without) / (len(within) * len(without))


def inside_of_highest(values: list[float], inside: list[bool], taken: int) -> float:
    """How many of the highest pixels lie inside; of equal ones at the border, each has the same chance to be taken."""
    found = 0.0
    for count, hits in falling_blocks(values, inside):
        now = min(taken, count)
        found += hits * now / count
        taken -= now
    return found


def published_nra(values: np.ndarray, inside: np.ndarray) -> float:
    """NRA by bins, as in the published code: places 0, 1, ... of the first hundredth, then one place a hundredth.

    The first places weigh one pixel each, the others one hundredth each, which adds up to a little more than 1; the
    ideal curve is summed over the same places, and the lower one is r / 2. Pixels come by `argsort()[::-1]`.
    """
    found = inside.ravel()[values.ravel().argsort()[::-1]].cumsum()
    pixels, size = inside.size, int(inside.sum())
    bin_size = pixels // 100
    area = ideal = 0.0
    for place in [*range(bin_size), *range(bin_size, pixels, bin_size)]:
        weight = 1 / pixels if place < bin_size else 1 / 100
        area += weight * found[place] / (size + place + 1 - found[place])
        ideal += weight * (place / size if place < size else size / place)
    half = size / pixels / 2
    return float(max(area - half, 0) / (ideal - half))


def drawn(seed: int, height: int, width: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A map of few or many values, and a mask with pixels inside and outside."""
    draw = random.Random(seed)
    values = [[draw.randrange(levels) - levels // 3 for _ in range(width)] for _ in range(height)]
    inside = [[draw.random() < 0.4 for _ in range(width)] for _ in range(height)]
    inside[0][0], inside[-1][-1] = True, False
    return torch.tensor(values, dtype=torch.float64)[None, None], torch.tensor(inside)[None]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 7), st.sampled_from([1, 2, 4, 1000]))
def test_every_metric_is_its_definition(seed: int, height: int, width: int, levels: int) -> None:
    maps, masks = drawn(seed, height, width, levels)
    wanted = expected(maps.flatten().tolist(), masks.flatten().tolist())
    scores = map_mask_scores(maps, masks)
    assert list(scores) == list(wanted)
    for name, score in scores.items():
        if name == "hit" and abs(wanted["ranked_area"] - 0.5) < 1e-3:
            continue
        assert score.of(0) == pytest.approx(wanted[name], abs=2e-4 if name.startswith("ranked") else 1e-6), name


@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
def test_pixel_precision_is_scikit_learns(levels: int) -> None:
    for seed in range(10):
        maps, masks = drawn(seed, 9, 13, levels)
        wanted = average_precision_score(masks.flatten().numpy(), maps.flatten().numpy())
        assert pixel_precision(maps, masks).of(0) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 5, 10_000])
def test_pixel_roc_is_scikit_learns(levels: int) -> None:
    for seed in range(10):
        maps, masks = drawn(seed, 9, 13, levels)
        wanted = roc_auc_score(masks.flatten().numpy(), maps.flatten().numpy())
        assert pixel_roc(maps, masks).of(0) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize(("ratio", "most"), [(0.01, 0.08), (0.03, 0.015), (0.15, 0.01), (0.5, 0.01)])
def test_the_exact_area_is_near_the_published_bins(ratio: float, most: float) -> None:
    """Within one percent, but for masks about as small as a bin: these lose their narrow peak of IoU."""
    generator = torch.Generator().manual_seed(int(100 * ratio))
    for _ in range(4):
        field, noise = (
            torch.nn.functional.interpolate(torch.randn(1, 1, 5, 5, generator=generator), (112, 112), mode="bicubic")
            for _ in range(2)
        )
        masks = field[0] > field.quantile(1 - ratio)
        for strength in (0.0, 0.5, 3.0):
            maps = field + strength * noise
            wanted = published_nra(maps[0, 0].numpy(), masks[0].numpy())
            published = ranked_area(maps, masks, ties="official", bins="published").of(0)
            assert published == pytest.approx(wanted, abs=1e-9)
            assert ranked_area(maps, masks).of(0) == pytest.approx(wanted, abs=most)


def test_official_ties_are_those_of_the_published_order() -> None:
    """A background of zeros with a wrong hot spot: what is found depends on how a sort left equal pixels."""
    maps = torch.zeros(1, 1, 112, 112)
    maps[..., 51:61, 51:61] = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) + 0.1
    corner = torch.zeros(1, 112, 112, dtype=torch.bool)
    corner[:, :40, :40] = True
    official, average, seeded = [], [], []
    for masks in (corner, corner.flip(1, 2)):
        official.append(ranked_area(maps, masks, ties="official", bins="published").of(0))
        average.append(ranked_area(maps, masks).of(0))
        seeded.append(np.mean([ranked_area(maps, masks, ties="seeded", seed=s).of(0) for s in range(8)]))
        assert official[-1] == pytest.approx(published_nra(maps[0, 0].numpy(), masks[0].numpy()), abs=1e-9)
        assert ranked_area_corrected(maps, masks).of(0) == pytest.approx(0, abs=0.01)
    assert abs(official[0] - official[1]) > 0.1
    assert average[0] == pytest.approx(average[1])
    assert average[0] == pytest.approx(0.14, abs=0.01)
    assert seeded == pytest.approx(average, abs=0.01)
