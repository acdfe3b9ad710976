"""The linear head against its formulas, written plainly: objective, z-scores, choice of the ridge, accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from conceptlens.data.labelled_set import hold_out
from conceptlens.heads.head_evaluation import evaluate_head
from conceptlens.heads.logistic_head import fit_logistic
from conceptlens.heads.ridge_choice import choose_ridge


def rows_of(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of several scales, one constant, and classes that depend on them; not balanced."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(classes), 4), random.integers(0, classes, 50) ** 2 // classes])
    features = random.normal(size=(len(labels), 6)) * (1, 10, 0.1, 3, 1, 1) + random.normal(size=6) * 5
    features[:, :2] += 2 * labels[:, None]
    features[:, 5] = 4
    return torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [0.01, 0.5])
def test_a_head_minimises_the_objective(classes: int, strength: float) -> None:
    """At the only minimum of a convex function, and there alone, its gradient is 0."""
    features, labels = rows_of(classes)
    head = fit_logistic(features, labels, strength, 1e-9)
    spread = features.std(0, unbiased=False)
    scaled = (features - features.mean(0)) / spread.where(spread > 0, torch.ones(()).double())
    weights, bias = head.weights.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for row, label in zip(scaled, labels.tolist(), strict=True):
        scores = [weights[number] @ row + bias[number] for number in range(classes)]
        loss = loss - scores[label] + torch.log(sum(torch.exp(score) for score in scores))  # pyright: ignore
    loss = loss / len(labels) + strength / 2 * (weights**2).sum()
    loss.backward()
    for found in (weights.grad, bias.grad):
        assert found is not None
        assert float(found.abs().max()) < 1e-6
    assert torch.equal(head.weights[:, 5], torch.zeros(classes).double())


def test_a_head_is_scikit_learns() -> None:
    features, labels = rows_of(4)
    head = fit_logistic(features, labels, 0.05, 1e-10)
    values = features.numpy()
    scaled = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1)
    peer = LogisticRegression(C=1 / (0.05 * len(labels)), solver="newton-cg", tol=1e-10, max_iter=1000)
    peer.fit(scaled, labels.numpy())
    np.testing.assert_allclose(head.weights.numpy(), peer.coef_, atol=1e-6)
    np.testing.assert_allclose(head(features).numpy(), peer.decision_function(scaled), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_folded_weights_give_the_same_scores_of_raw_features(classes: int) -> None:
    features, labels = rows_of(classes)
    head = fit_logistic(features, labels, 0.1)
    weights, bias = head.folded()
    torch.testing.assert_close(features @ weights.T + bias, head(features), atol=1e-9, rtol=0)
    assert torch.equal(weights[:, 5], torch.zeros(classes).double())


def held_out(labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return (hold_out(labels, 0.3, seed * 3 + draw) for draw in range(3))


def test_the_ridge_is_the_one_with_the_lowest_held_out_cross_entropy() -> None:
    """Also with a second view of each photo: fitted to, and never shown when held out."""
    features, labels = rows_of(3)
    views = torch.stack([features, features + 0.3])
    strengths = (0.001, 0.1, 10.0)
    chosen, tried = choose_ridge(views, labels, 0.3, 2, strengths)
    wanted: dict[float, list[float]] = {strength: [] for strength in strengths}
    for kept, held in held_out(labels.numpy(), 2):
        rows = torch.cat([views[0][kept], views[1][kept]]).numpy()
        mean, std = rows.mean(0), np.where(rows.std(0) > 0, rows.std(0), 1)
        for strength in strengths:
            peer = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-8, max_iter=1000)
            peer.fit((rows - mean) / std, np.tile(labels.numpy()[kept], 2))
            chance = peer.predict_proba((views[0][held].numpy() - mean) / std)
            wanted[strength].append(float(np.mean([-np.log(p[k]) for p, k in zip(chance, labels[held], strict=True)])))
    means = {strength: np.mean(found) for strength, found in wanted.items()}
    assert chosen.strength == min(means, key=lambda strength: means[strength])
    for one in tried:
        assert one.cross_entropy == pytest.approx(means[one.strength], abs=1e-3)


def test_accuracy_classes_and_confusions_are_counted() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    said = torch.tensor([0, 1, 1, 1, 0, 2, 2, 1, 2])
    scores = torch.nn.functional.one_hot(said, 4).double() * 3
    found = evaluate_head(scores, labels, ("ant", "bee", "cat", "dog"), "nine")
    assert (found.accuracy.mean, found.accuracy.images) == (pytest.approx(5 / 9), 9)
    assert found.accuracy.low is not None
    assert found.accuracy.high is not None
    assert found.accuracy.low < 5 / 9 < found.accuracy.high
    assert {name: one.mean for name, one in found.classes.items()} == pytest.approx(
        {"ant": 1 / 3, "bee": 1 / 2, "cat": 3 / 4}
    )
    assert found.commonest == pytest.approx(4 / 9)
    assert [(one.name, one.taken_for, one.photos) for one in found.confusions] == [
        ("ant", "bee", 2), ("bee", "ant", 1), ("cat", "bee", 1),
    ]  # fmt: skip
    assert [one.share for one in found.confusions] == pytest.approx([2 / 3, 1 / 2, 1 / 4])
    losses = [np.log(np.exp(3) + 3) - 3 * (a == b) for a, b in zip(labels.tolist(), said.tolist(), strict=True)]
    assert found.cross_entropy == pytest.approx(np.mean(losses))


def test_where_all_are_right_nothing_is_confused() -> None:
    found = evaluate_head(torch.eye(2).double(), torch.tensor([0, 1]), ("ant", "bee"), "two")
    assert (found.accuracy.mean, found.confusions) == (1.0, ())
