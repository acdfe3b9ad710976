"""The record refuses fields that speak of different images or questions, and cannot be changed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import conceptlens as cl
from conceptlens.record import WHOLE, Explanation, ImageInfo, Source

IMAGES, QUESTIONS = 2, 3
SOURCE = Source("model", "layer4", "grad_cam", (ImageInfo("a.jpg"), ImageInfo("b.jpg")))


def explanation(**changes: Any) -> Explanation:
    fields: dict[str, Any] = {
        "maps": torch.arange(IMAGES * QUESTIONS * 8.0).reshape(IMAGES, QUESTIONS, 2, 4),
        "weights": torch.randn(IMAGES, QUESTIONS, 5, 1, 1),
        "scores": torch.randn(IMAGES, QUESTIONS),
        "labels": (("cat", "dog", "tree"), ("car", "dog", "cup")),
        "source": SOURCE,
    }
    return Explanation(**{**fields, **changes})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "maps without questions": (
        {"maps": torch.zeros(2, 4, 4)},
        "maps have 3 axes; expected image question height width",
    ),
    "scores of other questions": ({"scores": torch.zeros(2, 4)}, r"scores has shape \(2, 4\); expected \(2, 3\)"),
    "contributions per image": ({"contributions": torch.zeros(2)}, r"contributions has shape \(2,\)"),
    "z_scores per question": ({"z_scores": torch.zeros(3, 2)}, r"z_scores has shape \(3, 2\)"),
    "images of another number": (
        {"source": Source("model", "layer4", "grad_cam", (ImageInfo("a.jpg"),))},
        "source.image_info names 1 images; the maps hold 2",
    ),
    "kinds of other questions": ({"target_kinds": ("class",)}, "target_kinds names 1 questions; the maps hold 3"),
    "layers of one image": ({"layers": (("a", "b", "c"),)}, "layers must name 3 questions for each of 2 images"),
    "types too few": ({"concept_types": (("part",),) * 2}, "concept_types must name 3 questions"),
    "labels of one image": ({"labels": (("cat", "dog", "tree"),)}, "name 3 questions for each of 2 images"),
    "labels too few": ({"labels": (("cat", "dog"), ("car", "dog"))}, "name 3 questions for each of 2 images"),
    "weights of other images": (
        {"weights": torch.zeros(1, 3, 5, 1, 1)},
        "weights has shape .* expected .2, 3. and",
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        explanation(**changes)


@pytest.mark.parametrize("value", [explanation(), SOURCE, SOURCE.image_info[0]])
def test_nothing_can_be_changed(value: Any) -> None:
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


def test_one_image_of_a_batch() -> None:
    part = explanation(contributions=torch.ones(2, 3))
    whole = explanation(contributions=torch.ones(2, 3), components=(part,), explained_classes=("cat", "car"))
    second = whole.of(1)
    assert torch.equal(second.maps, whole.maps[1:])
    assert torch.equal(second.scores, whole.scores[1:])
    assert second.labels == (("car", "dog", "cup"),)
    assert second.explained_classes == ("car",)
    assert [picture.name for picture in second.source.image_info] == ["b.jpg"]
    assert second.z_scores is None
    assert second.components[0].maps.shape[0] == 1


def test_a_question_is_found_by_its_label_in_its_image() -> None:
    assert explanation().question_index("tree") == 2
    assert explanation().question_index("car", image=1) == 0
    with pytest.raises(cl.InputError, match="no question 'car' in this explanation; near names: cat"):
        explanation().question_index("car")
    assert [explanation().question_index(q) for q in (0, -1, np.int64(1))] == [0, 2, 1]  # pyright: ignore
    with pytest.raises(cl.InputError, match="no question 3 in this explanation; it has questions 0 to 2"):
        explanation().question_index(3)
    for wrong in (None, 1.0, True):
        with pytest.raises(TypeError, match="expected a label or an index"):
            explanation().question_index(wrong)  # pyright: ignore[reportArgumentType]
    named = explanation(labels=(("lynx, catamount", "cat / lynx, tabby", "cat, pet"),) * 2)
    assert [named.question_index(q) for q in ("lynx", "cat", "cat, pet")] == [0, 2, 2]


def test_a_hand_made_record_says_what_kind_its_questions_are() -> None:
    assert explanation().target_kinds == ("custom",) * 3
    assert explanation(concept_types=(("part",) * 3,) * 2).target_kinds == ("concept",) * 3


def test_an_image_that_is_not_there_is_refused() -> None:
    assert explanation().of(-1).labels == explanation().of(1).labels
    with pytest.raises(cl.InputError, match="no image 2 in this explanation; it holds images 0 to 1"):
        explanation().of(2)


def test_it_is_written_in_one_line() -> None:
    assert repr(explanation()) == "Explanation(grad_cam at layer4 of model: 2 images, 3 questions, maps 2 x 4)"
    same = explanation(labels=(("cat", "dog", "tree"),) * 2)
    assert "3 questions (cat; dog; tree), maps" in repr(same)


def test_the_record_needs_neither_torch_nor_matplotlib_to_be_imported() -> None:
    code = "import conceptlens.record, sys; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_map_is_signed_unless_it_was_rectified() -> None:
    assert not explanation().signed
    assert explanation(activation="identity").signed


def test_a_picture_is_seen_whole_unless_said() -> None:
    assert ImageInfo("a.jpg").box == WHOLE == (0, 0, 1, 1)


PICKED: dict[str, Any] = {
    "a list": ([2, 0], ((2, 0), (2, 0))),
    "a range": (range(2), ((0, 1), (0, 1))),
    "numpy integers": ([np.int64(2), np.int32(0)], ((2, 0), (2, 0))),
    "an array": (np.array([2, 0]), ((2, 0), (2, 0))),
    "a tensor": (torch.tensor([2, 0]), ((2, 0), (2, 0))),
    "from the end": ([-1], ((2,), (2,))),
    "rows": ([[2, 0], [1, 2]], ((2, 0), (1, 2))),
    "rows of numpy integers": ([(np.int64(2),), (np.uint8(1),)], ((2,), (1,))),
    "rows of an array": (np.array([[2, 0], [1, 2]]), ((2, 0), (1, 2))),
    "rows of a tensor": (torch.tensor([[2, 0], [1, 2]]), ((2, 0), (1, 2))),
    "none": ([], ((), ())),
    "empty rows": ([[], []], ((), ())),
}


@pytest.mark.parametrize(("given", "rows"), PICKED.values(), ids=PICKED)
def test_questions_are_picked_by_any_integers_the_same_or_others_for_each_image(given: Any, rows: Any) -> None:
    numbers = torch.arange(6.0).reshape(2, 3)
    whole = explanation(
        contributions=numbers,
        contributions_low=numbers - 1,
        contributions_high=numbers + 1,
        presence=numbers / 10,
        known=torch.tensor([[True, False, True]] * 2),
        concept_types=(("part", "object", "scene"),) * 2,
        layers=(("a", "b", "c"), ("d", "e", "f")),
        margins=torch.tensor([10.0, 20.0]),
        unplaced=torch.tensor([1.0, 2.0]),
        residuals=torch.tensor([0.5, 0.25]),
        diagnostics={"place_contrast": numbers * 2},
    )
    found = whole.select(given)
    for i, row in enumerate(rows):
        for name in ("maps", "weights", "scores", "contributions", "contributions_low", "presence", "known"):
            values, own = getattr(found, name)[i], getattr(whole, name)[i]
            assert values.tolist() == [own[q].tolist() for q in row], name
        for name in ("labels", "concept_types", "layers"):
            assert getattr(found, name)[i] == tuple(getattr(whole, name)[i][q] for q in row), name
        assert found.diagnostics["place_contrast"][i].tolist() == [2 * float(numbers[i, q]) for q in row]
    assert whole.margins is not None
    assert whole.residuals is not None
    assert found.margins is whole.margins
    kept = torch.tensor([sum(float(numbers[i, q]) for q in row) for i, row in enumerate(rows)])
    torch.testing.assert_close(found.unnamed, whole.margins - whole.residuals - kept)
    assert len(found.target_kinds) == len(rows[0])


NOT_PICKED: dict[str, tuple[Any, type[Exception], str]] = {
    "no such question": ([3], cl.InputError, "no question 3 in this explanation; it holds questions 0 to 2"),
    "before the first": ([[0], [-4]], cl.InputError, "no question -4 in"),
    "a row too few": ([[0]], cl.InputError, "rows of 1 questions were given for 2 images"),
    "rows of two lengths": ([[0], [1, 2]], cl.InputError, "rows of 1, 2 questions were given for 2 images"),
    "a name": (["cat"], cl.InputTypeError, "a question is 'cat'; expected the index of a question, 0 to 2"),
    "a fraction": ([0.5], cl.InputTypeError, "a question is 0.5"),
    "a boolean": ([True, False, True], cl.InputTypeError, "a question is True"),
    "a row and a number": ([[0], 1], cl.InputTypeError, r"a question is \[0\]"),
}


@pytest.mark.parametrize(("given", "kind", "words"), NOT_PICKED.values(), ids=NOT_PICKED)
def test_questions_that_cannot_be_picked(given: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        explanation().select(given)


def test_what_has_no_name_is_the_margin_less_all_that_is_known() -> None:
    counts = torch.tensor([[1.0, float("nan"), -3.0], [float("nan")] * 3])
    found = explanation(contributions=counts, margins=torch.tensor([5.0, 2.0]), residuals=torch.tensor([0.5, 0.0]))
    assert found.unnamed is not None
    assert found.unnamed.tolist() == [6.5, 2.0]
    assert explanation(contributions=counts).unnamed is None
    assert explanation(margins=torch.zeros(2), residuals=torch.zeros(2)).unnamed is None
