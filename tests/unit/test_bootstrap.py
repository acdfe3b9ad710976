from __future__ import annotations

import numpy as np
import pytest
import torch

import conceptlens as cl
from conceptlens.metrics import Interval, Score, bootstrap_difference, bootstrap_macro_mean, bootstrap_mean
from conceptlens.statistics import bootstrap


def clustered(seed: int, images: int = 30, questions: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0 that share most of their spread within an image."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(images, 1)) + 0.3 * draw.normal(size=(images, questions))
    return values.ravel(), np.repeat(np.arange(images), questions)


def test_it_covers_as_often_as_it_says_and_the_naive_one_does_not() -> None:
    by_image = by_value = 0
    for seed in range(200):
        values, images = clustered(seed)
        whole, naive = (
            bootstrap_mean(values, images, n_bootstrap=300),
            bootstrap_mean(values, range(len(values)), n_bootstrap=300),
        )
        assert None not in (whole.low, whole.high, naive.low, naive.high)
        by_image += whole.low <= 0 <= whole.high
        by_value += naive.low <= 0 <= naive.high
    assert 0.88 <= by_image / 200 <= 0.99
    assert by_value / 200 < 0.75


def test_it_is_as_wide_as_theory_says() -> None:
    values, images = clustered(1, images=200, questions=3)
    means = values.reshape(200, 3).mean(1)
    found = bootstrap_mean(values, images, n_bootstrap=4000)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * means.std() / np.sqrt(200), rel=0.06)
    narrow = bootstrap_mean(values, images, n_bootstrap=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * means.std() / np.sqrt(200), rel=0.08)


def test_one_seed_one_interval_however_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, images = clustered(0)
    first = bootstrap_mean(values, images)
    assert (first.count, first.images) == (150, 30)
    assert first == bootstrap_mean(values, images)
    assert first != bootstrap_mean(values, images, seed=1)
    monkeypatch.setattr(bootstrap, "BATCH_DRAWS", 1)
    in_pieces = bootstrap_mean(values, images)
    assert in_pieces.low == pytest.approx(first.low)
    assert in_pieces.high == pytest.approx(first.high)


def test_against_a_plain_loop() -> None:
    values = [0.1, 0.9, 0.4, 0.6, 0.3]
    images, groups = ["a", "a", "b", "c", "c"], ["red", "dog", "red", "red", "dog"]
    found = bootstrap_macro_mean(values, groups, images, n_bootstrap=50, seed=3)
    draw, names, means = np.random.default_rng(3), ["a", "b", "c"], []
    for taken in draw.integers(3, size=(50, 3)):
        kept: dict[str, list[float]] = {}
        for index in taken:
            for value, image, group in zip(values, images, groups, strict=True):
                if image == names[index]:
                    kept.setdefault(group, []).append(value)
        means.append(np.mean([np.mean(part) for part in kept.values()]))
    assert found.mean == pytest.approx(np.mean([np.mean([0.1, 0.4, 0.6]), np.mean([0.9, 0.3])]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_a_group_counts_once_whatever_its_size() -> None:
    values, groups = [1.0] * 90 + [0.0] * 10, ["many"] * 90 + ["few"] * 10
    assert bootstrap_macro_mean(values, groups, range(100)).mean == pytest.approx(0.5)
    assert bootstrap_mean(values, range(100)).mean == pytest.approx(0.9)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    a, images = clustered(5)
    b = a - 0.2 + 0.05 * np.random.default_rng(0).normal(size=a.shape)
    found = bootstrap_difference(a, b, images)
    assert 0.15 < found.low < 0.2 < found.high < 0.25
    alone = bootstrap_mean(a, images)
    assert alone.high - alone.low > 5 * (found.high - found.low)


def test_one_image_has_a_mean_and_no_interval() -> None:
    found = bootstrap_mean([0.2, 0.4], ["cat", "cat"])
    assert found == Interval(pytest.approx(0.3), None, None, 2, 1)
    assert str(found) == "0.300"
    assert str(bootstrap_mean([0.5, 0.5], ["cat", "dog"])) == "0.500 [0.500, 0.500]"


def test_it_takes_the_pairs_of_a_score() -> None:
    score = Score(torch.tensor([[0.5, 0.0], [0.25, 0.75]]), torch.tensor([[True, False], [True, True]]))
    found = bootstrap_mean(*score.pairs())
    assert (found.mean, found.count, found.images) == (0.5, 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([], []), "at least one value"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a"]), "2 values, 2 groups, 1 images"),
        (lambda: bootstrap_mean([1.0, float("nan")], [0, 1]), "values must be finite"),
        (lambda: bootstrap_mean([1.0, 2.0], "ab"), "images must be one name or number for each value"),
        (lambda: bootstrap_mean([1.0, 2.0], [0, 1], level=95), "level is 95"),
        (lambda: bootstrap_mean([1.0, 2.0], [0, 1], n_bootstrap=0), "n_bootstrap is 0"),
        (lambda: bootstrap_mean([[1.0, 2.0]], [0, 1]), "one row"),
        (lambda: bootstrap_difference([1.0, 2.0], [1.0], [0, 1]), "needs the same pairs"),
    ],
)
def test_what_cannot_be_resampled_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(cl.InputError, match=message):
        call()
