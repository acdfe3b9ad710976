"""Part importance against plain loops: sums over parts, one part removed at a time, ranks, their correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conceptlens.metrics import ScoredImages, part_drops, part_importance, part_sums

SIZE = 12


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(image: np.ndarray, question: int) -> float:
    """Not additive: what parts say together counts too."""
    total = sum(math.sin(3 * image[0, y, x] + y * (question + 1)) for y in range(SIZE) for x in range(SIZE))
    return math.tanh(total / 20)


def correlation(a: list[float], b: list[float]) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]

    first, second = ranks(a), ranks(b)
    middle = sum(first) / len(first)
    both = sum((x - middle) * (y - middle) for x, y in zip(first, second, strict=True))
    return both / math.sqrt(sum((x - middle) ** 2 for x in first) * sum((y - middle) ** 2 for y in second))


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_importance_is_its_definition(fill: str) -> None:
    images, maps = noise(2, 3, SIZE, SIZE), noise(2, 2, SIZE, SIZE, seed=1) - 0.4
    parts = noise(2, 5, SIZE, SIZE, seed=2) > 0.8
    parts[1, 2] = False
    down = torch.arange(SIZE, dtype=torch.float64)[None, :, None]

    def run(variants: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        of = [(3 * variants[:, 0] + down * (q + 1)).sin().sum((1, 2)).div(20).tanh() for q in range(2)]
        return torch.stack(of, 1)

    black = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    scored = ScoredImages(images, run, black)
    sums, drops = part_sums(maps, parts), part_drops(scored, parts, fill)
    found = part_importance(maps, scored, parts, fill)
    for image in range(2):
        whole = images[image].numpy()
        colour = whole.mean((1, 2)) if fill == "mean" else black.numpy()
        for question in range(2):
            importance, effect = [], []
            for part in range(5):
                mask = parts[image, part].numpy()
                if not mask.any():
                    assert sums.of(image, question, part) is None
                    assert drops.of(image, question, part) is None
                    continue
                places = [(y, x) for y in range(SIZE) for x in range(SIZE) if mask[y, x]]
                importance.append(sum(float(maps[image, question, y, x]) for y, x in places))
                without = whole.copy()
                for y, x in places:
                    without[:, y, x] = colour
                effect.append(score(whole, question) - score(without, question))
                assert sums.of(image, question, part) == pytest.approx(importance[-1], abs=1e-9)
                assert drops.of(image, question, part) == pytest.approx(effect[-1], abs=1e-9)
            assert found.of(image, question) == pytest.approx(correlation(importance, effect), abs=1e-9)
