"""Every rule and target against loops straight from the papers' formulas: slow, plain, float64, no code of the package.

An oracle gets what a hook and one backward give (a feature `A[k][i][j]`, logits `y[c]`, the gradient of each logit)
and returns a map. The package must agree on CNNs and on token models, whatever way it takes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import conceptlens as cl
from architectures import CLASSES, observation_of

NETWORKS = ("timm resnet", "timm efficientnet", "timm convnext", "timm vit", "hf swin", "hf dinov2 registers")
DOUBLE = torch.float64
Grid = list[list[float]]


@cache
def logit_gradients(name: str) -> Tensor:
    """Return `image class channel height width`: d y^c / d A, one backward per class, nothing of the package."""
    seen = observation_of(name, DOUBLE)
    layer_output = seen.layer_output()
    rows = [
        torch.autograd.grad(seen.logits[:, c].sum(), layer_output.raw, retain_graph=True)[0] for c in range(CLASSES)
    ]
    return torch.stack([as_cells(row, name) for row in rows], 1)


def as_cells(raw: Tensor, name: str) -> Tensor:
    """`image channel height width` of the networks above: a CNN's output is, tokens follow `prefix` others in rows."""
    if raw.ndim == 4:
        return raw
    height, width, prefix = {
        "timm vit": (6, 10, 1), "hf swin": (6, 8, 0), "hf dinov2 registers": (6, 8, 4),
    }[name]  # fmt: skip
    cells = torch.zeros(len(raw), raw.shape[2], height, width, dtype=raw.dtype)
    for i in range(height):
        for j in range(width):
            cells[:, :, i, j] = raw[:, prefix + i * width + j]
    return cells


def cells_of(a: list[Grid]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(len(a[0])) for j in range(len(a[0][0])))


# --- the rules: A[k][i][j], G[k][i][j] -> map before the ReLU ---------------------------------------------------------


def weighted_sum(weights: list[float], a: list[Grid]) -> Grid:
    height, width = len(a[0]), len(a[0][0])
    return [[sum(weights[k] * a[k][i][j] for k in range(len(a))) for j in range(width)] for i in range(height)]


def cellwise(a: list[Grid], g: list[Grid], term: Callable[[float, float], float]) -> Grid:
    height, width = len(a[0]), len(a[0][0])
    return [[sum(term(a[k][i][j], g[k][i][j]) for k in range(len(a))) for j in range(width)] for i in range(height)]


def slow_grad_cam(a: list[Grid], g: list[Grid]) -> Grid:
    z = len(a[0]) * len(a[0][0])
    return weighted_sum([sum(g[k][i][j] for i, j in cells_of(a)) / z for k in range(len(a))], a)


def slow_grad_cam_plus_plus(a: list[Grid], g: list[Grid]) -> Grid:
    weights = []
    for k in range(len(a)):
        total = sum(a[k][i][j] for i, j in cells_of(a))
        weight = 0.0
        for i, j in cells_of(a):
            below = 2 * g[k][i][j] ** 2 + total * g[k][i][j] ** 3
            alpha = g[k][i][j] ** 2 / below if below != 0 else 0.0
            weight += alpha * max(g[k][i][j], 0.0)
        weights.append(weight)
    return weighted_sum(weights, a)


def slow_xgrad_cam(a: list[Grid], g: list[Grid]) -> Grid:
    weights = []
    for k in range(len(a)):
        total = sum(a[k][i][j] for i, j in cells_of(a))
        weights.append(sum(a[k][i][j] / total * g[k][i][j] for i, j in cells_of(a)) if total != 0 else 0.0)
    return weighted_sum(weights, a)


SLOW_RULES: dict[str, Callable[[list[Grid], list[Grid]], Grid]] = {
    "grad_cam": slow_grad_cam,
    "grad_cam++": slow_grad_cam_plus_plus,
    "xgrad_cam": slow_xgrad_cam,
    "hires_cam": lambda a, g: cellwise(a, g, lambda x, y: x * y),
    "element_wise": lambda a, g: cellwise(a, g, lambda x, y: max(x * y, 0.0)),
    "layer_cam": lambda a, g: cellwise(a, g, lambda x, y: x * max(y, 0.0)),
}


def test_every_gradient_rule_has_an_oracle() -> None:
    assert set(SLOW_RULES) == {name for name, rule in cl.RULES.items() if rule.reads == "gradient"}


def slow_map(rule: str, name: str, image: int, gradient: Tensor) -> Tensor:
    a = as_cells(observation_of(name, DOUBLE).layer_output().raw.detach(), name)[image].tolist()
    return torch.tensor(SLOW_RULES[rule](a, gradient.tolist()), dtype=DOUBLE)


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", SLOW_RULES)
def test_rule(rule: str, name: str) -> None:
    seen = observation_of(name, DOUBLE)
    found = cl.cam(seen, [cl.Logit(3), cl.Logit(7)], rule=rule, signed=True)
    rectified = cl.cam(seen, [cl.Logit(3), cl.Logit(7)], rule=rule)
    for image in range(2):
        for question, target in enumerate((3, 7)):
            expected = slow_map(rule, name, image, logit_gradients(name)[image, target])
            agree(found.maps[image, question], expected)
            agree(rectified.maps[image, question], expected.clamp_min(0))
            assert found.scores[image, question] == seen.logits[image, target]


# --- Finer-CAM, equations 5 to 8 --------------------------------------------------------------------------------------


def slow_finer(name: str, image: int, target: int, references: list[int], shares: list[float], gamma: float) -> Grid:
    """`L = ReLU(sum_t pi_t sum_k alpha_k^{c,t} A_k)`, with `pi_t = 1/T` in the paper's mean."""
    a = as_cells(observation_of(name, DOUBLE).layer_output().raw.detach(), name)[image].tolist()
    g = logit_gradients(name)[image].tolist()
    z = len(a[0]) * len(a[0][0])
    height, width = len(a[0]), len(a[0][0])
    total = [[0.0] * width for _ in range(height)]
    for reference, share in zip(references, shares, strict=True):
        alpha = []
        for k in range(len(a)):
            terms = [g[target][k][i][j] - gamma * g[reference][k][i][j] for i, j in cells_of(a)]
            alpha.append(sum(terms) / z)
        one = weighted_sum(alpha, a)
        for i, j in cells_of(a):
            total[i][j] += share * one[i][j]
    return [[max(value, 0.0) for value in row] for row in total]


def row_cosine(name: str, c: int, d: int) -> float:
    rows = observation_of(name, DOUBLE).model.classifier_module.weight.tolist()
    dot = sum(x * y for x, y in zip(rows[c], rows[d], strict=True))
    return dot / math.sqrt(sum(x * x for x in rows[c]) * sum(y * y for y in rows[d]))


def slow_references(name: str, image: int, target: int, by: str, count: int) -> list[int]:
    y = observation_of(name, DOUBLE).logits[image].tolist()
    near = {
        "logit": lambda d: -abs(y[d] - y[target]),
        "rank": lambda d: y[d],
        "weight": lambda d: row_cosine(name, target, d),
    }[by]
    return sorted((d for d in range(CLASSES) if d != target), key=near, reverse=True)[:count]


def slow_shares(name: str, image: int, target: int, references: list[int], how: str) -> list[float]:
    y = observation_of(name, DOUBLE).logits[image].tolist()
    raw = {
        "uniform": lambda d: 1.0,
        "softmax": lambda d: math.exp(y[d]),
        "cosine": lambda d: max(row_cosine(name, target, d), 0.0),
    }[how]
    values = [raw(d) for d in references]
    return [v / sum(values) if sum(values) > 0 else 1 / len(values) for v in values]


@pytest.mark.parametrize("name", ["timm resnet", "timm convnext", "timm vit", "hf swin"])
@pytest.mark.parametrize("by", ["logit", "rank", "weight"])
@pytest.mark.parametrize("how", ["uniform", "softmax", "cosine"])
def test_finer_cam(how: str, by: str, name: str) -> None:
    seen = observation_of(name, DOUBLE)
    found = cl.cam(seen, cl.Contrast(3, nearest=3, gamma=0.6, by=by, references=how))
    for image in range(2):
        references = slow_references(name, image, 3, by, 3)
        shares = slow_shares(name, image, 3, references, how)
        agree(found.maps[image, 0], torch.tensor(slow_finer(name, image, 3, references, shares, 0.6), dtype=DOUBLE))
        y = seen.logits[image].tolist()
        margin = y[3] - 0.6 * sum(s * y[d] for s, d in zip(shares, references, strict=True))
        assert float(found.scores[image, 0]) == pytest.approx(margin, rel=1e-10)
        assert found.labels[image] == (f"kind 3 / {', '.join(f'kind {d}' for d in references)}",)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("against", [[5], [5, 0, 9, 11]])
def test_finer_cam_against_named_classes(against: list[int], gamma: float) -> None:
    name = "timm vit"
    found = cl.cam(observation_of(name, DOUBLE), cl.Contrast("kind 3", against=against, gamma=gamma))
    shares = [1 / len(against)] * len(against)
    for image in range(2):
        expected = torch.tensor(slow_finer(name, image, 3, against, shares, gamma), dtype=DOUBLE)
        agree(found.maps[image, 0], expected)


def test_finer_cam_without_a_target_takes_the_predicted_class() -> None:
    seen = observation_of("timm resnet", DOUBLE)
    found = cl.cam(seen, cl.Contrast())
    for image in range(2):
        y = seen.logits[image].tolist()
        target = max(range(CLASSES), key=lambda c: y[c])
        references = slow_references("timm resnet", image, target, "logit", 3)
        expected = slow_finer("timm resnet", image, target, references, [1 / 3] * 3, 0.6)
        agree(found.maps[image, 0], torch.tensor(expected, dtype=DOUBLE))


def softmax(y: list[float]) -> list[float]:
    largest = max(y)
    raised = [math.exp(v - largest) for v in y]
    return [v / sum(raised) for v in raised]


def chain(name: str, image: int, by_logit: list[float]) -> Tensor:
    """Return d o / d A from d o / d y^c: the chain rule, class by class."""
    return sum((d * logit_gradients(name)[image, c] for c, d in enumerate(by_logit)), start=torch.zeros(()))


@pytest.mark.parametrize("name", ["timm resnet", "timm vit"])
@pytest.mark.parametrize("rule", ["grad_cam", "layer_cam"])
def test_probability(rule: str, name: str) -> None:
    """`d p_c / d y_j = p_c (1[j = c] - p_j)`."""
    seen = observation_of(name, DOUBLE)
    found = cl.cam(seen, cl.Probability(3), rule=rule, signed=True)
    for image in range(2):
        p = softmax(seen.logits[image].tolist())
        slopes = [p[3] * ((j == 3) - p[j]) for j in range(CLASSES)]
        agree(found.maps[image, 0], slow_map(rule, name, image, chain(name, image, slopes)))


@pytest.mark.parametrize("name", ["timm resnet", "timm vit"])
def test_contrast_of_probabilities(name: str) -> None:
    """`p_c - gamma mean_t p_{d_t}`, the weights `1/T` constants."""
    seen = observation_of(name, DOUBLE)
    found = cl.cam(seen, cl.Contrast(3, nearest=2, gamma=0.8, of="probabilities"), signed=True)
    for image in range(2):
        p = softmax(seen.logits[image].tolist())
        references = slow_references(name, image, 3, "logit", 2)
        slopes = [0.0] * CLASSES
        for j in range(CLASSES):
            slopes[j] = p[3] * ((j == 3) - p[j]) - 0.8 / 2 * sum(p[d] * ((j == d) - p[j]) for d in references)
        agree(found.maps[image, 0], slow_map("grad_cam", name, image, chain(name, image, slopes)))


@pytest.mark.parametrize("name", ["timm resnet", "timm vit"])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_official_objective(gamma: float, name: str) -> None:
    """The released code's `sum_t p_t (y_c - gamma y_t) / (sum_t p_t + 1e-9)`, by its own derivative.

    With `S = sum_t p_t`, `o = N / (S + e)` and `d p_t / d y_j = p_t (1[j = t] - p_j)`.
    """
    seen = observation_of(name, DOUBLE)
    found = cl.cam(seen, cl.Contrast(3, nearest=3, gamma=gamma, objective="official"), signed=True)
    for image in range(2):
        y = seen.logits[image].tolist()
        p = softmax(y)
        references = slow_references(name, image, 3, "logit", 3)
        below = sum(p[t] for t in references) + 1e-9
        above = sum(p[t] * (y[3] - gamma * y[t]) for t in references)
        slopes = []
        for j in range(CLASSES):
            above_slope = below_slope = 0.0
            for t in references:
                share_slope = p[t] * ((j == t) - p[j])
                above_slope += share_slope * (y[3] - gamma * y[t]) + p[t] * ((j == 3) - gamma * (j == t))
                below_slope += share_slope
            slopes.append((above_slope * below - above * below_slope) / below**2)
        agree(found.maps[image, 0], slow_map("grad_cam", name, image, chain(name, image, slopes)))
        assert float(found.scores[image, 0]) == pytest.approx(above / below, rel=1e-10)


def test_direction() -> None:
    """`<E(x), t>` for the vector that enters the classifier, which in this ResNet is the mean of the cells."""
    name = "timm resnet"
    seen = observation_of(name, DOUBLE)
    direction = torch.randn(96, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = cl.cam(seen, cl.Concept(direction=direction), rule="hires_cam", signed=True)
    for image in range(2):
        a = seen.layer_output().raw.detach()[image].tolist()
        height, width = len(a[0]), len(a[0][0])
        t = direction.tolist()
        expected = [
            [sum(t[k] * a[k][i][j] for k in range(len(a))) / (height * width) for j in range(width)]
            for i in range(height)
        ]
        agree(found.maps[image, 0], torch.tensor(expected, dtype=DOUBLE))
        assert float(found.scores[image, 0]) == pytest.approx(sum(map(sum, expected)), rel=1e-9)
