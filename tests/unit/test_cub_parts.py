"""The reviewed file of CUB's parts: every attribute is read, every keypoint counts once, and the real 72 concepts."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from written_sets import refusal

from conceptlens.data.cub import Cub
from conceptlens.data.cub_parts import cub_concepts, cub_parts, part_named
from conceptlens.data.labelled_set import ClassAttributes

DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cub50"
needs_cub = pytest.mark.skipif(not DATA.is_dir(), reason="no folder cub50 in CONCEPTLENS_DATA")
KEYPOINTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
WITHOUT_PART = ("upperparts_color", "underparts_color", "head_pattern", "primary_color", "size", "shape")


def everywhere(*names: str) -> ClassAttributes:
    """Attributes that all of three classes show."""
    return ClassAttributes(names, np.ones((3, len(names))))


def test_each_keypoint_counts_as_one_part() -> None:
    parts = cub_parts()
    assert len(parts) == 12
    assert sorted(keypoint for part in parts.values() for keypoint in part.keypoints) == sorted(KEYPOINTS)
    assert parts["eye"].keypoints == ("left eye", "right eye")
    assert parts["bill"].keypoints == ("beak",)


def test_regions_of_the_body() -> None:
    regions: dict[str, set[str]] = {}
    for part in cub_parts().values():
        regions.setdefault(part.region, set()).add(part.name)
    assert regions == {
        "head": {"bill", "crown", "forehead", "eye", "nape", "throat"},
        "trunk": {"back", "belly", "breast", "wing"},
        "leg": {"leg"},
        "tail": {"tail"},
    }


@pytest.mark.parametrize(
    ("attribute", "text", "part", "kind", "said"),
    [
        ("has_wing_color::yellow", "yellow wing", "wing", "color", "yellow"),
        ("has_bill_shape::dagger", "dagger-shaped bill", "bill", "shape", "dagger"),
        ("has_bill_shape::curved_(up_or_down)", "curved bill", "bill", "shape", "curved"),
        ("has_bill_shape::hooked_seabird", "hooked seabird bill", "bill", "shape", "hooked seabird"),
        ("has_bill_shape::all-purpose", "all-purpose bill", "bill", "shape", "all-purpose"),
        ("has_tail_pattern::solid", "solid-colored tail", "tail", "pattern", "solid"),
        ("has_tail_pattern::multi-colored", "multi-colored tail", "tail", "pattern", "multi-colored"),
        ("has_tail_shape::fan-shaped_tail", "fan-shaped tail", "tail", "shape", "fan-shaped"),
        ("has_wing_shape::rounded-wings", "rounded wing", "wing", "shape", "rounded"),
        ("has_upper_tail_color::buff", "buff upper tail", "tail", "color", "buff"),
        ("has_under_tail_color::buff", "buff undertail", "tail", "color", "buff"),
        (
            "has_bill_length::about_the_same_as_head",
            "bill about as long as the head",
            "bill",
            "length",
            "about the same as head",
        ),
        ("has_bill_length::longer_than_head", "bill longer than the head", "bill", "length", "longer than head"),
    ],
)
def test_attributes_read_as_english(attribute: str, text: str, part: str, kind: str, said: str) -> None:
    (concept,) = cub_concepts(everywhere("has_size::small_(5_-_9_in)", attribute)).concepts
    assert (concept.attribute, concept.text, concept.part.name) == (1, text, part)
    assert (concept.kind, concept.property) == (kind, said)
    assert concept.shown.tolist() == [True] * 3


@pytest.mark.parametrize("group", WITHOUT_PART)
def test_what_speaks_of_no_single_part_is_left_out_with_a_reason(group: str) -> None:
    found = cub_concepts(everywhere("has_eye_color::red", f"has_{group}::some_value"))
    assert [concept.text for concept in found.concepts] == ["red eye"]
    (reason,) = found.excluded.values()
    assert len(reason.split()) >= 4


def test_a_concept_is_shown_by_enough_classes() -> None:
    shares = np.array([[0.5, 0.4999], [0.6, 1.0], [0.0, 0.9], [0.7, 0.2]])
    attributes = ClassAttributes(("has_eye_color::red", "has_leg_color::red"), shares)
    found = cub_concepts(attributes)
    assert [concept.text for concept in found.concepts] == ["red eye"]
    assert found.present.tolist() == [[True], [True], [False], [True]]
    assert found.excluded == {"has_leg_color::red": "shown by fewer than 3 classes"}
    assert cub_concepts(attributes, min_classes=2).attributes.tolist() == [0, 1]
    assert [concept.text for concept in cub_concepts(attributes, 4, share=0.2).concepts] == ["red leg"]
    assert "is shown by 4 of 4 classes" in refusal(lambda: cub_concepts(attributes, 4))


def test_names_that_cub_does_not_have_are_refused() -> None:
    assert "has_wing_color" in refusal(lambda: cub_concepts(everywhere("has_wings_color::red")))
    for name in ("has_wing_color", "has_bill_shape::", "red wing"):
        assert f"{name!r} is no attribute of CUB-200-2011" in refusal(lambda name=name: cub_concepts(everywhere(name)))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a long, hooked Beak", "bill"),
        ("red-winged", "wing"),
        ("yellow feet", "leg"),
        ("black cap", "crown"),
        ("a white background", None),
        ("a red patch on the back of the head", None),
        ("black throat and white belly", None),
        ("brown plumage", None),
        ("", None),
    ],
)
def test_a_part_is_named_by_whole_words(text: str, part: str | None) -> None:
    found = part_named(text)
    assert (found and found.name) == part


def test_no_word_names_two_parts() -> None:
    words = [word for part in cub_parts().values() for word in part.words]
    assert len(words) == len(set(words))
    for part in cub_parts().values():
        assert all(part_named(f"a {word}") is part for word in part.words)


@needs_cub
def test_the_real_attributes_are_72_concepts() -> None:
    annotation = Cub(DATA).annotation
    assert annotation is not None
    attributes = annotation.attributes
    assert attributes is not None
    found = cub_concepts(attributes)
    assert len(found.concepts) == 72
    assert len(found.concepts) + len(found.excluded) == len(attributes.names) == 312
    np.testing.assert_array_equal(found.present, attributes.shares[:, found.attributes] >= 0.5)
    assert found.present.sum(0).min() == 3
    assert annotation.keypoints is not None
    assert annotation.keypoints.names == KEYPOINTS
    whole = cub_concepts(attributes, min_classes=0)
    groups = {name.partition("::")[0] for name in attributes.names}
    assert len(groups) == 28
    assert {name.partition("::")[0] for name in whole.excluded} == {f"has_{group}" for group in WITHOUT_PART}
    assert Counter(whole.excluded.values()).total() == 75
    texts = [concept.text for concept in whole.concepts]
    assert len(set(texts)) == len(texts) == 237
    for concept in whole.concepts:
        assert not {"_", "(", ":"} & set(concept.text + concept.property)
        assert part_named(concept.text) is concept.part or concept.kind == "length"
