"""What directions drawn at random get beside the concepts of a photo: by the formula, alone, and as it is said."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.concept_regions.concept_scores import encode_concepts
from conceptlens.concepts.class_knowledge import UNNAMED_RATE
from conceptlens.concepts.random_directions import COUNT, RANDOM, RANDOM_DIRECTIONS, random_vectors
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.explainer.calibration import find_calibration
from conceptlens.explainer.presence import USUAL_BASE_RATE, WITH_Z_SCORES
from conceptlens.io.errors import InputError
from conceptlens.record import Explanation
from tolerance import assert_agree

ASKED = ["cat", "whiskers", "wheel"]


@pytest.fixture(scope="module")
def observation() -> cl.Observation:
    return cl.load_model().observe(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(scope="module")
def found(observation: cl.Observation) -> Explanation:
    return cl.explain(observation, ASKED)


def slow_presence(observation: cl.Observation) -> Tensor:
    """The logistic model of presence for directions of which no class knowledge and no base rate is known."""
    vectors, reference = random_vectors(1280), find_calibration(observation.model)
    assert reference is not None
    scores = observation.embedding.detach() @ vectors.T
    spread = ((vectors @ reference.basis).square().sum(1) + vectors.square() @ reference.rest).sqrt()
    z = ((scores - vectors @ reference.mean) / spread).clamp(-3, 8)
    weights = WITH_Z_SCORES
    rate = torch.tensor(UNNAMED_RATE)
    known = weights.implied * (rate / (1 - rate)).log() + weights.base_rate * torch.tensor(USUAL_BASE_RATE).log()
    return (weights.z_score * z + known + weights.offsets["object"]).sigmoid()


def test_the_level_is_what_each_direction_gets_alone_beside_the_concepts(
    observation: cl.Observation, found: Explanation
) -> None:
    """Cell by cell: `o r / (3 + sum_s o_s r_s + o r)`, averaged over the cells of the layer, times their evidence."""
    evidence = cell_evidence(observation)
    assert evidence is not None
    assert found.presence is not None
    likely = slow_presence(observation)
    drawn = cl.compete(observation, RANDOM_DIRECTIONS).maps
    root = (found.presence / (1 - found.presence)).sqrt().clamp(max=7)
    for i in range(2):
        sizes = []
        for n in range(COUNT):
            own = (likely[i, n] / (1 - likely[i, n])).sqrt() * drawn[i, n]
            rest = 3 + sum(root[i, q] * found.maps[i, q] for q in range(len(ASKED)))
            share = own / (rest + own)
            of_cells = share.unflatten(0, (7, 4)).unflatten(2, (7, 4)).mean((1, 3))
            sizes.append(abs(float((of_cells * evidence.cells[i]).sum())))
        assert found.random_level is not None
        assert float(found.random_level[i]) == pytest.approx(sum(sizes) / COUNT, rel=1e-3)
        assert sum(sizes) > 0, "sizes of zero prove nothing"


def test_the_level_takes_nothing_from_the_concepts(observation: cl.Observation, found: Explanation) -> None:
    without = cl.explain(observation, ASKED, random_level=False)
    assert without.random_level is None
    for name in ("contributions", "maps", "scores", "presence", "z_scores", "residuals", "unnamed"):
        assert_agree(getattr(found, name), getattr(without, name))
    assert found.labels == without.labels
    assert not any(RANDOM in kind for row in found.concept_types for kind in row)


def test_concepts_that_are_found_have_a_level_too(observation: cl.Observation) -> None:
    found = cl.explain(observation, top=4)
    assert found.random_level is not None
    assert bool((found.random_level > 0).all())
    one = found.of(1)
    assert one.random_level is not None
    assert one.random_level.tolist() == found.random_level[1:].tolist()


def test_by_masking_the_level_is_the_mean_curve_of_random_directions(observation: cl.Observation) -> None:
    """The default layer is pooled, so channel weights are the directions themselves, up to a factor."""
    found = cl.explain(observation, ASKED, contribution="masking", random_level=True)
    published = cl.explain(observation, ASKED, contribution="masking")
    directions = random_vectors(1280).expand(2, -1, -1)
    curves = masking_contributions(observation, directions, observation.logits.detach().argmax(1))
    assert found.random_level is not None
    assert_agree(found.random_level, curves.abs().mean(1))
    assert found.contributions is not None
    assert published.contributions is not None
    assert_agree(found.contributions, published.contributions)
    assert found.contributions_above_random is not None
    assert_agree(found.contributions_above_random, found.contributions - curves.abs().mean(1, keepdim=True))
    assert published.random_level is None
    assert published.contributions_above_random is None
    assert "contribution_above_random" in found.to_frame().columns


def test_published_regions_have_a_level_when_asked(observation: cl.Observation, found: Explanation) -> None:
    assert cl.explain(observation, ASKED, regions="official").random_level is None
    asked = cl.explain(observation, ASKED, regions="official", random_level=True)
    assert asked.random_level is not None
    assert bool((asked.random_level > 0).all())
    assert found.contributions_above_random is None, "what adds up to a margin has nothing taken off"


def test_directions_stand_where_they_were_asked_for_in_the_space_of_any_texts() -> None:
    def encode_text(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(text))] * 5 for text in texts])

    language: Any = SimpleNamespace(encode_text=encode_text)
    concepts = [RANDOM_DIRECTIONS[2], ConceptName("cat"), RANDOM_DIRECTIONS[0], ConceptName("wheel")]
    vectors = encode_concepts(language, concepts)
    assert torch.equal(vectors[[0, 2]], random_vectors(5)[[2, 0]])
    assert vectors[[1, 3], 0].tolist() == [len("a photo of a cat"), len("a photo of a wheel")]
    assert torch.equal(encode_concepts(language, RANDOM_DIRECTIONS), random_vectors(5))
    assert random_vectors(5).norm(dim=1).tolist() == pytest.approx([1.0] * COUNT)


def test_nobody_can_ask_for_a_direction() -> None:
    with pytest.raises(InputError, match="unknown type 'random direction'"):
        parse_concepts("anything:random direction")
