"""The reviewed file of CUB's parts: every attribute is read, every keypoint counts once, and the real 72 concepts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.cub import Cub
from conceptlens.data.cub_parts import cub_parts, cub_readings

DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cub50"
needs_cub = pytest.mark.skipif(not DATA.is_dir(), reason="no folder cub50 in CONCEPTLENS_DATA")
KEYPOINTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
WITHOUT_PART = ("upperparts_color", "underparts_color", "head_pattern", "primary_color", "size", "shape")


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
    (concept,) = cub_readings([attribute])
    assert (concept.label, concept.part, concept.region) == (text, part, cub_parts()[part].region)
    assert (concept.kind, concept.property) == (kind, said)


@pytest.mark.parametrize("group", WITHOUT_PART)
def test_what_names_no_single_part_has_none(group: str) -> None:
    (concept,) = cub_readings([f"has_{group}::some_value"])
    assert (concept.part, concept.region) == (None, None)


@pytest.mark.parametrize("name", ["has_wings_color::red", "has_wing_color", "has_bill_shape::", "red wing"])
def test_names_that_cub_does_not_have_stay_as_they_are(name: str) -> None:
    assert cub_readings([name]) == (BottleneckConcept(name),)


def test_no_word_names_two_parts() -> None:
    words = [word for part in cub_parts().values() for word in part.words]
    assert len(words) == len(set(words))


@needs_cub
def test_the_real_attributes_are_72_concepts() -> None:
    annotation = Cub(DATA).annotation
    assert annotation is not None
    attributes = annotation.attributes
    assert attributes is not None
    assert len(attributes.names) == 312
    assert annotation.keypoints is not None
    assert annotation.keypoints.names == KEYPOINTS
    groups = {name.partition("::")[0] for name in attributes.names}
    assert len(groups) == 28
    pairs = list(zip(attributes.names, attributes.concepts, strict=True))
    without = [name for name, concept in pairs if concept.part is None]
    assert ({name.partition("::")[0] for name in without}, len(without)) == ({f"has_{g}" for g in WITHOUT_PART}, 75)
    of_parts = [concept for concept in attributes.concepts if concept.part]
    assert len({concept.label for concept in of_parts}) == len(of_parts) == 237
    assert not any({"_", "(", ":"} & set(f"{concept.label}{concept.property}") for concept in of_parts)
    shown = (attributes.shares >= 0.5).sum(0)
    assert sum(bool(concept.part) for concept in np.array(attributes.concepts, object)[shown >= 3]) == 72
