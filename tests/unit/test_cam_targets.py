"""What is asked: classes, contrasts, concepts, one's own functions; per image, in any precision, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import conceptlens as cl
from architectures import CLASSES, observation_of
from conceptlens.model.answer import ANSWERS
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from tolerance import assert_agree

DOUBLE = torch.float64


@cache
def observation() -> Observation:
    return observation_of("timm convnext", DOUBLE)


def signed(target: Any, rule: str = "grad_cam") -> Tensor:
    return cl.cam(observation(), target, rule=rule, signed=True).maps


def agree(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.detach().abs().max()) + 1e-30)


classes = st.integers(0, CLASSES - 1)
linear_rules = st.sampled_from(["grad_cam", "hires_cam", "xgrad_cam"])


class TestLinearity:
    """Before the ReLU, a contrast is the sum of its classes' maps: for every rule that is linear in the gradient."""

    @given(
        target=classes,
        others=st.lists(classes, min_size=1, max_size=5, unique=True),
        gamma=st.floats(0, 3),
        rule=linear_rules,
    )
    def test_a_contrast_is_the_sum_of_its_parts(self, target: int, others: list[int], gamma: float, rule: str) -> None:
        others = [o for o in others if o != target] or [(target + 1) % CLASSES]
        found = signed(cl.Contrast(target, against=others, gamma=gamma), rule)
        parts = signed([cl.Logit(c) for c in (target, *others)], rule)
        agree(found, parts[:, :1] - gamma * parts[:, 1:].mean(1, keepdim=True))

    @given(target=classes, low=st.floats(0, 2), high=st.floats(0, 2), share=st.floats(0, 1), rule=linear_rules)
    def test_between_two_gammas(self, target: int, low: float, high: float, share: float, rule: str) -> None:
        middle = share * low + (1 - share) * high
        maps = [signed(cl.Contrast(target, gamma=g, by="weight"), rule) for g in (low, high, middle)]
        agree(maps[2], share * maps[0] + (1 - share) * maps[1])

    @given(target=classes, factor=st.floats(0.01, 100), rule=linear_rules)
    def test_a_score_times_a_number_is_the_map_times_it(self, target: int, factor: float, rule: str) -> None:
        agree(signed(lambda answer: factor * answer.logits[:, target], rule), factor * signed(target, rule))

    @given(target=classes, rule=st.sampled_from([n for n, r in cl.RULES.items() if r.reads == "gradient"]))
    def test_no_gamma_is_the_class_alone(self, target: int, rule: str) -> None:
        agree(signed(cl.Contrast(target, gamma=0), rule), signed(target, rule))

    @given(target=classes, other=classes)
    def test_one_against_another_is_the_opposite_of_the_other_against_the_one(self, target: int, other: int) -> None:
        if target != other:
            there, back = (cl.Contrast(a, against=[b], gamma=1) for a, b in ((target, other), (other, target)))
            agree(signed(there), -signed(back))


class TestPerImage:
    @pytest.mark.parametrize("target", [cl.Logit, cl.Probability, cl.Contrast])
    def test_a_class_for_each(self, target: Any) -> None:
        both = cl.cam(observation(), target(["kind 3", 7]))
        for image, name in enumerate((3, 7)):
            alone = cl.cam(observation(), target(name))
            assert_agree(both.maps[image], alone.maps[image])
            assert both.labels[image] == alone.labels[image]

    def test_the_predicted_class_where_none_is_named(self) -> None:
        found = cl.cam(observation())
        predicted = observation().logits.argmax(1).tolist()
        assert found.labels == tuple((f"kind {c}",) for c in predicted)
        assert found.scores[:, 0].tolist() == observation().logits.max(1).values.tolist()

    def test_references_for_each(self) -> None:
        found = cl.cam(observation(), cl.Contrast(nearest=2, by="rank"))
        for image, label in enumerate(found.labels):
            ranked = observation().logits[image].argsort(descending=True).tolist()
            assert label == (f"kind {ranked[0]} / kind {ranked[1]}, kind {ranked[2]}",)

    @pytest.mark.parametrize("several", [[3], [3, 4, 5]])
    def test_a_list_of_another_length_is_refused(self, several: list[int]) -> None:
        with pytest.raises(
            cl.InputError,
            match=rf"{len(several)} classes were given for 2 images; a list of classes holds one for each",
        ):
            cl.cam(observation(), cl.Logit(several))


# What may stand for "class 3 of the first image, class 7 of the second".
ONE_EACH: dict[str, Any] = {
    "a list": [3, 7],
    "a tuple": (3, 7),
    "names": ["kind 3", "kind 7"],
    "a name and an index": ["kind 3", 7],
    "numpy integers": [np.int64(3), np.uint8(7)],
    "an array": np.array([3, 7]),
    "an array of bytes": np.array([3, 7], np.uint8),
    "an array of names": np.array(["kind 3", "kind 7"]),
    "a tensor": torch.tensor([3, 7]),
    "a tensor of int32": torch.tensor([3, 7], dtype=torch.int32),
    "tensors": list(torch.tensor([3, 7])),
}


class TestLists:
    """A list of classes is one class for each image; several questions are several targets."""

    @pytest.mark.parametrize("classes", ONE_EACH.values(), ids=ONE_EACH)
    @pytest.mark.parametrize("wrap", [lambda c: c, cl.Logit], ids=["as it is", "as a logit"])
    def test_one_class_for_each_image(self, classes: Any, wrap: Any) -> None:
        found = cl.cam(observation(), wrap(classes))
        assert found.maps.shape[:2] == (2, 1)
        assert found.labels == (("kind 3",), ("kind 7",))
        assert found.scores[:, 0].tolist() == [float(observation().logits[i, c].detach()) for i, c in enumerate((3, 7))]
        assert found.source.settings["targets"][0].startswith("Logit(target=(")

    @pytest.mark.parametrize("one", [3, np.int64(3), torch.tensor(3), "kind 3", np.str_("kind 3")])
    def test_one_class_for_all_images(self, one: Any) -> None:
        assert cl.cam(observation(), one).labels == (("kind 3",), ("kind 3",))

    def test_one_image_may_have_a_list_of_one(self) -> None:
        one = observation().model.observe(observation().images[:1])
        assert cl.cam(one, [3]).labels == (("kind 3",),)
        with pytest.raises(cl.InputError, match=r"2 classes were given for 1 images; .* several targets, such as "):
            cl.cam(one, [3, 5])

    def test_several_targets_are_several_questions(self) -> None:
        found = cl.cam(observation(), [cl.Logit(3), cl.Probability([5, 7])])
        assert found.labels == (("kind 3", "kind 5"), ("kind 3", "kind 7"))

    def test_references_in_arrays(self) -> None:
        for against in (np.array([5, 6]), torch.tensor([[5, 6], [5, 6]]), [np.int64(5), torch.tensor(6)]):
            agree(signed(cl.Contrast(3, against=against)), signed(cl.Contrast(3, against=[5, 6])))
        agree(signed(cl.Contrast(np.array([3, 4]), np.int64(5))), signed(cl.Contrast([3, 4], [5])))

    @pytest.mark.parametrize("gamma", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
    def test_gamma_is_any_number(self, gamma: Any) -> None:
        assert cl.Contrast(3, gamma=gamma) == cl.Contrast(3, gamma=0.5)

    @pytest.mark.parametrize(
        ("target", "kind", "words"),
        [
            ([], cl.InputError, "the list of targets is empty"),
            ([3, cl.Logit(5)], cl.InputError, r"mixes classes and targets; give .*\[cl.Logit\(3\), cl.Logit\(5\)\]"),
            ([None, cl.Logit(5)], TypeError, "the list of targets holds NoneType"),
            ([3.0, 4.0], TypeError, "the list of targets holds float"),
            ([True, False], TypeError, "the list of targets holds bool"),
            ([torch.tensor([3, 4])], TypeError, "the list of targets holds Tensor"),
            (torch.tensor([0.5, 0.5]), TypeError, "classes are given as torch.float32; expected integers"),
            (np.array([True, False]), TypeError, "classes are given as bool; expected integers"),
            (torch.eye(12, dtype=torch.long)[:2], cl.InputError, r"classes have shape \(2, 12\); expected \(image,\)"),
            (torch.tensor([3, 4, 5]), cl.InputError, "3 classes were given for 2 images"),
            (cl.Logit, TypeError, r"the class Logit was given as a target; give an instance, Logit\(\)"),
            ({3: 4}, TypeError, "a dict is no target"),
            (3.5, TypeError, "a float is no target"),
        ],
    )
    def test_what_is_ambiguous_or_no_class_is_refused(self, target: Any, kind: Any, words: str) -> None:
        with pytest.raises(kind, match=words) as error:
            cl.cam(observation(), target)
        assert isinstance(error.value, cl.InputError)
        assert isinstance(error.value, ValueError)

    @pytest.mark.parametrize("gamma", ["0.5", None, True])
    def test_gamma_that_is_no_number_is_a_type_error(self, gamma: Any) -> None:
        with pytest.raises(TypeError, match="gamma is"):
            cl.Contrast(3, gamma=gamma)

    @pytest.mark.parametrize("rule", [3, ["grad_cam"], cl.Rule])
    def test_a_rule_is_a_name_or_a_rule(self, rule: Any) -> None:
        with pytest.raises(TypeError, match=r"was given as the rule; expected a name in cl.RULES or a cl.Rule"):
            cl.cam(observation(), 3, rule)


class TestShorthand:
    def test_a_name_an_index_and_a_logit_are_one(self) -> None:
        found = cl.cam(observation(), [cl.Logit("kind 3"), cl.Logit(torch.tensor(3)), cl.Logit(3)])
        assert found.labels == (("kind 3",) * 3,) * 2
        assert_agree(found.maps[:, 0], found.maps[:, 1])
        assert_agree(found.maps[:, 0], found.maps[:, 2])

    def test_one_class_to_stand_against_needs_no_list(self) -> None:
        agree(signed(cl.Contrast(3, against="kind 5")), signed(cl.Contrast(3, against=[5])))

    def test_a_callable_gives_its_name(self) -> None:
        def furriness(answer: ModelOutput) -> Tensor:
            return answer.embedding[:, 0]

        assert cl.cam(observation(), furriness).labels == (("furriness",),) * 2

    def test_what_it_is_made_of_is_kept_with_the_map(self) -> None:
        found = cl.cam(observation(), cl.Contrast(3, gamma=0.7), rule="layer_cam")
        assert found.source.method == "layer_cam"
        assert "gamma=0.7" in found.source.settings["targets"][0]


class TestNearest:
    """On a model that answers with the logits it is shown."""

    @pytest.mark.parametrize(
        ("by", "expected"),
        [("logit", [2, 3, 0]), ("rank", [0, 2, 3])],
    )
    def test_by_value(self, by: Any, expected: list[int]) -> None:
        asked = cl.Contrast(1, nearest=3, by=by)
        found = cl.cam(shown([9.0, 5.0, 4.5, 3.0, -8.0]), asked)
        assert found.labels[0][0] == f"class 1 / {', '.join(f'class {c}' for c in expected)}"

    def test_by_classifier_rows(self) -> None:
        observed = observation()
        rows = nn.functional.normalize(observed.model.classifier_module.weight.detach(), dim=1)
        order = (rows @ rows[3]).argsort(descending=True).tolist()
        names = ", ".join(f"kind {c}" for c in order[1:4])
        assert cl.cam(observed, cl.Contrast(3, by="weight")).labels == ((f"kind 3 / {names}",),) * 2

    def test_an_exact_tie_never_replaces_the_target(self) -> None:
        found = cl.cam(shown([1.0, 5.0, 5.0, 5.0, 2.0]), cl.Contrast(2, nearest=2))
        assert found.labels[0][0] == "class 2 / class 1, class 3"

    def test_more_references_than_classes_are_refused(self) -> None:
        with pytest.raises(cl.InputError, match="nearest is 5 and the model has 5 classes"):
            cl.cam(shown([1.0, 2.0, 3.0, 4.0, 5.0]), cl.Contrast(0, nearest=5))


class Shown(nn.Module):
    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.cells, self.head = nn.Conv2d(3, 1, 2, 2, bias=False), nn.Linear(1, len(logits), bias=False)
        nn.init.constant_(self.cells.weight, 1 / 12)
        self.head.weight.data = torch.tensor(logits)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cells(images).mean((2, 3)))


def shown(logits: list[float]) -> Observation:
    model = cl.Backbone(Shown(logits), layers="cells", classifier="head", input_size=(4, 4), channels_last=False)
    return model.observe(torch.ones(1, 3, 4, 4))


@dataclass(frozen=True)
class Words:
    """A stand-in for a text encoder: each word is an axis of the embedding."""

    axes: dict[str, int]
    name: str = "words"
    scale: float = 10.0
    normalised: bool = True

    def encode_image(self, output: ModelOutput) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Any) -> Tensor:
        return torch.stack([torch.eye(64)[self.axes[text]] for text in texts])


@dataclass(frozen=True)
class OtherWords(Words):
    def encode_image(self, output: ModelOutput) -> Tensor:
        return 2 * output.embedding


WORDS = Words({"red": 0, "bird": 1, "leaf": 2})


def concept(text: str, by: Words = WORDS) -> cl.Concept:
    return cl.Concept(text, by=by, prompt="{}")


class TestConcept:
    def test_a_text_is_a_cosine(self) -> None:
        found = cl.cam(observation(), concept("red"))
        cosine = nn.functional.normalize(observation().embedding.detach(), dim=1)[:, 0]
        torch.testing.assert_close(found.scores[:, 0], 10 * cosine)
        assert found.labels == (("red",),) * 2
        assert found.target_kinds == ("concept",)

    def test_against_its_bases(self) -> None:
        """`S(concept) - gamma mean S(base)`: the multi-modal Finer-CAM."""
        found = signed(cl.Contrast(concept("red"), against=["bird", concept("leaf")], gamma=0.6))
        parts = signed([concept(text) for text in ("red", "bird", "leaf")])
        agree(found, parts[:, :1] - 0.6 * parts[:, 1:].mean(1, keepdim=True))
        label = cl.cam(observation(), cl.Contrast(concept("red"), against=["bird", "leaf"])).labels[0]
        assert label == ("red / bird, leaf",)

    def test_a_direction_of_ones_own(self) -> None:
        direction = torch.randn(64, generator=torch.Generator().manual_seed(2))
        found = cl.cam(observation(), cl.Concept(direction=direction))
        torch.testing.assert_close(found.scores[:, 0], observation().embedding.detach() @ direction.double())
        assert found.labels == (("direction",),) * 2

    def test_a_direction_against_a_text_of_the_same_space(self) -> None:
        red = cl.Concept("red", direction=torch.eye(64)[0])
        found = cl.cam(observation(), cl.Contrast(red, against=[concept("bird")]))
        assert bool(found.maps.isfinite().all())

    def test_bases_from_another_space_are_refused(self) -> None:
        other = concept("bird", OtherWords(WORDS.axes))
        with pytest.raises(cl.InputError, match="encoded by different models"):
            cl.cam(observation(), cl.Contrast(concept("red"), against=[other]))

    def test_bases_must_be_named(self) -> None:
        with pytest.raises(cl.InputError, match=r"needs base texts, such as against=\['bird'\]"):
            cl.cam(observation(), cl.Contrast(concept("red")))


REFUSED: dict[str, tuple[Any, str]] = {
    "a class of no name": (lambda: cl.Logit("kind 33"), "no class 'kind 33' in timm convnext; near names: .*kind 3"),
    "a negative class": (lambda: cl.Logit(-1), "no class -1 .* classes 0 to 11"),
    "a class against itself": (lambda: cl.Contrast(3, against=[4, 3]), "cannot stand against itself"),
    "a concept against a class": (lambda: cl.Contrast(3, against=[concept("red")]), "make the target a cl.Concept too"),
    "gamma below zero": (lambda: cl.Contrast(3, gamma=-0.1), "gamma is -0.1; expected a finite number of 0 or more"),
    "gamma not a number": (lambda: cl.Contrast(3, gamma=float("nan")), "gamma is nan"),
    "no reference": (lambda: cl.Contrast(3, nearest=0), "expected at least one reference"),
    "an unknown way": (lambda: cl.Contrast(3, by="cosine"), "'cosine' is not known .* logit, rank, weight"),
    "unknown weights": (lambda: cl.Contrast(3, references="mean"), "'mean' is not known .* uniform, softmax, cosine"),
    "an unknown scale": (lambda: cl.Contrast(3, of="odds"), "'odds' is not known .* logits, probabilities"),
    "an unknown objective": (lambda: cl.Contrast(3, objective="x"), "'x' is not known .* paper, official"),
    "floats": (lambda: [3.0, 5.0], "one class for each image, by name or integer index"),
    "nothing to ask": (lambda: 3.5, "a float is no target; expected cl.Logit"),
    "a score that is no tensor": (lambda: lambda answer: 1.0, "a callable target gave float"),
    "a score that is a batch of rows": (lambda: lambda answer: answer.logits, r"gave shape \(2, 12\); expected one"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Any, words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        cl.cam(observation(), make())


def test_classes_cannot_be_compared_by_rows_without_a_classifier() -> None:
    with pytest.raises(cl.InputError, match="has no linear classifier to compare classes by; use by='logit'"):
        cl.cam(observation_of("hf deit distilled"), cl.Contrast(3, by="weight"))


def test_probability_of_a_certain_answer_has_no_gradient_left_but_the_logit_has() -> None:
    """Why logits are the default: `p (1 - p)` is nothing where the model is sure."""
    sure = shown([60.0, 0.0, 0.0])
    assert float(cl.cam(sure, cl.Probability(0)).maps.abs().max()) < 1e-20
    assert float(cl.cam(sure, cl.Logit(0)).maps.abs().max()) > 1


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "target",
    [cl.Probability(3), cl.Contrast(3), cl.Contrast(3, of="probabilities"), cl.Contrast(3, objective="official")],
)
def test_scores_are_measured_in_float32_at_least(target: Any, precision: torch.dtype) -> None:
    question, rows = target.bind(observation_of("timm resnet")), torch.arange(2)
    narrow = (30 * observation_of("timm resnet").logits.detach()).to(precision)
    measured = question.measure(narrow, rows)
    assert measured.dtype == torch.float32
    assert torch.equal(measured, question.measure(narrow.float(), rows))
    assert question.measure(narrow.double(), rows).dtype == DOUBLE


def test_asking_again_of_other_rows() -> None:
    """A question is fixed on its observation: rows say which image each variant is of."""
    question = cl.Contrast([3, 7], nearest=2).bind(observation())
    rows = torch.tensor([1, 0, 1])
    answer = ModelOutput("a model", None, observation().logits.detach()[rows], None, ANSWERS["single_label"])
    agree(question.score(answer, rows), question.score_and_gradient(observation())[1][rows])
