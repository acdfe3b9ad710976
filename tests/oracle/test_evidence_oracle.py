"""Contributions that add up: evidence of cells, shares of concepts and their sum, against loops from the formulas."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.cams import cell_evidence as module_under_test
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.concept_regions.evidence_contributions import (
    REST_STRENGTH,
    cell_shares,
    evidence_contributions,
    relative_strengths,
)
from conceptlens.model.observation import Observation

DOUBLE = torch.float64
NAMES = ("cat", "dog", "car", "tree", "cup", "bird", "house")


def pooled_network(bent: bool) -> nn.Module:
    """A convolution, a mean and a linear classifier; `bent`, with a layer norm and a GELU before the classifier."""
    torch.manual_seed(0)
    middle = [nn.LayerNorm(12), nn.GELU()] if bent else []
    return nn.Sequential(
        nn.Conv2d(3, 12, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *middle, nn.Linear(12, 7)
    )


def looking(module: nn.Module, layer: str, side: int = 32) -> Observation:
    model = cl.Backbone(module, "tiny", class_names=NAMES, input_size=(side, side))
    return model.observe(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)), layers=layer)


def slow_signs(logits: Tensor, own: int, other: int | None) -> list[float]:
    """1 for the class, minus the softmax over all others; or minus 1 for the one other."""
    if other is not None:
        return [1.0 if c == own else -1.0 if c == other else 0.0 for c in range(len(logits))]
    total = sum(math.exp(float(v)) for c, v in enumerate(logits) if c != own)
    return [1.0 if c == own else -math.exp(float(v)) / total for c, v in enumerate(logits)]


def slow_path(net: nn.Module, layer: str, cells: Tensor, empty: Tensor, signs: list[float], points: int) -> Tensor:
    """Integrated gradients by the midpoint rule in float64, one step after the other, through a hook of its own."""
    double = net.double().eval()
    total = torch.zeros_like(cells)
    for step in range(points):
        at = (empty + (step + 0.5) / points * (cells - empty)).clone().requires_grad_()
        hook = double.get_submodule(layer).register_forward_hook(lambda *_, at=at: at[None])
        logits = double(torch.zeros(1, 3, 32, 32, dtype=DOUBLE))[0]
        hook.remove()
        margin = sum(s * y for s, y in zip(signs, logits, strict=True))
        (gradient,) = torch.autograd.grad(margin, at)  # pyright: ignore[reportArgumentType]
        total += gradient / points
    evidence = torch.zeros(cells.shape[1:], dtype=DOUBLE)
    for y in range(cells.shape[1]):
        for x in range(cells.shape[2]):
            for k in range(len(cells)):
                evidence[y, x] += total[k, y, x] * (cells[k, y, x] - empty[k, y, x])
    return evidence


@pytest.mark.parametrize("other", [None, 4])
def test_evidence_of_a_linear_head_is_what_it_says_of_each_cell(other: int | None) -> None:
    observation = looking(pooled_network(bent=False), "1")
    found = cell_evidence(observation, [1, 2], other)
    assert found is not None
    head = observation.model.classifier_module
    assert head is not None
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    for i, own in enumerate((1, 2)):
        signs = slow_signs(observation.logits[i].detach().double(), own, other)
        cells = observation.feature("1")[i].double()
        for y in range(4):
            for x in range(4):
                of_cell = [float(weight[c] @ cells[:, y, x] + bias[c]) for c in range(7)]
                expected = sum(s * v for s, v in zip(signs, of_cell, strict=True)) / 16
                assert float(found.cells[i, y, x]) == pytest.approx(expected, abs=1e-6)
        margin = sum(s * v for s, v in zip(signs, observation.logits[i].tolist(), strict=True))
        assert float(found.margins[i]) == pytest.approx(margin, rel=1e-5)
        assert float(found.cells[i].sum()) == pytest.approx(margin, rel=1e-5)
    assert float(found.unplaced.abs().max()) == float(found.residuals.abs().max()) == 0


@pytest.mark.parametrize("other", [None, 4])
def test_evidence_of_a_bent_head_is_the_integral_along_the_path(other: int | None) -> None:
    net = pooled_network(bent=True)
    observation = looking(net, "1")
    found = cell_evidence(observation, [1, 2], other)
    assert found is not None
    logits, features = observation.logits.detach().double(), observation.feature("1").double()
    empty = looking(net, "1").model.observe(torch.zeros(1, 3, 32, 32), layers="1").feature("1")[0].double()
    for i, own in enumerate((1, 2)):
        signs = slow_signs(logits[i], own, other)
        expected = slow_path(net, "1", features[i], empty, signs, 400)
        assert (found.cells[i].double() - expected).abs().max() <= 0.02 * expected.abs().max()
    net.float()
    whole = found.cells.sum((1, 2)) + found.unplaced + found.residuals
    assert torch.allclose(whole, found.margins, rtol=1e-5, atol=1e-6)
    assert bool((found.residuals.abs() <= 0.01 * (found.margins - found.unplaced).abs() + 0.01).all())


def test_more_points_are_taken_where_few_miss_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = looking(pooled_network(bent=True), "1")
    monkeypatch.setattr(module_under_test, "PATH_POINTS", (1,))
    once = cell_evidence(observation, 1)
    monkeypatch.setattr(module_under_test, "PATH_POINTS", (1, 64))
    more = cell_evidence(observation, 1)
    assert once is not None
    assert more is not None
    assert float(once.residuals.abs().max()) > 10 * float(more.residuals.abs().max())


def test_evidence_of_a_transformer_adds_up_and_its_last_patches_have_none() -> None:
    module = timm.create_model("test_vit", num_classes=7)
    nn.init.normal_(module.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    model = cl.Backbone(module, "vit", class_names=NAMES, input_size=(160, 160))
    images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    observation = model.observe(images, layers=[*model.default_layers, "norm"])
    found = cell_evidence(observation, 3, layer=model.default_layers[-1])
    assert found is not None
    whole = found.cells.sum((1, 2)) + found.unplaced + found.residuals
    assert torch.allclose(whole, found.margins, rtol=1e-5)
    assert float(found.residuals.abs()) <= 0.05 * float((found.margins - found.unplaced).abs())
    assert cell_evidence(observation, 3, layer="norm") is None


def test_weights_that_change_in_place_are_seen() -> None:
    """The cells of an empty input are kept, and computed again when the weights are others."""
    net = pooled_network(bent=True)
    observation = looking(net, "1")
    before = cell_evidence(observation, 1)
    with torch.no_grad():
        net[0].bias.add_(1.0)  # pyright: ignore[reportCallIssue, reportArgumentType]
    after = cell_evidence(looking(net, "1"), 1)
    fresh = cell_evidence(looking(pooled_network_with(net), "1"), 1)
    assert before is not None
    assert after is not None
    assert fresh is not None
    assert torch.allclose(after.cells, fresh.cells, atol=1e-6)
    assert not torch.allclose(after.unplaced, before.unplaced, atol=1e-3)


def pooled_network_with(like: nn.Module) -> nn.Module:
    net = pooled_network(bent=True)
    net.load_state_dict(like.state_dict())
    return net


@pytest.mark.parametrize("grid", [(7, 7), (5, 4), (1, 1)])
def test_shares_are_root_odds_times_strength_over_all_and_the_rest(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(2, 3, 14, 14, generator=generator) * 5
    presence = torch.tensor([[0.9, 0.5, 0.01], [0.2, 1.0, 0.0]])
    found = cell_shares(strengths, presence, grid)
    fine = torch.zeros(2, 3, 14, 14, dtype=DOUBLE)
    for i in range(2):
        for y in range(14):
            for x in range(14):
                odds = [min(math.sqrt(p / (1 - p)), 7.0) if p < 1 else 7.0 for p in presence[i].double().tolist()]
                weighed = [o * float(strengths[i, q, y, x]) for q, o in enumerate(odds)]
                for q in range(3):
                    fine[i, q, y, x] = weighed[q] / (REST_STRENGTH + sum(weighed))
    for row in range(grid[0]):
        for column in range(grid[1]):
            rows = range(row * 14 // grid[0], -(-(row + 1) * 14 // grid[0]))
            columns = range(column * 14 // grid[1], -(-(column + 1) * 14 // grid[1]))
            inside = [fine[:, :, y, x] for y in rows for x in columns]
            assert torch.allclose(found[:, :, row, column].double(), sum(inside) / len(inside), atol=1e-5)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert float(found.sum(1).max()) < 1 + 1e-6
    assert float(found[1, 2].max()) == 0  # what is certainly not there takes nothing


def test_contributions_are_the_evidence_in_the_shares_and_add_up() -> None:
    observation = looking(pooled_network(bent=False), "1")
    found = cl.explain(observation, "cat, wheel", target=1, regions="official")
    evidence = cell_evidence(observation, 1)
    assert evidence is not None
    assert found.contributions is not None
    assert found.unnamed is not None
    shares = cell_shares(relative_strengths(found.maps), found.presence, (4, 4))
    for i in range(2):
        for q in range(2):
            slow = sum(float(shares[i, q, y, x]) * float(evidence.cells[i, y, x]) for y in range(4) for x in range(4))
            assert float(found.contributions[i, q]) == pytest.approx(slow, abs=1e-6)
    assert torch.allclose(evidence_contributions(evidence, shares), found.contributions, atol=1e-6)
    assert torch.allclose(found.contributions.sum(1) + found.unnamed, evidence.margins, rtol=1e-5)
    some = found.select([1])
    assert some.unnamed is not None
    assert torch.allclose(some.unnamed, found.unnamed + found.contributions[:, 0], atol=1e-6)
