"""Metrics of a bottleneck against plain loops from their definitions: slow, float64, no code of the package."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from conceptlens.metrics import (
    Keypoints,
    LabelledActivations,
    Score,
    activation_norm,
    auroc_interval,
    box_masks,
    centre_distance,
    concept_auroc,
    concept_leakage,
    constant_peaks,
    keypoint_distance,
    keypoint_error,
    keypoint_own,
    keypoint_pointing,
    keypoint_swap,
    map_mask_scores,
    niche_impurity,
    oracle_impurity,
    part_discs,
    part_mask_scores,
    part_purity,
    peak,
    swapped_error,
)
from tolerance import assert_agree

pytestmark = pytest.mark.wide

IMAGES, CONCEPTS, PARTS = 6, 5, 4
OWN = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()


def drawn(seed: int, images: int = IMAGES) -> Keypoints:
    """Keypoints at random; some are not visible, some concepts not present, and one concept has no part."""
    generator = np.random.default_rng(seed)
    xy = torch.from_numpy(generator.random((images, PARTS, 2)))
    visible = torch.from_numpy(generator.random((images, PARTS)) > 0.3)
    xy[~visible] = math.nan
    sizes = torch.from_numpy(generator.integers(50, 400, (images, 2)).astype(float))
    return Keypoints(xy, visible, OWN, torch.from_numpy(generator.random((images, CONCEPTS)) > 0.3), sizes)


def with_ties(seed: int, height: int = 5, width: int = 4, images: int = IMAGES) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 1).integers(0, 6, (images, CONCEPTS, height, width))).float()


def highest(map_: torch.Tensor) -> list[tuple[float, float]]:
    """The centres of all highest cells, as shares."""
    height, width = map_.shape
    best = float(map_.max())
    cells = product(range(height), range(width))
    return [((x + 0.5) / width, (y + 0.5) / height) for y, x in cells if float(map_[y, x]) == best]


def nearest(k: Keypoints, n: int, concept: int, at: tuple[float, float], scale: tuple[float, float]) -> float | None:
    """Squared distance to the nearest visible keypoint of a concept's part."""
    found = [
        ((at[0] - float(k.xy[n, p, 0])) * scale[0]) ** 2 + ((at[1] - float(k.xy[n, p, 1])) * scale[1]) ** 2
        for p in range(PARTS)
        if bool(k.visible[n, p]) and bool(k.own[concept, p])
    ]
    return min(found) if found else None


def diagonal(k: Keypoints, n: int) -> tuple[float, float]:
    width, height = (float(side) for side in k.sizes[n])  # pyright: ignore[reportOptionalSubscript]
    return width / math.hypot(width, height), height / math.hypot(width, height)


def nearest_part(k: Keypoints, n: int, at: tuple[float, float]) -> int:
    scale = diagonal(k, n)
    best, part = math.inf, -1
    for p in range(PARTS):
        if bool(k.visible[n, p]):
            apart = math.hypot((at[0] - float(k.xy[n, p, 0])) * scale[0], (at[1] - float(k.xy[n, p, 1])) * scale[1])
            if apart < best:
                best, part = apart, p
    return part


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def agree(score: Score, wanted: dict[tuple[int, int], float]) -> None:
    assert {tuple(pair) for pair in score.applies.nonzero().tolist()} == set(wanted)
    for (n, c), value in wanted.items():
        assert float(score.values[n, c]) == pytest.approx(value, abs=1e-12)


def answered(k: Keypoints) -> list[tuple[int, int]]:
    pairs = product(range(len(k.present)), range(CONCEPTS))
    return [(n, c) for n, c in pairs if bool(k.present[n, c]) and nearest(k, n, c, (0, 0), (1, 1)) is not None]


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([(7, 7), (3, 9)]))
def test_keypoint_metrics(seed: int, grid: tuple[int, int]) -> None:
    k, maps = drawn(seed), with_ties(seed)
    cells = (float(grid[1]), float(grid[0]))
    pairs, peaks = answered(k), {(n, c): highest(maps[n, c]) for n, c in product(range(IMAGES), range(CONCEPTS))}

    def at_own(n: int, c: int, at: tuple[float, float]) -> float:
        value = nearest(k, n, c, at, diagonal(k, n))
        assert value is not None
        return math.sqrt(value)

    agree(
        keypoint_error(maps, k, grid),
        {(n, c): mean([nearest(k, n, c, at, cells) or 0.0 for at in peaks[n, c]]) for n, c in pairs},
    )
    agree(keypoint_distance(maps, k), {(n, c): mean([at_own(n, c, at) for at in peaks[n, c]]) for n, c in pairs})
    agree(
        keypoint_pointing(maps, k, 0.2),
        {(n, c): mean([float(at_own(n, c, at) < 0.2) for at in peaks[n, c]]) for n, c in pairs},
    )
    agree(
        keypoint_own(maps, k),
        {(n, c): mean([float(OWN[c, nearest_part(k, n, at)]) for at in peaks[n, c]]) for n, c in pairs},
    )
    agree(
        centre_distance(maps, k, grid),
        {
            (n, c): mean([((x - 0.5) * cells[0]) ** 2 + ((y - 0.5) * cells[1]) ** 2 for x, y in peaks[n, c]])
            for n, c in pairs
        },
    )


def error(k: Keypoints, maps: torch.Tensor, n: int, a: int, b: int) -> float:
    """The error of a's peak at b's part, in squared cells."""
    return mean([nearest(k, n, b, at, (7, 7)) or 0.0 for at in highest(maps[n, a])])


def differs(a: int, b: int) -> bool:
    return OWN[a].tolist() != OWN[b].tolist()


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_swap_and_swapped_errors(seed: int) -> None:
    k, maps = drawn(seed), with_ties(seed)
    pairs = answered(k)
    wanted: dict[tuple[int, int], float] = {}
    paired: dict[tuple[int, int], float] = {}
    other: dict[tuple[int, int], float] = {}
    not_measured: dict[tuple[int, int], float] = {}
    for n in range(IMAGES):
        here = [c for m, c in pairs if m == n]
        swapped = [(a, b) for a, b in product(here, here) if differs(a, b)]
        if swapped:
            crossed = mean([error(k, maps, n, a, b) for a, b in swapped])
            wanted[n, 0] = crossed - mean([error(k, maps, n, c, c) for c in here])
            paired[n, 0] = mean([error(k, maps, n, a, b) - error(k, maps, n, b, b) for a, b in swapped])
        for b in here:
            others = [a for a in here if differs(a, b)]
            if others:
                other[n, b] = mean([error(k, maps, n, a, b) for a in others])
            wrong = [a for a in range(CONCEPTS) if not bool(k.present[n, a])]
            if wrong:
                not_measured[n, b] = mean([error(k, maps, n, a, b) for a in wrong])
    agree(keypoint_swap(maps, k), wanted)
    agree(keypoint_swap(maps, k, paired=True), paired)
    agree(swapped_error(maps, k), other)
    agree(swapped_error(maps, k, by="absent"), not_measured)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_constant_peaks(seed: int) -> None:
    k = drawn(seed, images=3)
    found = constant_peaks(k, 2, (3, 4))
    assert found.shape == (2, CONCEPTS, 2)
    for c in range(CONCEPTS):
        best, cell = math.inf, (0.5, 0.5)
        for y, x in product(range(3), range(4)):
            at = ((x + 0.5) / 4, (y + 0.5) / 3)
            errors = [e for e in (nearest(k, n, c, at, (4, 3)) for n in range(3)) if e is not None]
            if errors and mean(errors) < best - 1e-12:
                best, cell = mean(errors), at
        assert found[1, c].tolist() == pytest.approx(list(cell), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_discs_and_boxes(seed: int) -> None:
    k = drawn(seed, images=2)
    rows, columns, radius = 9, 13, 0.2
    discs = part_discs(k, (rows, columns), radius)
    box = torch.tensor([0.1, 0.3, 0.62, 0.9])
    boxes = box_masks(box, (rows, columns))
    for y, x in product(range(rows), range(columns)):
        at = ((x + 0.5) / columns, (y + 0.5) / rows)
        assert bool(boxes[y, x]) == (0.1 <= at[0] <= 0.62 and 0.3 <= at[1] <= 0.9)
        for n, c in product(range(2), range(CONCEPTS)):
            apart = nearest(k, n, c, at, diagonal(k, n))
            assert bool(discs[n, c, y, x]) == (bool(k.present[n, c]) and apart is not None and apart <= radius**2)
    maps = with_ties(seed, images=2)
    together = map_mask_scores(maps, discs)
    for name, score in part_mask_scores(maps, k, (rows, columns), radius).items():
        assert_agree(score.values, together[name].values)
        assert torch.equal(score.applies, together[name].applies)


@given(st.integers(0, 999))
def test_norms(seed: int) -> None:
    maps = torch.from_numpy(np.random.default_rng(seed).normal(-0.5, 1, (3, 2, 3, 2)))
    maps[0, 0] = -1
    for n, c in product(range(3), range(2)):
        cells = [float(v) for v in maps[n, c].flatten()]
        positive = [max(v, 0.0) for v in cells]
        assert activation_norm(maps, "raw").of(n, c) == pytest.approx(sum(abs(v) for v in cells))
        if sum(positive) == 0:
            assert [activation_norm(maps, r).of(n, c) for r in ("cells", "share", "entropy")] == [None] * 3
            continue
        area = sum(positive) / max(positive)
        shares = [v / sum(positive) for v in positive]
        assert activation_norm(maps, "cells").of(n, c) == pytest.approx(area)
        assert activation_norm(maps, "share").of(n, c) == pytest.approx(area / 6)
        entropy = -sum(p * math.log(p) for p in shares if p > 0)
        assert activation_norm(maps, "entropy").of(n, c) == pytest.approx(entropy, abs=1e-12)


NAMES = ("left wing", "beak", "right wing", "tail")
PUBLISHED = ("wing", "beak", "wing", "tail")


def patch(index: int, cells: int, pixels: int, size: int) -> tuple[int, int]:
    """The official patch of a cell along one axis, line by line."""
    skip = round((pixels - size) / (cells - 1))
    low, high = index * skip, min(pixels, index * skip + size)
    if index == cells - 1:
        high = pixels
    if high == pixels:
        low = pixels - size
    return low, high


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([(7, 7, 32), (5, 4, 60), (14, 14, 32), (3, 28, 100)]))
def test_purity(seed: int, shape: tuple[int, int, int]) -> None:
    height, width, size = shape
    k = drawn(seed, images=9)
    maps = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (9, CONCEPTS, height, width)))
    scores = torch.from_numpy(np.random.default_rng(seed + 5).integers(0, 4, (9, CONCEPTS))).double()
    found = part_purity(maps, k, PUBLISHED, scores, top=4, patch=size)
    for c in range(CONCEPTS):
        top = sorted(range(9), key=lambda n: -float(scores[n, c]))[:4]
        lists: dict[str, list[int]] = {}
        for n in top:
            cells = [(int(maps[n, c, y, x]), -x, -y) for y, x in product(range(height), range(width))]
            _, x, y = max(cells)
            (left, right), (high, low) = patch(-x, width, 224, size), patch(-y, height, 224, size)
            inside: dict[str, int] = {}
            for p, name in enumerate(PUBLISHED):
                if bool(k.visible[n, p]):
                    px, py = float(k.xy[n, p, 0]) * 224, float(k.xy[n, p, 1]) * 224
                    inside[name] = max(inside.get(name, 0), int(left <= px <= right and high <= py <= low))
            for name, one in inside.items():
                lists.setdefault(name, []).append(one)
        assert found.purest.of(0, c) == (max(mean(v) for v in lists.values()) if lists else None)  # pyright: ignore
        if not lists:
            continue
        most = max(sum(v) for v in lists.values())
        frequent = max(mean(v) for v in lists.values() if sum(v) == most)  # pyright: ignore[reportArgumentType]
        assert found.frequent.of(0, c) == pytest.approx(frequent if most else 0)
        assert found.overall.of(0, c) == pytest.approx(most / 4)
        assert (sum(lists[found.part[c]]) == most) if most else (found.part[c] == "")


def labelled(seed: int, images: int = 40, concepts: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    labels = generator.random((images, concepts)) > 0.4
    values = labels @ generator.normal(0.4, 0.5, (concepts, concepts)) + generator.normal(0, 1, (images, concepts))
    return torch.from_numpy(np.round(values, 1)), torch.from_numpy(labels)


@given(st.integers(0, 999))
def test_auroc_counts_pairs(seed: int) -> None:
    values, labels = labelled(seed, 12)
    labels[:, 3] = True
    score = concept_auroc(values, labels)
    for c in range(4):
        with_it = [float(v) for v, has in zip(values[:, c], labels[:, c], strict=True) if has]
        without = [float(v) for v, has in zip(values[:, c], labels[:, c], strict=True) if not has]
        won = [float(a > b) + float(a == b) / 2 for a, b in product(with_it, without)]
        assert score.of(0, c) == (pytest.approx(mean(won)) if won else None)


def test_the_interval_of_auroc_resamples_images() -> None:
    values, labels = labelled(3, 15)
    labels[:, 3] = False
    labels[0, 3] = True  # in about a third of the draws of one kind only
    found = auroc_interval(values, labels, n_bootstrap=60, level=0.8, seed=7)
    taken = np.random.default_rng(7).integers(15, size=(60, 15))
    means = []
    for rows in taken:
        of = [
            roc_auc_score(labels[rows, c], values[rows, c])
            for c in range(4)
            if labels[rows, c].any() and not labels[rows, c].all()
        ]
        means.append(float(np.mean(of)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.1, 0.9])))
    assert found.mean == pytest.approx(np.mean([roc_auc_score(labels[:, c], values[:, c]) for c in range(4)]))
    assert (found.count, found.images) == (4, 15)


def split(images: int, seed: int) -> tuple[list[int], list[int]]:
    order = np.random.default_rng(seed).permutation(images).tolist()
    count = round(0.2 * images)
    return sorted(order[count:]), sorted(order[:count])


@pytest.mark.parametrize("seed", range(4))
def test_oracle_impurity_fits_a_logistic_regression_for_each_pair(seed: int) -> None:
    values, labels = labelled(seed, 60)
    train, test = split(60, seed)
    matrices = np.zeros((2, 4, 4))
    for m, source in enumerate((values.numpy(), labels.double().numpy())):
        for i, j in product(range(4), range(4)):
            model = LogisticRegression().fit(source[train, i : i + 1], labels[train, j])
            told = model.predict_proba(source[test, i : i + 1])[:, 1]
            matrices[m, i, j] = 1 if m == 1 and i == j else roc_auc_score(labels[test, j], told)
    found = oracle_impurity(values, labels, seed=seed)
    np.testing.assert_allclose(found.auroc, matrices[0], atol=1e-12)
    np.testing.assert_allclose(found.oracle, matrices[1], atol=1e-12)
    assert found.score == pytest.approx(math.sqrt(sum(float(d) ** 2 for d in (matrices[0] - matrices[1]).flat)) / 2)
    fitted = oracle_impurity(values, labels, LogisticRegression, seed=seed)
    np.testing.assert_allclose(fitted.auroc, found.auroc, atol=1e-12)


def test_oracle_impurity_takes_any_predictor() -> None:
    values, labels = labelled(1, 60)
    train, test = split(60, 0)
    found = oracle_impurity(values, labels, lambda: KNeighborsClassifier(7))
    for i, j in product(range(4), range(4)):
        model = KNeighborsClassifier(7).fit(values[train, i : i + 1], labels[train, j])
        told = roc_auc_score(labels[test, j], model.predict_proba(values[test, i : i + 1])[:, 1])
        assert float(found.auroc[i, j]) == pytest.approx(told)


@pytest.mark.parametrize("seed", range(3))
def test_niche_impurity_masks_the_niche(seed: int) -> None:
    values, labels = labelled(seed, 60)
    train, test = split(60, seed)
    z = (values.numpy() - values[train].numpy().mean(0)) / values[train].numpy().std(0)
    curve = []
    for beta in np.arange(21) * 0.05:
        of = []
        for j in range(4):
            model = LogisticRegression(max_iter=2000).fit(z[train], labels[train, j])
            kept = z[test].copy()
            for i in range(4):
                if abs(np.corrcoef(values[train, i], labels[train, j].double())[0, 1]) > beta:
                    kept[:, i] = 0
            of.append(roc_auc_score(labels[test, j], model.decision_function(kept)))
        curve.append(np.mean(of))
    area = sum((a + b) / 2 * 0.05 for a, b in pairwise(curve))
    assert niche_impurity(values, labels, seed=seed) == pytest.approx(area, abs=1e-9)


def test_leakage_is_five_heads_on_the_same_images() -> None:
    values, labels = labelled(0, 80)
    classes = (labels[:, 0] * 2 + labels[:, 1]) + (values[:, 2] > 0.5) * 4
    train, test = (LabelledActivations(values[s], labels[s], classes[s]) for s in (slice(50), slice(50, 80)))
    cut = torch.tensor([0.4, 0.5, 0.3, 0.2]).double()
    found = concept_leakage(train, test, cut)
    mu, sd = values[:50].numpy().mean(0), values[:50].numpy().std(0)
    z = (values.numpy() - mu) / sd
    side = np.array([[float(v >= t) for v, t in zip(row, cut, strict=True)] for row in values])
    true = labels.double().numpy()
    sorted_ = np.sort(values[:50].numpy(), axis=0)

    def percentile(share: float, c: int) -> float:
        place = share * 49
        below = int(place)
        return sorted_[below, c] + (place - below) * (sorted_[min(below + 1, 49), c] - sorted_[below, c])

    put = np.array([[percentile(0.95 if labels[n, c] else 0.05, c) for c in range(4)] for n in range(80)])
    heads = {
        name: LogisticRegression(max_iter=2000).fit(features[:50], classes[:50])
        for name, features in (("z", z), ("s", side), ("t", true))
    }
    wanted = {
        "soft": heads["z"].predict(z[50:]),
        "binary": heads["s"].predict(side[50:]),
        "hard": heads["t"].predict(side[50:]),
        "true": heads["t"].predict(true[50:]),
        "corrected": heads["z"].predict((put[50:] - mu) / sd),
    }
    for name, answer in wanted.items():
        right = [float(a == int(b)) for a, b in zip(answer, classes[50:], strict=True)]
        assert getattr(found, name).values[:, 0].tolist() == right
    assert found.gap("hard").mean() == pytest.approx(found.soft.mean() - found.hard.mean())  # pyright: ignore[reportOperatorIssue]


def test_peaks_given_are_the_maps_own() -> None:
    k, maps = drawn(2), torch.rand(IMAGES, CONCEPTS, 6, 6, generator=torch.Generator().manual_seed(0))
    for metric in (keypoint_error, keypoint_distance, keypoint_own, keypoint_swap):
        torch.testing.assert_close(metric(maps, k).values, metric(peak(maps), k).values, atol=1e-5, rtol=0)
