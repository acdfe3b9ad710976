"""What the values of mask PNGs mean in a folder of one's own: labels by index, objects by id, values to leave out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.data.annotation_files import entry_errors, read_table, read_text
from conceptlens.io.errors import InputError, InputTypeError

Labelled = tuple[ConceptName, str]  # a concept and its group
LABELS = ("labels.csv", "labels.txt")


@dataclass(frozen=True)
class LabelList:
    """Concepts with their groups, and which value means which of them.

    Attributes:
        file: The file that says so, for messages.
        concepts: Every concept once.
        groups: The group of each concept.
        numbers: The number of the concept of each value.
    """

    file: Path
    concepts: tuple[ConceptName, ...]
    groups: tuple[str, ...]
    numbers: dict[int, int]


def label_list(listed: dict[int, Labelled], file: Path) -> LabelList:
    """Return labels by value as a list of concepts: several values may mean one.

    Args:
        listed: The concept and group of each value.
        file: The file that says so.

    Raises:
        InputError: There is no label.
    """
    if not listed:
        raise InputError(f"{str(file)!r} names no label; write one a line")
    concepts = tuple(dict.fromkeys(concept for concept, _ in listed.values()))
    positions = {concept: number for number, concept in enumerate(concepts)}
    groups = dict(listed.values())
    numbers = {value: positions[concept] for value, (concept, _) in listed.items()}
    return LabelList(file, concepts, tuple(groups[concept] for concept in concepts), numbers)


def labels_file(folder: Path) -> Path | None:
    """Return `labels.csv` or else `labels.txt` of a folder, where there is one."""
    return next((folder / name for name in LABELS if (folder / name).is_file()), None)


def read_labels(file: Path, ignored: Iterable[int] = ()) -> LabelList:
    """Return the labels of a file, without those of ignored values alone.

    `labels.csv` has the columns `index` and `label`, and may have `type` and `group`; line n of `labels.txt` is the
    label of index n, from 1, with `:type` where it is not an object.

    Args:
        file: The file.
        ignored: Values that count as nothing, also where the file names them.

    Raises:
        InputError: The file cannot be read, names an index twice or names no label.
    """
    listed: dict[int, Labelled] = {}
    with entry_errors(file, "an index and a label a line"):
        if file.suffix == ".csv":
            for row in read_table(file, "index", "label"):
                index = int(row["index"])
                if index in listed:
                    raise InputError(f"{str(file)!r} names index {index} twice; give each index one label")
                listed[index] = labelled(row, row["label"])
        else:
            for index, line in enumerate(read_text(file).splitlines(), start=1):
                if line.strip():
                    concept = parse_concepts([line])[0]
                    listed[index] = (concept, concept.type)
    return label_list({index: one for index, one in listed.items() if index not in set(ignored)}, file)


def labelled(row: dict[str, str], label: str) -> Labelled:
    """Return the concept and group that a row of a table says: `type` and `group` may be empty or missing."""
    concept = ConceptName(label.strip(), row.get("type", "").strip() or "object")
    return concept, row.get("group", "").strip() or concept.type


def parse_values(given: int | str | Sequence[int | str]) -> tuple[int, ...]:
    """Return the pixel values that an option names, rising, each once.

    Args:
        given: A whole number, numbers with commas between, or a list of them.

    Raises:
        InputError: One is no whole number from 0.
        InputTypeError: Something else is given.
    """
    if isinstance(given, int | str):
        given = [given]
    if not isinstance(given, Sequence) or not all(isinstance(one, int | str) for one in given):
        raise InputTypeError(f"ignore={given!r} was given; expected pixel values such as 11 or [11, 12]")
    parts = [part.strip() for one in given for part in str(one).split(",") if part.strip()]
    strange = next((part for part in parts if not (part.isascii() and part.isdecimal())), None)
    if strange is not None:
        raise InputError(f"{strange!r} is given as a value to ignore; expected whole numbers from 0, such as 11")
    return tuple(sorted({int(part) for part in parts}))
