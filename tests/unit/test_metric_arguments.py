"""Every argument of every public function of `conceptlens.metrics`, given what it is not: a sentence, no number."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from metric_arguments import FUNCTIONS, WRONG, arguments

import conceptlens as cl
from conceptlens import metrics

# What is right for an argument of this name, though it is wrong for others.
TAKEN: dict[str, tuple[str, ...]] = {
    "seed": ("an integer",), "samples": ("an integer",), "radius": ("an integer",), "n_bootstrap": ("an integer",),
    "images": ("an integer",), "questions": ("an integer",), "top": ("an integer",), "patch": ("an integer",),
    "comparisons": ("an integer",), "threshold": ("an integer", "a negative number"),
    "shares": ("an integer", "a generator"),
}  # fmt: skip
STEPS = {"deletion", "insertion", "removal_curves", "relative_drop_area", "relative_drop_curves"}
SEQUENCES_OF_SHARES = {
    name for name, one in FUNCTIONS.items() if "shares" in inspect.signature(one).parameters and name != "class_labels"
}
# Shares, which end at 1, and more shifts than there are.
FEWER = {("part_discs", "radius"), ("part_mask_scores", "radius"), ("shift_stability", "samples")}
CASES = [
    (name, parameter) for name, function in FUNCTIONS.items() for parameter in inspect.signature(function).parameters
]


def is_taken(name: str, parameter: str, kind: str) -> bool:
    """Whether an argument takes what is wrong elsewhere, as its annotation says."""
    one = inspect.signature(FUNCTIONS[name]).parameters[parameter]
    if kind == "nothing":
        return one.default is None
    if (parameter == "images" and not str(one.annotation).startswith("int")) or (name, parameter) in FEWER:
        return False
    if parameter == "shares" and (name not in SEQUENCES_OF_SHARES or (kind == "an integer" and name not in STEPS)):
        return False
    return kind in TAKEN.get(parameter, ())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_it_is_meant_for_is_taken(name: str) -> None:
    FUNCTIONS[name](**arguments(name))


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_what_an_argument_is_not(name: str, parameter: str) -> None:
    given = arguments(name)
    for kind, make in WRONG.items():
        if is_taken(name, parameter, kind):
            FUNCTIONS[name](**{**given, parameter: make()})
            continue
        with pytest.raises(cl.InputError) as refused:
            FUNCTIONS[name](**{**given, parameter: make()})
        sentence = str(refused.value)
        assert 20 < len(sentence) < 400, (kind, sentence)
        assert "\n" not in sentence


@pytest.mark.parametrize("name", sorted(SEQUENCES_OF_SHARES))
def test_shares_in_any_order_that_keeps_it(name: str) -> None:
    given: dict[str, Any] = arguments(name)
    listed = FUNCTIONS[name](**{**given, "shares": [0.1, 0.5]})
    yielded = FUNCTIONS[name](**{**given, "shares": (share for share in (0.1, 0.5))})
    scores = [one.scores if isinstance(one, metrics.RemovalCurves) else one.values for one in (listed, yielded)]
    assert scores[0].equal(scores[1])
    for wrong, said in (
        ({0.1, 0.5}, "of type set"),
        ({0.1: 1}, "of type dict"),
        ("ab", "'ab'"),
        ([0.5, 0.1], "rising"),
    ):
        with pytest.raises(cl.InputError, match=rf"shares are .*{said}"):
            FUNCTIONS[name](**{**given, "shares": wrong})
