"""The filters of Label-free CBM against the published loops, their traps, and what bad input they name."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from conceptlens.bottleneck.concept_writing.concept_filter import (
    FILTER_LIMITS,
    PRESENCE_CUTOFFS,
    FilterLimits,
    filter_concepts,
)
from conceptlens.bottleneck.concept_writing.published_filters import (
    ConceptLayerScores,
    FilterResult,
    ImageConceptScores,
    by_class_name,
    by_class_similarity,
    by_interpretability,
    by_length,
    by_presence,
    by_similarity,
    cos_cubed,
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
    assert FILTER_LIMITS["published"] == FilterLimits(30, 0.85, 0.9, None, 0.45)
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


@pytest.mark.parametrize("seed", range(20))
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


def test_similarity_is_the_weighted_mean_of_cosines() -> None:
    def first(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    def second(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text.count("a")), 2.0, -1.0] for text in texts])

    left, right = ["a cat", "banana"], ["a", "plane", "sky"]
    found = text_similarity(left, right, [(first, 1.0), (second, 3.0)])
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            total = 0.0
            for encode, weight in ((first, 1.0), (second, 3.0)):
                x, y = encode([a])[0].tolist(), encode([b])[0].tolist()
                product = sum(p * q for p, q in zip(x, y, strict=True))
                total += weight * product / math.hypot(*x) / math.hypot(*y) / 4
            assert found[i, j] == pytest.approx(total, abs=1e-6)


def test_without_encoders_the_embedded_one_compares() -> None:
    found = text_similarity(["a engine", "pond"], ["an engine"])
    assert found[0, 0] > 0.95 > 0.5 > found[1, 0]


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")]])
def test_encoders_need_weights(weights: list[float]) -> None:
    encoders = [(lambda texts: torch.ones(len(texts), 2), weight) for weight in weights]
    assert "give at least one, each above 0" in refusal(lambda: text_similarity(["a"], ["b"], encoders))


@pytest.mark.parametrize("kind", [np.float32, torch.float32, torch.bfloat16])
def test_presence_is_the_mean_of_the_five_best(kind: type | torch.dtype) -> None:
    scores = np.random.default_rng(0).uniform(0, 0.4, (40, 6))
    scores[:, 2] *= 0.3
    given = torch.tensor(scores, dtype=kind) if isinstance(kind, torch.dtype) else scores.astype(kind)
    exact = (given.double().numpy() if isinstance(given, Tensor) else given).tolist()
    means = [sum(sorted(row[column] for row in exact)[-5:]) / 5 for column in range(6)]
    cut = sorted(means)[2]
    labels = [f"c{n}" for n in range(6)]
    found = by_presence(labels, ImageConceptScores(given, "train"), cut + 1e-9)
    assert kept(labels, found) == [f"c{n}" for n in range(6) if means[n] > cut + 1e-9]
    assert len(found.dropped) == 3
    assert {one.label: one.value for one in found.dropped}["c2"] == pytest.approx(means[2], abs=1e-6)
    assert "no image shows it: its 5 best score" in found.dropped[0].reason


def test_a_score_at_the_cutoff_goes() -> None:
    scores = np.array([[0.25, 0.26]] * 5)
    assert by_presence(["a", "b"], ImageConceptScores(scores, "train"), 0.25).kept == (1,)


def test_usual_words_take_the_scale_out() -> None:
    scores = np.random.default_rng(1).normal(size=(30, 4)) * [1, 1, 3, 9]
    usual = np.random.default_rng(2).normal(size=(30, 50))
    labels = ["a", "b", "c", "d"]
    plain = by_presence(labels, ImageConceptScores(scores, "train", usual), PRESENCE_CUTOFFS["standardised"])
    scaled = by_presence(
        labels, ImageConceptScores(7 * scores - 3, "holdout", 7 * usual - 3), PRESENCE_CUTOFFS["standardised"]
    )
    assert plain.kept == scaled.kept == (2, 3)
    expected = [(value - usual.mean()) / usual.std() for value in sorted(scores[:, 0])[-5:]]
    assert plain.dropped[0].value == pytest.approx(sum(expected) / 5)
    assert "all the same" in refusal(
        lambda: by_presence(labels, ImageConceptScores(scores, "train", np.ones((30, 2))), 2.5)
    )


@pytest.mark.parametrize("split", ["test", "val", "validation", "Train", "all"])
def test_no_test_image_chooses_a_concept(split: str) -> None:
    scores = np.random.default_rng(0).normal(size=(30, 2))
    shown, learned = ImageConceptScores(scores, split), ConceptLayerScores(scores, scores, split)  # pyright: ignore[reportArgumentType]
    for call in (lambda: by_presence(["a", "b"], shown, 0.1), lambda: by_interpretability(["a", "b"], learned)):
        said = refusal(call)
        assert f"images of split {split!r} were given to choose concepts by" in said
        assert "chosen on test images" in said


def test_what_was_fitted_does_not_judge_itself() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 2))
    assert by_presence(["a", "b"], ImageConceptScores(scores, "train"), 0.1).kept == (0, 1)
    assert "split 'train'" in refusal(
        lambda: by_interpretability(["a", "b"], ConceptLayerScores(scores, scores, "train"))
    )


def test_interpretability_is_cos_cubed_on_the_holdout() -> None:
    rng = np.random.default_rng(3)
    teacher = rng.normal(size=(200, 5)) * 1e-4 + 0.2
    projected = 40 * (teacher - 0.2) + rng.normal(size=(200, 5)) * np.array([0, 1, 2, 4, 8]) * 1e-3 + 7
    projected[:, 0] *= -1
    expected = [published_cos_cubed(projected[:, n].tolist(), teacher[:, n].tolist()) for n in range(5)]
    np.testing.assert_allclose(cos_cubed(projected, teacher), expected, atol=1e-9)
    labels = list("abcde")
    found = by_interpretability(labels, ConceptLayerScores(torch.tensor(projected), teacher, "holdout"))
    assert kept(labels, found) == [label for label, value in zip(labels, expected, strict=True) if value > 0.45]
    assert 0 < len(found.kept) < 5
    assert found.dropped[0].value == pytest.approx(-1)
    assert found.dropped[0].reason == "its cos-cubed with its teacher is -1.000; above 0.45 is kept"


def test_what_is_the_same_in_every_image_says_so() -> None:
    varied = np.random.default_rng(0).normal(size=(20, 3))
    projected, teacher = varied.copy(), varied.copy()
    projected[:, 0], teacher[:, 1] = 0.1, 0.3
    found = by_interpretability(["a", "b", "c"], ConceptLayerScores(projected, teacher, "holdout"))
    assert found.kept == (2,)
    assert [one.reason for one in found.dropped] == [
        "its projection is the same in every image; above 0.45 is kept",
        "its teacher is the same in every image; above 0.45 is kept",
    ]
    assert [one.value for one in found.dropped] == [0, 0]


def test_cos_cubed_does_not_underflow() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1))
    np.testing.assert_allclose(cos_cubed(values * 1e-120, values * 1e120), 1)


def test_values_that_are_none_are_named() -> None:
    scores = np.zeros((12, 2))
    scores[3, 1] = np.nan
    said = refusal(lambda: by_presence(["a", "b"], ImageConceptScores(scores, "train"), 0.1))
    assert "scores hold 1 values that are not finite, the first at image 3, concept 1" in said
    learned = ConceptLayerScores(np.ones((12, 2)), scores, "holdout")
    assert "teacher scores hold 1 values" in refusal(lambda: by_interpretability(["a", "b"], learned))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: by_presence(["a"], ImageConceptScores(np.zeros((4, 1)), "train"), 0.1),
            "4 images were given for the mean of",
        ),
        (
            lambda: by_presence(["a"], ImageConceptScores(np.zeros((9, 1)), "train", top=0), 0.1),
            "for the mean of the top 0",
        ),
        (
            lambda: by_presence(["a"], ImageConceptScores(np.zeros((9, 2)), "train"), 0.1),
            "shape (9, 2) of float64; expected numbers",
        ),
        (lambda: by_presence(["a"], ImageConceptScores(np.array([["x"]]), "train"), 0.1), "expected numbers"),
        (
            lambda: by_interpretability(["a"], ConceptLayerScores(np.ones((9, 1)), np.ones((9, 1)), "holdout")),
            "at least 10",
        ),
        (
            lambda: by_interpretability(["a"], ConceptLayerScores(np.ones((9, 1)), np.ones((8, 1)), "holdout")),
            "teacher scores",
        ),
        (lambda: by_similarity(["a", "b"], np.ones((2, 3))), "expected numbers, concept concept (2, 2)"),
        (lambda: by_class_similarity(["a"], ["b"], np.ones(1)), "expected numbers, concept class (1, 1)"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], said: str) -> None:
    assert said in refusal(call)


def letters(texts: Sequence[str]) -> Tensor:
    """Counts of letters: anagrams are the same text."""
    return torch.tensor(
        [[float(text.lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    )


def test_the_filters_run_in_the_published_order_and_tell() -> None:
    labels = ["tac", "Cat", "x" * 31, "pond", "NOPD", "tree", "reet", "moss", "quill", "tac tac cat"]
    targets = np.arange(20.0).reshape(2, 10) / 20
    found = collect([*labels, "Tree"], "mine", np.c_[targets, [1, 1]])
    scores = np.full((8, len(labels)), 0.3)
    scores[:, labels.index("moss")] = 0.2
    seen: list[tuple[str, ...]] = []

    def learn(left: object) -> ConceptLayerScores:
        names = left.labels  # pyright: ignore[reportAttributeAccessIssue]
        seen.append(names)
        teacher = np.random.default_rng(0).normal(size=(30, len(names)))
        projected = np.where(np.array(names) == "quill", -teacher, teacher)
        return ConceptLayerScores(projected, teacher, "holdout")

    limits = FilterLimits(presence=0.25)
    left = filter_concepts(found, ["cat"], limits, [(letters, 2.0)], ImageConceptScores(scores, "train"), learn)
    assert seen == [("NOPD", "reet", "quill")]
    assert left.labels == ("NOPD", "reet")
    assert [(one.label, one.filter) for one in left.dropped] == [
        ("Tree", "duplicate"), ("x" * 31, "length"), ("Cat", "class name"), ("tac", "class similarity"),
        ("tac tac cat", "class similarity"), ("pond", "similarity"), ("tree", "similarity"), ("moss", "presence"),
        ("quill", "interpretability"),
    ]  # fmt: skip
    np.testing.assert_array_equal(left.targets, targets[:, [4, 6]])
    assert left.tally()["similarity"] == 2
    assert found.labels == tuple(labels)


def test_filters_can_be_left_out() -> None:
    found = collect(["tac", "x" * 31, "pond", "NOPD"], "mine")
    off = FilterLimits(None, None, None, None, None)
    learn: Callable[[object], ConceptLayerScores] = lambda left: pytest.fail("it was not to be asked")  # noqa: E731
    assert filter_concepts(found, ["cat"], off, [(letters, 1.0)], learn=learn).labels == found.labels


def test_all_gone_says_which_filter_took_most() -> None:
    found = collect(["cat", "tac", "act", "x" * 40], "mine")
    said = refusal(lambda: filter_concepts(found, ["cat"], encoders=[(letters, 1.0)]))
    assert said.startswith(
        "mine leaves no concept (class similarity dropped 2, length dropped 1, class name dropped 1)"
    )
    assert "loosen 'class similarity' first" in said


def test_presence_has_no_cutoff_of_its_own() -> None:
    found, shown = collect(["pond"], "mine"), ImageConceptScores(np.ones((9, 1)), "train")
    assert "FilterLimits(presence=...)" in refusal(lambda: filter_concepts(found, ["cat"], shown=shown))
    said = refusal(
        lambda: filter_concepts(
            found, ["cat"], FilterLimits(presence=0.1), shown=ImageConceptScores(np.ones((9, 2)), "train")
        )
    )
    assert "scores have shape (9, 2)" in said
    assert "names of all classes" in refusal(lambda: filter_concepts(found, []))
    assert "names of all classes" in refusal(lambda: filter_concepts(found, "cat"))


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
