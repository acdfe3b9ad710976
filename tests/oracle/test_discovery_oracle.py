"""Discovered concepts against their formulas, written as plain loops over cells and channels."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from conceptlens.discovery.concept_count import matched_cosines, sharing_photos
from conceptlens.discovery.factorisation import coefficients, explained_variance, factorise, shares

SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["non-negative", "signed"])


def some_cells(
    signed: bool, cells: int = 12, channels: int = 9, concepts: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cells, some of them without activation or with sparse ones, and directions that they do not fit."""
    draw = np.random.default_rng(int(signed))
    make = draw.normal if signed else lambda size: draw.exponential(size=size)
    values, rows = make(size=(cells, channels)), make(size=(concepts, channels))
    values *= draw.random((cells, channels)) < 0.7
    values[0] = 0
    return torch.tensor(values, dtype=torch.float32), torch.nn.functional.normalize(torch.tensor(rows).float(), dim=1)


def plain_shares(cells: np.ndarray, found: np.ndarray, directions: np.ndarray) -> np.ndarray:
    whole = np.zeros(found.shape)
    for u, x in enumerate(cells):
        for c, value in enumerate(x):
            parts = [found[u, k] * directions[k, c] for k in range(len(directions))]
            same = [max(part * np.sign(value), 0.0) for part in parts]
            accounted = min(max(sum(parts) * np.sign(value), 0.0), abs(value))
            if accounted > 0:
                for k, part in enumerate(same):
                    whole[u, k] += accounted * part / sum(same)
        if abs(x).sum() > 0:
            whole[u] /= abs(x).sum()
    return whole


@SIGNS
def test_coefficients_are_non_negative_least_squares(signed: bool) -> None:
    cells, directions = some_cells(signed)
    found = coefficients(cells, directions)
    expected = [nnls(directions.T.double().numpy(), x.double().numpy())[0] for x in cells]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


@SIGNS
def test_shares_are_those_of_plain_loops(signed: bool) -> None:
    cells, directions = some_cells(signed)
    found = coefficients(cells, directions)
    made = shares(cells, found, directions)
    expected = plain_shares(cells.double().numpy(), found.double().numpy(), directions.double().numpy())
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-5)
    assert float(made.min()) >= 0
    assert float(made.sum(1).max()) <= 1 + 1e-5
    assert not bool(made[0].any())


def test_shares_are_all_of_a_cell_that_is_reconstructed_and_none_of_one_that_is_not() -> None:
    directions = torch.eye(3)[:2]
    cells = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 2.0]])
    made = shares(cells, coefficients(cells, directions), directions)
    np.testing.assert_allclose(made.numpy(), [[0.25, 0.75], [0, 0], [0.25, 0.25]], atol=1e-6)


@SIGNS
def test_explained_variance_is_that_of_plain_sums(signed: bool) -> None:
    cells, directions = some_cells(signed)
    mean = cells.mean(0)
    rest = whole = 0.0
    for x in cells:
        h = nnls(directions.T.double().numpy(), x.double().numpy())[0]
        rest += float(((x.numpy() - h @ directions.numpy()) ** 2).sum())
        whole += float(((x - mean) ** 2).sum())
    assert explained_variance(cells, directions, mean) == pytest.approx(1 - rest / whole, abs=1e-3)


def test_directions_are_matched_by_the_best_of_all_pairings() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, others = torch.rand(4, 6, generator=draw), torch.rand(5, 6, generator=draw)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], others[None], dim=2)
    best = max(permutations(range(5), 4), key=lambda p: sum(float(cosines[i, j]) for i, j in enumerate(p)))
    expected = [float(cosines[i, j]) for i, j in enumerate(best)]
    np.testing.assert_allclose(matched_cosines(rows, others).numpy(), expected, atol=1e-6)
    assert float(matched_cosines(others, rows).min()) == 0  # one is left without a match


def test_a_direction_is_shared_by_as_many_photos_as_have_it() -> None:
    cells = torch.zeros(6, 2, 3)
    cells[:4, :, 0] = 2.0  # four photos alike
    cells[5, 1, 1] = 7.0  # one photo alone
    np.testing.assert_allclose(sharing_photos(cells, torch.eye(3)[:2]).numpy(), [4, 1], atol=1e-5)


@SIGNS
def test_a_factorisation_explains_no_less_than_principal_axes_bound_and_its_directions_are_units(signed: bool) -> None:
    cells, _ = some_cells(signed, cells=60)
    found = factorise(cells, 4, seed=1)
    np.testing.assert_allclose(found.norm(dim=1).numpy(), 1, atol=1e-5)
    if not signed:
        assert float(found.min()) >= 0
    rest = float((cells - coefficients(cells, found) @ found).square().sum())
    bound = float(torch.linalg.svdvals(cells)[4:].square().sum())
    assert bound * 0.999 <= rest <= 0.9 * float(cells.square().sum())
