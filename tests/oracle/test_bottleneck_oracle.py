"""A bottleneck against plain loops: one forward pass cell by cell, peaks, schedules, alignment losses, identities."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bottlenecks import LOCATOR_KINDS, cells, made
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.fit.alignment_losses import ALIGNMENT_LOSSES
from conceptlens.bottleneck.fit.recipe import RADIUS_SCHEDULES, radius_at
from conceptlens.bottleneck.locator import Parts, Peaks, Pooling, find_peaks, peak_masks, resized
from conceptlens.bottleneck.module import Bottleneck

Array = np.ndarray
EDITS = (Edit(0, 0.1, 0.1), Edit(3, -0.2, 0.2), Edit(3, 0.4, 2.0, 1), Edit(2, 1.0, 1.0, 2), Edit(0, -1.0, -0.5, 2))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- one forward pass


def slow_sources(place: int, wanted: int, given_: int) -> dict[int, float]:
    """Which cells of a row of `given_` make cell `place` of a row of `wanted`: shares that sum to 1."""
    at = min(max((place + 0.5) * given_ / wanted - 0.5, 0.0), given_ - 1.0)
    low = min(int(at), given_ - 1)
    high = min(low + 1, given_ - 1)
    shares = {low: 1 - (at - low)}
    shares[high] = shares.get(high, 0.0) + (at - low)
    return shares


def slow_means(place: int, wanted: int, given_: int) -> dict[int, float]:
    """The same where a finer row is averaged: the bins of adaptive pooling, which may share a cell."""
    inside = range(place * given_ // wanted, -(-(place + 1) * given_ // wanted))
    return {one: 1 / len(inside) for one in inside}


def slow_resized(map_: Array, size: tuple[int, int]) -> Array:
    """One map on another grid."""
    if map_.shape == size:
        return map_
    finer = map_.shape[0] >= size[0] and map_.shape[1] >= size[1]
    shares = slow_means if finer else slow_sources
    found = np.zeros(size)
    for y, x in product(*map(range, size)):
        for row, down in shares(y, size[0], map_.shape[0]).items():
            for column, across in shares(x, size[1], map_.shape[1]).items():
                found[y, x] += down * across * map_[row, column]
    return found


def slow_peaks(map_: Array, count: int) -> list[tuple[int, int]]:
    """The highest cell, and local maxima of 3 x 3 cells that reach half of it, the highest first."""
    height, width = map_.shape
    best = max(product(range(height), range(width)), key=lambda cell: (map_[cell], -cell[0], -cell[1]))
    found = [best]
    for y, x in product(range(height), range(width)):
        around = [
            map_[row, column]
            for row, column in product(range(y - 1, y + 2), range(x - 1, x + 2))
            if 0 <= row < height and 0 <= column < width
        ]
        if map_[best] > 0 and map_[y, x] >= 0.5 * map_[best] and map_[y, x] == max(around) and (y, x) != best:
            found.append((y, x))
    return sorted(found, key=lambda cell: -map_[cell])[:count]


def slow_gaussians(map_: Array, radius: float, count: int) -> Array:
    mask = np.zeros(map_.shape)
    for y, x in product(*map(range, map_.shape)):
        for row, column in slow_peaks(map_, count):
            mask[y, x] = max(mask[y, x], math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * radius**2)))
    return mask / mask.sum()


def slow_products(weight: Array, values: Array, size: tuple[int, int]) -> Array:
    """`<w, F(u)>` of one image, on a grid."""
    channels, height, width = values.shape
    found = np.zeros((height, width))
    for y, x in product(range(height), range(width)):
        for c in range(channels):
            found[y, x] += weight[c] * values[c, y, x]
    return slow_resized(found, size)


def slow_mask(bottleneck: Bottleneck, plain: Array, seen: dict[str, Array], concept: int) -> Array:
    chosen, cells_ = bottleneck.locator, plain.size
    if isinstance(chosen, Peaks):
        return slow_gaussians(plain, chosen.radius, chosen.count)
    if isinstance(chosen, Pooling):
        raised = np.exp((plain - plain.max()) / chosen.temperature)
        return raised / raised.sum()
    if isinstance(chosen, Parts):
        part = int(chosen.part[concept])
        if part < 0:
            return np.full(plain.shape, 1 / cells_)
        logits = np.zeros(plain.shape)
        for name, weight in zip(chosen.layers, chosen.weight, strict=True):
            logits += slow_products(weight.detach().double().numpy()[part], seen[name], bottleneck.grid)
        attention = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        return (1 - chosen.share) * attention + chosen.share / cells_
    return np.full(plain.shape, 1 / cells_)


def slow_logit(bottleneck: Bottleneck, activations: list[float], target: int) -> float:
    state = {name: value.double().numpy() for name, value in bottleneck.state_dict().items()}
    total = state["head.bias"][target]
    for i, value in enumerate(activations):
        for aim in (None, target):  # edits for all classes, then those for this one
            for edit in bottleneck.edits:
                if edit.concept == i and edit.target == aim:
                    value = min(max(value, edit.low), edit.high)
        total += state["head.weight"][target, i] * (value - state["mean"][i]) / state["std"][i]
    return float(total)


@pytest.mark.parametrize("edits", [(), EDITS])
@pytest.mark.parametrize("grid", [(5, 4), (3, 2), (7, 9), (8, 3)])
@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_one_forward_pass_cell_by_cell(kind: str, grid: tuple[int, int], edits: tuple[Edit, ...]) -> None:
    bottleneck = made(kind, grid)
    bottleneck.edits = edits
    seen = cells(2)
    reading = bottleneck(seen)
    weights = bottleneck.weight.detach().double().numpy()
    for image in range(2):
        own = {name: value[image].double().numpy() for name, value in seen.items()}
        activations = []
        for concept in range(5):
            plain = slow_products(weights[concept], own["deep"], grid)
            mask = slow_mask(bottleneck, plain, own, concept)
            assert mask.sum() == pytest.approx(1)
            map_ = mask.size * mask * plain
            assert np.allclose(reading.maps[image, concept].detach().numpy(), map_, atol=1e-4)
            activations.append(sum(mask[cell] * plain[cell] for cell in product(*map(range, grid))))
        assert reading.activations[image].tolist() == pytest.approx(activations, abs=1e-5)
        slow = [slow_logit(bottleneck, activations, k) for k in range(3)]
        assert reading.logits[image].tolist() == pytest.approx(slow, abs=2e-5)
        for k in range(3):
            counts = bottleneck.contributions(reading, torch.tensor([k, k]))[image].double()
            assert float(counts.detach().sum()) + float(bottleneck.head.bias[k].detach()) == pytest.approx(
                slow[k], abs=2e-5
            )


@pytest.mark.parametrize("size", [(5, 4), (10, 8), (9, 11), (3, 2), (2, 4), (1, 1), (7, 3)])
def test_maps_on_another_grid(size: tuple[int, int]) -> None:
    maps = drawn(1, 1, 5, 4)
    slow = slow_resized(maps[0, 0].double().numpy(), size)
    assert np.allclose(resized(maps, size)[0, 0].numpy(), slow, atol=1e-6)


# --- peaks


@pytest.mark.parametrize("count", [1, 2, 3, 50])
@pytest.mark.parametrize("radius", [0.3, 1.0, 4.0])
def test_peak_masks_by_loops(radius: float, count: int) -> None:
    maps = F.avg_pool2d(drawn(4, 3, 8, 7, seed=3), 2, 1)
    found = [len(slow_peaks(one.double().numpy(), count)) for one in maps.flatten(0, 1)]
    assert min(count, 2) <= max(found) <= count
    masks = peak_masks(maps, radius, count)
    for n, q in product(range(4), range(3)):
        slow = slow_gaussians(maps[n, q].double().numpy(), radius, count)
        assert np.allclose(masks[n, q].numpy(), slow, atol=1e-6)


@given(values=st.lists(st.integers(-3, 6), min_size=20, max_size=20), count=st.integers(1, 6))
def test_peaks_are_local_maxima_even_where_cells_are_equal(values: list[int], count: int) -> None:
    map_ = torch.tensor(values).float().reshape(1, 1, 5, 4)
    peaks = [int(one) for one in find_peaks(map_, count)[0, 0] if one >= 0]
    highest = max(values)
    wanted = slow_peaks(map_[0, 0].numpy(), 20)
    assert values[peaks[0]] == highest
    assert len(peaks) == len(set(peaks)) == min(count, len(wanted))
    assert [values[one] for one in peaks] == [map_[0, 0][cell] for cell in wanted[:count]]
    assert all((one // 4, one % 4) in wanted for one in peaks)
    assert int(find_peaks(map_)[0, 0, 0]) == values.index(highest)


def test_a_mask_has_no_gradient() -> None:
    """The gradient of an activation is that of the products under a mask held fixed: `sum_u m(u) F(u)`."""
    for kind in ("one peak", "two peaks"):
        bottleneck = made(kind)
        seen = cells(2)
        masks = bottleneck.locator(bottleneck.unmasked_maps(seen), seen)
        assert not masks.requires_grad
        (gradient,) = torch.autograd.grad(bottleneck(seen).activations[1, 2], bottleneck.weight)
        slow = torch.zeros(6)
        for y, x in product(range(5), range(4)):
            slow += masks[1, 2, y, x] * seen["deep"][1, :, y, x]
        assert torch.allclose(gradient[2], slow, atol=1e-6)
        assert not gradient[[0, 1, 3, 4]].any()


# --- schedules


@pytest.mark.parametrize("shape", RADIUS_SCHEDULES)
def test_a_radius_goes_from_first_to_last_and_never_grows(shape: str) -> None:
    steps = [radius_at(shape, step / 200, 7.0, 0.5) for step in range(-20, 240)]
    assert all(before >= after for before, after in pairwise(steps))
    assert radius_at(shape, 1, 7.0, 0.5) == pytest.approx(0.5)
    assert radius_at(shape, 0, 7.0, 0.5) == (0.5 if shape == "fixed" else 7.0)
    assert radius_at(shape, -3, 7.0, 0.5) == radius_at(shape, 0, 7.0, 0.5)
    assert radius_at(shape, 9, 7.0, 0.5) == radius_at(shape, 1, 7.0, 0.5)
    assert radius_at(shape, 0.3, 2.0, 2.0) == pytest.approx(2.0)


def test_schedules_by_their_own_steps() -> None:
    """Linear takes as much off at each step, exponential the same share, cosine by a quarter turn of a circle."""
    linear = exponential = 8.0
    for step in range(11):
        done = step / 10
        assert radius_at("linear", done, 8.0, 1.0) == pytest.approx(linear)
        assert radius_at("exponential", done, 8.0, 1.0) == pytest.approx(exponential)
        assert radius_at("cosine", done, 8.0, 1.0) == pytest.approx(1 + 7 * math.cos(done * math.pi / 2) ** 2)
        assert radius_at("fixed", done, 8.0, 1.0) == 1.0
        linear -= 0.7
        exponential *= (1 / 8) ** 0.1


# --- alignment losses


def slow_alignment(name: str, made_: list[float], wanted: list[float]) -> float:
    count = len(made_)
    if name == "raw":
        return sum((c - a) ** 2 for c, a in zip(made_, wanted, strict=True)) / count
    if name == "bce":
        sigmoid = [1 / (1 + math.exp(-c)) for c in made_]
        return -sum(a * math.log(s) + (1 - a) * math.log(1 - s) for s, a in zip(sigmoid, wanted, strict=True)) / count
    c, a = ([value - sum(row) / count for value in row] for row in (made_, wanted))
    if name == "mse":
        sizes = [math.sqrt(sum(value**2 for value in row) / count) for row in (c, a)]
        return sum((x / sizes[0] - y / sizes[1]) ** 2 for x, y in zip(c, a, strict=True)) / count
    power = {"cos3": 3, "cosine": 1}[name]
    c, a = [x**power for x in c], [y**power for y in a]
    dot = sum(x * y for x, y in zip(c, a, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in c)) / math.sqrt(sum(y * y for y in a))


@pytest.mark.parametrize("scale", [1.0, 0.02])  # similarities of a vision-language model differ by some hundredths
@pytest.mark.parametrize("name", ALIGNMENT_LOSSES)
def test_alignment_losses_by_loops(name: str, scale: float) -> None:
    found, wanted = drawn(40, 3), torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) * scale
    values = ALIGNMENT_LOSSES[name](found, wanted)
    slow = [slow_alignment(name, found[:, i].tolist(), wanted[:, i].tolist()) for i in range(3)]
    assert values.tolist() == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("name", ALIGNMENT_LOSSES)
def test_constant_columns_give_numbers_and_gradients(name: str) -> None:
    found = torch.stack([torch.full((9,), 0.3), drawn(9)], 1).requires_grad_()
    wanted = torch.stack([drawn(9, seed=1).sigmoid(), torch.full((9,), 0.5)], 1)
    ALIGNMENT_LOSSES[name](found, wanted).sum().backward()
    assert found.grad is not None
    assert bool(found.grad.isfinite().all())


# --- identities (specification of Loc-CBM, section D)


def test_pooling_products_is_multiplying_the_pooled() -> None:
    """Without a locator the bottleneck is label-free CBM: `pool(1x1conv(F)) == Linear(pool F)`."""
    bottleneck = made("whole")
    seen = cells(6)
    linear = F.linear(seen["deep"].mean((2, 3)), bottleneck.weight)
    convolved = F.conv2d(seen["deep"], bottleneck.weight[..., None, None]).mean((2, 3))
    assert torch.allclose(bottleneck(seen).activations, linear, atol=1e-5)
    assert torch.allclose(bottleneck(seen).activations, convolved, atol=1e-5)


def test_the_error_of_standardised_values_is_two_less_two_correlations() -> None:
    found, wanted = drawn(50, 4), drawn(50, 4, seed=1) + drawn(50, 4)
    rho = [float(np.corrcoef(found[:, i].numpy(), wanted[:, i].numpy())[0, 1]) for i in range(4)]
    assert ALIGNMENT_LOSSES["mse"](found, wanted).tolist() == pytest.approx([2 - 2 * r for r in rho], abs=1e-5)
    assert ALIGNMENT_LOSSES["cosine"](found, wanted).tolist() == pytest.approx([1 - r for r in rho], abs=1e-5)
    scaled = ALIGNMENT_LOSSES["mse"](7 * found - 3, wanted)
    assert torch.allclose(scaled, ALIGNMENT_LOSSES["mse"](found, wanted), atol=1e-5)


@pytest.mark.parametrize("name", ALIGNMENT_LOSSES)
def test_a_mask_without_end_is_no_mask(name: str) -> None:
    plain = made("whole").unmasked_maps(cells(30)).detach()
    wanted = torch.rand(30, 5, generator=torch.Generator().manual_seed(2))

    def loss(radius: float) -> Any:
        return ALIGNMENT_LOSSES[name]((peak_masks(plain, radius) * plain).sum((2, 3)), wanted)

    unmasked = ALIGNMENT_LOSSES[name](plain.mean((2, 3)), wanted)
    assert torch.allclose(loss(1e4), unmasked, atol=1e-5)
    assert not torch.allclose(loss(1.0), unmasked, atol=1e-2)


def test_a_narrow_mask_is_the_highest_cell() -> None:
    plain = made("whole").unmasked_maps(cells(3)).detach()
    masks = peak_masks(plain, 0.05)
    assert torch.equal((masks * plain).sum((2, 3)), plain.amax((2, 3)))
