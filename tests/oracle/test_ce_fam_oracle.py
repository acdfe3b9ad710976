"""The published pipeline of CE-FAM, step by step in float64 loops that share no code with the package.

One deep copy, one forward and one backward for every concept; then region, Top-20 channels, association score, choice
of the layer, contribution by the masking curve, and what the published evaluation measures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import random_images
from branches import PAIRS, PLAIN, Words, branch_of, text_vector
from conceptlens.concept_regions import channel_masking
from conceptlens.concept_regions.ce_fam import ce_fam, channel_weights
from conceptlens.concept_regions.channel_masking import associations
from conceptlens.concept_regions.concept_scores import score_concepts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts, prompt
from conceptlens.metrics import hit, pointing_energy, ranked_area, ranked_area_corrected

pytestmark = pytest.mark.wide

DOUBLE = torch.float64
TOP = 20
CLASSES = 6
STAGES = ("first", "second", "third")
ASKED = parse_concepts("zebra print:texture, cat, wheel, red:colour, a made-up thing")
FEW = ("cat", "dog", "wheel", "grass", "red", "wood", "sky", "car")
FEW_WORDS = tuple(concept for concept in everyday_words() if concept.label in FEW)


class Staged(nn.Module):
    """Three stages and a linear head on the pooled last one; `widths` below 20 have fewer channels than steps."""

    def __init__(self, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        a, b, c = widths
        self.first = nn.Sequential(nn.Conv2d(3, a, 3, stride=2, padding=1), nn.Softplus())
        self.second = nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.Tanh())
        self.third = nn.Sequential(nn.Conv2d(b, c, 3, stride=2, padding=1), nn.GELU())
        self.head = nn.Linear(c, CLASSES)
        with torch.no_grad():
            for part in (self.first, self.second, self.third):
                part[0].weight *= 2
            self.head.weight *= 12

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(images))).mean((2, 3)))


@dataclass
class Found:
    """What the oracle finds for one image and concept, a value for each stage."""

    score: float
    beta: list[list[float]]
    maps: list[Tensor]
    association: list[float]
    held: int
    contribution: list[float]


class Oracle:
    """The pipeline for one network, one branch and one kind of pair."""

    def __init__(self, net: Staged, translator: Translator, words: Words, known: Sequence[ConceptName]) -> None:
        self.net, self.branch, self.words = net, copy.deepcopy(translator.branch).double(), words
        self.known = known

    def similarity(self, vector: Sequence[float], text: Sequence[float]) -> float:
        product = sum(a * b for a, b in zip(vector, text, strict=True))
        if self.words.normalised:
            product /= math.sqrt(sum(a * a for a in vector)) * math.sqrt(sum(b * b for b in text))
        return self.words.scale * product

    def probability(self, pooled: Sequence[float], concept: ConceptName) -> float:
        """The concept's softmax over itself and the vocabulary, or its sigmoid where the pair has a bias."""
        with torch.no_grad():
            vector = self.branch(torch.tensor(pooled, dtype=DOUBLE)[None])[0].tolist()
        own = self.similarity(vector, text_vector(prompt(concept)).double().tolist())
        if self.words.bias:
            return 1 / (1 + math.exp(-own - self.words.bias))
        others = [c for c in self.known if c != concept]
        rivals = [self.similarity(vector, text_vector(prompt(c)).double().tolist()) for c in others]
        return 1 / (1 + sum(math.exp(min(rival - own, 700)) for rival in rivals))

    def explain(self, image: Tensor, concept: ConceptName, target: int | None = None) -> Found:
        net, branch = copy.deepcopy(self.net), copy.deepcopy(self.branch)
        first = net.first(image[None])
        second = net.second(first)
        third = net.third(second)
        cells = [first, second, third]
        for stage in cells:
            stage.retain_grad()
        vector = branch(torch.cat([stage.mean((2, 3)) for stage in reversed(cells)], dim=1))[0]
        text = text_vector(prompt(concept)).double()
        score = self.words.scale * (vector @ text)
        if self.words.normalised:
            score = score / vector.norm() / text.norm()
        score.backward()
        logits = net.head(third.mean((2, 3)))[0].detach().tolist()
        predicted = logits.index(max(logits)) if target is None else target

        beta = [[float(c.mean()) for c in stage.grad[0]] for stage in cells]
        stages = [stage.detach()[0] for stage in cells]
        maps = []
        for weights, stage in zip(beta, stages, strict=True):
            region = torch.zeros(stage.shape[1:], dtype=DOUBLE)
            for weight, channel in zip(weights, stage, strict=True):
                region += weight * channel
            maps.append(region.clamp_min(0))
        tops = []
        for weights, stage in zip(beta, stages, strict=True):
            value = [w * float(channel.mean()) for w, channel in zip(weights, stage, strict=True)]
            tops.append(sorted(range(len(value)), key=lambda k, v=value: -v[k])[:TOP])
        association = [self.associate(stages, layer, tops[layer], concept) for layer in range(3)]
        contribution = [self.contribute(stages, layer, tops[layer], logits, predicted) for layer in range(3)]
        held = association.index(max(association))
        return Found(float(score.detach()), beta, maps, association, held, contribution)

    def associate(self, stages: list[Tensor], layer: int, top: list[int], concept: ConceptName) -> float:
        """Replace the first j channels' pooled values by the layer's mean pooled value, in the branch's input alone."""
        means = [[float(channel.mean()) for channel in stage] for stage in stages]
        before = self.probability([v for part in reversed(means) for v in part], concept)
        average = sum(means[layer]) / len(means[layer])
        chance = 0.5 if self.words.bias else 1 / len(self.known)
        total = 0.0
        for channel in top:
            means[layer][channel] = average
            after = self.probability([v for part in reversed(means) for v in part], concept)
            total += (before - after) / max(before, chance)
        return total / len(top)

    def contribute(self, stages: list[Tensor], layer: int, top: list[int], logits: list[float], target: int) -> float:
        """Mask cells in the classifier: by the channel's own mean, in the last stage by the mean of the whole stage."""

        def share(values: list[float]) -> float:
            highest = max(values)
            return math.exp(values[target] - highest) / sum(math.exp(v - highest) for v in values)

        before = share(logits)
        masked, total = stages[layer].clone(), 0.0
        for channel in top:
            masked[channel] = stages[layer].mean() if layer == 2 else stages[layer][channel].mean()
            with torch.no_grad():
                cells = masked[None].clone()
                for name in STAGES[layer + 1 :]:
                    cells = self.net.get_submodule(name)(cells)
                after = share(self.net.head(cells.mean((2, 3)))[0].tolist())
            total += (before - after) / max(before, 1 / CLASSES)
        return total / len(top)


Case = tuple[cl.Observation, Translator, Oracle]


def make(
    monkeypatch: pytest.MonkeyPatch,
    words: Words,
    widths: Sequence[int] = (24, 30, 28),
    seed: int = 0,
    images: int = 2,
    known: Sequence[ConceptName] = FEW_WORDS,
) -> Case:
    net = Staged(widths, seed).double().eval()
    model = cl.Backbone(net, "staged", channels_last=False, input_size=(24, 40))
    translator = branch_of(model, words, STAGES, seed=seed + 1)
    with torch.no_grad():
        translator.branch.network[0].weight.mul_(3)
        translator.branch.network[-1].weight.mul_(3)
    monkeypatch.setattr(channel_masking, "everyday_words", lambda: tuple(known))
    photos = random_images((24, 40), images, seed=seed + 2).double()
    return model.observe(photos, layers=STAGES), translator, Oracle(net, translator, words, known)


def near(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Whether all entries agree to `tolerance` of the largest."""
    return bool((found.double() - wanted).abs().max() <= tolerance * wanted.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("seed", [0, 10])
@pytest.mark.parametrize("widths", [(24, 30, 28), (7, 12, 23)])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_whole_pipeline(monkeypatch: pytest.MonkeyPatch, pair: str, widths: tuple[int, ...], seed: int) -> None:
    seen, translator, oracle = make(monkeypatch, PAIRS[pair], widths, seed)
    found = ce_fam(seen, translator, ASKED)
    assert found.contributions is not None
    evidence = score_concepts(seen, translator, ASKED)
    chosen = evidence.all_indices()
    wanted = [[oracle.explain(image, concept) for concept in ASKED] for image in seen.images]
    for way in ("forward", "reverse", "auto"):
        weights = channel_weights(seen, translator, evidence.score_gradients(chosen), STAGES, way)
        for place, layer in enumerate(STAGES):
            beta = torch.tensor([[one.beta[place] for one in row] for row in wanted], dtype=DOUBLE)
            assert near(weights[layer], beta, 2e-6), (way, layer)
    associated = associations(seen, translator, weights, evidence, chosen)
    for i, row in enumerate(wanted):
        for q, one in enumerate(row):
            assert float(found.scores[i, q]) == pytest.approx(one.score, rel=1e-5, abs=1e-6)
            assert associated[i, q].tolist() == pytest.approx(one.association, abs=1e-5)
            assert found.layers[i][q] == STAGES[one.held]
            assert float(found.contributions[i, q]) == pytest.approx(one.contribution[one.held], abs=1e-6)
            for part, region in zip(found.components, one.maps, strict=True):
                assert near(part.maps[i, q], region, 5e-6)
            assert near(found.maps[i, q], enlarged(one.maps[one.held], found.maps.shape[-2:]), 5e-6)


@pytest.mark.parametrize("layer", STAGES)
def test_the_contribution_of_each_layer_to_a_class_of_ones_own(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Both masking rules, and a class that the model all but excludes, whose drop is divided by chance."""
    seen, translator, oracle = make(monkeypatch, PAIRS["clip"], images=3, seed=3)
    targets = [0, *seen.logits.detach().argmin(1)[1:].tolist()]
    assert float(seen.logits.detach().softmax(1)[1, targets[1]]) < 1 / CLASSES
    found = ce_fam(seen, translator, ASKED, target=targets, layer=layer)
    assert found.contributions is not None
    place = STAGES.index(layer)
    wanted = [
        [oracle.explain(image, concept, target).contribution[place] for concept in ASKED]
        for image, target in zip(seen.images, targets, strict=True)
    ]
    assert near(found.contributions, torch.tensor(wanted, dtype=DOUBLE), 1e-5)
    assert found.explained_classes == tuple(f"class {t}" for t in targets)


def test_images_of_a_batch_keep_their_own_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without names, each image is explained by its own best words of the vocabulary, each in its own layer."""
    seen, translator, oracle = make(monkeypatch, PLAIN, images=3, seed=4, known=everyday_words()[::60])
    monkeypatch.setattr("conceptlens.concept_regions.ce_fam.everyday_words", lambda: everyday_words()[::60])
    found = ce_fam(seen, translator, top=4)
    assert found.contributions is not None
    assert len(set(found.labels)) > 1
    for i, image in enumerate(seen.images):
        for q, (label, kind) in enumerate(zip(found.labels[i], found.concept_types[i], strict=True)):
            wanted = oracle.explain(image, ConceptName(label, kind))
            assert float(found.scores[i, q]) == pytest.approx(wanted.score, rel=1e-5)
            assert found.layers[i][q] == STAGES[wanted.held]
            assert float(found.contributions[i, q]) == pytest.approx(wanted.contribution[wanted.held], abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_concept_that_is_all_but_excluded_has_a_small_score_not_a_huge_one(
    monkeypatch: pytest.MonkeyPatch, pair: str
) -> None:
    """Probabilities down to 1e-30: the drop is divided by chance, so that no rounding is blown up."""
    strong = Words(120.0, -60.0 * bool(PAIRS[pair].bias), PAIRS[pair].normalised)
    seen, translator, oracle = make(monkeypatch, strong, seed=6)
    evidence = score_concepts(seen, translator, ASKED)
    weights = channel_weights(seen, translator, evidence.score_gradients(evidence.all_indices()), STAGES)
    found = associations(seen, translator, weights, evidence, evidence.all_indices())
    assert bool(found.isfinite().all())
    small = 0
    for i, image in enumerate(seen.images):
        for q, concept in enumerate(ASKED):
            wanted = oracle.explain(image, concept).association
            means = [float(c.mean()) for layer in reversed(STAGES) for c in seen.feature(layer)[i]]
            small += oracle.probability(means, concept) < 1e-6
            assert found[i, q].tolist() == pytest.approx(wanted, abs=2e-4)
    assert small > 0, "no probability near zero proves nothing"


def test_a_long_vocabulary_is_the_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is the same whether all variants are scored in one go or in small chunks."""
    seen, translator, oracle = make(monkeypatch, PAIRS["clip"], (6, 5, 7), known=everyday_words()[::9])
    evidence = score_concepts(seen, translator, ASKED)
    chosen = torch.tensor([[0, 3, 1], [4, 2, 0]])  # other concepts in the second image
    weights = channel_weights(seen, translator, evidence.score_gradients(chosen), STAGES)
    found = associations(seen, translator, weights, evidence, chosen)
    monkeypatch.setattr(channel_masking, "MAX_SCORES", 1)
    assert torch.allclose(associations(seen, translator, weights, evidence, chosen), found, atol=1e-6)
    for i, image in enumerate(seen.images):
        for q, c in enumerate(chosen[i].tolist()):
            assert found[i, q].tolist() == pytest.approx(oracle.explain(image, ASKED[c]).association, abs=1e-5)


def enlarged(cells: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, cell centres keep their place: pixel by pixel."""
    rows, columns = cells.shape
    found = torch.zeros(*size, dtype=DOUBLE)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * rows / size[0] - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / size[1] - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            high = cells[top, left] * (1 - (u - left)) + cells[top, right] * (u - left)
            low = cells[below, left] * (1 - (u - left)) + cells[below, right] * (u - left)
            found[y, x] = high * (1 - (v - top)) + low * (v - top)
    return found


def ranked(values: list[float], inside: list[bool]) -> dict[str, float]:
    """NRA as published and corrected for chance, and the hit: the area under IoU, equal pixels bring their mean."""
    nodes, node_weights = np.polynomial.legendre.leggauss(24)
    size, taken, within, total = sum(inside), 0, 0.0, 0.0
    for value in sorted(set(values), reverse=True):
        here = [i for i, v in enumerate(values) if v == value]
        gained = sum(inside[i] for i in here) / len(here)
        for _ in here:  # a pixel is taken bit by bit
            for node, weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
                found = within + gained * node
                total += weight * found / (size + taken + node - found)
            taken, within = taken + 1, within + gained
    r, area = size / len(values), total / len(values)
    k = r / (1 - r)
    random, ideal = k * (1 + k * math.log(r)), r / 2 - r * math.log(r)
    nra = max(area - r / 2, 0) / (ideal - r / 2)
    return {"nra": nra, "corrected": (area - random) / (ideal - random), "hit": float(nra > 0.5)}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_the_evaluation_measures(monkeypatch: pytest.MonkeyPatch, pair: str) -> None:
    seen, translator, oracle = make(monkeypatch, PAIRS[pair], seed=7)
    found = ce_fam(seen, translator, ASKED, with_contributions=False)
    field = random_images((24, 40), 2, seed=9)[:, 0]
    masks = field > field.flatten(1).quantile(0.7, 1)[:, None, None]
    scores = {
        "energy": pointing_energy(found, masks, normalise="minmax"),
        "nra": ranked_area(found, masks),
        "corrected": ranked_area_corrected(found, masks),
        "hit": hit(found, masks),
    }
    for i, image in enumerate(seen.images):
        inside = masks[i].flatten().tolist()
        for q, concept in enumerate(ASKED):
            one = oracle.explain(image, concept)
            region = enlarged(enlarged(one.maps[one.held], found.maps.shape[-2:]), (24, 40)).flatten()
            raised = region - region.min()
            energy = float(raised[torch.tensor(inside)].sum() / raised.sum()) if raised.sum() > 0 else 0.0
            wanted = {"energy": energy, **ranked(region.float().tolist(), inside)}
            for name, value in wanted.items():
                if name == "hit" and abs(wanted["nra"] - 0.5) < 1e-5:
                    continue
                assert scores[name].values[i, q].item() == pytest.approx(value, abs=2e-6), name


def test_the_measures_tell_a_region_from_its_opposite() -> None:
    """The ideal map has NRA 1 and a hit, a map of the outside neither; the oracle agrees with the closed forms."""
    inside = [i % 7 < 2 for i in range(210)]
    ideal = ranked([float(v) for v in inside], inside)
    assert ideal == pytest.approx({"nra": 1.0, "corrected": 1.0, "hit": 1.0})
    assert ranked([float(not v) for v in inside], inside)["nra"] == 0
