"""The filters of Label-free CBM against the published loops, their traps, and what bad input they name."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from conceptlens.bottleneck.concept_writing import concept_filter
from conceptlens.bottleneck.concept_writing.concept_filter import (
    FILTER_LIMITS,
    PRESENCE_CUTOFFS,
    FilterLimits,
    FilterResult,
    by_class_name,
    by_class_similarity,
    by_interpretability,
    by_length,
    by_presence,
    by_similarity,
    cos_cubed,
    filter_concepts,
    text_similarity,
)
from conceptlens.concepts.concept_set import collect
from conceptlens.io.errors import InputError

ANIMALS = ["airplane", "bird", "cat"]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def published_others(labels: list[str], similarity: np.ndarray, cut: float) -> list[str]:
    """The published loop over pairs, for labels in alphabetical order."""
    order = sorted(range(len(labels)), key=lambda n: labels[n])
    names, values = [labels[n] for n in order], similarity[np.ix_(order, order)]
    delete: list[int] = []
    for i in range(len(names)):
        for j in range(len(names)):
            if values[i, j] >= cut and i != j and i not in delete and j not in delete:
                delete.append(i if sum(values[i]) < sum(values[j]) else j)
    return [name for n, name in enumerate(names) if n not in delete]


def published_cos_cubed(first: Sequence[float], second: Sequence[float]) -> float:
    cubes = []
    for values in (first, second):
        mean = sum(values) / len(values)
        cubes.append([(value - mean) ** 3 for value in values])
    x, y = cubes
    product = sum(a * b for a, b in zip(x, y, strict=True))
    return product / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))


def alike(count: int, seed: int) -> np.ndarray:
    """Symmetric similarities with many pairs above a cut of 0.9."""
    values = np.random.default_rng(seed).uniform(0.6, 1, (count, count))
    values = (values + values.T) / 2
    values[np.arange(count), np.arange(count)] = 1
    return values


def kept(labels: Sequence[str], filtered: FilterResult) -> list[str]:
    assert sorted([*filtered.kept, *(labels.index(one.label) for one in filtered.dropped)]) == list(range(len(labels)))
    return [labels[place] for place in filtered.kept]


def test_the_published_limits() -> None:
    assert FILTER_LIMITS["published"] == FilterLimits(30, 0.85, 0.9, None)
    assert (PRESENCE_CUTOFFS["cifar10"], PRESENCE_CUTOFFS["cub"], PRESENCE_CUTOFFS["imagenet"]) == (0.25, 0.26, 0.28)


def test_thirty_characters_are_kept() -> None:
    labels = ["x" * 30, "x" * 31, "crown"]
    found = by_length(labels)
    assert kept(labels, found) == ["x" * 30, "crown"]
    assert (found.dropped[0].value, found.dropped[0].threshold, found.dropped[0].filter) == (31, 30, "length")
    assert found.dropped[0].reason == "it has 31 characters; at most 30 are kept"


@pytest.mark.parametrize(
    "label", ["cat", "a cat", "A cat", "an cat", "An cat", "the cat", "The cat", "CAT", "Cat", "A  CAT"]
)
def test_the_name_of_a_class_goes(label: str) -> None:
    labels = [label, "cat bed", "a", "the a"]
    found = by_class_name(labels, ["dog", "cat"])
    assert kept(labels, found) == labels[1:]
    assert found.dropped[0].reason == "it is the name of class 'cat'"


def test_a_concept_is_compared_with_the_class_of_its_own_index_too() -> None:
    labels, classes = ["aircraft", "beak", "feline"], ANIMALS
    similarity = np.array([[0.85, 0.1, 0.1], [0.1, 0.84999, 0.2], [0.1, 0.3, 0.96]])
    found = by_class_similarity(labels, classes, similarity)
    assert kept(labels, found) == ["beak"]  # the published loop skips (0, 0) and (2, 2): it keeps all three
    assert [(one.label, one.value) for one in found.dropped] == [("aircraft", 0.85), ("feline", 0.96)]
    assert found.dropped[1].reason == "it resembles class 'cat' by 0.960; below 0.85 is kept"


@pytest.mark.parametrize("seed", range(5))
def test_of_pairs_alike_the_published_one_goes_whatever_the_order(seed: int) -> None:
    labels = [f"{word} {number}" for number in range(6) for word in ("a Tail", "a tail", "wing")]
    random.Random(seed).shuffle(labels)
    similarity = alike(len(labels), seed)
    expected = published_others(labels, similarity, 0.9)
    assert 0 < len(expected) < len(labels)
    found = by_similarity(labels, similarity)
    assert sorted(kept(labels, found)) == sorted(expected)
    assert list(found.kept) == sorted(found.kept)
    back = by_similarity(labels[::-1], similarity[::-1, ::-1])
    assert sorted(kept(labels[::-1], back)) == sorted(expected)


def test_a_chain_loses_all_but_its_last() -> None:
    """As the paper's notebook prints it: "a long tail" for "a short tail", that for "a tail"; equals lose the later."""
    labels = ["a tail", "a short tail", "a long tail", "crown", "coronet"]
    pairs = {(0, 1): 0.92, (1, 2): 0.91, (0, 3): 0.8, (0, 4): 0.8, (3, 4): 0.9}
    similarity = np.eye(5)
    for (i, j), value in pairs.items():
        similarity[i, j] = similarity[j, i] = value
    found = by_similarity(labels, similarity)
    assert kept(labels, found) == ["a tail", "coronet"]
    why = {one.label: one.reason for one in found.dropped}
    assert why["a long tail"].startswith("it resembles 'a short tail' by 0.910")
    assert why["a short tail"].startswith("it resembles 'a tail' by 0.920")
    assert why["crown"].startswith("it resembles 'coronet' by 0.900")


def test_texts_are_compared_by_cosine() -> None:
    found = text_similarity(["a engine", "pond"], ["an engine"])
    assert found[0, 0] > 0.95 > 0.5 > found[1, 0]


@pytest.mark.parametrize("kind", [np.float32, torch.float32, torch.bfloat16])
def test_presence_is_the_mean_of_the_five_best(kind: type | torch.dtype) -> None:
    scores = np.random.default_rng(0).uniform(0, 0.4, (40, 6))
    scores[:, 2] *= 0.3
    given = torch.tensor(scores, dtype=kind) if isinstance(kind, torch.dtype) else scores.astype(kind)
    exact = (given.double().numpy() if isinstance(given, Tensor) else given).tolist()
    means = [sum(sorted(row[column] for row in exact)[-5:]) / 5 for column in range(6)]
    cut = sorted(means)[2]
    labels = [f"c{n}" for n in range(6)]
    found = by_presence(labels, given, cut + 1e-9)
    assert kept(labels, found) == [f"c{n}" for n in range(6) if means[n] > cut + 1e-9]
    assert len(found.dropped) == 3
    assert {one.label: one.value for one in found.dropped}["c2"] == pytest.approx(means[2], abs=1e-6)
    assert "no image shows it: its 5 best score" in found.dropped[0].reason


def test_a_score_at_the_cutoff_goes() -> None:
    scores = np.array([[0.25, 0.26]] * 5)
    assert by_presence(["a", "b"], scores, 0.25).kept == (1,)


def test_interpretability_is_cos_cubed_on_the_holdout() -> None:
    rng = np.random.default_rng(3)
    teacher = rng.normal(size=(200, 5)) * 1e-4 + 0.2
    projected = 40 * (teacher - 0.2) + rng.normal(size=(200, 5)) * np.array([0, 1, 2, 4, 8]) * 1e-3 + 7
    projected[:, 0] *= -1
    expected = [published_cos_cubed(projected[:, n].tolist(), teacher[:, n].tolist()) for n in range(5)]
    np.testing.assert_allclose(cos_cubed(projected, teacher), expected, atol=1e-9)
    labels = list("abcde")
    found = by_interpretability(labels, torch.tensor(projected), teacher)
    assert kept(labels, found) == [label for label, value in zip(labels, expected, strict=True) if value > 0.45]
    assert 0 < len(found.kept) < 5
    assert found.dropped[0].value == pytest.approx(-1)
    assert found.dropped[0].reason == "its cos-cubed with its teacher is -1.000; above 0.45 is kept"


def test_what_is_the_same_in_every_image_says_so() -> None:
    varied = np.random.default_rng(0).normal(size=(20, 3))
    projected, teacher = varied.copy(), varied.copy()
    projected[:, 0], teacher[:, 1] = 0.1, 0.3
    found = by_interpretability(["a", "b", "c"], projected, teacher)
    assert found.kept == (2,)
    assert [one.reason for one in found.dropped] == [
        "its projection is the same in every image; above 0.45 is kept",
        "its teacher is the same in every image; above 0.45 is kept",
    ]
    assert [one.value for one in found.dropped] == [0, 0]


def test_cos_cubed_does_not_underflow() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1))
    np.testing.assert_allclose(cos_cubed(values * 1e-120, values * 1e120), 1)


def letters(texts: Sequence[str]) -> Tensor:
    """Counts of letters: anagrams are the same text."""
    return torch.tensor(
        [[float(text.lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    )


@pytest.fixture
def by_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_filter, "encode_sentences", letters)


@pytest.mark.usefixtures("by_letters")
def test_the_filters_run_in_the_published_order_and_tell() -> None:
    labels = ["tac", "Cat", "x" * 31, "pond", "NOPD", "tree", "reet", "moss", "quill", "tac tac cat"]
    targets = np.arange(20.0).reshape(2, 10) / 20
    found = collect([*labels, "Tree"], "mine", np.c_[targets, [1, 1]])
    scores = np.full((8, len(labels)), 0.3)
    scores[:, labels.index("moss")] = 0.2
    left = filter_concepts(found, ["cat"], FilterLimits(presence=0.25), scores)
    assert left.labels == ("NOPD", "reet", "quill")
    assert [(one.label, one.filter) for one in left.dropped] == [
        ("Tree", "duplicate"), ("x" * 31, "length"), ("Cat", "class name"), ("tac", "class similarity"),
        ("tac tac cat", "class similarity"), ("pond", "similarity"), ("tree", "similarity"), ("moss", "presence"),
    ]  # fmt: skip
    np.testing.assert_array_equal(left.targets, targets[:, [4, 6, 8]])
    assert left.tally()["similarity"] == 2
    assert found.labels == tuple(labels)
    assert filter_concepts(found, ["lion"], FilterLimits(None, None, None)).labels == found.labels


@pytest.mark.usefixtures("by_letters")
def test_all_gone_says_which_filter_took_most() -> None:
    found = collect(["cat", "tac", "act", "x" * 40], "mine")
    said = refusal(lambda: filter_concepts(found, ["cat"]))
    assert said.startswith(
        "mine leaves no concept (class similarity dropped 2, length dropped 1, class name dropped 1)"
    )
    assert "loosen 'class similarity' first" in said


def test_too_few_images_and_no_classes_are_refused() -> None:
    assert "4 images were given for the mean of" in refusal(lambda: by_presence(["a"], np.zeros((4, 1)), 0.1))
    few = np.ones((9, 1))
    assert "at least 10" in refusal(lambda: by_interpretability(["a"], few, few))
    for classes in ([], "cat"):
        assert "names of all classes" in refusal(lambda: filter_concepts(collect(["pond"], "mine"), classes))  # noqa: B023


def test_the_embedded_encoder_needs_cuts_of_its_own() -> None:
    """Likenesses that the paper's notebook prints for CIFAR-10: MiniLM sees fewer of them at the same cuts."""
    labels = ["a plane", "aircraft", "a car", "car", "vehicle", "animal", "a truck driver", "antlers", "a pond"]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    gone = {
        name: set(labels) - set(filter_concepts(collect(labels, "paper"), classes, limits).labels)
        for name, limits in FILTER_LIMITS.items()
    }
    assert gone["published"] == {"aircraft", "car"}
    assert gone["minilm"] == {"a plane", "aircraft", "a car", "car", "vehicle", "animal"}
