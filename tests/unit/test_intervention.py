"""Changing concepts and weights: for an image, a class or for good; what it does elsewhere; curves of corrections."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import conceptlens as cl
from bottlenecks import CLASSES, CONCEPTS, LOCATOR_KINDS, cells, made
from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.evaluate.intervention_curve import (
    by_percentile,
    by_presence_mean,
    concept_groups,
    intervention_curve,
)
from conceptlens.bottleneck.intervention import (
    clamp,
    effect,
    intervene,
    remove,
    set_to,
    with_edits,
    with_weights,
    without_edits,
)
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.bottleneck.output import BottleneckOutput
from tolerance import assert_agree

ALL = torch.tensor([0, 1, 2])


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(cl.InputError) as caught:
        act()
    return str(caught.value)


def counts_of(bottleneck: Bottleneck, reading: BottleneckOutput) -> Tensor:
    """Contributions `[image class concept]`, each row checked against its logit."""
    rows = []
    for k in range(3):
        row = bottleneck.contributions(reading, torch.full((len(reading.logits),), k)).detach()
        assert torch.allclose(row.sum(1) + bottleneck.head.bias[k].detach(), reading.logits[:, k].detach(), atol=1e-5)
        rows.append(row)
    return torch.stack(rows, 1)


def frozen(bottleneck: Bottleneck) -> Mapping[str, Any]:
    """Everything of a bottleneck that no intervention may change."""
    state = {name: value.clone() for name, value in bottleneck.state_dict().items()}
    return {"state": state, "edits": bottleneck.edits, "training": copy.deepcopy(bottleneck.training_record)}


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return (
        all(torch.equal(value, b["state"][name]) for name, value in a["state"].items())
        and a["edits"] == b["edits"]
        and a["training"] == b["training"]
    )


# --- an image


@pytest.mark.parametrize("kind", LOCATOR_KINDS)
def test_a_concept_of_an_image_is_set(kind: str) -> None:
    bottleneck = made(kind)
    before, reading = frozen(bottleneck), bottleneck(cells())
    kept = reading.activations.clone()
    changed = intervene(bottleneck, reading, [set_to(bottleneck, "Red  wing", 2.0), set_to(bottleneck, 3, -1.0)])
    assert changed.activations[:, 0].tolist() == [2.0] * 3
    assert changed.activations[:, 3].tolist() == [-1.0] * 3
    assert torch.equal(changed.activations[:, [1, 2, 4]], kept[:, [1, 2, 4]])
    assert changed.maps is reading.maps
    was, now = counts_of(bottleneck, reading), counts_of(bottleneck, changed)
    assert_agree(was[..., [1, 2, 4]], now[..., [1, 2, 4]])
    weight = bottleneck.head.weight.detach()
    expected = weight[:, 0] * (2.0 - bottleneck.mean[0]) / bottleneck.std[0]
    assert torch.allclose(now[..., 0], expected.expand(3, -1), atol=1e-6)
    assert torch.equal(reading.activations, kept)
    assert same(before, frozen(bottleneck))


def test_a_removed_concept_of_an_image_counts_nothing() -> None:
    bottleneck = made()
    reading = bottleneck(cells())
    changed = intervene(bottleneck, reading, [remove(bottleneck, "water")])
    assert not counts_of(bottleneck, changed)[..., 3].any()
    difference = (reading.logits - changed.logits).detach()
    assert torch.allclose(difference, counts_of(bottleneck, reading)[..., 3], atol=1e-5)
    assert float(difference.abs().min()) > 1e-3


def test_a_clamped_concept_of_an_image_keeps_what_lies_between() -> None:
    bottleneck = made()
    reading = bottleneck(cells(9))
    values = reading.activations[:, 2].detach()
    low, high = float(values.sort().values[3]), float(values.sort().values[6])
    both = intervene(bottleneck, reading, [clamp(bottleneck, 2, low, high)]).activations[:, 2]
    assert torch.equal(both, values.clamp(low, high))
    assert torch.equal(
        intervene(bottleneck, reading, [clamp(bottleneck, 2, high=0.0)]).activations[:, 2].clamp(0), both * 0
    )
    above = intervene(bottleneck, reading, [clamp(bottleneck, 2, low=high)]).activations[:, 2]
    assert torch.equal(above, values.clamp(min=high))


def test_an_intervention_that_an_edit_for_good_undoes_is_refused() -> None:
    bottleneck = with_edits(made(), [clamp(made(), "water", -0.1, 0.1), set_to(made(), "long tail", 1.0, "wren")])
    reading = bottleneck(cells())
    said = refusal(lambda: intervene(bottleneck, reading, [set_to(bottleneck, "water", 3.0)]))
    assert said == "an edit for good does not let 'water' be 3; take it back first with without_edits"
    intervene(bottleneck, reading, [set_to(bottleneck, "water", 0.05), clamp(bottleneck, "water", -5, 5)])
    free = without_edits(bottleneck, "water")
    assert free.edits == bottleneck.edits[1:]
    assert intervene(free, reading, [set_to(free, "water", 3.0)]).activations[0, 3] == 3
    changed = counts_of(bottleneck, intervene(bottleneck, reading, [set_to(bottleneck, "long tail", 9.0)]))
    weight, mean, deviation = bottleneck.head.weight.detach()[:, 2], bottleneck.mean[2], bottleneck.std[2]
    expected = weight * (torch.tensor([9.0, 1.0, 9.0]) - mean) / deviation  # the wren sees what was set for it
    assert torch.allclose(changed[0, :, 2], expected, atol=1e-5)


def test_an_edit_of_one_class_is_none_of_an_image() -> None:
    bottleneck = made()
    said = refusal(lambda: intervene(bottleneck, bottleneck(cells()), [set_to(bottleneck, 0, 1.0, "crow")]))
    assert said == "an image's concept is the same for all classes, and 'crow' was named; use with_edits"


# --- a class, and for good


def test_a_removed_concept_of_a_class_counts_nothing_there() -> None:
    given = made("two peaks")
    before = frozen(given)
    edited = with_edits(given, [remove(given, "long tail", "wren", "tails are cut off in this set")])
    assert same(before, frozen(given))
    was, now = counts_of(given, given(cells())), counts_of(edited, edited(cells()))
    assert not now[:, 1, 2].any()
    now[:, 1, 2] = was[:, 1, 2]
    assert_agree(was, now)
    assert edited.edits[0].note == "tails are cut off in this set"


def test_an_edit_for_good_is_felt_by_every_class_and_survives_its_folder(tmp_path: Path) -> None:
    given = made("parts")
    edited = with_edits(given, [remove(given, "water"), clamp(given, "red wing", high=0.0)])
    counts = counts_of(edited, edited(cells(8)))
    assert not counts[..., 3].any()
    assert counts_of(given, given(cells(8)))[..., 3].all()
    again = Bottleneck.from_pretrained(edited.save_pretrained(tmp_path))
    assert again.edits == edited.edits
    assert torch.equal(again(cells(8)).logits, edited(cells(8)).logits)
    assert torch.equal(without_edits(again)(cells(8)).logits, given(cells(8)).logits)


def test_the_last_edit_of_a_concept_and_class_counts() -> None:
    given = made()
    first = with_edits(given, [set_to(given, 0, 1.0), set_to(given, 0, 2.0, "tern"), set_to(given, 1, 1.0)])
    second = with_edits(first, [clamp(given, 0, 3.0, 5.0)])
    assert [(edit.concept, edit.target, edit.low) for edit in second.edits] == [
        (0, 1 - 1, 2.0),
        (1, None, 1.0),
        (0, None, 3.0),
    ]
    assert_agree(second(cells()).standardized[:, 0], (torch.tensor(3.0) - given.mean[0]).expand(3) / given.std[0])
    assert len(first.edits) == 3
    assert without_edits(second, "red wing").edits == (second.edits[1],)


def test_a_copy_shares_the_weights_of_the_network_that_were_trained_too() -> None:
    given = made(backbone=BackboneReference("nobody", "", None, {"deep.weight": torch.ones(3)}))
    edited = with_edits(given, [])
    assert edited.backbone is given.backbone
    assert edited.weight.data_ptr() != given.weight.data_ptr()
    assert edited.training_record is not given.training_record


def test_names_are_checked_where_an_edit_is_made() -> None:
    bottleneck = made()
    assert "near names: red wing" in refusal(lambda: set_to(bottleneck, "redwing", 1.0))
    assert "near names: crow" in refusal(lambda: remove(bottleneck, "water", "crows"))
    assert "within reach" in refusal(lambda: set_to(bottleneck, "water", float("inf")))
    assert "low <= high" in refusal(lambda: clamp(bottleneck, "water", 2, 1))


# --- weights


def test_a_changed_weight_changes_its_class_alone() -> None:
    given = made("softmax")
    before = frozen(given)
    edited = with_weights(given, {("wren", "water"): 0.0, (1, "red wing"): 2.5}, "water is no sign of a wren")
    assert same(before, frozen(given))
    was, now = given(cells()).logits.detach(), edited(cells()).logits.detach()
    assert_agree(was[:, [0, 2]], now[:, [0, 2]])
    counts = counts_of(edited, edited(cells()))
    assert not counts[:, 1, 3].any()
    assert_agree(counts[:, 1, 0], 2.5 * edited(cells()).standardized[:, 0].detach())
    told = edited.training_record["weights_edited"]
    assert told[0] == {"class": 1, "concept": 3, "from": float(given.head.weight.detach()[1, 3]), "to": 0.0,
                       "note": "water is no sign of a wren"}  # fmt: skip
    twice = with_weights(edited, {(0, 0): 1.0})
    assert len(twice.training_record["weights_edited"]) == 3
    assert len(told) == 2


def test_changed_weights_survive_their_folder(tmp_path: Path) -> None:
    edited = with_weights(made(), {("wren", "water"): 1 / 3})
    again = Bottleneck.from_pretrained(edited.save_pretrained(tmp_path))
    assert torch.equal(again(cells()).logits, edited(cells()).logits)
    assert again.training_record == edited.training_record


def test_weights_that_are_none_are_refused() -> None:
    assert "'water' for 'wren' is nan" in refusal(lambda: with_weights(made(), {("wren", "water"): float("nan")}))
    assert "class 3 was given" in refusal(lambda: with_weights(made(), {(3, 0): 1.0}))


# --- the effect on all classes


def table(images: int = 60, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Activations and classes that a bottleneck of random weights gets partly right."""
    activations = torch.randn(images, 5, generator=torch.Generator().manual_seed(seed))
    logits = made().classify(activations[..., None, None], activations).logits
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed + 1))
    return activations, (logits.detach() + 1.5 * noise).argmax(1)


def slow_guess(bottleneck: Bottleneck, row: Tensor) -> int:
    """The prediction for one row of a table."""
    return int(bottleneck.classify(row[None, :, None, None], row[None]).logits.argmax())


def test_an_effect_counts_image_by_image() -> None:
    given = made()
    edited = with_edits(given, [set_to(given, "red wing", 1.5), remove(given, "water", "crow")])
    activations, classes = table()
    kept = activations.clone()
    found = effect(given, edited, activations, classes)
    assert torch.equal(kept, activations)
    was = [slow_guess(given, row) for row in activations]
    now = [slow_guess(edited, row) for row in activations]
    truth = classes.tolist()
    pairs = list(zip(was, now, truth, strict=True))
    assert found.images == 60
    assert found.before == pytest.approx(sum(a == t for a, _, t in pairs) / 60)
    assert found.after == pytest.approx(sum(b == t for _, b, t in pairs) / 60)
    assert found.changed == sum(a != b for a, b, _ in pairs) > 5
    assert found.fixed == sum(a != t == b for a, b, t in pairs) > 0
    assert found.broken == sum(a == t != b for a, b, t in pairs) > 0
    for k, one in enumerate(found.classes):
        own = [pair for pair in pairs if pair[2] == k]
        assert (one.name, one.images) == (CLASSES[k], len(own))
        assert one.before == pytest.approx(sum(a == k for a, _, _ in own) / len(own))
        assert one.after == pytest.approx(sum(b == k for _, b, _ in own) / len(own))
        assert one.gained == sum(a != k == b for a, b, _ in pairs)
        assert one.lost == sum(a == k != b for a, b, _ in pairs)
    assert sum(count for _, _, count in found.moves) == found.changed
    for source, target, count in found.moves:
        assert count == sum((CLASSES[a], CLASSES[b]) == (source, target) for a, b, _ in pairs)
    assert [count for _, _, count in found.moves] == sorted([count for *_, count in found.moves], reverse=True)


def test_an_effect_reads_as_a_table() -> None:
    given = made()
    activations, classes = table()
    text = str(effect(given, with_edits(given, [set_to(given, 0, 1.5)]), activations, classes))
    first, head, *rows = text.splitlines()
    assert first.startswith("60 images: accuracy 0.")
    assert head.split() == ["class", "images", "before", "after", "gained", "lost"]
    assert {row.split()[0] for row in rows} <= set(CLASSES)
    assert len({len(row) for row in (head, *rows)}) == 1
    nothing = effect(given, with_edits(given, []), activations, classes)
    assert (nothing.changed, nothing.moves, nothing.before) == (0, (), nothing.after)
    assert len(str(nothing).splitlines()) == 1


def test_a_class_without_images_has_no_accuracy() -> None:
    given = made()
    activations, _ = table()
    found = effect(given, with_edits(given, [set_to(given, 0, 9.0)]), activations, [0] * 60)
    assert [(one.images, one.before is None, one.after is None) for one in found.classes][1:] == [(0, True, True)] * 2
    assert "-" in str(found)


def test_an_effect_on_a_table_is_the_effect_on_its_photos() -> None:
    given = made("parts")
    edited = with_weights(given, {("tern", 1): 4.0, ("crow", 0): -4.0})
    seen = cells(40)
    reading = given(seen)
    found = effect(given, edited, reading.activations.detach(), [1] * 40)
    now = edited(seen).logits.argmax(1)
    assert found.after == pytest.approx(float((now == 1).double().mean()))
    assert found.changed == int((reading.logits.argmax(1) != now).sum()) > 0


@pytest.mark.parametrize(
    ("activations", "classes", "said"),
    [
        (torch.zeros(4, 6), [0] * 4, "activations have shape (4, 6); expected image concept"),
        (torch.zeros(0, 5), [], "at least one image"),
        (torch.full((4, 5), torch.nan), [0] * 4, "NaN or infinite"),
        (torch.zeros(4, 5), [0] * 3, "(3,) classes for 4 images"),
        (torch.zeros(4, 5), [0.0] * 4, "one number for each"),
        (torch.zeros(4, 5), [0, 1, 2, 3], "classes go from 0 to 3; the bottleneck has 0 to 2"),
        (torch.zeros(4, 5), [0, 1, -1, 2], "from -1"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(activations: Tensor, classes: Any, said: str) -> None:
    given = made()
    assert said in refusal(lambda: effect(given, given, activations, classes))
    assert said in refusal(lambda: intervention_curve(given, activations, classes, activations, given.labels, [0]))


def test_an_effect_compares_one_bottleneck_with_itself() -> None:
    other = Bottleneck(CONCEPTS[:4], CLASSES, "deep", 6, made().locator, (5, 4), BackboneReference("nobody", ""))
    assert "other concepts or classes" in refusal(lambda: effect(made(), other, *table()))


# --- curves of corrections


def a_world(images: int = 240, seed: int = 0) -> tuple[Bottleneck, dict[str, Tensor]]:
    """Four classes that differ in eight concepts, of which each image shows its class's, read with noise."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0, 0, 1],
                          [0, 0, 0, 1, 0, 1, 0, 1]]).float()  # fmt: skip
    classes = torch.arange(images) % 4
    truth = shown[classes]
    activations = truth + 0.9 * torch.randn(truth.shape, generator=generator)
    concepts = [cl_concept(f"concept {i}", "wing" if i < 4 else "tail", "colour" if i % 2 else None) for i in range(8)]
    bottleneck = Bottleneck(concepts, list("abcd"), "deep", 6, made().locator, (5, 4), BackboneReference("nobody", ""))
    with torch.no_grad():
        bottleneck.head.weight.copy_(2 * shown - 1)
        bottleneck.mean.fill_(0.5)
    half = images // 2
    return bottleneck.eval(), {
        "train": activations[:half], "train classes": classes[:half],
        "test": activations[half:], "classes": classes[half:], "truth": truth[half:],
    }  # fmt: skip


def cl_concept(label: str, part: str | None, kind: str | None) -> Any:
    return type(CONCEPTS[0])(label, part, None, None, kind)


def test_corrections_are_percentiles_of_training_activations() -> None:
    _, world = a_world()
    truth = world["truth"].clone()
    truth[0, 0], truth[1, 1], truth[2, 2] = torch.nan, 0.5, 0.49
    found = by_percentile(world["train"], truth)
    low, high = np.percentile(world["train"].numpy(), [5, 95], axis=0)
    for n in range(len(truth)):
        for i in range(8):
            value = float(found[n, i])
            if (n, i) == (0, 0):
                assert np.isnan(value)
            else:
                assert value == pytest.approx(high[i] if float(truth[n, i]) >= 0.5 else low[i], abs=1e-6)


def test_corrections_by_presence_are_means_of_those_that_show_it() -> None:
    _, world = a_world()
    shown = world["truth"].roll(1, 0).clone()  # any labels: only means are asked
    shown[:, 7], shown[3, 0] = 1.0, torch.nan
    asked = torch.tensor([[1.0, 0.0, 0.6, 0.4, torch.nan, 0.0, 1.0, 1.0]])
    found = by_presence_mean(world["train"], shown, asked)[0].tolist()
    for i, value in enumerate(found):
        if i in (4, 7):
            assert np.isnan(value), "not known, or shown by all"
            continue
        wanted = float(asked[0, i]) >= 0.5
        told = [n for n in range(120) if not bool(shown[n, i].isnan()) and (float(shown[n, i]) >= 0.5) == wanted]
        assert value == pytest.approx(sum(float(world["train"][n, i]) for n in told) / len(told), abs=1e-5)
    assert "the truth of training images is (1, 8)" in refusal(lambda: by_presence_mean(world["train"], asked, asked))


def alone(bottleneck: Bottleneck) -> tuple[str, ...]:
    """Each concept a group of its own."""
    return bottleneck.labels


def test_true_values_help_and_others_do_not() -> None:
    bottleneck, world = a_world()
    corrections = by_percentile(world["train"], world["truth"])
    call = (bottleneck, world["test"], world["classes"])
    curve = intervention_curve(*call, corrections, alone(bottleneck), range(9), n_orders=5)
    means = [point.accuracy.mean for point in curve.points]
    assert [point.corrected for point in curve.points] == list(range(9)) == [round(p.concepts) for p in curve.points]
    assert means[0] < 0.9
    assert means[-1] == 1.0
    assert means[4] > means[0] + 0.05
    assert all(p.accuracy.low <= p.accuracy.mean <= p.accuracy.high for p in curve.points)  # pyright: ignore
    assert (curve.images, curve.groups, curve.n_orders) == (120, 8, 5)
    shuffled = corrections[(torch.arange(120) + 1) % 120]
    control = intervention_curve(*call, shuffled, alone(bottleneck), range(9), n_orders=5)
    assert control.points[0] == curve.points[0]
    assert control.points[-1].accuracy.mean == 0.0
    first, _, *rows = str(curve).splitlines()
    assert first == "8 groups, 120 images"
    assert len(rows) == 9


def slow_right(
    bottleneck: Bottleneck, row: Tensor, values: Tensor, order: list[str], groups: list[str], count: int, truth: int
) -> bool:
    now = row.clone()
    for name in order[:count]:
        for i, group in enumerate(groups):
            if group == name and not bool(values[i].isnan()):
                now[i] = values[i]
    return slow_guess(bottleneck, now) == truth


@pytest.mark.parametrize("grouped", [False, True])
def test_a_curve_is_image_by_image(grouped: bool) -> None:
    bottleneck, world = a_world(80)
    bottleneck = with_edits(bottleneck, [clamp(bottleneck, 5, high=0.8), set_to(bottleneck, 1, 0.9, "c")])
    truth = world["truth"].clone()
    truth[torch.rand(truth.shape, generator=torch.Generator().manual_seed(3)) < 0.3] = torch.nan
    corrections = by_percentile(world["train"], truth)
    groups = list(concept_groups(bottleneck.concepts)) if grouped else list(alone(bottleneck))
    names = list(dict.fromkeys(groups))
    curve = intervention_curve(
        bottleneck, world["test"], world["classes"], corrections, groups, range(len(names) + 1), n_orders=1
    )
    noise = torch.rand((40, len(names)), generator=torch.Generator().manual_seed(0))
    for point in curve.points:
        right, put = 0, 0
        for n, row in enumerate(world["test"]):
            scores = {}
            for column, name in enumerate(names):
                own = [i for i, g in enumerate(groups) if g == name and not bool(truth[n, i].isnan())]
                scores[name] = float(noise[n, column]) if own else -np.inf
            best = sorted(scores, key=lambda name: -scores[name])
            put += sum(not bool(truth[n, i].isnan()) for i, g in enumerate(groups) if g in best[: point.corrected])
            right += slow_right(
                bottleneck, row, corrections[n], best, groups, point.corrected, int(world["classes"][n])
            )
        assert point.accuracy.mean == pytest.approx(right / 40)
        assert point.concepts == pytest.approx(put / 40)


def test_concepts_of_one_part_and_kind_are_corrected_at_once() -> None:
    bottleneck, world = a_world()
    groups = concept_groups(bottleneck.concepts)
    assert groups == ("wing", "wing, colour") * 2 + ("tail", "tail, colour") * 2
    assert concept_groups(CONCEPTS)[2:] == ("tail, shape", "alone: water", "wing, colour")
    corrections = by_percentile(world["train"], world["truth"])
    curve = intervention_curve(bottleneck, world["test"], world["classes"], corrections, groups, range(5))
    assert [(p.corrected, p.concepts) for p in curve.points] == [(n, pytest.approx(2 * n)) for n in range(5)]


def test_random_orders_are_seeded_and_averaged() -> None:
    bottleneck, world = a_world()
    corrections = by_percentile(world["train"], world["truth"])

    def curve(**settings: Any) -> list[float]:
        call = (bottleneck, world["test"], world["classes"], corrections, alone(bottleneck))
        return [point.accuracy.mean for point in intervention_curve(*call, counts=[0, 2, 8], **settings).points]

    assert curve() == curve()
    assert curve(seed=1) != curve()
    single = [curve(n_orders=1, seed=0)[1], curve(n_orders=1, seed=1)[1], curve(n_orders=1, seed=2)[1]]
    assert len(set(single)) > 1
    assert curve(n_orders=40)[1] == pytest.approx(curve(n_orders=40, seed=7)[1], abs=0.02)
    assert curve()[0] == curve(n_orders=1)[0]


def test_unknown_concepts_are_never_corrected() -> None:
    bottleneck, world = a_world()
    nothing = by_percentile(world["train"], torch.full_like(world["truth"], torch.nan))
    call = (bottleneck, world["test"], world["classes"])
    curve = intervention_curve(*call, nothing, alone(bottleneck), range(9))
    assert len({point.accuracy.mean for point in curve.points}) == 1
    assert {point.concepts for point in curve.points} == {0.0}
    half = world["truth"].clone()
    half[:, ::2] = torch.nan  # known ones come first: four corrections are all there are
    curve = intervention_curve(*call, by_percentile(world["train"], half), alone(bottleneck), range(9))
    assert [point.concepts for point in curve.points] == pytest.approx([0, 1, 2, 3, 4, 4, 4, 4, 4])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_orders": 0}, "at least one order"),
        ({"groups": ["wing"]}, "1 groups are named for 8 concepts"),
        ({"counts": [0, 9]}, "counts are [0, 9]; give numbers of corrected groups from 0 to 8"),
        ({"counts": []}, "counts are []"),
    ],
)
def test_settings_of_a_curve_are_checked(settings: dict[str, Any], said: str) -> None:
    bottleneck, world = a_world()
    corrections = by_percentile(world["train"], world["truth"])
    call = (bottleneck, world["test"], world["classes"])
    chosen: dict[str, Any] = {"groups": alone(bottleneck), "counts": [0, 1], **settings}
    assert said in refusal(lambda: intervention_curve(*call, corrections, **chosen))
    fewer = corrections[[0, 1]]
    assert "corrections are (2, 8), activations (120, 8)" in refusal(
        lambda: intervention_curve(*call, fewer, alone(bottleneck), [0])
    )


def test_truth_that_is_no_share_is_refused() -> None:
    _, world = a_world()
    assert "shares from 0 to 1 or NaN" in refusal(lambda: by_percentile(world["train"], 100 * world["truth"]))
    assert "expected finite image concept, 7" in refusal(lambda: by_percentile(world["train"], world["truth"][:, :7]))
