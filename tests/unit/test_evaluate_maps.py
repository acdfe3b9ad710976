"""Anybody's maps in two lines: against masks, on a data set with masks, by what a network says."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.cams.image_scoring import scored_images
from conceptlens.evaluation.evaluate_maps import DEFAULT_FILLS, WRONG_CONCEPT
from conceptlens.evaluation.evaluated_maps import EvaluatedMaps
from conceptlens.evaluation.score_row import ScoreRow
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.metrics import FAITHFULNESS_METRICS, MAP_MASK_METRICS, Metric, Score, ScoredImages, map_mask_scores
from planted import ColourNet
from planted_words import OnlyColours, planted_model

IMAGES, SIZE = 3, 64
MODEL = planted_model()
DATA = OnlyColours(4)


@pytest.fixture(scope="module")
def batch() -> Tensor:
    """Black images with a square of one colour of the network each."""
    images = torch.zeros(IMAGES, 3, SIZE, SIZE)
    for i in range(IMAGES):
        images[i, i, 16:48, 16:48] = 1
    return images


@pytest.fixture(scope="module")
def masks() -> Tensor:
    found = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.bool)
    found[:, 16:48, 16:48] = True
    return found


@pytest.fixture(scope="module")
def right(masks: Tensor) -> Tensor:
    """Maps of the squares themselves, on a coarser grid, one question."""
    return torch.nn.functional.avg_pool2d(masks[:, None].float(), 8)


@pytest.fixture(scope="module")
def scored(batch: Tensor) -> ScoredImages:
    return cl.metrics.score_module(ColourNet().eval(), batch, torch.arange(IMAGES)[:, None], torch.zeros(3))


def test_arrays_are_scored_against_masks_beside_controls(right: Tensor, masks: Tensor) -> None:
    found = cl.evaluate(right[:, 0].numpy(), masks.numpy())
    assert isinstance(found, EvaluatedMaps)
    assert (found.methods, found.controls) == (("maps", "random", "centre"), ("random", "centre"))
    expected = map_mask_scores(right, masks)
    for name, score in expected.items():
        own = [row for row in found.rows if (row.method, row.metric) == ("maps", name)]
        assert [row.value for row in own] == [score.of(i, 0) for i in range(IMAGES)]
        assert [row.image for row in own] == [f"image[{i}]" for i in range(IMAGES)]
        mean = found.mean("maps", name)
        assert mean is not None
        assert mean.mean == pytest.approx(score.mean())
    lead = {name: found.mean(name, "ranked_area_corrected") for name in found.methods}
    assert lead["maps"].mean > 0.9 > 0.5 > lead["random"].mean  # pyright: ignore
    assert {row.fill for row in found.rows} == {""}
    assert len(found.rows) == 3 * IMAGES * len(MAP_MASK_METRICS)


def test_maps_are_scored_by_a_network_with_two_fills(right: Tensor, scored: ScoredImages) -> None:
    found = cl.evaluate({"right": right, "inverted": 1 - right}, scored)
    assert found.methods == ("right", "inverted", "random", "centre", "edges")
    assert found.controls == ("random", "centre", "edges")
    edges = FAITHFULNESS_METRICS["deletion"].compute(
        cl.metrics.edge_maps(scored.images, 1, (8, 8)), scored, fill="blur"
    )
    assert [row.value for row in found.rows if (row.method, row.metric, row.fill) == ("edges", "deletion", "blur")] == [
        edges.of(i, 0) for i in range(IMAGES)
    ]
    assert list(found.metrics) == [
        "relative_drop_5",
        "relative_drop_10",
        "deletion",
        "insertion",
        "road",
        "comprehensiveness",
        "sufficiency",
    ]
    for name in found.metrics:
        for fill in DEFAULT_FILLS:
            score = FAITHFULNESS_METRICS[name].compute(right, scored, fill=fill)
            own = [row.value for row in found.rows if (row.method, row.metric, row.fill) == ("right", name, fill)]
            assert own == [score.of(i, 0) for i in range(IMAGES)]
    for name in ("deletion", "insertion", "road"):
        means = [found.mean(method, name, "mean").mean for method in ("right", "random", "inverted")]  # pyright: ignore
        assert means == sorted(means, reverse=found.metrics[name].higher_is_better), name
        assert len(set(means)) == 3


def test_explanations_keep_their_names_and_questions() -> None:
    seen = MODEL.observe([DATA[i].photo for i in range(3)])
    targets: list[Any] = [cl.Probability("red"), cl.Probability("blue")]
    explained = cl.cam(seen, targets, "layer_cam")
    found = cl.evaluate(explained, scored_images(seen, targets), ["deletion"], fills=["blur", "mean"], controls=False)
    assert found.methods == ("layer_cam",)
    assert found.controls == ()
    assert [(row.image, row.question, row.fill) for row in found.rows] == [
        (info.name, question, fill)
        for fill in ("blur", "mean")
        for info in seen.image_info
        for question in ("red", "blue")
    ]


def test_a_data_set_is_scored_with_wrong_concepts_and_controls() -> None:
    found = cl.evaluate(["ce_fam", "layer_cam:concept"], DATA, ["ranked_area_corrected"], model=MODEL)
    wrong = [name + WRONG_CONCEPT for name in ("ce_fam", "layer_cam:concept")]
    assert set(found.controls) == {*wrong, "random", "random (oracle)", "centre", "edges"}
    assert found.methods[:2] == ("ce_fam", "layer_cam:concept")
    for name in found.methods[:2]:
        own, other = (found.mean(method, "ranked_area_corrected") for method in (name, name + WRONG_CONCEPT))
        assert own is not None
        assert other is not None
        assert own.mean > 0.8 > 0.1 > other.mean
    built = build_methods(["ce_fam"], MethodContext(MODEL, DATA.concepts))
    given = cl.evaluate(built, DATA, ["ranked_area_corrected"])
    assert [row for row in found.rows if row.method == "ce_fam"] == [r for r in given.rows if r.method == "ce_fam"]


def test_maps_of_a_data_set_name_their_photos() -> None:
    method = build_methods(["ce_fam"], MethodContext(MODEL, DATA.concepts))["ce_fam"]
    photos = [one.photo for one in DATA]
    maps = torch.cat([method(photo, DATA.concepts).maps for photo in photos[:3]])
    own = cl.Explanation.from_maps(maps, [concept.label for concept in DATA.concepts], photos[:3], method="mine")
    found = cl.evaluate(own, DATA, ["iou"])
    expected = cl.evaluate({"mine": method}, DATA, ["iou"])
    assert list(found.rows) == [row for row in expected.rows if row.image in {DATA[i].name for i in range(3)}]
    assert [failure.reason.split(": ")[1][:24] for failure in found.failures] == ["there is no map of this "]
    assert "1 photo could not be scored" in repr(found)
    with pytest.raises(cl.InputError, match=r"no photo could be scored: .*there is no map of this photo"):
        cl.evaluate(cl.Explanation.from_maps(maps[:1], [c.label for c in DATA.concepts], ["elsewhere"]), DATA)


def inside(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> Score:
    large = torch.nn.functional.interpolate(maps, masks.shape[2:], mode="nearest")
    values = (large * masks).sum((2, 3)) / masks.sum((2, 3))
    return Score(values, torch.ones_like(values, dtype=torch.bool))


def top(maps: Tensor, scored: ScoredImages) -> Score:
    """Whether the network's score of the whole image is above one half, whatever the map."""
    whole = scored.run(scored.images, torch.arange(len(scored.images)))
    return Score((whole > 0.5).float(), torch.ones_like(whole, dtype=torch.bool))


def test_metrics_of_ones_own_stand_beside_the_others(right: Tensor, masks: Tensor, scored: ScoredImages) -> None:
    mine = Metric("inside", "mean inside", inside, True, 0, 1, "the map's mean", "this test")
    found = cl.evaluate(right, masks, [mine, "iou"])
    assert list(found.metrics.values()) == [mine, MAP_MASK_METRICS["iou"]]
    assert found.mean("maps", "inside").mean == pytest.approx(1)  # pyright: ignore
    alone = cl.evaluate(right, masks, [mine])
    assert [row for row in found.rows if row.metric == "inside"] == list(alone.rows)
    score = Metric("top", "sure", top, True, 0, 1, "any", "this test")
    by_network = cl.evaluate(right, scored, [score, "deletion"], controls=False)
    assert [(row.metric, row.fill) for row in by_network.rows] == [
        ("top", ""),
        ("top", ""),
        ("top", ""),
        *(("deletion", fill) for fill in DEFAULT_FILLS for _ in range(IMAGES)),
    ]
    on_set = cl.evaluate("centre", DATA, [mine], model=MODEL)
    assert {row.metric for row in on_set.rows} == {"inside"}


def test_rows_load_into_pandas(right: Tensor, masks: Tensor) -> None:
    empty = masks.clone()
    empty[1] = False  # nothing to measure in this image
    found = cl.evaluate(right, empty, ["iou", "hit"])
    frame = found.to_frame()
    values = ["method", "image", "question", "metric", "fill", "value"]
    assert list(frame.columns) == [*values, "compared", "compared_maps"]
    pd.testing.assert_frame_equal(frame[values], pd.DataFrame(list(found.rows)).astype({"value": "float64"}))
    assert frame["compared"].tolist() == frame["value"].notna().tolist()
    assert set(frame["compared_maps"]) == {2}
    assert frame["value"].isna().sum() == 3 * 2
    means = frame.pivot_table("value", "metric", "method")
    assert means.loc["iou", "maps"] == pytest.approx(found.mean("maps", "iou").mean)  # pyright: ignore
    assert [row.value for row in found.rows if row.image == "image[1]"] == [None] * 6


def test_without_pandas_it_says_so(right: Tensor, masks: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cl.evaluate(right, masks, ["iou"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(cl.InputError, match=r"pip install 'conceptlens\[pandas\]'"):
        found.to_frame()


def test_the_table_says_what_is_better_and_what_chance_is(right: Tensor, masks: Tensor, scored: ScoredImages) -> None:
    lines = repr(cl.evaluate(right, masks, ["pointing_energy"])).splitlines()
    assert lines[0].split() == ["metric", "better", "chance", "images", "maps", "random", "centre"]
    assert lines[1].startswith("pointing_energy  higher  the mask's share  ")
    assert lines[2:] == ["3 images; in brackets 95 % intervals, resampling images", "controls: random, centre"]
    table = repr(cl.evaluate(right, scored, ["deletion"], fills=["mean"]))
    assert table.splitlines()[1].split()[:3] == ["deletion", "mean", "lower"]
    nothing = repr(cl.evaluate(right, torch.zeros_like(masks), ["iou"], controls=False)).splitlines()
    assert nothing[1].split()[-1] == "-"


def test_chance_is_said_in_words(right: Tensor, masks: Tensor) -> None:
    lines = repr(cl.evaluate(right, masks)).splitlines()[1 : 1 + len(MAP_MASK_METRICS)]
    said = {line.split()[0]: re.split(r"\s{2,}", line)[2] for line in lines}
    assert said["iou"] == "the mask's share if constant"
    assert said["best_iou"] == "the mask's share or more"
    assert said["top_inside"] == "the larger of the mask's share and 0.05"
    assert not [chance for chance in said.values() if re.search(r"\br\b", chance)]


def test_methods_are_compared_on_the_images_that_they_have_in_common(right: Tensor, scored: ScoredImages) -> None:
    partly, flat = right.clone(), torch.ones_like(right)
    partly[:2] = 0.5  # ranks nothing in two of three images
    sure = Metric("top", "sure", top, True, 0, 1, "any", "this test")
    found = cl.evaluate({"right": right, "partly": partly, "flat": flat}, scored, ["deletion", sure])
    alone = cl.evaluate({"right": right}, scored, ["deletion", sure])
    for fill in DEFAULT_FILLS:
        values = {
            (row.method, row.image): row.value for row in alone.rows if (row.metric, row.fill) == ("deletion", fill)
        }
        for name in ("right", "random", "centre", "edges"):
            mean = found.mean(name, "deletion", fill)
            assert mean is not None
            assert (mean.mean, mean.count, mean.images) == (pytest.approx(values[name, "image[2]"]), 1, 1)
            assert alone.mean(name, "deletion", fill).images == IMAGES  # pyright: ignore
            assert found.mean(name, "top").images == IMAGES  # pyright: ignore
        assert found.mean("partly", "deletion", fill).images == 1  # pyright: ignore
        assert found.mean("flat", "deletion", fill) is None
    assert found.remarks == (
        "2 of 3 images left out of deletion (mean, blur): 'partly' has no value there, as where a map is the same "
        "everywhere",
        "deletion (mean, blur) has no value for any map of 'flat'",
    )
    assert alone.remarks == ()
    lines = repr(found).splitlines()
    at = lines[0].index("images")
    assert [line[at:].split()[0] for line in lines[1:4]] == ["1", "1", "3"]
    assert list(found.remarks) == lines[-2:]
    frame = found.to_frame()
    counted = frame[frame.compared & frame.value.notna()].groupby(["metric", "method"])["image"].nunique()
    assert counted["deletion"].to_dict() == {"right": 1, "partly": 1, "random": 1, "centre": 1, "edges": 1}
    assert set(frame[frame.metric == "deletion"]["compared_maps"]) == {1}
    assert set(frame[frame.metric == "top"]["compared_maps"]) == {3}


def test_methods_without_a_common_image_are_not_compared(right: Tensor, scored: ScoredImages) -> None:
    first, last = right.clone(), right.clone()
    first[1:], last[:2] = 0, 0
    found = cl.evaluate({"first": first, "last": last}, scored, ["deletion"], controls=False)
    assert dict(found.means) == {}
    assert found.remarks == (
        "2 of 3 images left out of deletion (mean, blur): 'first', 'last' have no value there, as where a map is the "
        "same everywhere",
        "1 of 3 images left out of deletion (mean, blur): no method has a value there",
    )
    assert [line.split()[-3:] for line in repr(found).splitlines()[1:3]] == [["0", "-", "-"]] * 2


def test_images_where_no_method_has_a_value_are_said_too(right: Tensor, masks: Tensor) -> None:
    empty = masks.clone()
    empty[1] = False
    twice = right.repeat(1, 2, 1, 1)
    found = cl.evaluate(twice, empty[:, None].repeat(1, 2, 1, 1), ["iou", "pixel_roc"])
    assert found.remarks == ("2 of 6 maps left out of iou, pixel_roc: no method has a value there",)
    lines = repr(found).splitlines()
    assert lines[0].split()[3] == "maps"
    assert found.mean("maps", "iou").count == 4  # pyright: ignore


def test_questions_of_one_name_are_told_apart(right: Tensor, masks: Tensor) -> None:
    twice = cl.Explanation.from_maps(torch.cat([right, 1 - right], 1), ["same", "same"])
    several = masks[:, None].repeat(1, 2, 1, 1)
    several[0, 1] = False
    found = cl.evaluate(twice, several, ["iou"], controls=False)
    assert found.mean("given", "iou").count == 5  # pyright: ignore
    assert found.remarks == ("1 of 6 maps left out of iou: no method has a value there",)


def test_one_fill_alone_is_said(right: Tensor, scored: ScoredImages, masks: Tensor) -> None:
    metrics = ["deletion", "insertion"]
    said = (
        "one fill alone (blur) for deletion, insertion: fills disagree, and with another one methods may change "
        "places; give two, such as fills=['mean', 'blur']"
    )
    for fills in (["blur"], ["blur", "blur"]):
        found = cl.evaluate(right, scored, metrics, fills=fills)
        assert found.remarks == (said,)
        assert repr(found).splitlines()[-1] == said
    for two in (None, ["blur", "inpaint"]):
        assert cl.evaluate(right, scored, metrics, fills=two).remarks == ()
    assert cl.evaluate(right, masks, ["iou"]).remarks == ()


def test_maps_of_captum_and_of_grad_cam(batch: Tensor, masks: Tensor, scored: ScoredImages) -> None:
    attribution = pytest.importorskip("captum.attr")
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net = ColourNet().eval()
    theirs = attribution.LayerGradCam(net, net.features).attribute(batch, target=torch.arange(IMAGES))
    cams = pytorch_grad_cam.GradCAM(net, [net.features])(batch, [targets.ClassifierOutputTarget(i) for i in range(3)])
    assert isinstance(cams, np.ndarray)
    maps = {"captum": theirs, "pytorch-grad-cam": cams}
    by_masks, by_network = cl.evaluate(maps, masks), cl.evaluate(maps, scored)
    for name in maps:
        assert by_masks.mean(name, "pointing_game").mean == 1  # pyright: ignore
        deletion = [by_network.mean(method, "deletion", "mean") for method in (name, "random")]
        assert deletion[0].mean < deletion[1].mean  # pyright: ignore


def method(photo: Any, concepts: Any) -> Any:
    raise AssertionError("never called")


MAPS = torch.rand(IMAGES, 1, 7, 7)
MASKS = torch.ones(IMAGES, SIZE, SIZE, dtype=torch.bool)
NET = ScoredImages(torch.zeros(IMAGES, 3, SIZE, SIZE), lambda variants, rows: torch.full((len(variants), 1), 0.5))
REFUSED = {
    "no data": (lambda: cl.evaluate(MAPS, "drawn:1"), "a str was given as the data; expected bool masks"),  # pyright: ignore
    "the old order": (lambda: cl.evaluate(DATA, {"centre": method}), "a OnlyColours was given as the maps"),  # pyright: ignore
    "no maps": (lambda: cl.evaluate({}, MASKS), "no maps were given"),
    "a number": (lambda: cl.evaluate(3, MASKS), "a int was given as the maps"),  # pyright: ignore
    "a number by name": (lambda: cl.evaluate({"x": 3}, MASKS), "a int was given as the maps"),  # pyright: ignore
    "a method and masks": (lambda: cl.evaluate(method, MASKS), "'method' is a method, which makes maps of the photos"),
    "a name and a network": (lambda: cl.evaluate("centre", NET), "'centre' is a method"),
    "a name, no model": (lambda: cl.evaluate("centre", DATA), "give the model that it explains, as model="),
    "an unknown name": (lambda: cl.evaluate("center", DATA, model=MODEL), "no method 'center'"),
    "an array and a set": (lambda: cl.evaluate(MAPS, DATA), r"give cl\.Explanation\.from_maps"),
    "one map": (lambda: cl.evaluate(MAPS[0, 0], MASKS), r"maps 'maps' have shape \(7, 7\); expected image height"),
    "other images": (lambda: cl.evaluate(MAPS[:2], MASKS), "3"),
    "floating masks": (lambda: cl.evaluate(MAPS, MASKS.float()), "bool"),
    "two sizes": (lambda: cl.evaluate({"a": MAPS, "b": MAPS.repeat(1, 2, 1, 1)}, MASKS), "as the first maps have"),
    "metric of others": (lambda: cl.evaluate(MAPS, MASKS, ["deletion"]), "no metric 'deletion' for this kind of data"),
    "metrics as text": (lambda: cl.evaluate(MAPS, MASKS, "iou"), "metrics are given as str"),
    "no metric": (lambda: cl.evaluate(MAPS, MASKS, []), "no metric is named"),
    "a function": (lambda: cl.evaluate(MAPS, MASKS, [inside]), "metrics hold a function"),  # pyright: ignore
    "a taken name": (
        lambda: cl.evaluate(MAPS, MASKS, [Metric("iou", "x", inside, True, 0, 1, "0", "")]),
        "there is a metric 'iou' already",
    ),
    "twice": (lambda: cl.evaluate(MAPS, MASKS, ["iou", "iou"]), "there is a metric 'iou' already"),
    "fills of masks": (lambda: cl.evaluate(MAPS, MASKS, fills=["mean"]), "fills has no effect with this kind of data"),
    "ignored of a network": (lambda: cl.evaluate(MAPS, NET, ignored=MASKS), "ignored has no effect"),
    "a model and masks": (lambda: cl.evaluate(MAPS, MASKS, model=MODEL), "model has no effect"),
    "fills as text": (lambda: cl.evaluate(MAPS, NET, fills="mean"), "fills are given as str"),
    "no fill": (lambda: cl.evaluate(MAPS, NET, fills=[]), "no fill is named; fills: mean, blur"),
    "an unknown fill": (lambda: cl.evaluate(MAPS, NET, fills=["grey"]), "no fill 'grey'"),
    "no such mean": (lambda: cl.evaluate(MAPS, MASKS, ["iou"]).mean("mine", "iou"), "no method 'mine'; there are"),
    "no such fill": (lambda: cl.evaluate(MAPS, MASKS, ["iou"]).mean("maps", "iou", "blur"), "no fill of iou 'blur'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(cl.InputError, match=said):
        call()


def test_a_network_without_classes_is_scored_without_relative_drops() -> None:
    found = cl.evaluate(MAPS, NET, controls=False)
    assert [name for name in found.metrics if name.startswith("relative")] == []
    assert {row.value for row in found.rows if row.metric == "deletion"} == {0.5}
    assert ScoreRow("maps", "image[0]", "question[0]", "road", "mean", 0.0) in found.rows
