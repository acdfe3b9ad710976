"""The sparse head against plain proximal gradient, scikit-learn's SAGA, and loops straight from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from conceptlens.bottleneck.sparse.certificate import Penalty, certify
from conceptlens.bottleneck.sparse.newton import without_common_shift
from conceptlens.bottleneck.sparse.sparse_head import (
    elastic_net,
    elastic_net_path,
    fit_sparse_path,
    head_at,
    largest_penalty,
    truncate,
)
from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows, read_rows

pytestmark = pytest.mark.wide


def photos(count: int, concepts: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated concepts of classes that overlap, classes unequal in size."""
    generator = torch.Generator().manual_seed(seed)
    labels = (classes * torch.rand(count, generator=generator) ** 1.5).long()
    labels[:classes] = torch.arange(classes)
    mixing = torch.randn(concepts, concepts, generator=generator) + 1
    scores = (torch.randn(classes, concepts, generator=generator)[labels]) @ mixing / 3
    return scores + 2 * torch.randn(count, concepts, generator=generator), labels


def z_scores(features: Tensor) -> Tensor:
    """Every column less its mean over its deviation, N - 1 degrees of freedom."""
    columns = []
    for column in features.double().T:
        mean = math.fsum(column.tolist()) / len(column)
        square = math.fsum((value - mean) ** 2 for value in column.tolist()) / (len(column) - 1)
        columns.append((column - mean) / math.sqrt(square))
    return torch.stack(columns, 1)


def objective(x: Tensor, labels: Tensor, weights: Tensor, bias: Tensor, lam: float, alpha: float) -> Tensor:
    """glm-saga's `elastic_loss`, as its source has it."""
    l1 = lam * alpha * weights.norm(p=1)
    l2 = 0.5 * lam * (1 - alpha) * (weights**2).sum()
    return F.cross_entropy(x @ weights.T + bias, labels, reduction="mean") + l1 + l2


def proximal_gradient(x: Tensor, labels: Tensor, lam: float, alpha: float, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient by autograd, step 1/L with L half the largest eigenvalue of x'x/N and 1, soft threshold."""
    classes = int(labels.max()) + 1
    weights = torch.zeros(classes, x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    with_one = torch.cat([x, x.new_ones(len(x), 1)], 1)
    rate = 2 / float(torch.linalg.eigvalsh(with_one.T @ with_one / len(x)).max())
    for _ in range(steps):
        loss = F.cross_entropy(x @ weights.T + bias, labels)
        by_weight, by_bias = torch.autograd.grad(loss, (weights, bias))
        with torch.no_grad():
            moved = weights - rate * by_weight
            moved = moved.sign() * (moved.abs() - rate * lam * alpha).clamp_min(0)
            weights.copy_(moved / (1 + rate * lam * (1 - alpha)))
            bias -= rate * by_bias
    return weights.detach(), bias.detach()


@pytest.mark.parametrize(("classes", "alpha"), [(2, 0.5), (2, 1.0), (3, 0.99), (7, 0.99)])
def test_the_solution_is_that_of_a_long_plain_proximal_gradient(classes: int, alpha: float) -> None:
    features, labels = photos(120, 9, classes)
    x, lam = z_scores(features), 0.03
    weights, bias = proximal_gradient(x, labels, lam, alpha, 4000)
    found = elastic_net(read_rows(features, labels), lam, alpha, tolerance=1e-8 if alpha == 1 else 1e-11)
    least = float(objective(x, labels, weights, bias, lam, alpha))
    assert found.certificate.objective == pytest.approx(least, abs=1e-8)
    if alpha < 1:  # without a ridge the solution need not be one
        assert torch.allclose(found.weights, weights, atol=1e-4)
        assert torch.allclose(found.bias, bias - bias.mean(), atol=1e-4)
        assert torch.equal(found.weights != 0, weights.abs() > 1e-6)
    assert 0 < int((found.weights == 0).sum()) < found.weights.numel()


def test_the_weights_are_those_of_scikit_learn() -> None:
    features, labels = photos(200, 12, 5)
    x, lam, alpha = z_scores(features), 0.01, 0.9
    # scikit-learn's C multiplies the sum of losses, so that C = 1 / (N lam)
    settings = {"solver": "saga", "l1_ratio": alpha, "C": 1 / (200 * lam), "tol": 1e-8, "max_iter": 20000}
    peer = LogisticRegression(**settings, random_state=0)
    peer.fit(x.numpy(), labels.numpy())
    found = elastic_net(read_rows(features, labels), lam, alpha, tolerance=1e-10)
    assert torch.allclose(found.weights, torch.from_numpy(peer.coef_), atol=1e-4)
    assert np.array_equal(found.weights.numpy() != 0, peer.coef_ != 0)
    bias = np.asarray(peer.intercept_)
    assert torch.allclose(found.bias, torch.from_numpy(bias - bias.mean()), atol=1e-4)


def test_the_objective_is_glm_sagas_at_its_lam_and_alpha() -> None:
    features, labels = photos(80, 6, 4)
    x, rows = z_scores(features), read_rows(features, labels)
    generator = torch.Generator().manual_seed(1)
    for lam, alpha in ((0.0002 / 0.99, 0.99), (0.3, 0.2), (1.0, 1.0)):
        weights, bias = (torch.randn(size, generator=generator).double() for size in ((4, 6), (4,)))
        mine = certify(rows, weights, bias, Penalty(lam, alpha)).objective
        assert mine == pytest.approx(float(objective(x, labels, weights, bias, lam, alpha)), rel=1e-12)


def test_the_largest_penalty_is_the_steepest_slope_at_the_frequencies() -> None:
    features, labels = photos(90, 7, 4)
    x = z_scores(features)
    steepest = 0.0
    for c in range(4):
        frequency = float((labels == c).double().mean())
        for k in range(7):
            slope = sum((frequency - float(y == c)) * float(row[k]) for row, y in zip(x, labels, strict=True)) / 90
            steepest = max(steepest, abs(slope))
    rows = read_rows(features, labels)
    for alpha in (0.3, 0.99, 1.0):
        assert largest_penalty(rows, alpha) == pytest.approx(steepest / alpha, rel=1e-12)


def dual_bound(x: Tensor, labels: Tensor, q: Tensor, lam: float, alpha: float) -> float:
    """Fenchel's bound for probabilities q whose mean is that of the labels, by loops."""
    rows, classes = q.shape
    entropy = -sum(float(p) * math.log(float(p)) for row in q for p in row if p > 0) / rows
    conjugate = 0.0
    for c in range(classes):
        for k in range(x.shape[1]):
            v = -sum((float(q[n, c]) - float(labels[n] == c)) * float(x[n, k]) for n in range(rows)) / rows
            conjugate += max(abs(v) - lam * alpha, 0.0) ** 2 / (2 * lam * (1 - alpha))
    return entropy - conjugate


def test_the_gap_is_the_distance_to_fenchels_bound() -> None:
    features, labels = photos(40, 5, 3)
    x, rows, lam, alpha = z_scores(features), read_rows(features, labels), 0.05, 0.8
    found = elastic_net(rows, lam, alpha, tolerance=1e-13)
    q = (x @ found.weights.T + found.bias).softmax(1)
    assert torch.allclose(q.mean(0), rows.frequency, atol=1e-9)
    assert dual_bound(x, labels, q, lam, alpha) == pytest.approx(found.certificate.objective, abs=1e-9)
    weights = found.weights + 0.03  # all classes alike: probabilities and bias stay, the penalty does not
    moved = certify(rows, weights, found.bias, found.penalty)
    own = float(objective(x, labels, weights, found.bias, lam, alpha)) - dual_bound(x, labels, q, lam, alpha)
    assert moved.gap == pytest.approx(own, rel=1e-6)


def test_every_bound_lies_below_every_objective() -> None:
    features, labels = photos(40, 5, 3)
    x, rows = z_scores(features), read_rows(features, labels)
    generator = torch.Generator().manual_seed(4)
    for alpha in (0.6, 1.0):
        least = elastic_net(rows, 0.05, alpha, tolerance=1e-8).certificate
        for _ in range(20):
            weights, bias = (torch.randn(size, generator=generator).double() for size in ((3, 5), (3,)))
            found = certify(rows, weights, bias, Penalty(0.05, alpha))
            assert found.objective - found.gap <= least.objective
            assert found.objective == pytest.approx(float(objective(x, labels, weights, bias, 0.05, alpha)))


def test_the_violation_is_the_distance_from_the_subdifferential() -> None:
    features, labels = photos(50, 4, 3)
    x, lam, alpha = z_scores(features), 0.04, 0.7
    weights = torch.tensor([[0.5, 0, -0.2, 0], [0, 0, 0.1, 0], [0, -0.3, 0, 0]], dtype=torch.double)
    bias = torch.tensor([0.3, -0.1, 0.2], dtype=torch.double)
    smooth_at = weights.clone().requires_grad_()
    bias_at = bias.clone().requires_grad_()
    smooth = F.cross_entropy(x @ smooth_at.T + bias_at, labels) + lam * (1 - alpha) / 2 * (smooth_at**2).sum()
    by_weight, by_bias = torch.autograd.grad(smooth, (smooth_at, bias_at))
    wanted = float(by_bias.abs().max())
    for slope, weight in zip(by_weight.flatten().tolist(), weights.flatten().tolist(), strict=True):
        nearest = lam * alpha * math.copysign(1, weight) if weight else min(max(-slope, -lam * alpha), lam * alpha)
        wanted = max(wanted, abs(slope + nearest))
    found = certify(read_rows(features, labels), weights, bias, Penalty(lam, alpha))
    assert found.violation == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("count", [4, 5])
def test_what_all_classes_share_is_taken_off_at_the_least_penalty(alpha: float, count: int) -> None:
    weights = torch.randn(count, 8, generator=torch.Generator().manual_seed(count)).double() + 0.5
    weights[:2, :3] = 0
    penalty = Penalty(0.1, alpha)
    found = without_common_shift(weights, penalty, None)
    for k in range(8):
        shift = weights[:, k] - found[:, k]
        assert torch.allclose(shift, shift[:1])
        tried = [float(penalty.of(weights[:, k] - t)) for t in np.linspace(-3, 4, 1401)]
        assert float(penalty.of(found[:, k])) <= min(tried) + 1e-12
        assert float(penalty.of(found[:, k])) >= min(tried) - 5e-3
    support = torch.ones_like(weights, dtype=torch.bool)
    support[0, 3] = False
    assert torch.equal(without_common_shift(weights, penalty, support)[:, 3], weights[:, 3])


def cut(weights: Tensor, target: int) -> Tensor:
    """VLG-CBM's truncation: the highest threshold that leaves `target` weights for each class."""
    for threshold in sorted(weights.abs().flatten().tolist()):
        kept = torch.where(weights.abs() > threshold, weights, 0.0)
        if int((kept != 0).sum()) == target * len(weights):
            return kept
    raise AssertionError("no threshold gives this number")


def test_heads_are_cut_as_published() -> None:
    features, labels = photos(300, 20, 4)
    path = fit_sparse_path(features, labels, max_nec=12)
    for target in (1, 2, 5, 10):
        reaching = [s for s in path.solutions if int((s.weights != 0).sum()) / 4 >= target]
        solution, head = reaching[0], head_at(path, target)
        wanted = solution.weights if solution.nec == target else cut(solution.weights, target)
        assert torch.equal(head.weights, wanted)
        assert torch.equal(head.bias, solution.bias)
        assert torch.equal(truncate(solution.weights, target), wanted)


def test_path_strengths_fall_as_those_of_vlg_cbm() -> None:
    features, labels = photos(60, 5, 3)
    rows = read_rows(features, labels)
    path = elastic_net_path(rows, points=12)
    largest = largest_penalty(rows)
    assert [s.penalty.strength for s in path] == pytest.approx([largest / 2 ** (0.1 * k) for k in range(12)])


def test_z_scores_are_those_of_the_columns() -> None:
    features, labels = photos(30, 4, 2)
    rows: StandardizedRows = read_rows(features, labels)
    assert torch.allclose(rows.standardization.apply(features), z_scores(features))
    ((x, y),) = rows.chunks()
    assert torch.equal(y, labels)
    assert torch.allclose(x, z_scores(features))
