"""How targets are named: classes, references and concepts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import conceptlens as cl
from conceptlens.concepts.vocabulary import ConceptName, prompt
from tolerance import assert_agree

LABELS = ("cat", "dog", "a, b", "a", "b", "crane, bird", "crane, machine")


@pytest.fixture(scope="module")
def observation() -> cl.Observation:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7))
    model = cl.Backbone(module, "tiny", class_names=LABELS, input_size=(64, 64))
    return model.observe(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("name", "index"), [("a", 3), ("b", 4), ("A, B", 2), ("bird", 5), ("dog", 1), (6, 6)])
def test_a_whole_label_is_found_before_one_of_its_names(
    observation: cl.Observation, name: str | int, index: int
) -> None:
    assert float(cl.cam(observation, cl.Logit(name)).scores[0, 0]) == float(observation.logits[0, index].detach())


def test_a_name_of_two_classes_is_refused_with_their_indices(observation: cl.Observation) -> None:
    with pytest.raises(cl.InputError, match="'crane' names classes 5, 6 of tiny; give the index"):
        cl.cam(observation, cl.Logit("crane"))


def test_a_tensor_of_classes_is_one_per_image(observation: cl.Observation) -> None:
    found = cl.cam(observation, cl.Logit(torch.tensor([3, 1])))  # pyright: ignore[reportArgumentType]
    assert found.labels == (("a",), ("dog",))


@pytest.mark.parametrize("target", [True, 1.5, object()])
def test_what_is_no_class_is_refused(observation: cl.Observation, target: Any) -> None:
    with pytest.raises(cl.InputError, match="is no class"):
        cl.cam(observation, cl.Logit(target))


def test_references_may_be_named_for_each_image(observation: cl.Observation) -> None:
    found = cl.cam(observation, cl.Contrast([0, 1], against=[["dog", "a"], ["cat", "b"]]))
    logits = observation.logits.detach()
    first = logits[0, 0] - 0.6 * (logits[0, 1] + logits[0, 3]) / 2
    second = logits[1, 1] - 0.6 * (logits[1, 0] + logits[1, 4]) / 2
    assert_agree(found.scores[:, 0], torch.stack([first, second]))
    for wrong in ([["dog"]], [["dog"], ["cat", "b"]], [["dog"], "cat"]):
        with pytest.raises(cl.InputError, match="expected one for each of 2 images"):
            cl.cam(observation, cl.Contrast([0, 1], against=wrong))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("cat", ConceptName("cat")),
        ("wood", ConceptName("wood", "material")),
        ("hat:texture", ConceptName("hat", "texture")),
    ],
)
def test_a_concept_is_asked_about_by_its_type_as_in_explain(
    observation: cl.Observation, text: str, concept: ConceptName
) -> None:
    asked = cl.cam(observation, cl.Concept(text))
    named = cl.explain(observation, [text], regions="official")
    own = cl.cam(observation, cl.Concept(concept.label, prompt=prompt(concept).replace(concept.label, "{}")))
    assert asked.labels[0] == named.labels[0] == (concept.label,)
    assert torch.allclose(asked.scores, named.scores, atol=1e-5)
    assert torch.allclose(asked.maps, named.maps, atol=1e-6)
    assert_agree(asked.scores, own.scores)


def test_a_difference_has_the_maps_of_the_concepts_and_its_own_contributions(observation: cl.Observation) -> None:
    plain = cl.explain(observation, "cat, dog", target=0, regions="official")
    versus = cl.explain(observation, "cat, dog", target=0, against=1, regions="official")
    back = cl.explain(observation, "cat, dog", target=1, against=0, regions="official")
    assert_agree(plain.maps, versus.maps)
    assert_agree(plain.scores, versus.scores)
    assert versus.contributions is not None
    assert back.contributions is not None
    assert_agree(versus.contributions, -back.contributions)
    assert_agree(versus.margins, observation.logits.detach()[:, 0] - observation.logits.detach()[:, 1])


@pytest.mark.parametrize("photos", [None, 3, {"a": 1}])
def test_what_is_no_photo_is_refused(observation: cl.Observation, photos: Any) -> None:
    with pytest.raises(cl.InputError, match=r"was given; expected (a path|photos or a tensor)"):
        observation.model.observe(photos)


def test_a_report_is_a_page_of_explanations(observation: cl.Observation, tmp_path: Any) -> None:
    with pytest.raises(cl.InputError, match=r"ends in '.pdf'; expected .html"):
        cl.report(tmp_path / "page.pdf", observation, cl.cam(observation))
    with pytest.raises(cl.InputError, match="a str was given"):
        cl.report(tmp_path / "page.html", observation, "map")  # pyright: ignore[reportArgumentType]
