from __future__ import annotations

import pytest
import torch

import conceptlens as cl
from conceptlens.metric.locate import area, peak, pointing_energy


def one(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.0, 0.0], [0.0, 1.0]], (0.75, 0.75)),
        ([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], (0.125, 0.25)),
        ([[0.0, 0.0], [0.0, 0.0]], (0.5, 0.5)),  # nowhere higher: the centre
        ([[1.0, 0.0, 1.0]], (0.5, 0.5)),  # two peaks: between them
        ([[-3.0, -1.0]], (0.75, 0.5)),
    ],
)
def test_peak(rows: list[list[float]], expected: tuple[float, float]) -> None:
    assert peak(one(rows))[0, 0].tolist() == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[0.0, 0.5], [0.4, 1.0]], 0.5), ([[0.0, 0.0]], 0.0), ([[1.0, 1.0]], 1.0), ([[-1.0, -2.0]], 0.0)],
)
def test_area(rows: list[list[float]], expected: float) -> None:
    assert float(area(one(rows))) == pytest.approx(expected)


def test_pointing_energy_by_hand() -> None:
    maps = one([[1.0, 3.0], [0.0, -5.0]])
    masks = torch.tensor([[[False, True], [False, True]]])
    assert float(pointing_energy(maps, masks)) == pytest.approx(0.75)
    assert float(pointing_energy(torch.zeros(1, 1, 2, 2), masks)) == 0.0
    uniform = pointing_energy(torch.ones(1, 1, 7, 7), torch.rand(1, 90, 120) > 0.7)
    assert float(uniform) == pytest.approx(0.3, abs=0.02)


def test_masks_of_another_batch_are_refused() -> None:
    with pytest.raises(cl.InputError, match="expected image rows columns for 1 images"):
        pointing_energy(one([[1.0]]), torch.zeros(2, 4, 4, dtype=torch.bool))
