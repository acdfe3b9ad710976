"""CUB-200-2011's attributes as concepts: their English, and the part of the bird that each speaks of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from conceptlens.concepts.concept_set import BottleneckConcept


@dataclass(frozen=True)
class BirdPart:
    """A part of a bird.

    Attributes:
        name: The part, such as `wing`.
        keypoints: CUB's keypoints that count as it: left and right together.
        region: The region of the body that it belongs to: `head`, `trunk`, `leg` or `tail`.
        words: The words that name it.
    """

    name: str
    keypoints: tuple[str, ...]
    region: str
    words: tuple[str, ...]


@cache
def cub_parts() -> dict[str, BirdPart]:
    """Return the twelve parts by name; together they have each of CUB's fifteen keypoints once.

    Returns:
        Parts with their keypoints, region and words.
    """
    return {
        row["part"]: BirdPart(row["part"], tuple(row["keypoints"].split(", ")), row["region"],
                              tuple(row["words"].split(", ")))
        for row in _rows("cub_parts.tsv")
    }  # fmt: skip


def cub_readings(names: Sequence[str]) -> tuple[BottleneckConcept, ...]:
    """Return attributes as concepts in English.

    Args:
        names: Names of attributes, such as `has_wing_color::yellow`.

    Returns:
        A concept for each name, with part, region, property and kind where CUB-200-2011 has the attribute and it speaks
        of one part, such as `yellow wing`; a name that CUB does not have is the concept itself.
    """
    return tuple(map(_reading, names))


def _reading(attribute: str) -> BottleneckConcept:
    name, _, value = attribute.partition("::")
    groups = _groups()
    if name not in groups or not value:
        return BottleneckConcept(attribute)
    group, own = groups[name], groups.get(attribute, {})
    part = cub_parts().get(group["part"])
    property_ = own.get("property") or _without_part(value, part.words if part else ())
    label = own.get("reading") or group["reading"].format(property_)
    return BottleneckConcept(label, part and part.name, part and part.region, property_, group["kind"])


def _without_part(value: str, words: Sequence[str]) -> str:
    """Return a value in English, without the part at its end: `fan-shaped_tail` as `fan-shaped`."""
    last = "|".join(map(re.escape, words))
    return (re.sub(rf"[_-]({last})$", "", value) if words else value).replace("_", " ")


@cache
def _groups() -> dict[str, dict[str, str]]:
    """Read the groups of attributes, and single attributes with a reading of their own."""
    return {row["attribute"]: row for row in _rows("cub_attributes.tsv")}


def _rows(file: str) -> list[dict[str, str]]:
    """Read a table of this package."""
    text = files("conceptlens.data").joinpath(file).read_text(encoding="utf-8")
    header, *lines = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return [dict(zip(header, line, strict=True)) for line in lines]
