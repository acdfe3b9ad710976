"""Maps of one class are not scored by another: where both classes are known, they are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import conceptlens as cl
from conceptlens.metrics import FAITHFULNESS_METRICS, removal_scores
from planted_words import OnlyColours, planted_model

MODEL, DATA = planted_model(), OnlyColours(3)
SEEN = MODEL.observe([DATA[i].photo for i in range(2)])
RED, BLUE = cl.Probability("red"), cl.Probability("blue")
SWAPPED: dict[str, tuple[Callable[[], cl.Explanation], Any]] = {
    "another class": (lambda: cl.cam(SEEN, cl.Logit("red")), BLUE),
    "the order of two": (lambda: cl.cam(SEEN, [RED, BLUE]), [BLUE, RED]),
    "the second of two": (lambda: cl.cam(SEEN, [RED, RED]), [RED, BLUE]),
    "questions chosen in another order": (lambda: cl.cam(SEEN, [RED, BLUE]).select([1, 0]), [RED, BLUE]),
    "a contrast's reference": (lambda: cl.cam(SEEN, cl.Contrast("red", against=["blue"])), BLUE),
    "a sweep of another class": (lambda: cl.sweep(SEEN, cl.Contrast("red", against=["blue"])).explanation(), BLUE),
    "several layers": (lambda: cl.combine([cl.cam(SEEN, RED), cl.cam(SEEN, RED)]), BLUE),
    "beside a concept": (lambda: cl.cam(SEEN, [cl.Concept("red"), cl.Logit("red")]), [RED, BLUE]),
}
AGREEING: dict[str, tuple[Callable[[], cl.Explanation], Any]] = {
    "the same class": (lambda: cl.cam(SEEN, cl.Logit("red")), RED),
    "the predicted class": (lambda: cl.cam(SEEN), None),
    "questions chosen in the same order": (lambda: cl.cam(SEEN, [RED, BLUE]).select([1, 0]), [BLUE, RED]),
    "a contrast and its target": (lambda: cl.cam(SEEN, cl.Contrast("red", against=["blue"])), RED),
    "a contrast and itself": (
        lambda: cl.cam(SEEN, cl.Contrast("red")),
        cl.Contrast("red", of="probabilities", gamma=0),
    ),
    "a sweep": (lambda: cl.sweep(SEEN, cl.Contrast("red", against=["blue"])).explanation(), RED),
    "a concept": (lambda: cl.cam(SEEN, cl.Concept("red")), BLUE),
    "a concept beside a class": (lambda: cl.cam(SEEN, [cl.Concept("red"), cl.Logit("red")]), [BLUE, RED]),
    "a function": (lambda: cl.cam(SEEN, lambda output: output.logits[:, 0]), BLUE),
    "maps of another library": (lambda: cl.Explanation.from_maps(cl.cam(SEEN).maps, "red", SEEN), BLUE),
}


@pytest.mark.parametrize("case", SWAPPED)
def test_maps_of_another_class_are_refused(case: str) -> None:
    make, targets = SWAPPED[case]
    explained, scored = make(), cl.scored_images(SEEN, targets)
    said = r"map \d of photo\[0\] is of class \d+ \('.*'\), the score of class \d+; give both the same targets"
    for name in FAITHFULNESS_METRICS:
        with pytest.raises(cl.InputError, match=said):
            FAITHFULNESS_METRICS[name].compute(explained, scored)
    for call in (removal_scores, cl.evaluate):
        with pytest.raises(cl.InputError, match=said):
            call(explained, scored)
    assert cl.metrics.deletion(explained.maps, scored).values.shape == explained.maps.shape[:2]


@pytest.mark.parametrize("case", AGREEING)
def test_maps_of_the_same_class_or_of_none_are_scored(case: str) -> None:
    make, targets = AGREEING[case]
    explained, scored = make(), cl.scored_images(SEEN, targets)
    found, expected = (cl.metrics.deletion(one, scored).values for one in (explained, explained.maps))
    assert torch.equal(found, expected)


def test_it_is_said_which_class_the_map_is_of() -> None:
    one = cl.cam(SEEN, [RED, BLUE]).of(1)
    red, blue = (MODEL.class_index(name) for name in ("red", "blue"))
    assert one.target_classes == ((red, blue),)
    scored = cl.scored_images(MODEL.observe([DATA[1].photo]), [BLUE, BLUE])
    with pytest.raises(
        cl.InputError, match=rf"map 0 of photo\[\d\] is of class {red} \('red'\), the score of class {blue};"
    ):
        cl.metrics.deletion(one, scored)


def test_one_class_for_each_image() -> None:
    explained = cl.cam(SEEN, ["red", "blue"])
    cl.metrics.deletion(explained, cl.scored_images(SEEN, ["red", "blue"]))
    with pytest.raises(cl.InputError, match=r"map 0 of photo\[1\] is of class"):
        cl.metrics.deletion(explained, cl.scored_images(SEEN, ["red", "red"]))
