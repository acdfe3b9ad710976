"""Metrics of a bottleneck: what is known of them by thinking, their controls, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from torch import Tensor

import conceptlens as cl
from conceptlens.metrics import (
    BOTTLENECK_METRICS,
    Keypoints,
    LabelledActivations,
    Score,
    accuracy,
    activation_norm,
    auroc_interval,
    bootstrap_difference,
    bootstrap_mean,
    box_masks,
    centre_distance,
    centre_peaks,
    class_labels,
    concept_auroc,
    concept_leakage,
    constant_peaks,
    effective_concepts,
    keypoint_distance,
    keypoint_error,
    keypoint_own,
    keypoint_pointing,
    keypoint_swap,
    keypoints,
    merge_sides,
    niche_impurity,
    oracle_impurity,
    part_discs,
    part_mask_scores,
    part_purity,
    pointing_energy,
    prevalence_thresholds,
    swapped_error,
    uniform_maps,
)
from conceptlens.record import ImageInfo, Source
from tolerance import assert_agree

PARTS = ("left_eye", "right_eye", "tail")
OWN = torch.tensor([[True, True, False], [False, False, True], [False, False, True]])  # eye: dark; tail: long, forked


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def birds(images: int = 20, seed: int = 0) -> Keypoints:
    """Birds that look left: eyes on the left, tails on the right; one eye is often hidden."""
    xy = noise(images, 3, 2, seed=seed) * 0.3
    xy[:, 2] += torch.tensor([0.65, 0.65])
    visible = torch.ones(images, 3, dtype=torch.bool)
    visible[::2, 1] = False
    present = torch.ones(images, 3, dtype=torch.bool)
    present[::3, 2] = False
    return Keypoints(xy, visible, OWN, present, torch.tensor([400.0, 300.0]).expand(images, 2))


def at_cells(k: Keypoints, cells: int = 7, part: tuple[int, ...] = (0, 2, 2)) -> Tensor:
    """Maps whose peak is the cell of a part, one part for each concept."""
    maps = noise(*k.present.shape, cells, cells, seed=1) * 0.5
    for n in range(len(maps)):
        for c, p in enumerate(part):
            x, y = (k.xy[n, p] * cells).long().clamp(max=cells - 1).tolist()
            maps[n, c, y, x] = 1
    return maps


def test_a_peak_in_the_true_cell_is_near_and_its_own() -> None:
    k = birds()
    error = keypoint_error(at_cells(k), k)
    assert torch.equal(error.applies, k.present)
    assert float(error.values.max()) <= 0.5
    assert keypoint_swap(at_cells(k), k).mean() > 10  # pyright: ignore[reportOptionalOperand]
    assert keypoint_pointing(at_cells(k), k).mean() == 1
    assert keypoint_own(at_cells(k), k).values[:, 1][k.present[:, 1]].eq(1).all()
    swapped = at_cells(k, part=(2, 0, 0))
    assert keypoint_swap(swapped, k).mean() < -10  # pyright: ignore[reportOptionalOperand]
    assert keypoint_own(swapped, k).mean() < 0.2  # pyright: ignore[reportOptionalOperand]


def test_a_finer_map_is_measured_in_the_same_cells() -> None:
    k = birds()
    coarse, fine = at_cells(k, 7), at_cells(k, 28)
    assert keypoint_error(fine, k).mean() < keypoint_error(coarse, k).mean() / 4  # pyright: ignore
    doubled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(keypoint_error(doubled, k).values.max()) <= 0.5 + 2 * 0.25  # four equal cells around the true centre
    ratio = keypoint_error(coarse, k, (14, 14)).values / keypoint_error(coarse, k).values
    torch.testing.assert_close(ratio[k.present], torch.full_like(ratio[k.present], 4))


def test_of_equal_cells_the_mean_and_of_no_peak_a_random_cell() -> None:
    k = Keypoints(
        torch.tensor([[[0.25, 0.5]]]),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 2),
    )
    two = torch.tensor([[[[1.0, 1.0]]]])  # in the keypoint, and half the width away
    assert keypoint_error(two, k, (1, 2)).of(0) == pytest.approx(0.5)
    assert keypoint_pointing(two, k).of(0) == pytest.approx(0.5)
    assert keypoint_distance(two, k).of(0) == pytest.approx(0.5 / math.sqrt(2) / 2)
    assert keypoint_error(torch.zeros(1, 1, 1, 2), k, (1, 2)).of(0) == pytest.approx(0.5)


def test_left_and_right_count_alike_and_hidden_ones_do_not() -> None:
    k = birds(2)  # of the first bird the right eye is hidden
    peaks = k.xy[:, [1, 2, 2]]  # eyes: at the right one
    error = keypoint_error(peaks, k)
    assert error.of(1, 0) == 0
    assert error.of(0, 0) == pytest.approx(float(((k.xy[0, 1] - k.xy[0, 0]) * 7).square().sum()))


def test_nothing_applies_without_presence_or_a_visible_part() -> None:
    k = birds(4)
    visible, own = k.visible.clone(), k.own.clone()
    visible[1], own[1] = False, False
    k = Keypoints(torch.where(visible[..., None], k.xy, math.nan), visible, own, k.present, k.sizes)
    wanted = k.present.clone()
    wanted[1], wanted[:, 1] = False, False
    for metric in (keypoint_error, keypoint_distance, keypoint_pointing, keypoint_own, centre_distance):
        assert torch.equal(metric(centre_peaks(k), k).applies, wanted)
    assert keypoint_swap(centre_peaks(k), k).applies.tolist() == [[False], [False], [True], [False]]
    nothing = Keypoints(k.xy, k.visible, k.own, torch.zeros_like(k.present), k.sizes)
    assert keypoint_error(centre_peaks(k), nothing).mean() is None
    assert keypoint_swap(centre_peaks(k), nothing).mean() is None


def test_what_looks_at_one_place_knows_no_parts() -> None:
    k = birds()
    same = noise(20, 1, 5, 5).expand(20, 3, 5, 5)
    for where in (centre_peaks(k), uniform_maps(k), same):
        assert keypoint_swap(where, k, paired=True).values.abs().max() < 1e-9
    assert centre_distance(centre_peaks(k), k).mean() == 0
    assert centre_distance(uniform_maps(k), k).mean() == pytest.approx(8)  # of a 7 x 7 grid: 2 * (49 - 1) / 12
    for by in ("other_part", "absent"):
        swapped, own = swapped_error(centre_peaks(k), k, by=by), keypoint_error(centre_peaks(k), k)
        torch.testing.assert_close(swapped.values[swapped.applies], own.values[swapped.applies])


def test_a_uniform_map_is_worth_a_random_cell() -> None:
    k = birds()
    cells = [((x + 0.5) / 3, (y + 0.5) / 2) for y in range(2) for x in range(3)]
    for metric in (keypoint_error, keypoint_distance, keypoint_pointing, keypoint_own):
        each = [metric(torch.tensor(cell).expand(20, 3, 2), k).values for cell in cells]
        torch.testing.assert_close(metric(uniform_maps(k, (2, 3)), k).values, torch.stack(each).mean(0))


def test_a_constant_cell_is_a_prior_of_its_part() -> None:
    train, test = birds(seed=3), birds(seed=4)
    peaks = constant_peaks(train, 20)
    assert torch.equal(peaks[:, 1], peaks[:, 2])
    assert bool((peaks[0, 0] < 0.35).all())
    assert bool((peaks[0, 1] > 0.65).all())
    assert keypoint_error(peaks, test).mean() < keypoint_error(centre_peaks(test), test).mean() / 4  # pyright: ignore
    assert keypoint_swap(peaks, test).mean() > 5  # pyright: ignore[reportOptionalOperand]
    hidden = train.visible.clone()
    hidden[:, 2] = False
    unseen = Keypoints(train.xy, hidden, train.own, train.present)
    assert constant_peaks(unseen, 1)[0, 1].tolist() == [0.5, 0.5]
    unasked = Keypoints(train.xy, train.visible, train.own, torch.zeros_like(train.present))
    assert torch.equal(constant_peaks(unasked, 20), peaks)


def test_a_wrong_concept_is_one_that_the_image_does_not_show() -> None:
    k = birds()
    maps = at_cells(k, part=(0, 2, 0))  # forked tails are looked for at the eye
    not_measured = swapped_error(maps, k, by="absent")
    assert torch.equal(not_measured.applies, k.present & (~k.present).any(1, keepdim=True))
    assert float(not_measured.values[:, 0].max()) <= 0.5
    assert float(not_measured.values[:, 1][not_measured.applies[:, 1]].min()) > 5


def test_distances_are_true_and_cells_are_not() -> None:
    xy = torch.tensor([[[0.5, 0.5]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    wide = Keypoints(xy, one, one, one, torch.tensor([[400.0, 300.0]]))
    peaks = torch.tensor([[[0.75, 0.5]]])
    assert keypoint_error(peaks, wide).of(0) == pytest.approx((7 / 4) ** 2)
    assert keypoint_distance(peaks, wide).of(0) == pytest.approx(100 / 500)
    assert keypoint_pointing(peaks, wide, 0.21).of(0) == 1
    assert keypoint_pointing(peaks, wide, 0.19).of(0) == 0


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    k = birds()
    maps = (noise(20, 3, 4, 4) * 4).floor()
    whole = [metric(maps, k).values for metric in (keypoint_error, keypoint_swap, keypoint_own)]
    monkeypatch.setattr(keypoints, "BATCH_CELLS", 1)
    monkeypatch.setattr(keypoints, "BATCH_PEAKS", 3)
    for one, metric in zip(whole, (keypoint_error, keypoint_swap, keypoint_own), strict=True):
        torch.testing.assert_close(metric(maps, k).values, one, atol=1e-12, rtol=0)
    some = torch.tensor([3, 7])
    assert_agree(keypoint_error(maps[some], k.select(some)).values, keypoint_error(maps, k).values[some])


def test_discs_hold_the_energy_of_maps_that_point_there(monkeypatch: pytest.MonkeyPatch) -> None:
    k = birds()
    discs = part_discs(k, (28, 28), 0.15)
    assert torch.equal(discs.any((2, 3)), k.present)
    perfect = part_mask_scores(discs.float(), k, (28, 28), 0.15)
    assert {name: score.mean() for name, score in perfect.items()} == pytest.approx(dict.fromkeys(perfect, 1.0))
    assert torch.equal(perfect["hit"].applies, k.present)
    monkeypatch.setattr("conceptlens.metrics.part_masks.BATCH_PIXELS", 1)
    again = part_mask_scores(at_cells(k), k)
    assert again["pointing_game"].mean() > 0.9  # pyright: ignore[reportOptionalOperand]
    flat = part_mask_scores(torch.ones(20, 3, 7, 7), k)["pointing_energy"]
    share = part_discs(k).double().mean((2, 3))
    torch.testing.assert_close(flat.values, share)


def test_a_disc_is_round_in_the_photo_not_in_the_square() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    k = Keypoints(torch.tensor([[[0.5, 0.5]]]), one, one, one, torch.tensor([[40.0, 10.0]]))
    disc = part_discs(k, (100, 100), 0.1)[0, 0]
    across, down = int(disc.any(0).sum()), int(disc.any(1).sum())
    assert (across, down) == pytest.approx(
        (2 * 0.1 * math.hypot(40, 10) / 40 * 100, 2 * 0.1 * math.hypot(40, 10) / 10 * 100), abs=1
    )


def test_boxes_are_masks() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.25, 0.2, 0.2]])
    masks = box_masks(boxes, (4, 4))
    assert masks[0].tolist() == [[True, True, False, False]] * 4
    assert not masks[1].any()
    assert box_masks(boxes[None], (4, 6)).shape == (1, 2, 4, 6)
    energy = pointing_energy(torch.ones(2, 1, 4, 4), masks)
    assert (energy.of(0), energy.of(1)) == (0.5, None)


def test_norms_of_known_maps() -> None:
    maps = torch.zeros(1, 3, 2, 4)
    maps[0, 0, 1, 2] = 3
    maps[0, 1] = 0.1
    maps[0, 2] = -2
    wanted = {"raw": [3, 0.8, 16], "cells": [1, 8, None], "share": [1 / 8, 1, None], "entropy": [0, math.log(8), None]}
    for kind, values in wanted.items():
        score = activation_norm(maps, kind)  # pyright: ignore[reportArgumentType]
        assert [score.of(0, c) for c in range(3)] == [None if v is None else pytest.approx(v, abs=1e-6) for v in values]
        if kind != "raw":
            scaled = activation_norm(maps * 7, kind)  # pyright: ignore[reportArgumentType]
            torch.testing.assert_close(scaled.values, score.values)
    shown = activation_norm(maps, "raw", torch.tensor([[True, False, True]]))
    assert shown.applies.tolist() == [[True, False, True]]
    sides = torch.linspace(-3, 3, 7)
    bump = (-(sides[:, None] ** 2 + sides**2) / (2 * 0.64**2)).exp()[None, None]
    assert activation_norm(bump).of(0) == pytest.approx(2.58, abs=0.01)  # 2 pi sigma^2


def whole(images: int) -> Keypoints:
    """All parts visible; the eyes lie in the first of 7 x 7 cells, the tail in a random one."""
    xy = noise(images, 3, 2)
    xy[:, :2] = xy[:, :2] / 7
    shown = torch.ones(images, 3, dtype=torch.bool)
    return Keypoints(xy, shown, OWN, shown)


def test_purity_is_that_of_the_top_images() -> None:
    k = whole(30)
    maps = torch.zeros(30, 3, 7, 7)
    maps[:, 0, 0, 0] = 1  # always at the eyes
    maps[:12, 1, 0, 0], maps[12:, 1, 6, 6] = 1, 2  # at the eyes only where it is weak
    maps[:, 2, 0, 0] = torch.arange(30.0)
    pure = part_purity(maps, k, merge_sides(PARTS))
    assert pure.purest.of(0, 0) == 1
    assert pure.part[0] == "eye"
    assert pure.purest.of(0, 1) < 0.5  # pyright: ignore[reportOptionalOperand]
    assert part_purity(-maps, k, PARTS, top=30).part[1] != ""
    assert part_purity(maps, k, PARTS, -maps.amax((2, 3)), top=12).purest.of(0, 1) == 1
    hidden = k.visible.clone()
    hidden[:29, :2] = False  # the eyes are seen in one top image of ten
    rare = part_purity(maps, Keypoints(k.xy, hidden, OWN, k.present), merge_sides(PARTS))
    assert rare.purest.of(0, 2) == 1
    assert rare.overall.of(0, 2) <= rare.frequent.of(0, 2)  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
    blind = part_purity(maps, Keypoints(k.xy, torch.zeros_like(hidden), OWN, k.present), PARTS)
    assert (blind.purest.count, blind.part) == (0, ("", "", ""))


def test_sides_are_words() -> None:
    names = ("left_eye", "right eye", "Left wing", "back", "cleft", "upright stance")
    assert merge_sides(names) == ("eye", "eye", "wing", "back", "cleft", "upright stance")


def test_auroc_of_known_orders() -> None:
    labels = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]]).bool()
    values = torch.tensor([[3.0, 0.0, 5.0, 1.0], [2.0, 1.0, 5.0, 2.0], [1.0, 2.0, 5.0, 3.0]])
    score = concept_auroc(values, labels)
    assert [score.of(0, c) for c in range(4)] == [1, 0, 0.5, None]
    assert score.mean() == 0.5
    torch.testing.assert_close(concept_auroc(values.exp() * 3, labels).values, score.values)


def test_labels_of_a_class_are_those_of_half_its_images() -> None:
    shares = torch.tensor([[0.5, 0.49], [0.0, 1.0]])
    assert class_labels(shares, torch.tensor([1, 0, 1])).tolist() == [[False, True], [True, False], [False, True]]
    with pytest.raises(cl.InputError, match="numbers from 0 to 1"):
        class_labels(shares, torch.tensor([2]))


def test_an_image_whose_label_is_not_known_does_not_count() -> None:
    values, labels = noise(40, 3), noise(40, 3, seed=1) > 0.4
    known = noise(40, 3, seed=2) > 0.3
    known[:, 2] = False
    found = concept_auroc(values, labels, known)
    for concept in (0, 1):
        rows = known[:, concept]
        assert 0 < rows.sum() < 40
        alone = concept_auroc(values[rows][:, [concept]], labels[rows][:, [concept]])
        assert found.of(0, concept) == alone.of(0, 0) != concept_auroc(values, labels).of(0, concept)
    assert found.applies.tolist() == [[True, True, False]]
    interval = auroc_interval(values, labels, n_bootstrap=50, known=known)
    assert interval.mean == pytest.approx(found.mean())
    assert interval.count == 2
    assert interval.low is not None
    assert interval.low < interval.mean
    every = torch.ones_like(labels)
    assert auroc_interval(values, labels, 50, known=every) == auroc_interval(values, labels, 50)
    with pytest.raises(cl.InputError, match="expected bool"):
        concept_auroc(values, labels, known[:, :2])


def test_the_interval_of_auroc_narrows_with_images() -> None:
    widths = []
    for images in (40, 640):
        labels = noise(images, 5) > 0.5
        values = labels + 2 * noise(images, 5, seed=1)
        found = auroc_interval(values, labels, n_bootstrap=200)
        assert found.low < found.mean < found.high  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
        assert found.mean == pytest.approx(concept_auroc(values, labels).mean())
        assert found == auroc_interval(values, labels, n_bootstrap=200)
        widths.append(found.high - found.low)  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
    assert widths[1] < widths[0] / 2


def test_accuracy_and_effective_concepts() -> None:
    logits = torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 1.0], [0.0, 1.0]])
    score = accuracy(logits, torch.tensor([1, 0, 0, 1]))
    assert score.values[:, 0].tolist() == [1, 1, 0, 1]
    assert bootstrap_mean(*score.pairs()).mean == 0.75
    weights = torch.tensor([[0.0, 1e-9, 2.0], [0.0, -0.0, -1.0]])
    assert effective_concepts(weights) == 1.5


def leaky(images: int, seed: int, code: float) -> LabelledActivations:
    """Four classes, one concept that tells two from two; how much it is active tells the rest, times `code`."""
    classes = torch.arange(images) % 4
    labels = torch.stack([classes >= 2, noise(images, seed=seed + 1) > 0.5], dim=1)
    activations = labels.double() + code * (classes % 2)[:, None] + 0.02 * noise(images, 2, seed=seed)
    return LabelledActivations(activations, labels, classes)


def test_a_head_that_reads_how_much_leaks() -> None:
    cut = torch.tensor([0.75, 0.75])
    pure, leaking = (concept_leakage(leaky(800, 0, code), leaky(1600, 5, code), cut) for code in (0, 0.3))
    assert leaking.soft.mean() == 1
    for found in (pure, leaking):
        assert found.true.mean() == found.hard.mean() == pytest.approx(0.5, abs=0.05)
        assert found.binary.mean() == pytest.approx(0.5, abs=0.05)
    for name in ("hard", "binary", "true", "corrected"):
        assert leaking.gap(name).mean() == pytest.approx(0.5, abs=0.05)
        assert pure.gap(name).mean() == pytest.approx(0, abs=0.05)
    paired = bootstrap_difference(leaking.soft.values[:, 0], leaking.hard.values[:, 0], range(1600), n_bootstrap=200)
    assert paired.low > 0.4  # pyright: ignore[reportOptionalOperand]
    learned = concept_leakage(leaky(400, 0, 0.3), leaky(200, 5, 0.3), head=lambda: MLPClassifier((8,), max_iter=3000))
    assert learned.gap("binary").mean() > 0.4


def test_correcting_helps_where_nothing_leaks() -> None:
    classes = torch.arange(600) % 2
    labels = torch.stack([classes == 1, noise(600) > 0.5], dim=1)
    train, test = (
        LabelledActivations(
            labels[s] + 0.8 * torch.randn(300, 2, generator=torch.Generator().manual_seed(i)), labels[s], classes[s]
        )
        for i, s in enumerate((slice(300), slice(300, 600)))
    )
    found = concept_leakage(train, test)
    assert found.corrected.mean() == found.true.mean() == 1
    assert found.gap("corrected").mean() < -0.1
    assert found.gap("true").mean() < -0.1


def test_thresholds_of_prevalence() -> None:
    values = torch.tensor([[0.1, 5.0, 1.0, 2.0], [0.4, 4.0, 2.0, 2.0], [0.2, 3.0, 3.0, 2.0]])
    labels = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 1, 0]]).bool()
    cut = prevalence_thresholds(values, labels)
    assert cut.tolist() == pytest.approx([0.3, 4.5, -math.inf, 2.0])
    assert (values >= cut).sum(0).tolist() == [1, 1, 3, 3]
    assert prevalence_thresholds(values, torch.zeros_like(labels)).tolist() == [math.inf] * 4


def hidden_in(seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Concepts that know themselves, and their neighbour by a `share`."""
    labels = noise(2000, 4, seed=seed) > 0.5
    own = labels.double() + 0.2 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(seed)).double()
    return own + share * labels.roll(1, 1), labels


def test_impurity_grows_with_what_concepts_say_of_one_another() -> None:
    scores = [oracle_impurity(*hidden_in(0, share)).score for share in (0, 0.3, 0.6)]
    assert scores[0] < 0.05
    assert scores[0] + 0.1 < scores[1] < scores[2] - 0.05
    values, labels = hidden_in(0, 0.6)
    found = oracle_impurity(values, labels)
    told = found.auroc.fill_diagonal_(0.5)
    assert float((told[range(4), [3, 0, 1, 2]] - 0.5).min()) > 0.15
    assert oracle_impurity(labels.double(), labels).score == pytest.approx(0, abs=1e-12)
    assert oracle_impurity(noise(2000, 4, seed=9), labels).score == pytest.approx(0.5, abs=0.05)  # 1 / sqrt(k)
    assert oracle_impurity(1 - labels.double(), labels).score == pytest.approx(0, abs=1e-12)


def test_a_predictor_that_bends_sees_what_a_line_does_not() -> None:
    _, labels = hidden_in(0, 0)
    side = (noise(2000, 4, seed=3) > 0.5).double() - 0.5
    bent = labels + 0.6 * side * labels.roll(1, 1)  # the neighbour makes an activation extreme, high or low
    line, curved = oracle_impurity(bent, labels), oracle_impurity(bent, labels, lambda: KNeighborsClassifier(25))
    assert line.score < 0.06
    assert curved.score > line.score + 0.15


def test_concepts_that_cannot_be_judged_are_left_out_and_counted() -> None:
    values, labels = hidden_in(1, 0.3)
    with_more = torch.cat([labels, torch.ones(2000, 1, dtype=torch.bool)], 1)
    found = oracle_impurity(torch.cat([values, values[:, :1]], 1), with_more)
    assert found.used.tolist() == [True] * 4 + [False]
    assert found.score == oracle_impurity(values, labels).score
    assert niche_impurity(torch.cat([values, values[:, :1]], 1), with_more) == niche_impurity(values, labels)


def test_niche_impurity_of_pure_and_impure_concepts() -> None:
    pure, impure = (niche_impurity(*hidden_in(2, share)) for share in (0, 0.6))
    # beta up to the correlation (about 0.93): the rest knows nothing; above it: the concept itself
    assert pure == pytest.approx(0.5 * 0.93 + 0.07, abs=0.04)
    assert impure > pure + 0.05
    assert niche_impurity(noise(2000, 4, seed=9), hidden_in(2, 0)[1]) == pytest.approx(0.5, abs=0.05)


def test_the_table_says_what_the_functions_do() -> None:
    k = birds()
    maps = at_cells(k) - 0.2
    values, labels = hidden_in(0, 0.3)
    given: dict[str, tuple[Tensor | Keypoints, ...]] = {
        "keypoint": (maps, k),
        "activation": (maps,),
        "concept": (values, labels),
        "accuracy": (noise(9, 4), torch.zeros(9, dtype=torch.long)),
    }
    for name, metric in BOTTLENECK_METRICS.items():
        assert metric.name == name
        score = metric.compute(*given[name.split("_")[0]])
        assert isinstance(score, Score)
        assert score.count
        assert bool(((score.values >= metric.low) & (score.values <= metric.high)).all())
    better = {name for name, metric in BOTTLENECK_METRICS.items() if metric.higher_is_better}
    assert better == {"keypoint_pointing", "keypoint_own", "keypoint_swap", "concept_auroc", "accuracy"}


def test_an_explanation_is_taken_as_its_maps() -> None:
    k = birds(1)
    maps = noise(1, 3, 4, 4)
    source = Source("m", "l", "grad_cam", (ImageInfo("p"),))
    explanation = cl.Explanation(maps, None, torch.zeros(1, 3), (("a", "b", "c"),), source)
    assert torch.equal(keypoint_error(explanation, k).values, keypoint_error(maps, k).values)
    assert torch.equal(activation_norm(explanation).values, activation_norm(maps).values)
    assert torch.equal(part_mask_scores(explanation, k)["hit"].values, part_mask_scores(maps, k)["hit"].values)


K = birds(4)
MAPS = noise(4, 3, 5, 5)
FLAGS = torch.ones(4, 3, dtype=torch.bool)
UNSIZED = Keypoints(K.xy, K.visible, K.own, K.present)
TABLE = LabelledActivations(noise(4, 3), FLAGS, torch.arange(4))
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Keypoints(K.xy[:3], K.visible, K.own, K.present), r"expected xy\[image part 2\]"),
    (lambda: Keypoints(K.xy, K.visible[0], K.own, K.present), r"'visible': \(3,\)"),
    (lambda: Keypoints(K.xy, K.visible, K.own, K.present, torch.ones(4)), r"sizes \(4,\)"),
    (lambda: Keypoints(K.xy, K.visible.float(), K.own, K.present), "visible has type torch.float32"),
    (lambda: Keypoints(K.xy * 224, K.visible, K.own, K.present), "outside 0 to 1; give shares"),
    (lambda: Keypoints(K.xy * math.nan, K.visible, K.own, K.present), "outside 0 to 1"),
    (lambda: Keypoints(K.xy, K.visible, K.own, K.present, torch.zeros(4, 2)), "sizes must be finite and above 0"),
    (lambda: keypoint_error(MAPS[:3], K), r"shape \(3, 3, 5, 5\) for 4 images and 3 concepts"),
    (lambda: keypoint_error(MAPS[..., 0], K), r"expected maps\[image concept height width\] or peaks"),
    (lambda: keypoint_swap(MAPS / 0, K), "of 300 values of the maps or peaks are NaN or infinite"),
    (lambda: keypoint_error(MAPS, K, (0, 7)), "expected rows and columns, both at least 1"),
    (lambda: keypoint_distance(MAPS, UNSIZED), r"needs sizes\[image 2\]"),
    (lambda: keypoint_own(MAPS, UNSIZED), r"needs sizes\[image 2\]"),
    (lambda: keypoint_pointing(MAPS, K, 0), "share is 0"),
    (lambda: swapped_error(MAPS, K, by="absence"), "no by 'absence'; there are: other_part, absent"),  # pyright: ignore
    (lambda: constant_peaks(K, -1), "the number of images is -1"),
    (lambda: part_discs(UNSIZED), r"discs need sizes\[image 2\]"),
    (lambda: part_discs(K, radius=0), "radius is 0"),
    (lambda: part_discs(K, (0, 3)), r"size is \(0, 3\)"),
    (lambda: box_masks(torch.ones(3)), r"boxes have shape \(3,\)"),
    (lambda: part_mask_scores(MAPS[:, :2], K), r"for 4 images and 3 concepts of the keypoints"),
    (lambda: activation_norm(MAPS, "mean"), "no kind 'mean'; there are: raw, cells, share, entropy"),  # pyright: ignore
    (lambda: activation_norm(MAPS / 0), "expected finite maps"),
    (lambda: activation_norm(MAPS, present=FLAGS[0]), r"present has shape \(3,\)"),
    (lambda: part_purity(MAPS, K, PARTS[:2]), "2 names of parts, for keypoints of 4 images, 3 concepts and 3 parts"),
    (lambda: part_purity(MAPS, K, PARTS, torch.ones(4)), r"activations have shape \(4,\)"),
    (lambda: part_purity(MAPS, K, PARTS, torch.full((4, 3), math.nan)), "only numbers can be ranked"),
    (lambda: part_purity(MAPS, K, PARTS, patch=300), "patch is 300 and pixels 224"),
    (lambda: concept_auroc(noise(4, 2), FLAGS), r"activations have shape \(4, 2\), labels \(4, 3\)"),
    (lambda: concept_auroc(noise(4, 3), FLAGS.float()), "bool labels of one shape"),
    (lambda: concept_auroc(noise(4, 3) / 0, FLAGS), r"activations of concepts \[0, 1, 2\] are NaN or infinite"),
    (lambda: auroc_interval(noise(4, 3), FLAGS), "no concept has images with and without it"),
    (lambda: class_labels(torch.ones(3), torch.arange(3)), r"expected finite shares\[class concept\]"),
    (lambda: accuracy(noise(4, 3), torch.arange(3)), r"classes \(3,\)"),
    (lambda: effective_concepts(torch.ones(3)), r"weights have shape \(3,\)"),
    (lambda: LabelledActivations(noise(4, 3), FLAGS, torch.arange(4).float()), "expected one whole number"),
    (lambda: LabelledActivations(noise(4, 3), FLAGS, torch.arange(3)), r"classes have shape \(3,\)"),
    (
        lambda: concept_leakage(TABLE, LabelledActivations(noise(4, 2), FLAGS[:, :2], torch.arange(4))),
        "3 concepts and test 2",
    ),
    (lambda: concept_leakage(LabelledActivations(noise(4, 3), FLAGS, torch.ones(4).long()), TABLE), "are of one class"),
    (lambda: concept_leakage(TABLE, TABLE, torch.ones(2)), r"thresholds have shape \(2,\)"),
    (lambda: oracle_impurity(noise(4, 3), FLAGS), "0 of 3 concepts have images with and without them"),
    (lambda: niche_impurity(noise(4, 3), FLAGS, held_out=1), "held_out is 1"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_does_not_fit_is_refused(case: int) -> None:
    ask, message = REFUSED[case]
    with pytest.raises(cl.InputError, match=message):
        ask()
