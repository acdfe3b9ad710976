"""What CE-FAM with a branch is held to on every architecture: equation, batch, module, mirror."""

from __future__ import annotations

import pytest
import torch
from test_contract import EXACT, close, in_use, untouched
from torch import nn

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
from branches import branch_of
from conceptlens.concept_regions.ce_fam import ce_fam
from conceptlens.concept_regions.competition import Competition, compete
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.model.observation import Observation
from tolerance import assert_agree

CONCEPTS = parse_concepts("cat, wheel, red:colour")


def with_a_branch(name: str, precision: torch.dtype = torch.float32) -> tuple[Observation, Translator]:
    """Return two images seen at the layers of an untrained branch."""
    model = backbone(name, precision)
    translator = branch_of(model)
    return model.observe(random_images(ARCHITECTURES[name].size), translator.layers), translator


@pytest.mark.parametrize("name", MOST_SLOW)
def test_the_equation_holds_for_every_part_of_a_ce_fam(name: str) -> None:
    """Each layer's region is `ReLU(sum_k beta_k A_k)`, and each map is the region of the layer that it names."""
    observation, translator = with_a_branch(name)
    found = ce_fam(observation, translator, CONCEPTS)
    parts = found.components or (found,)
    assert [part.source.layer for part in parts] == list(translator.layers)
    for part in parts:
        expected = torch.einsum("nqkij,nkhw->nqhw", part.weights, observation.feature(part.source.layer)).relu()
        assert close(part.maps, expected, 1e-5)
        assert bool(part.weights.abs().amax(2).gt(0).all()), "weights of zero prove nothing"
    for i, row in enumerate(found.layers):
        for q, layer in enumerate(row):
            own = parts[translator.layers.index(layer)].maps[i : i + 1, q : q + 1]
            size = found.maps.shape[-2:]
            large = nn.functional.interpolate(own, size=size, mode="bilinear", align_corners=False)
            assert_agree(found.maps[i, q], large[0, 0])
    kept = [t for part in (found, *parts) for t in (part.maps, part.weights, part.scores, part.contributions)]
    assert not any(t.requires_grad for t in kept if t is not None)
    assert all(bool(t.isfinite().all()) for t in kept if t is not None)
    assert (found.contributions is None) == (observation.class_scores is None)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_a_ce_fam_of_a_batch_equals_its_images_one_by_one(name: str) -> None:
    observation, translator = with_a_branch(name, EXACT)
    together = ce_fam(observation, translator, CONCEPTS)
    for i in range(2):
        alone = ce_fam(
            observation.model.observe(observation.images[i : i + 1], translator.layers), translator, CONCEPTS
        )
        assert alone.layers == together.layers[i : i + 1]
        pairs = zip(together.components or (together,), alone.components or (alone,), strict=True)
        assert all(close(both.maps[i : i + 1], one.maps, 2e-5) for both, one in pairs)
        assert torch.allclose(alone.scores, together.scores[i : i + 1], rtol=1e-5)
        if together.contributions is not None:
            assert torch.allclose(alone.contributions, together.contributions[i : i + 1], atol=1e-5)


@pytest.mark.parametrize("name", MOST_SLOW)
def test_a_ce_fam_leaves_module_and_branch_as_found(name: str) -> None:
    model, trouble = in_use(name)
    translator = branch_of(model)
    with untouched(model.module), untouched(translator.branch):
        observation = model.observe(random_images(ARCHITECTURES[name].size), translator.layers)
        kept = {layer: layer_output.raw.detach().clone() for layer, layer_output in observation.layer_outputs.items()}
        ce_fam(observation, translator, CONCEPTS)
        compete(observation, CONCEPTS, translator, competition=Competition(input_scales=(1.0,), mirrored=True))
        assert all(torch.equal(observation.layer_output(layer).raw.detach(), raw) for layer, raw in kept.items())
    trouble.append(KeyError("inside forward"))
    with untouched(model.module), pytest.raises(KeyError, match="inside forward"):
        compete(observation, CONCEPTS, translator, competition=Competition(input_scales=(1.0,), mirrored=True))


@pytest.mark.parametrize("name", MOST_FLIPPED_SLOW)
@pytest.mark.slow
def test_a_flipped_image_gives_a_flipped_ce_fam(name: str) -> None:
    size = ARCHITECTURES[name].flips
    assert size is not None
    model = wrap(name, make_symmetric(fresh(name, EXACT).module, columns=size[1] // 16))
    translator = branch_of(model)
    images = random_images(size)
    plain, flipped = (
        ce_fam(model.observe(shown, translator.layers), translator, CONCEPTS) for shown in (images, images.flip(-1))
    )
    assert plain.layers == flipped.layers
    for one, other in zip(plain.components or (plain,), flipped.components or (flipped,), strict=True):
        assert close(other.maps, one.maps.flip(-1), 1e-4), one.source.layer
    if plain.contributions is not None:
        assert torch.allclose(plain.contributions, flipped.contributions, atol=1e-5)
