"""Concepts have a name and a type, and the type decides how a text model is asked about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from os import PathLike

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.text_file import read_text, readable_text

# As published in CE-FAM (ICCV 2025), where it describes its concepts. The scene prompt is the paper's too,
# though it reads oddly for most scenes: changing it would change what its numbers mean.
PROMPTS: dict[str, str] = {
    "object": "a photo of a {}",
    "part": "a photo of a {}",
    "material": "a photo of an object made of {}",
    "colour": "a photo of a {} object",
    "texture": "a photo of a {} object",
    "scene": "a photo of an object on {}",
}

CONCEPT_TYPES: tuple[str, ...] = tuple(PROMPTS)


@dataclass(frozen=True)
class ConceptName:
    """What a concept is called, and which of `CONCEPT_TYPES` it is.

    Raises `InputError` for a blank label or an unknown type. The same label with two types is two concepts:
    an orange object and an orange to eat are asked about differently.
    """

    label: str
    type: str = "object"

    def __post_init__(self) -> None:
        """Check both fields."""
        if not isinstance(self.label, str) or not self.label.strip():
            raise InputError(f"a concept is called {self.label!r}; give it a label such as 'striped fur'")
        if self.type not in CONCEPT_TYPES:
            raise InputError(
                f"unknown type {self.type!r} for concept {self.label!r}: use one of {', '.join(CONCEPT_TYPES)}"
            )


def prompt(concept: ConceptName) -> str:
    """Return the sentence that stands for `concept` in a text model (see `PROMPTS`)."""
    return PROMPTS[concept.type].format(concept.label)


@cache
def vocabulary() -> tuple[ConceptName, ...]:
    """Return the visual concepts that come with the package, in the order of their file.

    Returns:
        About 3100 names with their types: everyday words, kinds of things, and what their photos show.
    """
    return tuple(_rates())


@cache
def everyday_words() -> tuple[ConceptName, ...]:
    """Return the everyday words of the vocabulary, of which every fourth competes for the cells of a photo.

    Returns:
        About 1400 names with their types; hardly any is a kind of another.
    """
    return tuple(ConceptName(row[0], row[1]) for row in _rows() if row[3] == "yes")


def base_rate(concept: ConceptName) -> float | None:
    """Return the share of everyday photos that show a concept of the vocabulary, as estimated by hand.

    Args:
        concept: A concept; its label alone counts.

    Returns:
        From 0 to 1; `None` for a concept that is not in the vocabulary.
    """
    known = _by_label().get(concept.label.casefold())
    return None if known is None else _rates()[known]


@cache
def _rates() -> dict[ConceptName, float]:
    return {ConceptName(label, kind): float(rate) for label, kind, rate, _ in _rows()}


@cache
def _rows() -> tuple[list[str], ...]:
    """Return the lines of the vocabulary: label, type, rate, and whether it is an everyday word."""
    text = files("conceptlens.concepts").joinpath("vocabulary.tsv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(line.split("\t") for line in lines[1:])


def parse_concepts(given: str | Iterable[str | ConceptName]) -> tuple[ConceptName, ...]:
    """Turn what a person wrote into concepts: `"whiskers, striped fur:texture"`, or such entries one by one.

    - Only a single string is split at commas; an entry of an iterable is one concept, commas and all.
    - `label:type` gives the type. Without it, a label of the vocabulary (in any case and spacing) has the
      vocabulary's type and spelling, and any other is an object.
    - Blank entries are ignored, repeated ones dropped; the order is kept.

    Args:
        given: One text with commas, or entries one by one, each a text or a `ConceptName`.

    Returns:
        The concepts, in the order given.

    Raises:
        InputError: A type is unknown, an entry is not text, or nothing is left.
    """
    if not isinstance(given, Iterable):
        raise InputTypeError(f"concepts are given as {type(given).__name__}; expected a text or a list of texts")
    entries = given.split(",") if isinstance(given, str) else given
    parsed: dict[tuple[str, str], ConceptName] = {}
    for entry in entries:
        concept = _parse(entry)
        if concept is not None:
            parsed.setdefault((concept.label.casefold(), concept.type), concept)
    if not parsed:
        raise InputError("no concept is given; name at least one, such as 'whiskers, striped fur'")
    return tuple(parsed.values())


def read_concepts(path: str | PathLike[str]) -> tuple[ConceptName, ...]:
    """Read concepts from a text file (UTF-8) with one entry a line, as `parse_concepts` understands it.

    A `#` starts a comment. Raises `InputError`, naming the file, where it cannot be read or holds no concept.
    """
    text = read_text(path, "give a text file with one concept a line")
    try:
        return parse_concepts(line.partition("#")[0] for line in text.splitlines())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _parse(entry: str | ConceptName) -> ConceptName | None:
    """Return the concept that one entry means; `None` for a blank one."""
    if isinstance(entry, ConceptName):
        return entry
    if not isinstance(entry, str):
        raise InputError(f"a concept is given as {entry!r}; expected text such as 'striped fur:texture'")
    entry = readable_text(entry)  # an argument of the command line may hold what is no text
    written, colon, kind = entry.rpartition(":") if ":" in entry else (entry, "", "")
    label, kind = " ".join(written.split()), kind.strip().lower()
    if not label and not colon:
        return None
    if not label:
        raise InputError(f"{entry.strip()!r} names no concept; write label:type, such as 'striped fur:texture'")
    known = _by_label().get(label.casefold())
    if known is None:
        return ConceptName(label, kind if colon else "object")
    return ConceptName(known.label, kind) if colon else known


@cache
def _by_label() -> dict[str, ConceptName]:
    """Index the vocabulary by label, for any case."""
    return {concept.label.casefold(): concept for concept in vocabulary()}
