"""Input of metrics that has no right answer gets a sentence, and what differs in its kind alone the same number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from metric_cases import IMAGES, OWN, SIZE, random_maps, scored_case, true_maps
from torch import nn

import conceptlens as cl
from conceptlens import metrics
from conceptlens.metrics import ScoredImages, as_torchmetric, score_module

MAPS, SCORED, MASKS = random_maps(0), scored_case(), true_maps() > 0
IMAGE = torch.ones(IMAGES, 3, *SIZE)
RIVALS = (OWN + 1) % 4


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 4)).eval()


def meta_explanation() -> cl.Explanation:
    found = cl.Explanation.from_maps(MAPS, ["a", "b"])
    return dataclasses.replace(found, maps=found.maps.to("meta"))


def turned_to_training() -> Any:
    module = net()
    scored = score_module(module, IMAGE, OWN)
    module.train()
    return metrics.deletion(MAPS, scored)


def run_by_a_function(part: nn.Module) -> Callable[[], Any]:
    module = nn.Sequential(net(), part).eval()
    part.train()
    return lambda: metrics.deletion(MAPS, ScoredImages(IMAGE, lambda images, rows: module(images).softmax(1)[:, :2]))


def with_(name: str, value: Any) -> Callable[[], Any]:
    given = {"black": None, "classes": OWN, name: value}
    return lambda: ScoredImages(IMAGE, SCORED.score, given["black"], SCORED.probabilities, given["classes"])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown rival": (
        lambda: metrics.relative_drop(MAPS, SCORED, rivals=torch.full_like(OWN, 99)),
        "a class is 99; the network gives probabilities of 4 classes",
    ),
    "a negative rival": (lambda: metrics.removal_scores(MAPS, SCORED, rivals=OWN - 9), "a class is -9"),
    "a negative class": (
        lambda: metrics.deletion(MAPS, score_module(net(), IMAGE, OWN - 7)),
        "a class is -7; the module gives logits of 4 classes",
    ),
    "one class too high": (
        lambda: metrics.deletion(MAPS, score_module(net(), IMAGE, torch.where(OWN == 1, 4, 0))),
        "a class is 4; the module gives logits of 4 classes",
    ),
    "rivals that are no integers": (
        lambda: metrics.relative_drop(MAPS, SCORED, rivals=RIVALS.float()),
        r"rivals have type torch\.float32; expected integers",
    ),
    "rivals as lists": (
        lambda: metrics.relative_drop(MAPS, SCORED, rivals=RIVALS.tolist()),  # pyright: ignore
        "rivals are of type list; expected a tensor or an array",
    ),
    "rivals of RFxG": (
        lambda: metrics.contrastive_class_score(MAPS, SCORED, RIVALS + 0.5),
        "classes have type torch.float32; expected integers",
    ),
    "classes as a list": (lambda: score_module(net(), IMAGE, [0, 1, 2]), "classes are of type list"),  # pyright: ignore
    "classes in one axis": (lambda: score_module(net(), IMAGE, OWN[:, 0]), "classes have shape"),
    "floating classes": (with_("classes", OWN.float()), "classes have type torch.float32"),
    "black as a list": (with_("black", [0, 0, 0]), "black are of type list"),
    "black that is NaN": (with_("black", torch.full((3,), math.nan)), "expected one value for each colour, finite"),
    "images as an array": (lambda: score_module(net(), IMAGE.numpy(), OWN), "images are ndarray"),  # pyright: ignore
    "half images": (
        lambda: metrics.deletion(MAPS, score_module(net(), IMAGE.half(), OWN)),
        r"weights of type torch\.float32 on cpu, and the images are torch\.float16 on cpu; give images\.to",
    ),
    "half weights": (
        lambda: metrics.deletion(MAPS, score_module(net().half(), IMAGE, OWN)),
        r"weights of type torch\.float16 on cpu, and the images are torch\.float32",
    ),
    "a module turned to training": (turned_to_training, "the module is in training mode"),
    "normalisation in training mode in a function": (
        run_by_a_function(nn.BatchNorm1d(4)), "the module is in training mode"
    ),
    "dropout in training mode in a function": (
        run_by_a_function(nn.Dropout(0.5)), "the module is in training mode"
    ),
    "maps of a network in training mode": (
        lambda: metrics.max_sensitivity(lambda x: MAPS + nn.Conv2d(3, 1, 1)(x).mean(), IMAGE),
        "the module is in training mode",
    ),
    "a radius that is NaN": (
        lambda: metrics.max_sensitivity(lambda x: MAPS, IMAGE, radius=math.nan), "radius is nan; expected a radius"
    ),
    "an array of noise": (
        lambda: metrics.max_sensitivity(lambda x: MAPS, IMAGE.numpy()), "images are ndarray"  # pyright: ignore
    ),
    "three axes to shift": (lambda: metrics.shift_stability(lambda x: MAPS, IMAGE[0]), "images have shape"),
    "edges of an array": (lambda: metrics.edge_maps(IMAGE.numpy()), "images are ndarray"),  # pyright: ignore
    "images without values": (lambda: ScoredImages(IMAGE.to("meta"), SCORED.score), "images are on the device meta"),
    "classes without values": (lambda: score_module(net(), IMAGE, OWN.to("meta")), "classes are on the device meta"),
    "scores without values": (
        lambda: metrics.deletion(MAPS, ScoredImages(IMAGE, lambda images, rows: OWN.float().to("meta"))),
        "scores are on the device meta, which holds no values; give them on the CPU or a GPU",
    ),
    "masks without values": (lambda: cl.evaluate(MAPS, MASKS.to("meta")), "masks are on the device meta"),
    "maps without values": (lambda: cl.evaluate(MAPS.to("meta"), SCORED), "maps are on the device meta"),
    "an explanation without values": (
        lambda: metrics.deletion(meta_explanation(), SCORED), "maps are on the device meta, which holds no values"
    ),
    "the energy of an explanation without values": (
        lambda: metrics.pointing_energy(meta_explanation(), MASKS), "maps are on the device meta"
    ),
    "a random map by a seed in words": (
        lambda: metrics.random_maps(["a"], 1, (2, 2), seed="a"), "seed is 'a'; expected an integer"  # pyright: ignore
    ),
    "shares as text": (lambda: metrics.deletion(MAPS, SCORED, shares="ab"), "shares are 'ab'; expected numbers"),  # pyright: ignore
    "true steps": (lambda: metrics.deletion(MAPS, SCORED, shares=True), "the number of steps is True"),
    "half a sample": (lambda: metrics.infidelity(MAPS, SCORED, samples=2.5), "the number of samples is 2.5"),  # pyright: ignore
    "methods without names": (lambda: metrics.agreement_matrix([MAPS, MAPS]), "expected maps by name"),  # pyright: ignore
    "no module": (lambda: metrics.cascade_similarity(lambda x: MAPS, 3), "the module is 3; expected an nn.Module"),  # pyright: ignore
    "the peak of NaN": (lambda: metrics.peak(MAPS * math.nan), "cells of the maps are NaN or infinite"),
    "the area of NaN": (lambda: metrics.area(MAPS * math.nan), "cells of the maps are NaN or infinite"),
    "the peak of one map": (lambda: metrics.peak(MAPS[0]), "maps have 3 axes; expected image question height width"),
    "no image to evaluate": (lambda: cl.evaluate(MAPS[:0], MASKS[:0]), "expected at least one image, question"),
    "no question to evaluate": (lambda: cl.evaluate(MAPS[:, :0], MASKS[:, 0]), "expected at least one image, question"),
    "NaN to evaluate": (lambda: cl.evaluate(MAPS * math.nan, SCORED), "cells of the maps are NaN or infinite"),
    "objects to evaluate": (lambda: cl.evaluate(np.array([[[None]]]), MASKS), "maps hold values of type object"),
    "a module to evaluate by": (lambda: cl.evaluate(MAPS, net()), "a Sequential was given as the data"),  # pyright: ignore
    "logits to evaluate by": (lambda: cl.evaluate(MAPS, scored_case(logits=True)), "are no probabilities"),
    "ROAD of logits": (
        lambda: cl.evaluate(MAPS, scored_case(logits=True), ["road_most"]), "such as probabilities and not logits"
    ),
    "a negative seed": (lambda: cl.evaluate(MAPS, MASKS, seed=-1), "seed is -1; expected an integer, at least 0"),
    "a seed in words": (lambda: cl.evaluate(MAPS, MASKS, seed="a"), "seed is 'a'; expected an integer"),  # pyright: ignore
}  # fmt: skip


SOFTMAX = "the module gives probabilities already, 0 to 1 and 1 in each row's sum"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_module_that_ends_in_softmax_is_refused(dtype: torch.dtype) -> None:
    linear = nn.Linear(3 * SIZE[0] * SIZE[1], 1000)
    linear.weight.data *= 4
    several = nn.Sequential(nn.Flatten(), linear, nn.Softmax(1)).to(dtype).eval()
    images, ends = IMAGE.to(dtype), (several, nn.Sequential(several, Scaled()).eval())
    for module, refused in zip(ends, (True, False), strict=True):
        scored = score_module(module, images, OWN)
        for run in (scored.run, scored.run_classes):
            if refused:
                with pytest.raises(cl.InputError, match=SOFTMAX):
                    run(images, torch.arange(IMAGES))
            else:
                assert len(run(images, torch.arange(IMAGES))) == IMAGES


class Scaled(nn.Module):
    """Makes numbers of 0 to 1 whose sum is no 1, as sigmoids are, of probabilities."""

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities * 0.9


def test_what_is_said_of_a_softmax_gives_what_score_module_gives_without_it() -> None:
    logits = net()
    ending = nn.Sequential(logits, nn.Softmax(1)).eval()
    with pytest.raises(cl.InputError, match=SOFTMAX):
        metrics.deletion(MAPS, score_module(ending, IMAGE, OWN))
    given = ScoredImages(
        IMAGE,
        lambda images, rows: ending(images).gather(1, OWN[rows]),
        probabilities=lambda images, rows: ending(images),
        classes=OWN,
    )
    for metric in (metrics.deletion, metrics.relative_drop):
        assert torch.equal(metric(MAPS, given).values, metric(MAPS, score_module(logits, IMAGE, OWN)).values)


def test_a_backbone_that_ends_in_softmax_is_refused_too() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)).eval()
    with pytest.raises(cl.InputError, match="ending puts out probabilities"):
        cl.scored_images(cl.Backbone(module, "ending", layers=("0",)).observe(IMAGE), 1)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(cl.InputError, match=said):
        call()


TORCHMETRICS: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown setting": (
        lambda: as_torchmetric(metrics.MAP_MASK_METRICS["iou"], radius=3),
        "metric 'iou' has no setting 'radius'; it takes: explained, masks, ignored, share",
    ),
    "nothing": (lambda: as_torchmetric(metrics.MAP_MASK_METRICS["iou"]).update(), "missing a required argument"),
    "maps alone": (lambda: as_torchmetric(metrics.MAP_MASK_METRICS["iou"]).update(MAPS), "was not given what it takes"),
    "too much": (
        lambda: as_torchmetric(metrics.MAP_MASK_METRICS["iou"]).update(MAPS, MASKS, None, 0.5, 1), "too many positional"
    ),
    "NaN": (lambda: as_torchmetric(metrics.MAP_MASK_METRICS["iou"]).update(MAPS * math.nan, MASKS), "NaN or infinite"),
    "an unknown fill": (
        lambda: as_torchmetric(metrics.FAITHFULNESS_METRICS["road"], fill="grey").update(MAPS, SCORED), "no fill 'grey'"
    ),
    "logits": (
        lambda: as_torchmetric(metrics.FAITHFULNESS_METRICS["road_least"]).update(MAPS, scored_case(logits=True)),
        "such as probabilities and not logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TORCHMETRICS)
def test_torchmetrics_refuse_in_a_sentence(case: str) -> None:
    pytest.importorskip("torchmetrics")
    call, said = TORCHMETRICS[case]
    with pytest.raises(cl.InputError, match=said):
        call()


def test_a_refused_batch_leaves_the_mean_as_it_was() -> None:
    pytest.importorskip("torchmetrics")
    metric = as_torchmetric(metrics.MAP_MASK_METRICS["iou"])
    metric.update(MAPS, MASKS)
    before = float(metric.compute())
    with pytest.raises(cl.InputError):
        metric.update(MAPS * math.nan, MASKS)
    metric.update(MAPS, torch.zeros_like(MASKS))  # empty masks add nothing
    assert float(metric.compute()) == before


def test_modules_that_compute_the_same_in_training_mode_are_let_through() -> None:
    softmax, memory, module = nn.Softmax(1), nn.GRU(4, 4, batch_first=True), net()
    memory.flatten_parameters()
    scored = ScoredImages(IMAGE, lambda images, rows: softmax(memory(module(images))[0])[:, :2])
    assert softmax.training
    assert memory.training
    assert metrics.deletion(MAPS, scored).count == MAPS.shape[0] * MAPS.shape[1]


def test_a_modules_own_error_is_not_hidden() -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(7, 4)).eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        metrics.deletion(MAPS, score_module(broken, IMAGE, OWN))


def test_arrays_steps_and_fills_of_any_kind_give_the_same() -> None:
    steps = metrics.deletion(MAPS, SCORED, shares=np.int64(4)).values  # pyright: ignore
    assert torch.equal(steps, metrics.deletion(MAPS, SCORED, shares=[0, 0.25, 0.5, 0.75, 1]).values)
    assert torch.equal(steps, metrics.deletion(MAPS, SCORED, shares=torch.linspace(0, 1, 5)).values)  # pyright: ignore
    by_tensor, by_array = (metrics.relative_drop(MAPS, SCORED, rivals=one) for one in (RIVALS, RIVALS.numpy()))  # pyright: ignore
    assert torch.equal(by_tensor.values, by_array.values)
    twice = cl.evaluate(MAPS, SCORED, ["deletion"], fills=["mean", "mean"])
    assert len(twice.rows) == len(cl.evaluate(MAPS, SCORED, ["deletion"], fills=["mean"]).rows)


def test_maps_that_float32_does_not_tell_apart_are_the_same_everywhere() -> None:
    nearly = 1 + 1e-10 * MAPS.double()
    for coarse in (nearly, nearly[..., :6, :5]):
        assert metrics.map_spearman(coarse, MAPS).count == metrics.deletion(coarse, SCORED).count == 0
