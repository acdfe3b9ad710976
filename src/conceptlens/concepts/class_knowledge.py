"""Class knowledge: which concepts a photo of each class shows, and how often, as a table that people can read."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.io.errors import InputError
from conceptlens.io.text_file import read_text

if TYPE_CHECKING:
    from jaxtyping import Float32

# How often a photo of a class shows a concept of each column; the middle of what the column's name stands for.
RATES: Mapping[str, float] = {"always": 0.93, "often": 0.6, "sometimes": 0.22}
# How often it shows a concept that the table does not name.
UNNAMED_RATE = 0.005
ADVICE = "give a table with the columns class, always, often, sometimes and, if you like, kinds (.tsv or .csv)"


@dataclass(frozen=True)
class KnownClass:
    """What a photo of one class shows.

    Args:
        name: The name of the class, with its synonyms between commas.
        kinds: What it is, from the most specific name to the most general: ("tabby cat", "cat", "mammal", "animal").
        rates: How often a photo of the class shows a concept, from 0 to 1; kinds are always shown.
    """

    name: str
    kinds: tuple[str, ...]
    rates: Mapping[ConceptName, float] = field(repr=False)


@dataclass(frozen=True, eq=False)
class ClassKnowledge:
    """A table of classes and the concepts that their photos show.

    Args:
        classes: The classes that are known.
        source: Where the table comes from, for records.
    """

    classes: tuple[KnownClass, ...]
    source: str

    @cached_property
    def concepts(self) -> tuple[ConceptName, ...]:
        """All concepts that some class shows, each once."""
        return tuple(dict.fromkeys(concept for known in self.classes for concept in known.rates))

    @cached_property
    def rates(self) -> Float32[np.ndarray, "class concept"]:
        """How often a photo of each class shows each concept, from 0 to 1."""
        index = {concept: i for i, concept in enumerate(self.concepts)}
        rates = np.full((len(self.classes), len(index)), UNNAMED_RATE, np.float32)
        for row, known in zip(rates, self.classes, strict=True):
            for concept, rate in known.rates.items():
                row[index[concept]] = rate
        return rates

    @cached_property
    def broader(self) -> Mapping[str, frozenset[str]]:
        """The broader kinds of each kind: "tabby cat" is a "cat", a "mammal" and an "animal"."""
        found: dict[str, frozenset[str]] = {}
        for known in self.classes:
            for number, kind in enumerate(known.kinds):
                found[kind] = found.get(kind, frozenset()) | frozenset(known.kinds[number + 1 :])
        return found

    def members(self, kind: str) -> tuple[int, ...]:
        """Return the indices of the classes of a kind.

        Args:
            kind: A kind, such as "dog", in any case.
        """
        return self._members.get(kind.casefold(), ())

    def index(self, name: str) -> int | None:
        """Return the index of the class that has a name among its synonyms, `None` where none or several have it.

        Args:
            name: A class name or one of its synonyms, in any case.
        """
        whole = self._names.get(name.strip().casefold(), ())
        return whole[0] if len(whole) == 1 else None

    @cached_property
    def _members(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for number, known in enumerate(self.classes):
            for kind in known.kinds:
                found[kind.casefold()] = (*found.get(kind.casefold(), ()), number)
        return found

    @cached_property
    def _names(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for number, known in enumerate(self.classes):
            for name in {known.name.casefold(), *(part.strip().casefold() for part in known.name.split(","))}:
                found[name] = (*found.get(name, ()), number)
        return found


def is_broader(concept: ConceptName, other: ConceptName, broader: Mapping[str, frozenset[str]]) -> bool:
    """Whether `concept` is a broader kind of `other`, or a part that `other` describes more closely.

    Args:
        concept: A concept, such as the part *ear*.
        other: Another, such as the part *pointed ear*.
        broader: The broader kinds of each kind, as `ClassKnowledge.broader` has them.
    """
    if concept.label in broader.get(other.label, frozenset()):
        return True
    return concept.type == other.type == "part" and other.label.endswith(f" {concept.label}")


@cache
def imagenet_knowledge() -> ClassKnowledge:
    """Return what photos of the 1000 classes of ImageNet-1k show, as written for this package.

    Returns:
        One entry for each class, in the usual order of ImageNet's classes.
    """
    text = files("conceptlens.concepts").joinpath("class_knowledge.tsv").read_text(encoding="utf-8")
    return ClassKnowledge(tuple(_classes(_rows(text, "\t"), "class_knowledge.tsv")), "ImageNet-1k, version 1")


def read_knowledge(path: str | PathLike[str]) -> ClassKnowledge:
    """Read a table of your own classes.

    Each line names a class and, separated by semicolons, the concepts that its photos show: `always` (in 85 of 100
    photos or more), `often` (40 to 85), `sometimes` (10 to 40). `kinds` says what it is, such as
    `house sparrow > sparrow > bird > animal`. A concept that is not in the vocabulary has its type after a colon:
    `rusty hinge:part`. Lines that begin with `#` are comments.

    Args:
        path: A file `.tsv` (columns separated by tabs) or `.csv` (commas).

    Returns:
        The table, one entry for each line.

    Raises:
        InputError: The file cannot be read, has other columns, names a class twice or no class, or a concept's type
            is unknown.
    """
    file = Path(path)
    separator = {".tsv": "\t", ".csv": ","}.get(file.suffix.lower())
    if separator is None:
        raise InputError(f"{str(file)!r} is no table; {ADVICE}")
    known = tuple(_classes(_rows(read_text(file, ADVICE), separator), str(file)))
    doubled = [name for name, count in Counter(one.name for one in known).items() if count > 1]
    if doubled:
        raise InputError(f"{str(file)!r} names {doubled[0]!r} twice; {ADVICE}")
    return ClassKnowledge(known, str(file))


def _rows(text: str, separator: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    return list(csv.DictReader(io.StringIO("\n".join(lines)), delimiter=separator, quoting=quoting, restval=""))


def _classes(rows: Sequence[Mapping[str, str]], name: str) -> Iterable[KnownClass]:
    if not rows:
        raise InputError(f"{name!r} names no class; {ADVICE}")
    missing = [column for column in ("class", *RATES) if column not in rows[0]]
    if missing:
        raise InputError(f"{name!r} has no column {', '.join(missing)}; {ADVICE}")
    for row in rows:
        label = row["class"].strip()
        if not label:
            raise InputError(f"{name!r} has a line without a class; {ADVICE}")
        kinds = tuple(kind.strip() for kind in (row.get("kinds") or "").split(">") if kind.strip())
        rates = dict.fromkeys(_concepts(kinds, name, label), 1.0)
        for column, rate in RATES.items():
            for concept in _concepts(row[column].split(";"), name, label):
                rates.setdefault(concept, rate)
        yield KnownClass(label, kinds, rates)


def _concepts(entries: Sequence[str], name: str, label: str) -> tuple[ConceptName, ...]:
    given = [entry for entry in entries if entry.strip()]
    try:
        return parse_concepts(given) if given else ()
    except InputError as error:
        raise InputError(f"{name!r}, class {label!r}: {error}") from error
