"""A bottleneck measured on drawn birds: figures against plain loops, what does not apply, the cases that are shown."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import conceptlens as cl
from coloured_birds import CLASSES, CONCEPTS, HEIGHT, WIDTH, birds_seen, eye, write_birds
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.evaluate import bottleneck_evaluation as measuring
from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable, read_table
from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, bottleneck_json
from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, SelectedCases, select_cases
from conceptlens.bottleneck.evaluate.evaluation_metrics import HEADS, LEAKAGES
from conceptlens.bottleneck.evaluate.intervention_curve import (
    CONTROL,
    NO_TRAIN,
    NOT_MEASURED,
    PERCENTILES,
    PRESENCE_MEANS,
    by_percentile,
    by_presence_mean,
    intervention_curve,
)
from conceptlens.bottleneck.evaluate.map_metrics import AT_BOXES, AT_KEYPOINTS, PURITIES
from conceptlens.bottleneck.evaluate.metric_result import METRICS, MetricResult
from conceptlens.bottleneck.evaluate.photo_annotations import (
    UNLABELLED,
    attribute_indices,
    boxes_in_input,
    concept_presence,
    keypoints_in_input,
)
from conceptlens.bottleneck.intervention import intervene, remove, with_edits
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.bottleneck.report.bottleneck_sentences import BETTER, EQUAL, WORSE, adding_up, shown, verdict
from conceptlens.bottleneck.report.case_images import CaseImages, region
from conceptlens.bottleneck.report.case_view import CaseView
from conceptlens.bottleneck.report.intervention_view import intervention_sentence
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.cub import Cub
from conceptlens.metrics import (
    Interval,
    LabelledActivations,
    concept_leakage,
    merge_sides,
    part_discs,
    part_purity,
    pointing_energy,
)

LABELS = [concept.label for concept in CONCEPTS]
Measure = Callable[..., BottleneckResult]


@pytest.fixture(scope="module")
def measures(spotter: Bottleneck, bird_model: cl.Backbone, birds: Path) -> BottleneckResult:
    sets = Cub(birds, "test"), Cub(birds, "train")
    return evaluate_bottleneck(spotter, bird_model, *sets, leakage=True, interventions=True, n_bootstrap=200)


@pytest.fixture(scope="module")
def read_one_by_one(spotter: Bottleneck, bird_model: cl.Backbone, birds: Path) -> dict[str, Any]:
    """Return what the bottleneck says of each test photo, observed alone, and what is known of it."""
    photos = Cub(birds, "test")
    readings = [spotter.output(spotter.observe(bird_model, photos[place])) for place in range(len(photos))]
    known = photos.annotation and photos.annotation.keypoints
    assert known is not None
    return {
        "maps": torch.cat([one.maps for one in readings]),
        "activations": torch.cat([one.activations for one in readings]),
        "logits": torch.cat([one.logits for one in readings]),
        "classes": photos.labels.tolist(),
        "kinds": list(CLASSES.values()),
        "points": known,
    }


def present(told: dict[str, Any], photo: int, concept: int) -> bool:
    colour, part = LABELS[concept].split() if " " in LABELS[concept] else ("", "")
    return part != "" and colour in told["kinds"][told["classes"][photo]]


def own_points(told: dict[str, Any], photo: int, concept: int) -> list[tuple[float, float]]:
    """Return where the visible keypoints of a concept's part are, in cells of a 7 x 7 grid."""
    names = {"bill": ["beak"], "wing": ["left wing", "right wing"]}[LABELS[concept].split()[1]]
    known = told["points"]
    places = [known.names.index(name) for name in names]
    return [(7 * known.xy[photo, at, 0], 7 * known.xy[photo, at, 1]) for at in places if known.visible[photo, at]]


def peaks(grid: Tensor) -> list[tuple[float, float]]:
    """Return the centres of a map's highest cells, in cells of a 7 x 7 grid."""
    rows, columns = grid.shape
    return [(7 * (c + 0.5) / columns, 7 * (r + 0.5) / rows) for r, c in (grid == grid.max()).nonzero().tolist()]


def apart(places: list[tuple[float, float]], points: list[tuple[float, float]]) -> float:
    """Return the mean over places of the squared distance to the nearest point."""
    return float(np.mean([min((x - a) ** 2 + (y - b) ** 2 for a, b in points) for x, y in places]))


def errors(told: dict[str, Any], where: Callable[[int, int], list[tuple[float, float]]]) -> list[float]:
    """Return the squared cells from places to the nearest own keypoint, for each pair that counts."""
    found = []
    for photo in range(len(told["classes"])):
        for concept in range(4):
            points = own_points(told, photo, concept)
            if present(told, photo, concept) and points:
                found.append(apart(where(photo, concept), points))
    return found


def mean(figure: MetricResult, control: str | None = None) -> float:
    value = figure.value if control is None else next(c.value for c in figure.controls if c.name == control)
    assert value is not None
    return value.mean


# --- figures against loops


def test_answers_and_concepts_are_those_of_photos_seen_alone(
    measures: BottleneckResult, spotter: Bottleneck, read_one_by_one: dict[str, Any]
) -> None:
    told = read_one_by_one
    right = [int(logits.argmax()) == k for logits, k in zip(told["logits"], told["classes"], strict=True)]
    assert 0.5 < np.mean(right) < 1  # there are errors to speak of
    assert mean(measures.metric("accuracy")) == pytest.approx(np.mean(right))
    assert mean(measures.metric("accuracy"), "commonest") == 0.25
    used = int((spotter.head.weight != 0).sum())
    assert mean(measures.metric("concepts_per_class")) == used / 4
    areas = []
    for concept in range(4):
        own = told["activations"][:, concept]
        shows = torch.tensor([present(told, photo, concept) for photo in range(len(own))])
        pairs = [(float(a), float(b)) for a in own[shows] for b in own[~shows]]
        areas.append(np.mean([float(a > b) + 0.5 * float(a == b) for a, b in pairs]))
    auroc = measures.metric("concept_auroc")
    assert mean(auroc) == pytest.approx(np.mean(areas))
    assert auroc.value is not None
    assert (auroc.value.count, auroc.value.images) == (4, 20)
    assert [one.auroc for one in measures.concepts] == [*map(pytest.approx, areas), None]


def test_places_of_peaks_stand_beside_those_that_know_less(
    measures: BottleneckResult, read_one_by_one: dict[str, Any], birds: Path
) -> None:
    told, figure = read_one_by_one, measures.metric("keypoint_error")
    own = errors(told, lambda photo, concept: peaks(told["maps"][photo, concept]))
    assert mean(figure) == pytest.approx(np.mean(own), rel=1e-5)
    assert figure.value is not None
    assert (figure.value.count, figure.value.images) == (len(own), 20)
    assert mean(figure, "centre") == pytest.approx(np.mean(errors(told, lambda photo, concept: [(3.5, 3.5)])), rel=1e-5)
    cells = [(x + 0.5, y + 0.5) for y in range(7) for x in range(7)]
    every = [errors(told, lambda photo, concept, cell=cell: [cell]) for cell in cells]  # pyright: ignore[reportArgumentType]
    assert mean(figure, "uniform") == pytest.approx(np.mean(every), rel=1e-5)
    train = Cub(birds, "train").annotation
    assert train is not None
    points = train.keypoints
    assert points is not None
    best = {}
    for part, name in (("bill", "beak"), ("wing", "left wing")):
        at = points.names.index(name)
        seen = 7 * points.xy[points.visible[:, at], at]
        best[part] = min(cells, key=lambda cell: float(((seen - np.array(cell)) ** 2).sum()))
    fixed = errors(told, lambda photo, concept: [best[LABELS[concept].split()[1]]])
    assert mean(figure, "constant") == pytest.approx(np.mean(fixed), rel=1e-5)
    gain = figure.control("constant")
    assert gain is not None
    assert gain.difference is not None
    assert gain.difference.mean == pytest.approx(np.mean(own) - np.mean(fixed), rel=1e-4)
    assert verdict(figure, gain.difference) == BETTER
    by_concept = [one.keypoint_error for one in measures.concepts]
    assert by_concept[4] is None
    assert np.average([float(one or 0) for one in by_concept[:4]], weights=[10, 10, 8, 8]) == pytest.approx(
        np.mean(own), rel=1e-5
    )


def test_wrong_concepts_and_other_parts_are_measured_at_the_same_places(
    measures: BottleneckResult, read_one_by_one: dict[str, Any]
) -> None:
    told, other, wrong = read_one_by_one, [], []
    for photo in range(20):
        for concept in range(4):
            points = own_points(told, photo, concept)
            if not present(told, photo, concept) or not points:
                continue
            made = {b: apart(peaks(told["maps"][photo, b]), points) for b in range(4)}
            part = LABELS[concept].split()[1]
            others = [
                made[b]
                for b in range(4)
                if LABELS[b].split()[1] != part and present(told, photo, b) and own_points(told, photo, b)
            ]
            other += [np.mean(others)] if others else []
            wrong.append(np.mean([made[b] for b in range(4) if not present(told, photo, b)]))
    assert mean(measures.metric("keypoint_error"), "other_part") == pytest.approx(np.mean(other), rel=1e-5)
    assert mean(measures.metric("keypoint_error"), "wrong") == pytest.approx(np.mean(wrong), rel=1e-5)


def test_energy_lies_on_the_part_that_is_named(
    measures: BottleneckResult,
    spotter: Bottleneck,
    bird_model: cl.Backbone,
    birds: Path,
    read_one_by_one: dict[str, Any],
) -> None:
    told, photos = read_one_by_one, Cub(birds, "test")
    shows = torch.tensor([[present(told, photo, concept) for concept in range(4)] for photo in range(20)])
    view = bird_model.known_preprocess("no keypoint")
    points = keypoints_in_input(spotter, view, photos, range(20), range(4), shows)
    maps = told["maps"][:, :4]
    score = pointing_energy(maps, part_discs(points))
    assert mean(measures.metric("part_energy")) == pytest.approx(score.mean())
    assert mean(measures.metric("part_energy"), "wrong") < 0.1 < mean(measures.metric("part_energy"))
    box = boxes_in_input(bird_model.known_preprocess("no box"), photos, range(20))
    assert photos.annotation is not None
    assert torch.allclose(box, torch.tensor(photos.annotation.boxes))
    inside = []
    for photo in range(20):
        left, top, right, bottom = box[photo].tolist()
        for concept in range(4):
            if shows[photo, concept]:
                large = torch.nn.functional.interpolate(
                    maps[[photo], [concept]][None].double(), (56, 56), mode="bilinear"
                )
                xs = (torch.arange(56) + 0.5) / 56
                held = ((xs >= top) & (xs <= bottom))[:, None] & ((xs >= left) & (xs <= right))
                energy = large[0, 0].clamp_min(0)
                inside.append(float((energy * held).sum() / energy.sum().clamp_min(1e-9)))  # a hidden wing has none
    assert mean(measures.metric("box_energy")) == pytest.approx(np.mean(inside), rel=1e-4)


def test_purity_is_that_of_each_concept_alone(
    measures: BottleneckResult,
    spotter: Bottleneck,
    bird_model: cl.Backbone,
    birds: Path,
    read_one_by_one: dict[str, Any],
) -> None:
    told, photos = read_one_by_one, Cub(birds, "test")
    view = bird_model.known_preprocess("no keypoint")
    points = keypoints_in_input(spotter, view, photos, range(20), range(4), torch.ones(20, 4).bool())
    names = photos.annotation and photos.annotation.keypoints and photos.annotation.keypoints.names
    pure = part_purity(told["maps"][:, :4], points, merge_sides(names or ()), told["activations"][:, :4])
    for name in PURITIES:
        score = getattr(pure, name.removeprefix("purity_"))
        assert mean(measures.metric(name)) == pytest.approx(score.mean())
        assert mean(measures.metric(name), "random") < mean(measures.metric(name))
    figure = measures.metric("purity_purest")
    assert (figure.resampled, figure.value and figure.value.count) == ("concepts", 4)


def test_norms_speak_of_present_concepts_beside_a_flat_map(
    measures: BottleneckResult, read_one_by_one: dict[str, Any]
) -> None:
    told, cells = read_one_by_one, []
    for photo in range(20):
        for concept in range(4):
            grid = told["maps"][photo, concept].clamp_min(0)
            if present(told, photo, concept) and float(grid.max()) > 0:
                cells.append(float((grid / grid.max()).sum()))
    assert mean(measures.metric("norm_cells")) == pytest.approx(np.mean(cells), rel=1e-5)
    assert mean(measures.metric("norm_cells"), "flat") == 48
    assert mean(measures.metric("norm_entropy"), "flat") == pytest.approx(math.log(48))
    assert measures.metric("norm_raw").controls == ()


def test_leakage_is_that_of_the_concepts_with_labels(
    measures: BottleneckResult, spotter: Bottleneck, bird_model: cl.Backbone, birds: Path
) -> None:
    tables = []
    for split in ("train", "test"):
        photos = Cub(birds, split)
        table = read_table(spotter, bird_model, photos)
        shows = concept_presence(spotter, photos, attribute_indices(spotter, photos), table)[:, :4]
        tables.append(LabelledActivations(table.activations[:, :4], shows, table.classes))
    found = concept_leakage(*tables)
    for name, head in HEADS.items():
        assert mean(measures.metric(name)) == pytest.approx(found.gap(head).mean())
    assert measures.metric("impurity_niche").control("labels") is not None


def true_labels(photos: Cub) -> Tensor:
    """Return 1 or 0 for the four concepts that classes are drawn with, NaN for the fifth."""
    kinds = list(CLASSES.values())
    rows = [[float(label.split()[0] in kinds[k]) for label in LABELS[:4]] for k in photos.labels.tolist()]
    return torch.tensor([[*row, math.nan] for row in rows])


def test_corrections_are_the_curves_of_what_classes_have(
    measures: BottleneckResult, spotter: Bottleneck, bird_model: cl.Backbone, birds: Path
) -> None:
    sets = Cub(birds, "test"), Cub(birds, "train")
    test, train = (read_table(spotter, bird_model, photos) for photos in sets)
    truth, shown_in_train = (true_labels(photos) for photos in sets)
    ends = by_percentile(train.activations, truth)
    ways = {
        PERCENTILES: ends,
        PRESENCE_MEANS: by_presence_mean(train.activations, shown_in_train, truth),
        CONTROL: ends[torch.randperm(20, generator=torch.Generator().manual_seed(0))],
    }
    groups = ("bill, color", "bill, color", "wing, color", "wing, color", "alone: shiny")
    found = measures.interventions
    assert (list(found.curves), found.reason) == (list(ways), "")
    for name, values in ways.items():
        wanted = intervention_curve(
            spotter, test.activations, test.classes, values, groups=groups, counts=(0, 1, 2), n_orders=3
        )
        assert found.curves[name] == wanted
        ends_at = wanted.points[-1].accuracy.mean - wanted.points[0].accuracy.mean
        gain = found.curves[name].gain
        assert gain.mean == pytest.approx(ends_at)
        assert gain.images == 20
    told = bottleneck_json(measures)
    assert told["interventions_reason"] is None
    first, *_, control = told["interventions"]
    assert (first["values"], first["n_orders"], first["groups"], first["images"]) == ("percentiles", 3, 3, 20)
    assert control["values"] == "other photos (control)"
    for one, point in zip(first["points"], found.curves[PERCENTILES].points, strict=True):
        assert (one["corrected"], one["concepts"]) == (point.corrected, point.concepts)
        assert (one["accuracy"], one["low"], one["high"]) == tuple(
            vars(point.accuracy)[k] for k in ("mean", "low", "high")
        )


def test_the_truth_helps_drawn_birds_and_that_of_other_photos_harms(measures: BottleneckResult) -> None:
    curves = measures.interventions.curves
    last = {name: one.points[-1].accuracy.mean for name, one in curves.items()}
    assert last[PERCENTILES] == last[PRESENCE_MEANS] == 1.0
    assert last[CONTROL] < curves[CONTROL].points[0].accuracy.mean
    right = mean(measures.metric("accuracy"))
    assert [one.points[0].accuracy.mean for one in curves.values()] == [pytest.approx(right)] * 3
    said = intervention_sentence(measures)
    assert f"{100 * right:.1f}% of photos are right as the bottleneck reads them" in said
    assert "With all 2 groups of concepts corrected, the truth put in as percentiles" in said
    assert "neither surely helps nor surely harms (95%: 0.0 to 25.0 points)" in said  # of 20 photos, 2 are mended
    assert ": 100.0% are right. Put in as means, it" in said
    assert said.endswith(f"Another photo's truth, the control, leaves {100 * last[CONTROL]:.1f}%.")


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            Interval(-0.446, -0.482, -0.412, 9, 9),
            "the truth put in as percentiles harms by 44.6 points (95%: 41.2 to 48.2): 100.0% are",
        ),
        (Interval(0.084, 0.059, 0.11, 9, 9), "the truth put in as percentiles helps by 8.4 points (95%: 5.9 to 11.0):"),
        (Interval(0.01, -0.02, 0.04, 9, 9), "neither surely helps nor surely harms (95%: −2.0 to 4.0 points):"),
        (Interval(-0.5, None, None, 1, 1), "changes accuracy by −50.0 points:"),
    ],
)
def test_what_corrections_do_is_said_as_surely_as_it_is_known(
    measures: BottleneckResult, gain: Interval, said: str
) -> None:
    curves = measures.interventions.curves
    told = {**curves, PERCENTILES: replace(curves[PERCENTILES], gain=gain)}
    assert said in intervention_sentence(replace(measures, interventions=replace(measures.interventions, curves=told)))


def test_train_photos_are_read_once(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counting(bottleneck: Bottleneck, model: cl.Backbone, photos: Cub, **settings: Any) -> BottleneckTable:
        reads.append(photos.name)
        return read_table(bottleneck, model, photos, **settings)

    monkeypatch.setattr(measuring, "read_table", counting)
    test, train = Cub(birds, "test"), Cub(birds, "train")
    for curves, leakage in ((False, False), (True, False), (True, True)):
        reads.clear()
        found = evaluate_bottleneck(
            spotter, bird_model, test, train, interventions=curves, leakage=leakage, n_bootstrap=20
        )
        assert reads == ["cub train"] * curves
        assert bool(found.interventions.curves) == curves
        assert (found.metric("leakage_task").value is not None) == leakage
    reads.clear()
    alone = evaluate_bottleneck(spotter, bird_model, train, train, interventions=True, n_bootstrap=20)
    assert reads == []  # its own photos are read already
    assert alone.interventions.curves[PERCENTILES].images == 24
    evaluate_bottleneck(spotter, bird_model, train, train, indices=[0, 9, 20], interventions=True, n_bootstrap=20)
    assert reads == ["cub train"]  # of which only some were


# --- what does not apply, and what cannot be read


def test_every_figure_is_there_and_one_without_a_value_says_why(
    spotter: Bottleneck, bird_model: cl.Backbone, tmp_path: Path, birds: Path
) -> None:
    for place, photos in enumerate(Cub(birds, "test")):
        file = tmp_path / list(CLASSES)[int(Cub(birds, "test").labels[place])] / f"{place}.png"
        file.parent.mkdir(exist_ok=True)
        photos.save(file)
    found = evaluate_bottleneck(spotter, bird_model, ClassFolder(tmp_path, "all"), n_bootstrap=50)
    assert [one.name for one in found.metrics] == list(METRICS)
    without = {one.name for one in found.metrics if one.value is None}
    assert without == {"concept_auroc", *AT_KEYPOINTS, *AT_BOXES, *PURITIES, *LEAKAGES}
    assert all(bool(one.reason) == (one.value is None) for one in found.metrics)
    assert "deviations above their mean" in found.presence
    assert (found.n_labelled, found.train) == (0, None)
    active = found.table.activations > spotter.mean + 1.2816 * spotter.std
    assert bool(active.any())
    assert found.metric("norm_cells").value is not None


def test_of_a_view_of_ones_own_no_place_is_measured(birds: Path) -> None:
    model = eye()
    view = model.transform
    own = replace(model, transform=lambda photo: view(photo))  # pyright: ignore[reportOptionalCall]
    found = evaluate_bottleneck(birds_seen(own, birds), own, Cub(birds, "test"), Cub(birds, "train"), n_bootstrap=50)
    assert [one.name for one in found.metrics] == list(METRICS)
    without = {one.name: one.reason for one in found.metrics if one.value is None}
    assert set(without) == {*AT_KEYPOINTS, *AT_BOXES, *PURITIES, *LEAKAGES}
    assert all("preprocessing of its own" in without[name] for name in (*AT_KEYPOINTS, *AT_BOXES, *PURITIES))


def test_without_train_photos_their_control_is_missing_with_its_reason(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path
) -> None:
    found = evaluate_bottleneck(spotter, bird_model, Cub(birds, "test"), leakage=True, n_bootstrap=50)
    control = found.metric("keypoint_error").control("constant")
    assert control is not None
    assert control.value is None
    assert "no train photos" in control.reason
    assert "no train photos" in found.metric("leakage_task").reason
    assert found.metric("impurity_oracle").value is not None


def test_without_labels_train_photos_or_a_wish_there_is_no_curve_and_a_reason(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, tmp_path: Path
) -> None:
    test, train = Cub(birds, "test"), Cub(birds, "train")
    bare = Cub(write_birds(tmp_path, attributes=False), "test")
    for photos, known, asked, reason in (
        (test, train, False, NOT_MEASURED),
        (test, None, True, NO_TRAIN),
        (bare, train, True, UNLABELLED),
    ):
        found = evaluate_bottleneck(spotter, bird_model, photos, known, interventions=asked, n_bootstrap=20)
        told = bottleneck_json(found)
        assert (told["interventions"], told["interventions_reason"]) == ([], reason)
    unknown = Cub(tmp_path, "train")  # nobody knows what its photos show, but what they activate
    found = evaluate_bottleneck(spotter, bird_model, test, unknown, interventions=True, n_bootstrap=20)
    assert list(found.interventions.curves) == [PERCENTILES, CONTROL]
    assert "as means" not in intervention_sentence(found)


def test_parts_of_the_set_give_what_the_whole_gives(
    measures: BottleneckResult,
    spotter: Bottleneck,
    bird_model: cl.Backbone,
    birds: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "MAX_PART", 3)
    sizes: list[int] = []

    real = measuring.read_parts

    def watch(*given: Any) -> Any:
        for part in real(*given):
            sizes.append(len(part.indices))
            yield part

    monkeypatch.setattr(measuring, "read_parts", watch)
    again = evaluate_bottleneck(
        spotter,
        bird_model,
        Cub(birds, "test"),
        Cub(birds, "train"),
        leakage=True,
        interventions=True,
        n_bootstrap=200,
        batch_size=3,
    )
    assert sizes == [3, 3, 3, 3, 3, 3, 2]
    assert bottleneck_json(again) == bottleneck_json(measures)


def test_photos_that_cannot_be_read_are_told_and_left_out(
    spotter: Bottleneck, bird_model: cl.Backbone, tmp_path: Path
) -> None:
    folder = write_birds(tmp_path, train=2, test=2)
    broken = Cub(folder, "test").names[1]
    (folder / "images" / broken).write_bytes(b"no photo")
    (folder / "images" / Cub(folder, "train").names[0]).write_bytes(b"no photo either")
    with pytest.raises(cl.InputError):  # the sizes of boxes and points are read from the header of every photo
        evaluate_bottleneck(spotter, bird_model, Cub(folder, "test"))
    for name in ("parts/part_locs.txt", "bounding_boxes.txt"):
        (folder / name).unlink()
    found = evaluate_bottleneck(spotter, bird_model, Cub(folder, "test"), n_bootstrap=50)
    assert found.photos == 7
    assert [failure.name for failure in found.failures] == [broken]
    assert broken not in found.table.names


def test_numbers_are_json_without_nan(measures: BottleneckResult) -> None:
    told = json.loads(json.dumps(bottleneck_json(measures), allow_nan=False))
    assert [one["name"] for one in told["metrics"]] == list(METRICS)
    error = next(one for one in told["metrics"] if one["name"] == "keypoint_error")
    assert set(error["controls"]) == {"centre", "constant", "uniform", "other_part", "wrong"}
    assert set(error["value"]) == {"mean", "low", "high", "count", "images"}
    assert [one["name"] for one in told["classes"]] == list(CLASSES)
    assert sum(one["confused"] for one in told["classes"]) >= 1


def test_keypoints_and_boxes_follow_the_view(spotter: Bottleneck, bird_model: cl.Backbone, birds: Path) -> None:
    cropped = copy.copy(spotter)
    view = replace(bird_model.transform, size=(32, 32), resize=(48, 64), crop_mode="center")  # pyright: ignore[reportArgumentType, reportCallIssue, reportGeneralTypeIssues]
    cropped.backbone = replace(spotter.backbone, preprocess=view)
    photos = Cub(birds, "test")
    annotation = photos.annotation
    assert annotation is not None
    assert annotation.boxes is not None
    # 32 of 64 columns from the 16th on, 32 of 48 rows from the 8th on
    boxes = boxes_in_input(view, photos, [3])[0]
    wanted = [
        (float(one) * side - start) / 32
        for one, side, start in zip(annotation.boxes[3], (WIDTH, HEIGHT) * 2, (16, 8) * 2, strict=True)
    ]
    assert boxes.tolist() == pytest.approx(wanted)
    assert "no boxes" in _refusal(lambda: boxes_in_input(view, ClassFolder(birds / "images", "all"), [0]))


# --- cases


@pytest.fixture(scope="module")
def table(spotter: Bottleneck, bird_model: cl.Backbone, birds: Path) -> BottleneckTable:
    return read_table(spotter, bird_model, Cub(birds, "all"))


@pytest.fixture(scope="module")
def cases(spotter: Bottleneck, table: BottleneckTable) -> SelectedCases:
    return select_cases(spotter, table, CaseSelection(max_concepts=3))


def _refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(cl.InputError) as caught:
        act()
    return str(caught.value)


EDITS = (Edit(0, 0.0, 0.01), Edit(2, 0.02, 0.02, 1))


@pytest.mark.parametrize("edits", [(), EDITS], ids=["unedited", "edited"])
def test_a_photos_terms_add_up_to_its_logit(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, edits: tuple[Edit, ...]
) -> None:
    edited = with_edits(spotter, edits)
    photos = Cub(birds, "all")
    table = read_table(edited, bird_model, photos)
    for one in select_cases(edited, table, CaseSelection(max_concepts=2, max_photos=6)).photos:
        explained = edited(edited.observe(bird_model, photos[int(table.indices[one.row])]))
        settings = explained.source.settings
        assert list(CLASSES)[one.predicted] == settings["target"][0]  # pyright: ignore[reportIndexIssue]
        assert one.logit == pytest.approx(settings["logit"][0], abs=1e-4)  # pyright: ignore[reportIndexIssue]
        assert one.bias + sum(term.contribution for term in one.terms) + one.rest == pytest.approx(one.logit, abs=1e-5)
        given = explained.contributions
        assert given is not None
        for term in one.terms:
            assert term.contribution == pytest.approx(float(given[0, term.concept]), abs=1e-4)
            assert term.contribution == pytest.approx(term.weight * term.standardized, abs=1e-4)
        assert one.terms[0].contribution == pytest.approx(
            float(given.abs().max()) * np.sign(one.terms[0].contribution), abs=1e-4
        )
        assert one.logit >= one.second_logit


def test_a_pair_is_separated_by_weights_times_activations(spotter: Bottleneck, table: BottleneckTable) -> None:
    (pair,) = select_cases(spotter, table, CaseSelection(pairs=(("robin", "jay"),), max_concepts=3)).pairs
    standard = (table.activations - spotter.mean) / spotter.std
    means = [standard[table.classes == k].mean(0) for k in (0, 1)]
    weight = spotter.head.weight
    wanted = (weight[0] - weight[1]) * (means[0] - means[1])
    assert pair.classes == (0, 1)
    assert {term.concept for term in pair.terms[:2]} == {0, 1}  # the colour of the bill, planted
    for term in pair.terms:
        assert term.difference == pytest.approx(float(wanted[term.concept]), abs=1e-4)
        assert term.weights == pytest.approx([float(weight[k, term.concept]) for k in (0, 1)])
        assert term.means == pytest.approx([float(m[term.concept]) for m in means], abs=1e-4)
    assert sum(term.difference for term in pair.terms) + pair.rest == pytest.approx(pair.total)
    gap = table.logits[:, 0] - table.logits[:, 1]
    assert pair.total == pytest.approx(
        float(gap[table.classes == 0].mean() - gap[table.classes == 1].mean()), abs=1e-4
    )  # the bias falls out
    assert all(row is not None and int(table.classes[row]) == k for k, row in zip((0, 1), pair.rows, strict=True))


def test_an_errors_terms_add_up_and_setting_a_concept_is_an_intervention(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, table: BottleneckTable, cases: SelectedCases
) -> None:
    assert cases.errors
    assert cases.wrong == int((table.predicted != table.classes).sum())
    photos = Cub(birds, "all")
    for error in cases.errors:
        reading = spotter.output(spotter.observe(bird_model, photos[int(table.indices[error.row])]))
        assert (int(table.classes[error.row]), int(reading.logits.argmax())) == (error.truth, error.predicted)
        assert error.bias + sum(term.contribution for term in error.terms) + error.rest == pytest.approx(
            error.margin, abs=1e-5
        )
        assert error.margin == pytest.approx(
            float(reading.logits[0, error.predicted] - reading.logits[0, error.truth]), abs=1e-4
        )
        for term in error.terms:
            then = intervene(spotter, reading, [remove(spotter, term.concept)])
            assert term.predicted_without == int(then.logits.argmax())
        every = intervene(spotter, reading, [remove(spotter, term.concept) for term in error.terms])
        assert error.predicted_without_all == int(every.logits.argmax())
        assert [term.contribution for term in error.terms] == sorted(
            (term.contribution for term in error.terms), reverse=True
        )


def test_misleaders_are_counted_over_all_errors(
    spotter: Bottleneck, table: BottleneckTable, cases: SelectedCases
) -> None:
    weight, standard = spotter.head.weight, (table.activations - spotter.mean) / spotter.std
    counts: dict[int, int] = {}
    righted = 0
    for row in (table.predicted != table.classes).nonzero()[:, 0].tolist():
        truth, answer = int(table.classes[row]), int(table.predicted[row])
        most = int(((weight[answer] - weight[truth]) * standard[row]).argmax())
        counts[most] = counts.get(most, 0) + 1
        then = standard[row].clone()
        then[most] = 0
        righted += int((spotter.head.bias + weight @ then).argmax()) == truth
    led = cases.misleading
    assert {one.concept: one.errors for one in led.concepts} == counts
    assert sum(one.corrected for one in led.concepts) == led.corrected == righted
    for one in led.concepts:
        now = (standard.index_fill(1, torch.tensor([one.concept]), 0.0) @ weight.T + spotter.head.bias).argmax(1)
        right, before = now == table.classes, table.predicted == table.classes
        assert (one.fixed, one.broken) == (int((right & ~before).sum()), int((before & ~right).sum()))


def test_a_class_shows_its_own_photos_for_what_speaks_for_it_and_any_for_what_speaks_against(
    spotter: Bottleneck, table: BottleneckTable
) -> None:
    (jay,) = select_cases(spotter, table, CaseSelection(classes=("jay",), max_concepts=5)).classes
    assert [term.weight for term in jay.terms] == [float(spotter.head.weight[1, term.concept]) for term in jay.terms]
    assert [abs(term.weight) for term in jay.terms] == sorted((abs(t.weight) for t in jay.terms), reverse=True)
    for term, rows in zip(jay.terms, jay.prototypes, strict=True):
        among = table.classes == 1 if term.weight > 0 else torch.ones_like(table.classes).bool()
        active = table.activations[:, term.concept]
        assert float(active[rows[0]]) == float(active[among].max())
        assert all(bool(among[row]) for row in rows)
        assert len(set(rows)) == 3


def test_what_is_shown_is_chosen_or_named(spotter: Bottleneck, table: BottleneckTable, cases: SelectedCases) -> None:
    right = table.predicted == table.classes
    assert len(cases.photos) == 6
    assert [bool(right[one.row]) for one in cases.photos] == [True] * 4 + [False] * 2
    assert len({int(table.classes[one.row]) for one in cases.photos[:4]}) == 4
    a, b, times = cases.confusions[0]
    assert times == int(((table.classes == a) & (table.predicted == b)).sum()) > 0
    assert set(cases.pairs[0].classes) in [{x, y} for x, y, _ in cases.confusions]
    name = table.names[7]
    named = select_cases(
        spotter,
        table,
        CaseSelection(("tit",), (("tit", "robin"),), (name, table.names[3].partition("/")[2]), max_photos=0),
    )
    assert [one.index for one in named.classes] == [3]
    assert [one.row for one in named.photos] == [7, 3]
    assert named.pairs[0].classes == (3, 0)
    assert named.errors == ()
    needed = named.needed()
    assert needed[7] >= {term.concept for term in named.photos[0].terms}


@pytest.mark.parametrize(
    ("choice", "part"),
    [
        (CaseSelection(classes=("robbin",)), "robin"),
        (CaseSelection(pairs=(("tit", "tit"),)), "is one class"),
        (CaseSelection(photos=("nobody.png",)), "no photo 'nobody.png'"),
        (CaseSelection(photos=(".png",)), "photos' names end in"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    spotter: Bottleneck, table: BottleneckTable, choice: CaseSelection, part: str
) -> None:
    assert part in _refusal(lambda: select_cases(spotter, table, choice))


def test_a_set_without_errors_or_without_a_class_shows_what_it_has(spotter: Bottleneck, table: BottleneckTable) -> None:
    rows = ((table.predicted == table.classes) & (table.classes < 2)).nonzero()[:, 0]
    names = tuple(table.names[row] for row in rows.tolist())
    some = {name: getattr(table, name)[rows] for name in ("indices", "classes", "activations", "logits")}
    few = BottleneckTable(names=names, mapped=(), maps=table.maps[rows], **some)
    found = select_cases(spotter, few, CaseSelection(pairs=(("robin", "finch"),)))
    assert (found.wrong, found.errors, found.confusions, found.misleading.concepts) == (0, (), (), ())
    assert {one.index for one in found.classes} == {0, 1}
    (pair,) = found.pairs
    assert pair.terms == ()
    assert pair.rows[1] is None
    assert select_cases(spotter, few, CaseSelection()).pairs  # those that come second most often
    tit = select_cases(spotter, few, CaseSelection(classes=("tit",))).classes[0]
    assert all(len(rows) == 3 for rows in tit.prototypes)  # of other classes, since it has no photo


def test_what_has_no_concept_to_show_is_shown_without(
    spotter: Bottleneck, measures: BottleneckResult, table: BottleneckTable
) -> None:
    silent = copy.deepcopy(spotter)
    with torch.no_grad():
        silent.head.weight.zero_()
    cases = select_cases(silent, table, CaseSelection(classes=("tit",), pairs=(("robin", "jay"),)))
    grey, whole = Image.new("RGB", (64, 48)), (0.0, 0.0, 1.0, 1.0)
    pictures = CaseImages(dict.fromkeys(cases.needed(), grey), dict.fromkeys(cases.needed(), whole), {})
    view = CaseView(silent, replace(measures, table=table), pictures)
    told = view.of_pair(cases.pairs[0])
    assert (told["rows"], told["rest"], told["total"]) == ([], None, "0.00")
    assert view.of_class(cases.classes[0])["rows"] == []


# --- words and pictures


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12))
def test_shown_numbers_add_up_and_stray_by_less_than_their_last_digit(parts: list[float]) -> None:
    told, total = adding_up(parts, sum(parts))
    numbers = [round(100 * float(one.replace("−", "-"))) for one in told]
    assert sum(numbers) == round(100 * float(total.replace("−", "-")))
    assert all(abs(number / 100 - part) < 0.0101 for number, part in zip(numbers, parts, strict=True))


def test_verdicts_follow_the_direction_and_the_interval() -> None:
    lower, higher = MetricResult("keypoint_error", None), MetricResult("accuracy", None)
    assert verdict(lower, Interval(-1, -2, -0.5, 9, 9)) == BETTER
    assert verdict(higher, Interval(-1, -2, -0.5, 9, 9)) == WORSE
    assert verdict(higher, Interval(0.1, -0.1, 0.3, 9, 9)) == EQUAL
    assert verdict(MetricResult("norm_cells", None), Interval(1, 1, 1, 9, 9)) == ""
    assert shown(higher, Interval(0.9512, 0.9504, 0.9521, 9, 9)) == {"value": "95.1%", "spread": "95.0% to 95.2%"}
    assert shown(lower, Interval(1.042, 0.999, 1.089, 9, 9)) == {"value": "1.04", "spread": "1.00 to 1.09"}


def test_a_region_is_where_a_map_reaches_half_of_its_highest_value() -> None:
    grid = np.zeros((4, 4))
    grid[1, 2] = 2.0
    found = region(grid, (0.5, 0.0, 1.0, 1.0), (80, 40))  # the right half of the photo: cells of 10 x 10 pixels
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max()) == (10, 19)
    assert (columns.min(), columns.max()) == (60, 69)
    assert not region(-np.ones((4, 4)), (0, 0, 1, 1), (40, 40)).any()


def test_an_empty_photo_has_a_picture_too(spotter: Bottleneck, bird_model: cl.Backbone, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 48), (128, 128, 128)).save(tmp_path / name / "grey.png")
    found = evaluate_bottleneck(spotter, bird_model, ClassFolder(tmp_path, "all"), n_bootstrap=20)
    assert found.metric("norm_cells").value is None  # no map is above zero, and nothing is present
    assert mean(found.metric("accuracy")) == 0.25
