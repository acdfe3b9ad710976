"""What is listed of an unknown name says whether that is all there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import conceptlens as cl
from conceptlens.benchmark.suites import suite_kind
from conceptlens.io.errors import near
from conceptlens.localization.cam_methods import cam_method
from conceptlens.metrics import MAP_MASK_METRICS, ScoredImages, removal_scores

KNOWN = ("deletion", "insertion", "road", "iou", "hit", "area")
MAPS = torch.rand(2, 1, 4, 4)
SCORED = ScoredImages(torch.rand(2, 3, 8, 8), lambda images, rows: torch.full((len(images), 1), 0.5))


@pytest.mark.parametrize(
    ("name", "known", "limit", "said"),
    [
        ("deltion", KNOWN, None, "near names: deletion, insertion"),
        ("xyz", KNOWN, None, "metrics: deletion, insertion, road, iou, hit, area"),
        ("xyz", KNOWN, 2, "metrics: deletion, insertion, …"),
        ("tion", KNOWN, 1, "near names: deletion"),
        ("", KNOWN, 3, "metrics: deletion, insertion, road, …"),
        ("layer3", ("layer2", "layer1"), 5, "metrics: layer2, layer1"),
        ("cat", (), None, "metrics: none"),
        ("cat", ("cat, tabby", "cat, siamese", "dog"), None, "near names: cat, tabby; cat, siamese"),
    ],
)
def test_near_says_whether_all_are_listed(name: str, known: tuple[str, ...], limit: int | None, said: str) -> None:
    assert near(name, known, "metrics", limit) == said


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a metric of a network": (lambda: cl.evaluate(MAPS, SCORED, ["deltion"]), "; near names: deletion, "),
    "a metric of masks": (
        lambda: cl.evaluate(MAPS, torch.ones(2, 8, 8, dtype=torch.bool), ["zzz"]),
        f"; metrics: {', '.join(MAP_MASK_METRICS)}$",
    ),
    "a metric of a shared run": (lambda: removal_scores(MAPS, SCORED, metrics=["deltion"]), "; near names: deletion, "),
    "a fill": (
        lambda: cl.metrics.deletion(MAPS, SCORED, fill="blurr"),
        "^no fill 'blurr'; near names: blur, rise_blur$",
    ),
    "a fill like none": (lambda: cl.metrics.deletion(MAPS, SCORED, fill="qqq"), "; there are: mean, blur, "),
    "a suite": (lambda: suite_kind("finercam"), "no suite 'finercam'; near names: finer-cam"),
    "a target": (lambda: cam_method(cl.load_model(), target="concpt"), "no target 'concpt'; near names: concept"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_misspelt_name_is_told_near_ones(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(cl.InputError, match=said):
        call()
