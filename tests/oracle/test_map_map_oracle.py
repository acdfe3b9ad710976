"""Every metric of two maps against plain loops from its definition, and against SciPy and scikit-image."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import structural_similarity

from conceptlens.metrics import map_pearson, map_spearman, map_ssim, shift_stability, top_overlap


def drawn(seed: int, height: int, width: int, levels: int) -> torch.Tensor:
    draw = random.Random(seed)
    values = [[float(draw.randrange(levels)) for _ in range(width)] for _ in range(height)]
    values[0][0], values[-1][-1] = 0.0, float(levels)  # never the same everywhere
    return torch.tensor(values, dtype=torch.float64)[None, None]


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return both / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def mean_ranks(values: list[float]) -> list[float]:
    """Rank by rank: how many are lower, and half of the others that are equal."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def taken(values: list[float], count: int) -> list[float]:
    parts = []
    for value in values:
        higher, equal = sum(o > value for o in values), sum(o == value for o in values)
        parts.append(min(max((count - higher) / equal, 0), 1))
    return parts


def ssim(a: list[list[float]], b: list[list[float]]) -> float:
    """The formula of Wang et al. in every window of 11 x 11, each map stretched to 0..1 first."""

    def stretched(rows: list[list[float]]) -> list[list[float]]:
        low, high = min(map(min, rows)), max(map(max, rows))
        return [[(v - low) / (high - low) for v in row] for row in rows]

    a, b = stretched(a), stretched(b)
    near = range(-5, 6)
    bell = {(y, x): math.exp(-(y * y + x * x) / (2 * 1.5**2)) for y in near for x in near}
    total = sum(bell.values())
    found = []
    for row in range(5, len(a) - 5):
        for column in range(5, len(a[0]) - 5):
            window = [(w / total, a[row + y][column + x], b[row + y][column + x]) for (y, x), w in bell.items()]
            ma, mb = sum(w * p for w, p, _ in window), sum(w * q for w, _, q in window)
            va, vb = sum(w * (p - ma) ** 2 for w, p, _ in window), sum(w * (q - mb) ** 2 for w, _, q in window)
            cov = sum(w * (p - ma) * (q - mb) for w, p, q in window)
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return sum(found) / len(found)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 7), st.sampled_from([1, 3, 1000]))
def test_correlations_and_overlap_are_their_definitions(seed: int, height: int, width: int, levels: int) -> None:
    first, second = drawn(seed, height, width, levels), drawn(seed + 1, height, width, levels)
    a, b = first.flatten().tolist(), second.flatten().tolist()
    assert map_pearson(first, second).of(0) == pytest.approx(pearson(a, b), abs=1e-9)
    assert map_spearman(first, second).of(0) == pytest.approx(pearson(mean_ranks(a), mean_ranks(b)), abs=1e-9)
    assert map_spearman(first, second).of(0) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    for share in (0.05, 0.3, 0.9):
        count = max(1, round(share * len(a)))
        wanted = sum(min(p, q) for p, q in zip(taken(a, count), taken(b, count), strict=True)) / count
        assert top_overlap(first, second, share=share).of(0) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_ssim_is_its_definition_and_scikit_images(levels: int) -> None:
    first, second = drawn(levels, 13, 15, levels), drawn(levels + 1, 13, 15, levels)
    found = map_ssim(first, second, size=(13, 15)).of(0)
    assert found == pytest.approx(ssim(first[0, 0].tolist(), second[0, 0].tolist()), abs=1e-9)
    plain = [maps[0, 0].numpy() / maps.max().item() for maps in (first, second)]  # they begin at 0
    peer = structural_similarity(*plain, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    assert found == pytest.approx(float(peer), abs=1e-9)


def test_stability_is_the_mean_over_shifts_of_what_loops_find() -> None:
    images = torch.rand(1, 1, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def explain(batch: torch.Tensor) -> torch.Tensor:  # depends on the place, so that it does not move with the image
        return batch * torch.arange(batch[0].numel()).reshape(batch.shape[1:])

    found = shift_stability(explain, images, largest=0.2, samples=24)  # all shifts of at most two pixels but (0, 0)
    photo, values = images[0, 0].numpy(), []
    before = explain(images)[0, 0].numpy()
    for down in range(-2, 3):
        for right in range(-2, 3):
            if (down, right) == (0, 0):
                continue
            moved = np.zeros((9, 11))
            for y in range(9):
                for x in range(11):
                    moved[y, x] = photo[min(max(y - down, 0), 8), min(max(x - right, 0), 10)]
            after = explain(torch.from_numpy(moved)[None, None])[0, 0].numpy()
            places = [(y, x) for y in range(9) for x in range(11) if 0 <= y - down < 9 and 0 <= x - right < 11]
            a, b = [before[y - down, x - right] for y, x in places], [after[y, x] for y, x in places]
            values.append(stats.spearmanr(a, b).statistic)
    assert found.of(0) == pytest.approx(float(np.mean(values)), abs=1e-9)
