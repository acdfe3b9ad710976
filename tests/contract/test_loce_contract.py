"""What local concept embeddings are held to on every architecture: equation, batch, module, mirror."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import EXACT, close, in_use, untouched
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from architectures import (
    ARCHITECTURES,
    FEW,
    MOST_FLIPPED_SLOW,
    MOST_SLOW,
    backbone,
    fresh,
    make_symmetric,
    observation_of,
    random_images,
    wrap,
)
from tolerance import assert_agree

MODES: list[Any] = ["mean_difference", "exact", "paper", "mean"]
# One mode on every architecture, and every mode on a few: what a mode fits are the features, wherever they are from.
EVERY = [
    pytest.param(name, mode, marks=() if name in FEW or mode == MODES[0] else pytest.mark.slow)
    for name in ARCHITECTURES
    for mode in MODES
]
ONE_BY_ONE = [
    pytest.param(name, mode, marks=() if name in FEW else pytest.mark.slow)
    for name in ARCHITECTURES
    for mode in MODES
    if mode == "exact" or name in FEW
]
# How far two answers to one question may lie apart, of the largest entry: `exact` stops at a gradient of 1e-3 of its
# first, and `paper` divides each channel's gradient by its own size, rounding and all.
ROUNDED = {"mean_difference": 1e-5, "mean": 1e-5, "exact": 5e-3, "paper": 1e-3}


@cache
def masks() -> np.ndarray:
    """Two concepts in each of two images, wider than tall: `image question rows columns`."""
    found = np.zeros((2, 2, 60, 90), bool)
    found[0, 0, 5:35, 8:50], found[0, 1, 25:55, 40:80] = True, True
    found[1, 0, 30:58, 10:60], found[1, 1, 3:28, 35:88] = True, True
    return found


def units(observation: cl.Observation) -> dict[str, Tensor]:
    """A scale that is not the images' own."""
    channels = observation.feature().shape[1]
    return {observation.layer: 0.5 + torch.rand(channels, generator=torch.Generator().manual_seed(2))}


def two_layers(model: cl.Backbone) -> list[str]:
    """The earliest layer with a grid, and the default one."""
    last = model.default_layers[-1]
    return [next(part.name for part in model.anatomy.layers if part.grid and part.name != last), last]


def vectors(found: cl.Explanation) -> Tensor:
    assert found.vectors is not None
    return found.vectors


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_the_equation_holds_for_a_loce(name: str, mode: Any) -> None:
    """Each map is `sum_c weights_c A_c`."""
    observation = observation_of(name)
    found = cl.loce(observation, masks(), mode=mode)
    feature = observation.feature()
    assert found.weights is not None
    assert found.weights.shape == (2, 2, feature.shape[1], 1, 1)
    assert vectors(found).shape == (2, 2, feature.shape[1])
    assert close(found.maps, torch.einsum("nqcij,nchw->nqhw", found.weights, feature), 1e-4)
    assert bool(found.weights.abs().amax(2).gt(0).all()), "weights of zero prove nothing"
    kept = [found.maps, found.weights, vectors(found), found.scores, *found.diagnostics.values()]
    assert all(bool(value.isfinite().all()) for value in kept)
    assert not any(value.requires_grad for value in kept)
    if mode != "paper":
        assert bool(found.diagnostics["converged"].all())
    assert set(found.diagnostics) == {"iou", "loss", "converged", "bias", "control_iou", "selectivity"}
    again = cl.loce(observation, masks(), mode=mode)
    assert torch.equal(vectors(again), vectors(found)), "the same question has the same answer"


@pytest.mark.parametrize("name", MOST_SLOW)
def test_layers_of_one_forward_pass_are_unit_vectors_side_by_side(name: str) -> None:
    model = fresh(name)
    layers = two_layers(model)
    passes: list[int] = []
    handle = model.module.register_forward_hook(lambda *_: passes.append(1))
    observation = model.observe(random_images(ARCHITECTURES[name].size), layers)
    handle.remove()
    assert len(passes) == 1
    for mode in MODES:
        together = cl.loce(observation, masks(), layers, mode)
        alone = [cl.loce(observation, masks(), layer, mode) for layer in layers]
        lengths = [observation.feature(layer).shape[1] for layer in layers]
        assert vectors(together).shape == (2, 2, sum(lengths))
        for part, one, own in zip(vectors(together).split(lengths, 2), alone, together.components, strict=True):
            assert_agree(vectors(own), vectors(one))
            assert torch.allclose(part, F.normalize(vectors(one), dim=2), atol=1e-6)
            assert torch.allclose(part.norm(dim=2), torch.ones(2, 2), atol=1e-5)
        assert bool(together.maps.isfinite().all())
        assert torch.equal(vectors(cl.loce(observation, masks(), layers, mode)), vectors(together))


@pytest.mark.parametrize(("name", "mode"), ONE_BY_ONE)
def test_a_loce_of_a_batch_equals_its_images_one_by_one(name: str, mode: Any) -> None:
    observation = observation_of(name, EXACT)
    together = cl.loce(observation, masks(), mode=mode, scale=units(observation))
    for i in range(2):
        one = observation.model.observe(observation.images[i : i + 1])
        alone = cl.loce(one, masks()[i], mode=mode, scale=units(observation))
        assert close(vectors(alone)[..., None, None], vectors(together)[i : i + 1, ..., None, None], ROUNDED[mode])
        assert float(F.cosine_similarity(vectors(alone), vectors(together)[i : i + 1], dim=2).min()) > 0.9999
        assert close(alone.maps, together.maps[i : i + 1], ROUNDED[mode])
        assert torch.allclose(alone.scores, together.scores[i : i + 1], atol=5e-3)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_a_loce_leaves_the_module_as_found(name: str) -> None:
    model, trouble = in_use(name)
    layer = backbone(name).default_layers
    with untouched(model.module):
        observation = model.observe(random_images(ARCHITECTURES[name].size), layer)
        kept = {layer: layer_output.raw.detach().clone() for layer, layer_output in observation.layer_outputs.items()}
        for mode in MODES:
            cl.loce(observation, masks(), mode=mode)
        assert all(torch.equal(observation.layer_output(layer).raw.detach(), raw) for layer, raw in kept.items())
    trouble.append(KeyError("inside forward"))
    with untouched(model.module), pytest.raises(KeyError, match="inside forward"):
        cl.loce(model.observe(random_images(ARCHITECTURES[name].size), layer), masks())


@pytest.mark.parametrize("name", MOST_FLIPPED_SLOW)
def test_a_flipped_image_and_mask_give_the_same_vector(name: str) -> None:
    size = ARCHITECTURES[name].flips
    assert size is not None
    model = wrap(name, make_symmetric(fresh(name, EXACT).module, columns=size[1] // 16))
    images, layers = random_images(size), backbone(name).default_layers
    flipped = np.ascontiguousarray(masks()[..., ::-1])
    for mode in MODES:
        plain, mirrored = (
            cl.loce(model.observe(shown, layers), asked, mode=mode)
            for shown, asked in ((images, masks()), (images.flip(-1), flipped))
        )
        assert close(vectors(mirrored)[..., None, None], vectors(plain)[..., None, None], 2 * ROUNDED[mode]), mode
        assert close(mirrored.maps, plain.maps.flip(-1), 2 * ROUNDED[mode]), mode
