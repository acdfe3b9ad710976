"""Which part of a bird a concept speaks of: CUB-200-2011's attributes, and any words, to its keypoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.labelled_set import ClassAttributes
from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

PRESENT = 0.5  # the share of a class's photos from which the class shows an attribute


@dataclass(frozen=True)
class BirdPart:
    """A part of a bird: the keypoints that count as it, its region of the body, and the words that name it."""

    name: str
    keypoints: tuple[str, ...]
    region: str
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PartConcept:
    """An attribute that speaks of one part.

    - `attribute`: its place among the attributes given, from 0.
    - `text`: how one says it, `yellow wing`; `property`: what it says of the part, `yellow`; `kind`: `color`,
      `pattern`, `shape` or `length`.
    - `shown[class]`: bool, whether the class shows it.
    """

    attribute: int
    text: str
    part: BirdPart
    kind: str
    property: str
    shown: Bool[np.ndarray, "class"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PartConcepts:
    """The attributes that speak of one part and are shown by enough classes; `excluded`: the others, to the reason."""

    concepts: tuple[PartConcept, ...]
    excluded: dict[str, str] = field(repr=False)

    @property
    def present(self) -> Bool[np.ndarray, "class concept"]:
        """Which class shows which concept."""
        return np.stack([concept.shown for concept in self.concepts], axis=1)

    @property
    def attributes(self) -> Int64[np.ndarray, "concept"]:
        """Which column of the attributes each concept is."""
        return np.array([concept.attribute for concept in self.concepts], np.int64)


@dataclass(frozen=True)
class _Group:
    """What is known of a group of attributes: `part` is empty where there is a `reason`."""

    part: str
    kind: str
    property: str
    reading: str
    reason: str


def cub_parts() -> dict[str, BirdPart]:
    """Return the twelve parts by name; together they have each of CUB's fifteen keypoints once."""
    return dict(_parts()[0])


def cub_readings(names: Sequence[str]) -> tuple[BottleneckConcept, ...]:
    """Return attributes as one says them, with the part of those that speak of one; as they are where not CUB's."""
    found = []
    for name in names:
        if name.partition("::")[0] not in _groups():
            found.append(BottleneckConcept(name))
            continue
        group, reading, said = _read(name)
        part = _parts()[0][group.part] if group.part else None
        found.append(BottleneckConcept(reading, part and part.name, part and part.region, said, group.kind))
    return tuple(found)


def part_named(text: str) -> BirdPart | None:
    """Return the one part that a text names; `None` where it names no part, several, or a place that is no single part.

    Words count whole, so a *yellow back* is the back and a *yellow background* is nothing; *the back of the head* names
    two places.
    """
    parts, nowhere = _parts()
    words = set(re.findall(r"[a-z]+", text.lower()))
    named = [part for part in parts.values() if words & set(part.words)]
    return named[0] if len(named) == 1 and not words & nowhere else None


def cub_concepts(attributes: ClassAttributes, min_classes: int = 3, share: float = PRESENT) -> PartConcepts:
    """Return the attributes of CUB that speak of one part and that at least `least_classes` classes show.

    A class shows an attribute where its share is `share` or more. Raises `InputError` for a name that is no attribute
    of CUB, and where no concept is left.
    """
    kept, excluded = [], {}
    for place, name in enumerate(attributes.names):
        group, reading, said = _read(name)
        shown = attributes.shares[:, place] >= share
        if group.reason:
            excluded[name] = group.reason
        elif shown.sum() < min_classes:
            excluded[name] = f"shown by fewer than {min_classes} classes"
        else:
            kept.append(PartConcept(place, reading, _parts()[0][group.part], group.kind, said, shown))
    if not kept:
        raise InputError(
            f"none of {len(attributes.names)} attributes speaks of one part and is shown by {min_classes} of "
            f"{len(attributes.shares)} classes; give more classes, or a smaller min_classes"
        )
    return PartConcepts(tuple(kept), excluded)


def _read(attribute: str) -> tuple[_Group, str, str]:
    """Return the group of an attribute, how one says it, and what it says of its part."""
    name, _, value = attribute.partition("::")
    groups = _groups()
    if name not in groups or not value:
        raise InputError(
            f"{attribute!r} is no attribute of CUB-200-2011, expected names such as 'has_wing_color::yellow'; near "
            f"groups: {near(name, [known for known in groups if '::' not in known])}"
        )
    group, own = groups[name], groups.get(attribute)
    words = _parts()[0][group.part].words if group.part else ()
    said = (own.property if own else "") or _plain(value, words)
    return group, own.reading if own else group.reading.format(said), said


def _plain(value: str, words: Sequence[str]) -> str:
    """Return a value as one says it, without the part at its end: `fan-shaped_tail` as `fan-shaped`."""
    last = "|".join(map(re.escape, words))
    return (re.sub(rf"[_-]({last})$", "", value) if words else value).replace("_", " ")


@cache
def _parts() -> tuple[dict[str, BirdPart], set[str]]:
    """Read the parts, and the words that name no single one."""
    parts, nowhere = {}, set()
    for row in _rows("cub_parts.tsv"):
        words = tuple(row["words"].split(", "))
        if row["part"]:
            parts[row["part"]] = BirdPart(row["part"], tuple(row["keypoints"].split(", ")), row["region"], words)
        else:
            nowhere |= set(words)
    return parts, nowhere


@cache
def _groups() -> dict[str, _Group]:
    """Read the groups of attributes, and single ones that are said otherwise."""
    return {row.pop("attribute"): _Group(**row) for row in _rows("cub_attributes.tsv")}


def _rows(file: str) -> list[dict[str, str]]:
    """Read a table of this package."""
    text = files("conceptlens.data").joinpath(file).read_text(encoding="utf-8")
    header, *lines = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return [dict(zip(header, line, strict=True)) for line in lines]
