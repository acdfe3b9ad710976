"""The record refuses fields that speak of different images or questions, and cannot be changed."""

from __future__ import annotations

import dataclasses
from typing import Any

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
    "labels of one image": ({"labels": (("cat", "dog", "tree"),)}, "name 3 questions for each of 2 images"),
    "labels too few": ({"labels": (("cat", "dog"), ("car", "dog"))}, "name 3 questions for each of 2 images"),
    "weights of other images": ({"weights": torch.zeros(1, 3, 5, 1, 1)}, r"weights start with \(1, 3\)"),
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
    with pytest.raises(cl.InputError, match="no question 'car' in this explanation; it has: cat"):
        explanation().question_index("car")


def test_a_map_is_signed_unless_it_was_rectified() -> None:
    assert not explanation().signed
    assert explanation(activation="identity").signed


def test_a_picture_is_seen_whole_unless_said() -> None:
    assert ImageInfo("a.jpg").box == WHOLE == (0, 0, 1, 1)
