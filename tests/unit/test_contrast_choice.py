"""Gamma and reference chosen for each photo: against loops written from the rule, and where nothing is to be chosen."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.cams.contrast_choice import MARGIN, TRIED, ContrastCandidate, choose_among
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.metrics.pixel_fills import prepare_fill


class Net(nn.Module):
    """Cells of 4 x 4 pixels, 12 channels; the mean cell makes five logits."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cells(images).mean((2, 3)))


@cache
def network() -> cl.Backbone:
    torch.manual_seed(3)
    net = Net().double().eval()
    with torch.no_grad():
        net.head.weight.mul_(8)
    return cl.Backbone(net, "cells")


@cache
def seen() -> cl.Observation:
    images = torch.rand(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network().observe(images * 4 - 2, "cells")


def by_loops(image: int) -> tuple[float, int]:
    """Return gamma and reference of one image: each map by a loop, its highest pixels blurred, the model run again."""
    net: Any = network().module
    pixels = seen().images[image : image + 1]
    cells = net.cells(pixels)[0].detach()
    rows = net.head.weight.detach()
    logits = net(pixels)[0].detach()
    own = int(logits.argmax())
    others = [one for one in range(5) if one != own]
    rank = max(others, key=lambda one: float(logits[one]))
    weight = max(others, key=lambda one: float(torch.cosine_similarity(rows[own], rows[one], dim=0)))
    blurred = prepare_fill("blur", pixels).remove(torch.tensor([0]), torch.ones(1, 32, 32, dtype=torch.bool))
    active = cells.abs().sum(0)

    def lost(reference: int, gamma: float) -> tuple[float, float]:
        coefficients = rows[own] - gamma * rows[reference]
        made = torch.einsum("c,chw->hw", coefficients, cells).relu()
        enlarged = nn.functional.interpolate(made[None, None], size=(32, 32), mode="bilinear", align_corners=False)
        highest = enlarged.flatten().topk(round(0.05 * 1024)).indices
        changed = pixels.clone().flatten(2)
        changed[..., highest] = blurred.flatten(2)[..., highest]
        before, after = logits.softmax(0), net(changed.view_as(pixels))[0].detach().softmax(0)
        drop = (before[own] - after[own]) - (before[rank] - after[rank])
        return float(drop), float((made * active).sum() / made.sum() / active.mean())

    alone, there = lost(rank, 0.0)
    best = (alone + MARGIN, 0.0, rank)
    for by, gamma in TRIED:
        reference = {"rank": rank, "weight": weight}[by]
        drop, under = lost(reference, gamma)
        if under >= there and drop > best[0]:
            best = (drop, gamma, reference)
    return best[1], best[2]


def test_the_choice_is_that_of_loops() -> None:
    chosen = cl.choose_contrast(seen())
    expected = [by_loops(image) for image in range(6)]
    assert chosen.gammas.tolist() == [gamma for gamma, _ in expected]
    assert [int(r) for r, g in zip(chosen.references, chosen.gammas, strict=True) if g] == [r for g, r in expected if g]
    assert 0 < int((chosen.gammas > 0).sum()) < 6, "some photos bear a contrast and some do not, or nothing is tested"


def test_the_map_is_that_of_the_chosen_contrast_photo_by_photo() -> None:
    chosen = cl.choose_contrast(seen())
    made = cl.cam(seen(), chosen.contrast)
    swept = cl.sweep(seen(), chosen.contrast).explanation()
    torch.testing.assert_close(swept.maps, made.maps)
    for image, gamma in enumerate(chosen.gammas.tolist()):
        target = int(seen().logits[image].argmax())
        one = cl.Contrast(target, against=[int(chosen.references[image])], gamma=gamma) if gamma else cl.Logit(target)
        torch.testing.assert_close(made.maps[image], cl.cam(seen(), one).maps[image])
        assert ("/" in made.labels[image][0]) == bool(gamma)


def test_a_photo_alone_is_chosen_for_as_in_its_batch() -> None:
    together = cl.choose_contrast(seen())
    for image in range(6):
        alone = cl.choose_contrast(network().observe(seen().images[image : image + 1], "cells"))
        assert float(alone.gammas[0]) == float(together.gammas[image])


def test_where_no_contrast_is_allowed_the_class_alone_stays() -> None:
    index = seen().logits.argmax(1)
    nothing = [ContrastCandidate("gamma 0", (index + 1) % 5, 0.0)]  # the same map: its drop is not above the margin
    chosen = choose_among(seen(), index, nothing)
    assert chosen.gammas.tolist() == [0.0] * 6
    torch.testing.assert_close(cl.cam(seen(), chosen.contrast).maps, cl.cam(seen()).maps)


def test_what_it_rests_on_is_told() -> None:
    chosen = cl.choose_contrast(seen())
    for image in range(6):
        told = chosen.drops_of(image)
        assert told.alone == float(chosen.relative_drops[image, 0])
        assert (told.relative_drop > told.alone + MARGIN) == bool(chosen.gammas[image])
        assert (told.words == "the class alone") == (not chosen.gammas[image])


def test_everything_that_was_tried_is_told_with_its_reason() -> None:
    chosen = cl.choose_contrast(seen())
    reasons = set()
    for image in range(6):
        alone, *others = chosen.drops_of(image).tried
        assert (alone.gamma, alone.by, alone.reference) == (0, None, None)
        assert [(one.by, one.gamma) for one in others] == list(TRIED)
        assert [one.taken for one in (alone, *others)] == [not one.why_not for one in (alone, *others)]
        best = next(one for one in (alone, *others) if one.taken)
        assert best.gamma == float(chosen.gammas[image])
        assert best is alone or best.reference == int(chosen.references[image])
        for one in others:
            slips, small = one.on_activation < alone.on_activation, one.relative_drop <= alone.relative_drop + MARGIN
            assert ("less active" in one.why_not) == slips
            assert ("not more than 0.02" in one.why_not) == (small and not slips)
            assert ("another contrast" in one.why_not) == (not one.taken and not slips and not small)
            assert one.taken <= (one.relative_drop == best.relative_drop)
            reasons.add(one.why_not)
    assert len(reasons) >= 3


def test_no_contrast_of_a_quantity() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    one = cl.Backbone(net, "one", task="regression").observe(torch.rand(1, 3, 32, 32), "0")
    with pytest.raises(InputError, match="quantity"):
        cl.choose_contrast(one)


def test_no_contrast_of_anything_but_an_observation() -> None:
    with pytest.raises(InputTypeError, match="Observation"):
        cl.choose_contrast(torch.rand(1, 3, 8, 8))  # pyright: ignore[reportArgumentType]


class TestGammas:
    """One gamma for each image."""

    def test_as_many_as_images(self) -> None:
        with pytest.raises(InputError, match="2 gammas and 6 images"):
            cl.cam(seen(), cl.Contrast(gamma=[0.3, 0.6]))

    @pytest.mark.parametrize("wrong", [[0.1, -1.0], [0.1, float("nan")]])
    def test_each_is_checked(self, wrong: list[float]) -> None:
        with pytest.raises(InputError, match="expected a finite number"):
            cl.Contrast(gamma=wrong)

    def test_each_image_has_its_own(self) -> None:
        gammas = torch.linspace(0, 1, 6)
        made = cl.cam(seen(), cl.Contrast(gamma=gammas), signed=True)
        for image, gamma in enumerate(gammas.tolist()):
            alone = cl.cam(seen(), cl.Contrast(gamma=gamma), signed=True).maps[image]
            torch.testing.assert_close(made.maps[image], alone)
