"""Every metric of every table: known extremes, invariances, kinds of numbers, and input that has no right answer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from metric_cases import (
    EVERY_METRIC,
    IMAGES,
    OWN,
    QUESTIONS,
    SIZE,
    given_for,
    measured,
    random_maps,
    scored_case,
    true_maps,
)
from torch import Tensor

import conceptlens as cl
from conceptlens import metrics
from conceptlens.metrics import FAITHFULNESS_METRICS, MAP_MAP_METRICS, MAP_MASK_METRICS, Score, ScoredImages
from tolerance import assert_agree

# These explain again; what is best and worst for them is a function, not a map.
EXPLAIN = {name for name in EVERY_METRIC if "explain" in given_for(EVERY_METRIC[name], true_maps())}
OF_MODEL = {name for name in EVERY_METRIC if "scored" in given_for(EVERY_METRIC[name], true_maps())}
# They read more of a map than the order of its pixels.
NOT_OF_RANKS = {
    "average_drop", "increase_in_confidence", "infidelity", "completeness", "pointing_energy", "pointing_energy_minmax",
    "iou", "map_pearson", "map_ssim", "part_importance", "concept_deletion", "concept_insertion", "max_sensitivity",
}  # fmt: skip
# They take scores of any unit.
ANY_SCORE = {"road", "road_most", "road_least", "infidelity", "completeness", "part_importance"}
# They remove pixels in a map's order, or compare orders, so a map that is the same everywhere has no answer.
ORDERED = (set(FAITHFULNESS_METRICS) - {"infidelity", "completeness"}) | set(MAP_MAP_METRICS) | {
    "contrastive_class_score", "class_group_score", "pointwise_group_score", "contrastive_group_score",
    "group_relative_drop", "shift_stability", "cascade_similarity", "random_label_similarity",
}  # fmt: skip
# Its best factor may be negative, so it is blind to a map's sign; the released formula adds what it should set against.
BLIND = {"infidelity", "contrastive_group_score"}
every = pytest.mark.parametrize("name", EVERY_METRIC)


def better(name: str, one: Score, other: Score) -> bool:
    first, second = one.mean(), other.mean()
    assert first is not None
    assert second is not None
    return (first > second) == EVERY_METRIC[name].higher_is_better and first != pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(EVERY_METRIC) - EXPLAIN - BLIND - {"random_label_similarity"}))
def test_the_truth_beats_chance_and_chance_beats_its_negative(name: str) -> None:
    metric = EVERY_METRIC[name]
    best, worst = (measured(metric, maps) for maps in (true_maps(), -true_maps()))
    assert best.count == IMAGES * QUESTIONS
    assert better(name, best, worst)
    drawn = [measured(metric, random_maps(seed).abs() * true_maps().mean()) for seed in range(6)]
    middle = np.mean([one.mean() for one in drawn])  # pyright: ignore
    sign = 1 if metric.higher_is_better else -1
    assert sign * best.mean() > sign * middle >= sign * worst.mean()  # pyright: ignore


@pytest.mark.parametrize("name", sorted(BLIND))
def test_what_is_blind_to_the_direction_says_so(name: str) -> None:
    said = {"infidelity": "a map turned around has the same value", "contrastive_group_score": "does not contrast"}
    assert said[name] in str(EVERY_METRIC[name].compute.__doc__)
    if name == "infidelity":
        best, worst = (measured(EVERY_METRIC[name], maps) for maps in (true_maps(), -true_maps()))
        assert_agree(best.values, worst.values)
        assert better(name, *(measured(EVERY_METRIC[name], m, scaled=False) for m in (true_maps(), -true_maps())))


@every
def test_a_map_that_is_the_same_everywhere_ranks_nothing(name: str) -> None:
    found = measured(EVERY_METRIC[name], torch.full_like(true_maps(), 0.25))
    assert (found.count == 0) == (name in ORDERED)


# What the table says of a map that knows nothing, for a mask that holds the share `r` of the pixels.
CHANCE: dict[str, Callable[[float], float]] = {
    "r": lambda r: r,
    "r or more": lambda r: r,
    "r if constant": lambda r: r,
    "0.5": lambda r: 0.5,
    "0.05": lambda r: 0.05,
    "0": lambda r: 0.0,
    "near 0 for noise": lambda r: 0.0,
    "the larger of r and 0.05": lambda r: max(r, 0.05),
    "0.10 to 0.17": lambda r: 0.135,
}
LEVELS = {name: one for name, one in EVERY_METRIC.items() if not one.chance.startswith(("that of", "0 of", "1 of"))}


@pytest.mark.parametrize("name", LEVELS)
def test_random_maps_have_the_level_that_the_table_says(name: str) -> None:
    metric = LEVELS[name]
    if metric.chance == "r if constant":
        found = [measured(metric, torch.ones_like(true_maps()))]
    else:
        found = [measured(metric, random_maps(seed)) for seed in range(30)]
    mean = float(np.mean([one.mean() for one in found]))  # pyright: ignore
    level = CHANCE[metric.chance](float((true_maps() > 0).double().mean()))
    assert mean == pytest.approx(level, abs=0.08)


@every
def test_any_rising_change_of_a_map_is_the_same_order(name: str) -> None:
    maps = random_maps(1)
    metric = EVERY_METRIC[name]
    before = measured(metric, maps)
    after = measured(metric, (2 * maps).exp() if name not in NOT_OF_RANKS else 2 * maps)
    if name != "completeness":
        assert_agree(after.values, before.values)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_any_width(name: str, dtype: torch.dtype) -> None:
    maps = random_maps(2).to(dtype)
    metric = EVERY_METRIC[name]
    assert_agree(measured(metric, maps).values.float(), measured(metric, maps.float()).values.float())
    if name in OF_MODEL:
        half = measured(metric, maps.float(), scored=scored_case(dtype=dtype))
        torch.testing.assert_close(half.values, measured(metric, maps.float()).values, rtol=0, atol=0.02)


@every
def test_whole_numbers_are_numbers(name: str) -> None:
    maps = (random_maps(3) * 5).long()
    found = measured(EVERY_METRIC[name], maps)
    assert_agree(found.values, measured(EVERY_METRIC[name], maps.float()).values)


@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite(name: str, value: float) -> None:
    maps = true_maps()
    maps[1, 0, 2, 3] = value
    if name.startswith("concept_") and math.isnan(value):  # contributions that are not known
        assert measured(EVERY_METRIC[name], maps).applies.all(1).tolist() == [True, False, True]
        return
    with pytest.raises(cl.InputError):
        measured(EVERY_METRIC[name], maps)


WRONG_MAPS: dict[str, Callable[[], Any]] = {
    "a list": lambda: true_maps().tolist(),
    "nothing": lambda: None,
    "a text": lambda: "maps",
    "three axes": lambda: true_maps()[0],
    "other images": lambda: true_maps()[:2],
    "no image": lambda: true_maps()[:0],
    "no question": lambda: true_maps()[:, :0],
    "no cell": lambda: true_maps()[..., :0],
    "texts": lambda: np.full((IMAGES, QUESTIONS, *SIZE), "a"),
    "objects": lambda: np.full((IMAGES, QUESTIONS, *SIZE), None),
    "complex numbers": lambda: true_maps() * 1j,
    "no values": lambda: true_maps().to("meta"),
}


@every
@pytest.mark.parametrize("wrong", WRONG_MAPS)
def test_what_are_no_maps(name: str, wrong: str) -> None:
    given = given_for(EVERY_METRIC[name], true_maps())
    maps = WRONG_MAPS[wrong]()
    if "explain" in given:
        given["explain"] = lambda changed: maps
    else:
        which = next(one for one in ("explained", "second", "of_random_labels", "contributions") if one in given)
        given[which] = maps
    if wrong == "other images" and name == "cascade_similarity":
        return  # it is given no images, so nobody can say how many there should be
    if wrong == "no question" and name == "max_sensitivity":
        assert EVERY_METRIC[name].measure(**given).mean() is None
        return
    with pytest.raises(cl.InputError):
        EVERY_METRIC[name].measure(**given)


@every
@pytest.mark.parametrize("seed", ["a", 0.5, None, True, -1, 2**64])
def test_what_is_no_seed(name: str, seed: Any) -> None:
    metric = EVERY_METRIC[name]
    if "seed" not in inspect.signature(metric.compute).parameters:
        return
    with pytest.raises(cl.InputError, match=r"^seed is .*; expected an integer, at least 0"):
        metric.measure(**given_for(metric, true_maps()), seed=seed)


def test_a_seed_may_be_any_integer_of_a_generator() -> None:
    maps = torch.ones(IMAGES, QUESTIONS, *SIZE).tril()
    largest = metrics.deletion(maps, scored_case(), seed=2**64 - 1)
    assert torch.equal(metrics.deletion(maps, scored_case(), seed=np.uint64(2**64 - 1)).values, largest.values)  # pyright: ignore


@every
def test_images_of_one_pixel(name: str) -> None:
    """Nothing can be ranked, cut or shifted: no number, but for what adds up or stays as it is."""
    maps = random_maps(4, (1, 1))
    if name == "shift_stability":
        with pytest.raises(cl.InputError, match="images of 1 x 1 pixels have nothing left after a shift"):
            measured(EVERY_METRIC[name], maps)
        return
    found = measured(EVERY_METRIC[name], maps)
    assert (found.count > 0) == (name in {"completeness", "infidelity", "max_sensitivity"})


@every
def test_a_batch_gives_what_single_images_give(name: str) -> None:
    metric, maps = EVERY_METRIC[name], random_maps(5)
    whole = measured(metric, maps)
    for image in range(IMAGES):
        given = given_for(metric, maps)
        for key, one in given.items():
            if isinstance(one, Tensor):
                given[key] = one[[image]]
            elif isinstance(one, ScoredImages):
                given[key] = ScoredImages(
                    one.images[[image]], lambda x, rows, one=one, image=image: one.score(x, rows + image), one.black,
                    lambda x, rows, one=one: one.probabilities(x, rows), OWN[[image]],  # pyright: ignore
                )  # fmt: skip
            elif key == "explain":
                given[key] = lambda changed, image=image: maps[[image]]
        assert_agree(metric.measure(**given).values, whole.values[[image]])


@pytest.mark.parametrize("name", sorted(OF_MODEL))
def test_logits_are_no_probabilities(name: str) -> None:
    metric, logits = EVERY_METRIC[name], scored_case(logits=True)
    given = given_for(metric, random_maps(6), scored=logits)
    if name in ANY_SCORE:
        assert metric.compute(**given).count
        return
    with pytest.raises(cl.InputError, match="are no probabilities, which this metric takes"):
        metric.measure(**given)


@pytest.mark.parametrize("name", sorted(OF_MODEL))
def test_a_network_with_one_class_or_one_answer(name: str) -> None:
    """Two classes are refused where there is one; what never changes is no success of any map."""

    def sure(variants: Tensor, rows: Tensor) -> Tensor:
        return torch.ones(len(variants), QUESTIONS)

    def one_class(variants: Tensor, rows: Tensor) -> Tensor:
        return torch.ones(len(variants), 1)

    scored = ScoredImages(torch.ones(IMAGES, 3, *SIZE), sure, torch.zeros(3), one_class, torch.zeros_like(OWN))
    metric, maps = EVERY_METRIC[name], random_maps(7)
    if metric.compute.__module__ == "conceptlens.metrics.group_scores" or name.startswith("relative_drop"):
        with pytest.raises(cl.InputError, match="there is one class alone"):
            measured(metric, maps, scored=scored)
        return
    found = measured(metric, maps, scored=scored)
    assert (found.count == 0) == (name in {"infidelity", "completeness", "part_importance"})
    changes = {one for one in EVERY_METRIC if one.endswith(("deletion", "insertion"))}
    assert found.mean() in (None, 1.0 if name in changes else 0.0)


@pytest.mark.parametrize("name", sorted(OF_MODEL))
@pytest.mark.parametrize("wrong", [None, torch.ones(IMAGES, 3, *SIZE), torch.nn.Identity()])
def test_what_is_no_scored_image(name: str, wrong: Any) -> None:
    with pytest.raises(cl.InputTypeError, match=r"was given as the scored images; expected cl\.scored_images"):
        measured(EVERY_METRIC[name], true_maps(), scored=wrong)


@pytest.mark.parametrize("name", MAP_MASK_METRICS)
@pytest.mark.parametrize("inside", [False, True])
def test_masks_without_an_inside_or_an_outside(name: str, inside: bool) -> None:
    masks = torch.full((IMAGES, QUESTIONS, *SIZE), inside)
    assert measured(EVERY_METRIC[name], random_maps(8), masks=masks).count == 0


@every
@pytest.mark.parametrize("factor", [1e-60, 1e300])
def test_what_float32_cannot_hold_is_ranked_alike(name: str, factor: float) -> None:
    """Maps coarser than the images, so that they are enlarged."""
    metric = EVERY_METRIC[name]
    if name in NOT_OF_RANKS - {"pointing_energy", "pointing_energy_minmax", "iou", "map_pearson", "map_ssim"}:
        return
    given = given_for(metric, random_maps(9))
    coarse = random_maps(9)[..., :6, :5].double()
    found = []
    for maps in (coarse, factor * coarse):
        known = {"explained": maps, "second": maps, "of_random_labels": maps, "explain": lambda changed, m=maps: m}
        found.append(metric.measure(**{**given, **{key: one for key, one in known.items() if key in given}}))
    assert_agree(found[1].values.float(), found[0].values.float())
    assert torch.equal(found[1].applies, found[0].applies)
