"""The sparse head: paths, certificates, NEC, held-out accuracy, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conceptlens.bottleneck.sparse import blocks, newton, standardized_rows
from conceptlens.bottleneck.sparse.certificate import Penalty, certify
from conceptlens.bottleneck.sparse.sparse_head import (
    SparsePath,
    elastic_net,
    elastic_net_path,
    fit_sparse_path,
    head_at,
    largest_penalty,
    truncate,
)
from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows, read_rows
from conceptlens.io.errors import InputError
from conceptlens.metrics import effective_concepts

pytestmark = pytest.mark.wide


def photos(count: int = 600, concepts: int = 24, classes: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Concepts that share few traits, so that they are correlated, in units of their own."""
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(concepts, 8, generator=generator)
    signatures = torch.randn(classes, 8, generator=generator)
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed + 100 * count))
    labels[:classes] = torch.arange(classes)
    noise = torch.Generator().manual_seed(seed + count)
    traits = signatures[labels] + 1.2 * torch.randn(count, 8, generator=noise)
    scores = traits @ loadings.T + torch.randn(count, concepts, generator=noise)
    return scores * torch.linspace(0.1, 30, concepts) + torch.linspace(-5, 5, concepts), labels


def some_rows() -> StandardizedRows:
    return read_rows(*photos())


def test_at_the_largest_penalty_all_weights_are_0_and_just_below_they_are_not() -> None:
    given = some_rows()
    largest = largest_penalty(given)
    at, below = elastic_net(given, largest), elastic_net(given, 0.999 * largest)
    assert not at.weights.any()
    assert at.converged
    assert torch.allclose(at.bias.softmax(0), given.frequency)
    assert int((below.weights != 0).sum()) >= 1


def test_along_the_path_the_loss_falls_and_the_penalty_grows() -> None:
    given = some_rows()
    path = elastic_net_path(given, ratio=0.7, points=14)
    losses = [float(given.slope(s.weights, s.bias).loss) for s in path]
    sizes = [float(Penalty(1.0, 0.99).of(s.weights)) for s in path]
    assert all(s.converged for s in path)
    assert losses == sorted(losses, reverse=True)
    assert sizes == sorted(sizes)
    assert [s.penalty.strength for s in path] == pytest.approx([path[0].penalty.strength * 0.7**k for k in range(14)])
    assert not path[0].weights.any()
    assert path[-1].nec > 10


@pytest.mark.slow
def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    given = some_rows()
    path = elastic_net_path(given, ratio=0.6, points=10, tolerance=1e-10)
    cold = elastic_net(given, path[-1].penalty.strength, tolerance=1e-10)
    assert torch.allclose(cold.weights, path[-1].weights, atol=1e-4)
    assert torch.allclose(cold.bias, path[-1].bias, atol=1e-4)


def test_a_path_ends_at_the_first_point_above_the_nec_asked_for() -> None:
    path = elastic_net_path(some_rows(), max_nec=5)
    assert path[-1].nec > 5
    assert all(s.nec <= 5 for s in path[:-1])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("strength", [0.1, 0.003])
def test_the_gap_closes_and_the_conditions_hold(alpha: float, strength: float) -> None:
    tolerance = 1e-7 if alpha == 1 else 1e-10
    found = elastic_net(some_rows(), strength, alpha, tolerance=tolerance)
    assert found.converged
    assert found.certificate.gap <= tolerance * math.log(6)
    assert found.certificate.violation < 1e-5
    assert float(found.bias.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 0.99, 1.0])
def test_the_certificate_sees_a_solution_that_was_moved(alpha: float) -> None:
    given = some_rows()
    best = elastic_net(given, 0.01, alpha, tolerance=1e-12)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for what in ("weights", "bias", "one"):
            weights, bias = best.weights.clone(), best.bias.clone()
            if what == "weights":
                weights += size * torch.randn(weights.shape, generator=generator)
            elif what == "bias":
                bias[2] += size
            else:
                weights[1, 7] += size
            moved = certify(given, weights, bias, best.penalty)
            worse = moved.objective - best.certificate.objective
            assert worse > 0
            assert moved.gap >= worse * (1 - 1e-9)
            assert moved.violation > 100 * best.certificate.violation


def test_a_gap_is_never_below_what_is_left_to_gain() -> None:
    given = some_rows()
    best = elastic_net(given, 0.02, tolerance=1e-12).certificate.objective
    generator = torch.Generator().manual_seed(3)
    for scale in (0.0, 0.01, 0.1, 1.0, 10.0):
        weights = scale * torch.randn(6, 24, generator=generator).double()
        bias = scale * torch.randn(6, generator=generator).double()
        found = certify(given, weights, bias, Penalty(0.02, 0.99))
        assert found.gap >= found.objective - best


def test_a_solution_stopped_early_says_so() -> None:
    given = some_rows()
    best = elastic_net(given, 0.001, tolerance=1e-10)
    found = elastic_net(given, 0.001, max_steps=3)
    assert not found.converged
    assert found.steps >= 3
    assert found.certificate.gap >= found.certificate.objective - best.certificate.objective > 1e-4


def test_a_support_holds_and_is_best_within_itself() -> None:
    given = some_rows()
    support = torch.rand(6, 24, generator=torch.Generator().manual_seed(5)) > 0.7
    free, held = (elastic_net(given, 0.01, support=s, tolerance=1e-9) for s in (None, support))
    assert not held.weights[~support].any()
    assert held.converged
    assert held.certificate.objective > free.certificate.objective + 1e-3
    outside = torch.where(support, held.weights, 0.0)
    outside[~support] += 0.01
    assert certify(given, outside, held.bias, held.penalty).gap > 1e-4


def test_rows_read_in_chunks_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = some_rows()
    weights = torch.randn(6, 24, generator=torch.Generator().manual_seed(2)).double()
    bias = torch.arange(6).double() / 10
    columns = [torch.tensor([0, 3, 5]), torch.tensor([0, 24])]

    def everything(given: StandardizedRows) -> list[Tensor]:
        slope = given.slope(weights, bias)
        curved = [block.double() for block in given.curvature(weights, bias, (1, 4), columns)]
        entropy = torch.tensor(given.dual_entropy(weights, bias, 0 * bias, 0.1, (1.0, 0.5)))
        scale = [given.standardization.mean, given.standardization.std, given.bias_curvature(weights, bias)]
        return [slope.loss, slope.weights, slope.bias, entropy, *scale, *curved]

    wanted = everything(whole)
    monkeypatch.setattr(standardized_rows, "CHUNK", 1)
    cut = some_rows()
    assert [len(labels) for _, labels in cut.chunks()] == [256, 256, 88]
    for mine, other in zip(everything(cut), wanted, strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-8)
    assert elastic_net(cut, 0.01, tolerance=1e-9).certificate.objective == pytest.approx(
        elastic_net(whole, 0.01, tolerance=1e-9).certificate.objective, abs=1e-8
    )


@pytest.mark.slow
def test_less_room_for_blocks_gives_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    given = some_rows()
    wanted = elastic_net(given, 0.003, tolerance=1e-9)
    assert int((wanted.weights != 0).sum(1).max()) > 8
    monkeypatch.setattr(blocks, "HELD", 6 * 5**2)  # four concepts and a bias for each class
    found = elastic_net(given, 0.003, tolerance=1e-9)
    assert found.converged
    assert found.steps > wanted.steps
    assert torch.allclose(found.weights, wanted.weights, atol=1e-3)


@pytest.mark.slow
def test_extrapolation_saves_steps_and_changes_no_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    given = some_rows()
    found = elastic_net(given, 0.0005, tolerance=1e-9)
    monkeypatch.setattr(newton, "REMEMBERED", 10**9)
    plain = elastic_net(given, 0.0005, tolerance=1e-9)
    assert found.steps < 0.8 * plain.steps
    assert torch.allclose(found.weights, plain.weights, atol=1e-3)


def test_the_same_rows_give_the_same_bits() -> None:
    first, second = (fit_sparse_path(*photos(), max_nec=4) for _ in range(2))
    for one, other in zip(first.solutions, second.solutions, strict=True):
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.bias, other.bias)
        assert one.certificate == other.certificate


def test_two_classes_that_can_be_told_apart_have_a_solution() -> None:
    labels = torch.arange(40) % 2
    features = torch.stack([labels.double(), 1.0 - labels, torch.linspace(-1, 1, 40).double()], 1)
    given = read_rows(features, labels)
    found = elastic_net(given, 1e-5, tolerance=1e-9)
    assert found.converged
    logits = given.standardization.apply(features) @ found.weights.T + found.bias
    assert torch.equal(logits.argmax(1), labels)
    assert not found.weights[:, 2].any()
    assert torch.allclose(found.weights[0], -found.weights[1])


def test_a_constant_concept_is_left_out_with_weight_0() -> None:
    features, labels = photos()
    features[:, 3], features[:, 9] = 7.3, 0.0
    head = elastic_net(read_rows(features, labels), 0.001, alpha=0.5)
    assert not head.weights[:, [3, 9]].any()
    without = [k for k in range(24) if k not in (3, 9)]
    alone = elastic_net(read_rows(features[:, without], labels), 0.001, alpha=0.5)
    assert torch.allclose(head.weights[:, without], alone.weights, atol=1e-3)


def test_truncation_keeps_exactly_the_largest() -> None:
    weights = torch.tensor([[0.1, -5.0, 0.0, 2.0], [3.0, 0.2, -0.3, 0.0]])
    assert effective_concepts(weights) == 3
    assert truncate(weights, 1.5).tolist() == [[0.0, -5.0, 0.0, 2.0], [3.0, 0.0, 0.0, 0.0]]
    assert torch.equal(truncate(weights, 3), weights)


def test_of_equal_weights_the_first_are_kept() -> None:
    weights = torch.tensor([[1.0, -1.0, 1.0], [1.0, 2.0, -1.0]])
    assert truncate(weights, 1.5).tolist() == [[1.0, -1.0, 0.0], [0.0, 2.0, 0.0]]
    many = torch.ones(50, 40)
    assert torch.equal(truncate(many, 2).flatten().nonzero()[:, 0], torch.arange(100))


@pytest.fixture(scope="module")
def path() -> SparsePath:
    return fit_sparse_path(*photos(), max_nec=8)


def test_a_head_has_the_nec_asked_for_and_its_points_bias(path: SparsePath) -> None:
    for target in (0.5, 1, 3.5, 8):
        head = head_at(path, target)
        first = next(s for s in path.solutions if s.nec >= target)
        assert effective_concepts(head.weights) == target
        assert torch.equal(head.bias, first.bias)
        kept = head.weights != 0
        assert torch.equal(head.weights[kept], first.weights[kept])
        assert float(head.weights[kept].abs().min()) >= float(first.weights[~kept].abs().max())


def test_a_refitted_head_keeps_its_support_and_fits_better(path: SparsePath) -> None:
    for target in (1, 3):
        cut, refitted = head_at(path, target), head_at(path, target, refit=True)
        assert torch.equal(cut.weights != 0, refitted.weights != 0)
        losses = [float(path.rows.slope(head.weights, head.bias).loss) for head in (cut, refitted)]
        assert losses[1] < losses[0]


def test_a_path_that_ends_before_the_nec_is_refused(path: SparsePath) -> None:
    with pytest.raises(InputError, match=r"the path ends at NEC 8\.\d+, before 20"):
        head_at(path, 20)


def nan_at_one_place() -> tuple[Tensor, Tensor]:
    features, labels = photos()
    features[4, 2] = float("nan")
    return features, labels


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "one class": (lambda: read_rows(photos()[0], torch.zeros(600, dtype=torch.long)), "there is one class"),
    "gap in the classes": (lambda: read_rows(photos()[0], 2 * photos()[1]), "no row has class 1, 3, 5, 7, 9 of 11"),
    "label below 0": (lambda: read_rows(photos()[0], photos()[1] - 1), "labels begin at -1"),
    "NaN": (lambda: read_rows(*nan_at_one_place()), "1 values of the features are not finite"),
    "infinity": (lambda: read_rows(photos()[0] / 0, photos()[1]), "14400 values of the features are not finite"),
    "rows": (lambda: read_rows(photos()[0][:9], photos()[1]), r"shape \(9, 24\) and labels \(600,\) of torch.int64"),
    "axes": (lambda: read_rows(photos()[0][:, 0], photos()[1]), r"shape \(600,\)"),
    "no concepts": (lambda: read_rows(photos()[0][:, :0], photos()[1]), r"shape \(600, 0\)"),
    "one row": (lambda: read_rows(photos()[0][:1], photos()[1][:1]), "there is one class"),
    "broken labels": (lambda: read_rows(photos()[0], photos()[1].double()), r"labels \(600,\) of torch.float64"),
    "alpha above 1": (lambda: elastic_net(some_rows(), 0.1, 1.5), r"alpha is 1\.5; expected 0"),
    "alpha below 0": (lambda: elastic_net(some_rows(), 0.1, -0.1), r"alpha is -0\.1; expected 0"),
    "ridge path": (lambda: elastic_net_path(some_rows(), 0.0), r"alpha is 0\.0; expected above 0"),
    "strength below 0": (lambda: elastic_net(some_rows(), -0.1), r"strength is -0\.1; expected a number above 0"),
    "strength 0": (lambda: elastic_net(some_rows(), 0.0), r"strength is 0\.0"),
    "strength NaN": (lambda: elastic_net(some_rows(), math.nan), "strength is nan"),
    "nothing varies": (
        lambda: largest_penalty(read_rows(torch.ones(6, 2), torch.arange(6) % 2)),
        "every concept is the same",
    ),
    "part of a weight": (lambda: truncate(torch.ones(3, 4), 0.5), r"NEC 0\.5 of 3 classes is 1\.5 weights"),
    "no weight": (lambda: truncate(torch.ones(3, 4), 0), "expected a whole number"),
    "too few weights": (lambda: truncate(torch.eye(3), 2), "have NEC 1; expected 2 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_cuda_gives_what_the_processor_gives() -> None:
    features, labels = photos()
    here = fit_sparse_path(features, labels, max_nec=5, tolerance=1e-9)
    there = fit_sparse_path(features.cuda(), labels.cuda(), max_nec=5, tolerance=1e-9)
    for one, other in zip(here.solutions, there.solutions, strict=True):
        assert other.weights.is_cuda
        assert other.converged
        assert torch.allclose(one.weights, other.weights.cpu(), atol=1e-4)
