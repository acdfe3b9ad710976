"""The concepts of a bottleneck: their names and parts, where they came from, and which were left out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.io.atomic import write_text
from conceptlens.io.errors import InputError, near
from conceptlens.io.text_file import read_text

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class BottleneckConcept:
    """One concept, and where it is known what it speaks of: `yellow trunk`, the `color` `yellow` of the `trunk`.

    - `part`: the body part or piece ('wing'). `region`: the larger place that holds it ('trunk').
    - `property`: what is said of the part ('yellow'), of some `kind` ('color').
    - `type`: how a text model is asked, one of `CONCEPT_TYPES`; methods that ask with the bare label ignore it.

    Runs of spaces become one, blank structure becomes `None`. Raises `InputError` for a blank label or unknown type.
    """

    label: str
    part: str | None = None
    region: str | None = None
    property: str | None = None
    kind: str | None = None
    type: str = "object"

    def __post_init__(self) -> None:
        """Bring the texts to one spelling and check them."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"the {field.name} of a concept is {value!r}; give text or nothing")
            object.__setattr__(self, field.name, " ".join((value or "").split()) or None)
        if self.type is None:
            object.__setattr__(self, "type", "object")
        ConceptName(self.label or "", self.type)

    def name(self) -> ConceptName:
        """Return what to ask a text model for (see `conceptlens.concepts.vocabulary.prompt`).

        Returns:
            Its label and type.
        """
        return ConceptName(self.label, self.type)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(BottleneckConcept))


@dataclass(frozen=True)
class Dropped:
    """A concept that was left out: by which filter, at which value against which threshold, and why, in a sentence."""

    label: str
    filter: str
    value: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class ConceptSet:
    """The concepts of a bottleneck, in order, with what was left out on the way.

    - `targets[class concept]`: for each class the share of its images that show the concept, 0 to 1, where known.

    Labels differ, whatever their case: a concept is asked for, set and removed by its label. Raises `InputError`
    where two are alike, the targets do not fit, or no concept is left (saying which filter dropped most).
    """

    concepts: tuple[BottleneckConcept, ...]
    source: str
    dropped: tuple[Dropped, ...] = ()
    targets: Float[np.ndarray, "class concept"] | None = None

    def __post_init__(self) -> None:
        """Check that there is a concept, that labels differ and that targets fit."""
        if not self.concepts:
            raise InputError(_nothing_left(self))
        twice = [key for key, times in Counter(map(_key, self.labels)).items() if times > 1]
        if twice:
            raise InputError(f"{self.source} names {twice[0]!r} more than once; build the set with collect()")
        if self.targets is not None:
            object.__setattr__(self, "targets", _shares(self.targets, self.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The concepts' labels, in order."""
        return tuple(concept.label for concept in self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    def tally(self) -> dict[str, int]:
        """Return how many concepts each filter dropped, the most first.

        Returns:
            A count by the name of the filter.
        """
        return dict(Counter(one.filter for one in self.dropped).most_common())

    def keep(self, indices: Iterable[int], dropped: Sequence[Dropped] = ()) -> ConceptSet:
        """Return the set of the concepts at `indices`, with the columns of its targets, and `dropped` added.

        Args:
            indices: Indices of the concepts that are kept, in their new order.
            dropped: What was left out now.

        Returns:
            Another set; this one stays as it is.

        Raises:
            InputError: No concept is left.
        """
        chosen = list(indices)
        targets = None if self.targets is None else self.targets[:, chosen]
        kept = tuple(self.concepts[index] for index in chosen)
        return ConceptSet(kept, self.source, (*self.dropped, *dropped), targets)


def collect(
    concepts: Iterable[str | BottleneckConcept],
    source: str,
    targets: Float[np.ndarray, "class concept"] | None = None,
) -> ConceptSet:
    """Return a set of concepts in their order; of labels that differ in case or spaces only, the first is kept.

    Args:
        concepts: Labels or concepts.
        source: Where they came from, in words.
        targets: Shares `[class concept]`, 0 to 1, in the order of `concepts`.

    Returns:
        The set; what repeats another concept is among its dropped ones.

    Raises:
        InputError: There is no concept, or targets do not fit.
    """
    found = [one if isinstance(one, BottleneckConcept) else BottleneckConcept(one) for one in concepts]
    shares = None if targets is None else _shares(targets, [one.label for one in found])
    first: dict[str, int] = {}
    dropped = []
    for index, concept in enumerate(found):
        earlier = first.setdefault(_key(concept.label), index)
        if earlier != index:
            reason = f"entry {index + 1} repeats entry {earlier + 1}, {found[earlier].label!r}"
            dropped.append(Dropped(concept.label, "duplicate", None, None, reason))
    indices = list(first.values())
    kept = None if shares is None else shares[:, indices]
    return ConceptSet(tuple(found[index] for index in indices), source, tuple(dropped), kept)


def attribute_concepts(
    names: Sequence[str | BottleneckConcept],
    shares: Float[np.ndarray, "class attribute"],
    source: str,
    min_share: float = 0.5,
) -> ConceptSet:
    """Return class attributes as concepts whose targets are the shares of each class's images that show them.

    Attributes that no class shows often enough, or that every class shows alike, are dropped with a reason.

    Args:
        names: The attributes' labels, or concepts with their structure.
        shares: The share of each class's images that show the attribute, 0 to 1.
        source: Where they come from, in words.
        min_share: An attribute is kept where some class shows it in at least this share of its images.

    Returns:
        The attributes that are kept, with their shares as targets.

    Raises:
        InputError: Shares are outside 0 to 1, there are fewer than two classes, or no attribute is left.
    """
    if not 0 <= min_share <= 1:
        raise InputError(f"min_share is {min_share}; expected a share from 0 to 1")
    found = collect(names, source, np.asarray(shares))
    values = found.targets
    if values is None or len(values) < 2:
        raise InputError(f"the shares of {source} are of fewer than 2 classes; a bottleneck tells classes apart")
    dropped = []
    for label, column in zip(found.labels, values.T, strict=True):
        highest = float(column.max())
        if highest == 0:
            dropped.append(Dropped(label, "presence", 0.0, min_share, "no image of any class shows it"))
        elif highest < min_share:
            reason = f"no class shows it in {min_share:.0%} of its images or more"
            dropped.append(Dropped(label, "presence", highest, min_share, reason))
        elif np.ptp(column) == 0:
            reason = f"all {len(column)} classes show it in {highest:.0%} of their images: it tells none apart"
            dropped.append(Dropped(label, "constant", 0.0, 0.0, reason))
    gone = {one.label for one in dropped}
    return found.keep([index for index, label in enumerate(found.labels) if label not in gone], dropped)


def read_concept_set(path: str | PathLike[str]) -> ConceptSet:
    """Read concepts from a UTF-8 file: `.tsv` with a header, or a text file with one concept per line.

    Args:
        path: A text file with `label` or `label:type` on each line, `#` starting a comment; or a `.tsv` with a column
            `label` and any of `COLUMNS`, whose lines before the header may be comments.

    Returns:
        The concepts in the order of the file.

    Raises:
        InputError: The file cannot be read, with its name and line, or no concept is left.
    """
    text = read_text(path, "give a text file with one concept a line, or a .tsv with a header")
    read = _from_table if Path(path).suffix.lower() == ".tsv" else _from_lines
    return collect(read(text, path), str(path))


def write_concept_set(concepts: ConceptSet, path: str | PathLike[str]) -> None:
    """Write a set for `read_concept_set`, with its source and dropped concepts as comments; targets are not written.

    Args:
        concepts: The set.
        path: A `.tsv` file, or another for plain text.

    Raises:
        InputError: A text file cannot hold a label or its structure.
    """
    table = Path(path).suffix.lower() == ".tsv"
    lines = [f"# source: {' '.join(concepts.source.split())}"]
    lines += [f"# dropped: {' '.join(f'{one.label} ({one.filter}): {one.reason}'.split())}" for one in concepts.dropped]
    text = _table(concepts.concepts) if table else "".join(f"{_line(one, path)}\n" for one in concepts.concepts)
    write_text(path, "\n".join([*lines, text]))


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


def _shares(values: np.ndarray, labels: Sequence[str]) -> Float[np.ndarray, "class concept"]:
    """Return targets as float64, checked: one column a concept, one row a class, shares."""
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim != 2 or shares.shape[1] != len(labels) or not len(shares):
        raise InputError(f"shares have shape {shares.shape}; expected class concept, {len(labels)} concepts")
    wrong = np.argwhere(~((shares >= 0) & (shares <= 1)))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"the share of class {row} for {labels[column]!r} is {shares[row, column]:g}; expected 0 to 1: divide "
            "percentages by 100, leave out what is not known"
        )
    return shares


def _nothing_left(empty: ConceptSet) -> str:
    if not empty.dropped:
        return f"{empty.source} holds no concept; name at least one, such as 'striped fur'"
    tally = empty.tally()
    counts = ", ".join(f"{name} dropped {number}" for name, number in tally.items())
    return f"{empty.source} leaves no concept ({counts}); give other concepts, or loosen {next(iter(tally))!r} first"


def _from_lines(text: str, path: str | PathLike[str]) -> list[BottleneckConcept]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if "\t" in entry:
            raise InputError(f"{path}, line {number} holds a tab; name a table .tsv, or write one label a line")
        try:
            found += [BottleneckConcept(one.label, type=one.type) for one in parse_concepts([entry])] if entry else []
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return found


def _from_table(text: str, path: str | PathLike[str]) -> list[BottleneckConcept]:
    lines = list(io.StringIO(text, newline=""))
    start = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    rows = csv.reader(lines[start:], delimiter="\t", strict=True)
    found = []
    try:
        header = _header(next(rows, []))
        for row in rows:
            if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
                raise InputError(f"{len(row)} cells under {len(header)} columns; take the tabs out of the labels")
            if any(cell.strip() for cell in row):
                found.append(BottleneckConcept(**{"label": "", **dict(zip(header, row, strict=False))}))
    except (csv.Error, InputError) as error:
        raise InputError(f"{path}, line {start + rows.line_num}: {error}") from error
    return found


def _header(row: Sequence[str]) -> list[str]:
    header = [cell.strip().lower() for cell in row]
    if "label" not in header or len(set(header)) < len(header):
        raise InputError(
            f"the header is {', '.join(row) or 'missing'}; expected label, and any of {', '.join(COLUMNS)}"
        )
    for name in header:
        if name not in COLUMNS:
            raise InputError(f"no column {name!r} in a table of concepts; {near(name, COLUMNS, 'columns')}")
    return header


def _table(concepts: Sequence[BottleneckConcept]) -> str:
    typed = any(concept.type != "object" for concept in concepts)
    columns = [name for name in COLUMNS if name != "type" or typed]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(concept, name) or "" for name in columns] for concept in concepts)
    return buffer.getvalue()


def _line(concept: BottleneckConcept, path: str | PathLike[str]) -> str:
    if any((concept.part, concept.region, concept.property, concept.kind)) or "#" in concept.label:
        raise InputError(f"{concept.label!r} has structure or a '#', which {path} cannot hold; name the file .tsv")
    plain = ":" not in concept.label and parse_concepts([concept.label])[0].type == concept.type
    return concept.label if plain else f"{concept.label}:{concept.type}"
