"""What a bottleneck is held to on every architecture, with every kind of locator: equation, batch, module, mirror."""

from __future__ import annotations

import pytest
import torch
from test_contract import EXACT, close, in_use, untouched

import conceptlens as cl
from architectures import (
    ARCHITECTURES,
    MOST_FLIPPED_SLOW,
    MOST_SLOW,
    backbone,
    fresh,
    make_symmetric,
    random_images,
    wrap,
)
from bottlenecks import LOCATOR_KINDS, bottleneck_of
from conceptlens.bottleneck.module import Bottleneck
from tolerance import assert_agree


def seen_with(name: str, kind: str, precision: torch.dtype = torch.float32) -> tuple[cl.Observation, Bottleneck]:
    model = backbone(name, precision)
    bottleneck = bottleneck_of(model, kind).to(precision)
    return bottleneck.observe(model, random_images(ARCHITECTURES[name].size)), bottleneck


DEPENDENT = ("two peaks", "parts")  # locators that read the maps, and those that read layers


def counted(found: cl.Explanation) -> torch.Tensor:
    assert found.contributions is not None
    return found.contributions


@pytest.mark.parametrize("name", MOST_SLOW)
def test_the_equation_holds_before_the_locator_and_the_pooled_map_is_the_activation(name: str) -> None:
    for kind in LOCATOR_KINDS:
        observation, bottleneck = seen_with(name, kind)
        found = bottleneck(observation)
        (part,) = found.components
        assert part.weights is not None
        assert found.weights is None
        expected = torch.einsum("nqkij,nkhw->nqhw", part.weights, observation.feature(bottleneck.layer))
        assert close(part.maps, expected, 1e-5), kind
        assert bool(part.weights.abs().amax(2).gt(0).all()), "weights of zero prove nothing"
        assert torch.allclose(found.maps.mean((2, 3)), found.scores, rtol=1e-5, atol=1e-6)
        told = found.source.settings
        total = counted(found).sum(1) + torch.tensor(told["bias"])
        scale = float(counted(found).abs().sum(1).max())
        assert torch.allclose(total, torch.tensor(told["logit"]), atol=1e-5 * max(1, scale)), kind
        kept = [t for one in (found, part) for t in (one.maps, one.weights, one.scores, one.contributions)]
        assert not any(t.requires_grad for t in kept if t is not None)
        assert all(bool(t.isfinite().all()) for t in kept if t is not None)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_a_batch_read_by_a_bottleneck_equals_its_images_one_by_one(name: str) -> None:
    for kind in DEPENDENT:
        observation, bottleneck = seen_with(name, kind, EXACT)
        together = bottleneck.explain(observation, 1)
        for i in range(2):
            alone = bottleneck.explain(observation.model.observe(observation.images[i : i + 1], bottleneck.layers), 1)
            assert close(alone.maps, together.maps[i : i + 1]), kind
            assert_agree(alone.scores, together.scores[i : i + 1])
            assert_agree(counted(alone), counted(together)[i : i + 1])


@pytest.mark.parametrize("name", MOST_SLOW)
def test_a_bottleneck_leaves_the_module_as_found(name: str) -> None:
    model, trouble = in_use(name)
    images = random_images(ARCHITECTURES[name].size)
    for kind in DEPENDENT:
        bottleneck = bottleneck_of(backbone(name), kind)
        with untouched(model.module), untouched(bottleneck):
            observation = bottleneck.observe(model, images)
            kept = {
                layer: layer_output.raw.detach().clone() for layer, layer_output in observation.layer_outputs.items()
            }
            bottleneck(observation)
            assert all(torch.equal(observation.layer_output(layer).raw.detach(), raw) for layer, raw in kept.items())
    trouble.append(KeyError("inside forward"))
    bottleneck = bottleneck_of(backbone(name))
    with untouched(model.module), pytest.raises(KeyError, match="inside forward"):
        bottleneck.observe(model, images)


@pytest.mark.parametrize("name", MOST_FLIPPED_SLOW)
@pytest.mark.slow
def test_a_flipped_image_gives_flipped_concept_maps(name: str) -> None:
    size = ARCHITECTURES[name].flips
    assert size is not None
    symmetric = make_symmetric(fresh(name, EXACT).module, columns=size[1] // 16)
    model = cl.Backbone(wrap(name, symmetric).module, name, backbone(name).default_layers, input_size=size)
    images = random_images(size)
    for kind in DEPENDENT:
        bottleneck = bottleneck_of(model, kind).double()
        plain, mirrored = (bottleneck.explain(bottleneck.observe(model, i), 0) for i in (images, images.flip(-1)))
        assert not close(plain.maps, plain.maps.flip(-1), 1e-3), "a map that is its own mirror image proves nothing"
        assert close(mirrored.maps, plain.maps.flip(-1), 1e-6), kind
        assert_agree(mirrored.scores, plain.scores)
