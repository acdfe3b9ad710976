"""CE-FAM's region and contribution against loops straight from the paper's formulas."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.concept_regions.concept_scores import score_concepts
from conceptlens.concepts.vocabulary import ConceptName, prompt
from conceptlens.explainer.explain import explain
from conceptlens.model.observation import Observation


def small_cnn(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def observed(layer: str, module: nn.Module | None = None, images: int = 2) -> Observation:
    names = ("cat", "dog", "car", "tree", "cup", "bird", "house")
    model = cl.Backbone(module or small_cnn(), "tiny", class_names=names, input_size=(64, 64))
    return model.observe(torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(1)), layers=layer)


def slow_contribution(
    observation: Observation, beta: Tensor, image: int, target: int, against: int | None, last: bool, layer: str
) -> float:
    """Twenty masked forward passes of the whole model, with a hook by hand; float64 sums."""
    feature = observation.feature(layer)[image].clone()
    value = [float(beta[k] * feature[k].mean()) for k in range(len(feature))]
    order = sorted(range(len(value)), key=lambda k: -value[k])[:20]

    def probability(cells: Tensor | None) -> float:
        module = observation.model.module
        hook = module.get_submodule(layer).register_forward_hook(lambda *_: None if cells is None else cells[None])
        with torch.no_grad():
            logits = module.eval()(observation.images[image : image + 1])[0].double()
        hook.remove()
        if against is not None:
            return float(torch.sigmoid(logits[target] - logits[against]))
        return float(logits.softmax(0)[target])

    before = probability(None)
    chance = 0.5 if against is not None else 1 / observation.logits.shape[1]
    total = 0.0
    masked = feature.clone()
    for channel in order:
        masked[channel] = feature.mean() if last else feature[channel].mean()
        total += (before - probability(masked.clone())) / max(before, chance)
    return total / len(order)


@pytest.mark.parametrize(("layer", "last"), [("3", True), ("1", False)])
@pytest.mark.parametrize("against", [None, 4])
def test_contribution_equals_twenty_masked_forwards(layer: str, last: bool, against: int | None) -> None:
    observation = observed(layer)
    assert (observation.readout(observation.logits, layer) is not None) == last
    channels = observation.feature(layer).shape[1]
    beta = torch.randn(2, 3, channels, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([1, 2])
    other = None if against is None else torch.tensor([against, against])
    found = masking_contributions(observation, beta, target, other, layer)
    for i in range(2):
        for q in range(3):
            slow = slow_contribution(observation, beta[i, q], i, int(target[i]), against, last, layer)
            assert float(found[i, q]) == pytest.approx(slow, abs=2e-5)


@pytest.mark.parametrize(("layer", "last"), [("3", True), ("1", False)])
@pytest.mark.parametrize("against", [None, 4])
def test_masking_through_explain_is_the_published_curve(layer: str, last: bool, against: int | None) -> None:
    observation = observed(layer)
    concepts = [ConceptName("cat"), ConceptName("wood", "material")]
    found = explain(
        observation, concepts, [1, 2], against=against, layer=layer, regions="official", contribution="masking"
    )
    texts = observation.model.language.encode_text([prompt(c) for c in concepts])
    assert found.contributions is not None
    for q in range(2):
        beta = observation.gradient(observation.embedding @ texts[q], layer)[:, 0].mean((2, 3))
        for i, target in enumerate((1, 2)):
            slow = slow_contribution(observation, beta[i], i, target, against, last, layer)
            assert float(found.contributions[i, q]) == pytest.approx(slow, abs=2e-5)
    assert bool(found.contributions.abs().amax(1).gt(1e-4).all())
    assert (found.margins, found.unplaced, found.residuals, found.unnamed) == (None, None, None, None)
    pairs = (1, 2) if against is None else ((1, against), (2, against))
    names = observation.model.class_names
    assert names is not None
    said = [" / ".join(names[c] for c in (pair if isinstance(pair, tuple) else (pair,))) for pair in pairs]
    assert list(found.explained_classes) == said
    evidence = explain(observation, concepts, [1, 2], against=against, layer=layer, regions="official")
    assert torch.equal(evidence.maps, found.maps)
    assert evidence.contributions is not None
    assert not torch.allclose(evidence.contributions, found.contributions, atol=1e-3)


def test_contribution_runs_on_a_vision_transformer() -> None:
    module = timm.create_model("test_vit", num_classes=7)
    nn.init.normal_(module.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    names = ("cat", "dog", "car", "tree", "cup", "bird", "house")
    model = cl.Backbone(module, "vit", class_names=names, input_size=(160, 160))
    observation = model.observe(torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1)))
    beta = torch.randn(1, 2, observation.feature().shape[1], generator=torch.Generator().manual_seed(2))
    found = masking_contributions(observation, beta, torch.tensor([3]))
    feature = observation.feature()[0]
    order = (beta[0, 0] * feature.mean((1, 2))).argsort(descending=True)[:20]
    before, total, masked = float(observation.logits.detach().softmax(1)[0, 3]), 0.0, feature.clone()
    for channel in order.tolist():
        masked[channel] = feature[channel].mean()
        after = float(observation.rerun(masked[None]).logits.detach().softmax(1)[0, 3])
        total += (before - after) / max(before, 1 / 7)
    assert float(found[0, 0]) == pytest.approx(total / 20, abs=1e-5)
    assert found.abs().max() > 0


def test_region_is_the_mean_gradient_of_the_similarity() -> None:
    observation = observed("1")
    concepts = [ConceptName("cat"), ConceptName("wood", "material")]
    found = explain(observation, concepts, regions="official")
    texts = observation.model.language.encode_text([prompt(c) for c in concepts])
    for q in range(2):
        score = observation.embedding @ texts[q]
        assert torch.allclose(found.scores[:, q], score.detach(), atol=1e-5)
        gradient = observation.gradient(score, "1")[:, 0]
        for i in range(2):
            region = torch.zeros(observation.feature("1").shape[2:])
            for k in range(gradient.shape[1]):
                region += gradient[i, k].mean() * observation.feature("1")[i, k]
            assert torch.allclose(found.maps[i, q], region.relu(), atol=1e-6)


def test_a_model_whose_classes_have_no_names_says_so() -> None:
    model = cl.Backbone(small_cnn(), "tiny", input_size=(64, 64))
    observation = model.observe(torch.randn(1, 3, 64, 64), layers="1")
    with pytest.raises(cl.InputError, match="tiny has no text encoder, and none can be built"):
        explain(observation, "cat")


class Unit(nn.Module):
    """An embedding tower whose text half is a table: a CLIP in miniature."""

    name, scale, normalised = "unit", 14.0, True

    def encode_image(self, output: cl.Observation) -> Tensor:
        return output.embedding

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([torch.randn(7, generator=torch.Generator().manual_seed(len(t))) for t in texts])


def test_cotangent_of_a_cosine_equals_autograd() -> None:
    language = Unit()
    model = cl.Backbone(small_cnn(), "tower", task="embedding", text=language, input_size=(64, 64))
    observation = model.observe(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), layers="1")
    asked = [cl.Concept("cat"), cl.Concept("a long word")]
    expected = cl.cam(observation, asked)
    found = score_concepts(observation, language, [ConceptName(c.text) for c in asked])
    weights = observation.pull(found.image_vectors, found.score_gradients(found.all_indices()), "1").mean((-2, -1))
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert torch.allclose(weights, expected.weights[..., 0, 0], atol=1e-6)
