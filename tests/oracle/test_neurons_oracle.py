"""CLIP-Dissect and WWW once more, number by number, as their papers and code say it."""

from __future__ import annotations

import math

import pytest
import torch

from conceptlens.concept_regions.neurons import ProbedNeurons, fit_clip_dissect, fit_www, soft_wpmi
from conceptlens.concepts.vocabulary import ConceptName
from planted_words import planted_model

WORDS = [ConceptName(word) for word in ("red", "green blue", "blue", "cyan magenta", "nothing")]


def slow_soft_wpmi(
    cosines: list[list[float]], activations: list[list[float]], top: int, sharpness: float, prior: float
) -> list[list[float]]:
    photos, concepts, neurons = len(cosines), len(cosines[0]), len(activations[0])
    table = []
    for row in cosines:
        total = sum(math.exp(sharpness * value) for value in row)
        table.append([math.exp(sharpness * value) / total for value in row])
    given = [[0.0] * neurons for _ in range(concepts)]
    for k in range(neurons):
        order = sorted(range(photos), key=lambda x: -activations[x][k])[:top]
        for t in range(concepts):
            for rank, x in enumerate(order):
                member = 0.998 - rank / top * (0.998 - 0.97)
                given[t][k] += math.log(1 + member * (table[x][t] - 1) + 1e-7)
    found = []
    for t in range(concepts):
        highest = max(given[t])
        anyway = highest + math.log(sum(math.exp(value - highest) for value in given[t]) / neurons)
        found.append([value - prior * anyway for value in given[t]])
    return found


def slow_www(cosines: list[list[float]], template: list[float], activations: list[list[float]], examples: int) -> list:
    photos, concepts, neurons = len(cosines), len(cosines[0]), len(activations[0])
    found = [[0.0] * neurons for _ in range(concepts)]
    for k in range(neurons):
        order = sorted(range(photos), key=lambda x: -activations[x][k])[:examples]
        for t in range(concepts):
            for x in order:
                found[t][k] += cosines[x][t] - template[x]
    return found


def probed(photos: int = 60, neurons: int = 7) -> ProbedNeurons:
    draw = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.rand(photos, 6, generator=draw).double(), dim=1)
    model = planted_model()
    activations = torch.rand(photos, neurons, generator=draw).double()
    return ProbedNeurons(activations, vectors, "features", model, model.language)


@pytest.mark.parametrize(("top", "sharpness", "prior"), [(12, 10.0, 1.0), (5, 2.0, 0.6), (60, 10.0, 0.0)])
def test_soft_wpmi_is_the_formula(top: int, sharpness: float, prior: float) -> None:
    draw = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(60, 9, generator=draw).double() - 1
    activations = torch.rand(60, 130, generator=draw).double()  # more neurons than are done at once
    fast = soft_wpmi(cosines, activations, top, sharpness, prior)
    slow = slow_soft_wpmi(cosines.tolist(), activations.tolist(), top, sharpness, prior)
    assert torch.allclose(fast, torch.tensor(slow, dtype=torch.float64), atol=1e-9)


def test_clip_dissect_asks_for_the_bare_words() -> None:
    given = probed()
    labels = fit_clip_dissect(given, WORDS, top=8)
    cosines = given.cosines([word.label for word in WORDS]).tolist()
    slow = torch.tensor(slow_soft_wpmi(cosines, given.activations.tolist(), 8, 10.0, 1.0))
    assert torch.allclose(labels.similarity, slow, atol=1e-4)


def test_www_sums_what_the_word_adds_to_the_template() -> None:
    given = probed()
    labels = fit_www(given, WORDS, examples=8)
    cosines = given.cosines([f"a photo of a {word.label}" for word in WORDS]).tolist()
    template = given.cosines(["a photo of a"])[:, 0].tolist()
    slow = torch.tensor(slow_www(cosines, template, given.activations.tolist(), 8))
    assert torch.allclose(labels.similarity, slow, atol=1e-5)
    for k in range(7):
        kept = [float(slow[t, k]) > 0.95 * float(slow[:, k].max()) for t in range(len(WORDS))]
        assert labels.assigned()[:, k].tolist() == kept
