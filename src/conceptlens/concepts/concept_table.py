"""Tables of concepts that people write: a row for each class or photo and a column for each concept."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from conceptlens.io.errors import InputError, listed_near
from conceptlens.io.text_file import read_text

if TYPE_CHECKING:
    from jaxtyping import Float64

Of = Literal["class", "photo"]
SEPARATORS: dict[str, str] = {".csv": ",", ".tsv": "\t"}
MAX_COMPARED = 20_000  # spelling is compared slowly: all photos of ImageNet would take a minute
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class ConceptTable:
    """How much classes or photos show concepts: `targets[row concept]`, 0 to 1, NaN where it is unknown.

    `of` says what the rows are: all the classes, or all the photos, in their order. The photos of a set have the rows
    of their classes: `table.targets[photos.labels]`.
    """

    labels: tuple[str, ...]
    targets: Float64[np.ndarray, "row concept"] = field(repr=False)
    of: Of


class KnownNames:
    """Classes by their names; photos by their names too, or by the end of a path where it is the end of one alone."""

    def __init__(self, names: Sequence[str], of: Of) -> None:
        self._names, self._of = names, of
        self._exact = {name: index for index, name in enumerate(names)}
        self._files: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(names if of == "photo" else ()):
            self._files[PurePosixPath(name).name].append(index)

    def indices(self, name: str) -> list[int]:
        """Return the indices of all names that this one may mean."""
        if name in self._exact:
            return [self._exact[name]]
        same = self._files.get(PurePosixPath(name).name, ())
        return [index for index in same if _one_ends_as_other(name, self._names[index])]

    def index(self, name: str) -> int:
        """Return the index of a name; raises `InputError` with near ones where it is unknown or has several."""
        indices = self.indices(name)
        if len(indices) > 1:
            both = " and ".join(repr(self._names[index]) for index in indices[:2])
            raise InputError(f"{name!r} may be {both}; write more of its path")
        if not indices:
            raise InputError(f"no {self._of} of the set is called {name!r}; near: {self.near(name)}")
        return indices[0]

    def near(self, name: str) -> str:
        """Return names like one that is unknown, of the same folder where that is known."""
        beside = [known for known in self._names if known.startswith(f"{PurePosixPath(name).parent}/")]
        return listed_near(name, (beside or self._names)[:MAX_COMPARED], 3)


def read_concept_table(path: str | Path, classes: Sequence[str], photos: Sequence[str]) -> ConceptTable:
    """Read targets from a UTF-8 table with a row for each class or photo and a column for each concept.

    Args:
        path: A `.csv` or `.tsv` file whose first column is `name`. Values are 0 to 1: no, yes, or the share that shows
            the concept. An empty cell of a photo, and a photo without a row, is NaN.
        classes: The names of the classes; if rows are classes, each needs one.
        photos: The names of the photos (`LabelledSet.names`); a row may give the end of a name that only one has.

    Returns:
        Concepts in the order of the columns, with targets `[class concept]` or `[photo concept]`.

    Raises:
        InputError: A name is unknown, repeated or missing, or a cell is no such number; with file and line.
    """
    file = Path(path)
    labels, rows = _read_rows(file)
    of, known = _known(file, [row.name for row in rows], classes, photos)
    names = classes if of == "class" else photos
    targets = np.full((len(names), len(labels)), np.nan)
    lines: dict[int, int] = {}
    for row in rows:
        try:
            index = known.index(row.name)
            if index in lines:
                raise InputError(f"{row.name!r} has line {lines[index]} too; leave one of them out")
            targets[index] = [_value(*pair, of) for pair in zip(row.cells, labels, strict=True)]
        except InputError as error:
            raise InputError(f"{str(file)!r}, line {row.line}: {error}") from error
        lines[index] = row.line
    lacks = [name for index, name in enumerate(names) if index not in lines]
    if of == "class" and lacks:
        more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
        raise InputError(f"{str(file)!r} has no row for the class {lacks[0]!r}{more}; write one for each class")
    return ConceptTable(labels, targets, of)


def _known(file: Path, names: Sequence[str], classes: Sequence[str], photos: Sequence[str]) -> tuple[Of, KnownNames]:
    """Say what the rows of a table are: classes where one of them is a class, else photos."""
    as_class, as_photo = KnownNames(classes, "class"), KnownNames(photos, "photo")
    if any(map(as_class.indices, names)):
        return "class", as_class
    if any(map(as_photo.indices, names)):
        return "photo", as_photo
    raise InputError(
        f"{str(file)!r} has no row of a class or photo of the set; near {names[0]!r} are the classes "
        f"{as_class.near(names[0])} and the photos {as_photo.near(names[0])}"
    )


class _Row(NamedTuple):
    line: int
    name: str
    cells: list[str]


def _read_rows(file: Path) -> tuple[tuple[str, ...], list[_Row]]:
    """Return the concepts of a table's header, and its rows that are not blank."""
    separator = SEPARATORS.get(file.suffix.lower())
    if separator is None:
        raise InputError(f"{str(file)!r} is not called as a table; expected .csv, with commas, or .tsv, with tabs")
    text = read_text(file, "check the path, and save the table as UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        header = [" ".join(cell.split()) for cell in next(reader, [])]
        _check(header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InputError(f"{len(cells)} cells under {len(header)} columns; write as many, some of them empty")
            rows.append(_Row(reader.line_num, cells[0].strip(), cells[1:]))
    except (csv.Error, InputError) as error:
        raise InputError(f"{str(file)!r}, line {max(reader.line_num, 1)}: {error}") from error
    if not rows:
        raise InputError(f"{str(file)!r} has no row under its header; write one for each class, or for photos")
    return tuple(header[1:]), rows


def _check(header: Sequence[str]) -> None:
    """Refuse a header without `name`, without a concept, or with one that is blank or there twice."""
    if not header or header[0].casefold() != "name":
        raise InputError(f"the first column is {header[0] if header else ''!r}; expected 'name', and then the concepts")
    labels = [label.casefold() for label in header[1:]]
    if not any(labels):
        raise InputError("the header names no concept; expected 'name', and then the concepts")
    for index, label in enumerate(labels):
        if not label:
            raise InputError(f"column {index + 2} has no name; write its concept there, or take it out")
        if label in labels[:index]:
            raise InputError(f"the concept {header[index + 1]!r} has two columns; leave one of them out")


def _value(cell: str, label: str, of: Of) -> float:
    """Return the number in a cell; NaN for an empty one of a photo."""
    text = cell.strip()
    if not text and of == "photo":
        return math.nan
    if not _NUMBER.fullmatch(text):
        empty = ", or nothing where it is unknown" if of == "photo" else ""
        raise InputError(f"{label!r} is {text!r}; expected a number from 0 to 1, as 0.25{empty}")
    if not 0 <= float(text) <= 1:
        raise InputError(f"{label!r} is {text}; expected 0 to 1: divide percentages by 100")
    return float(text)


def _one_ends_as_other(first: str, second: str) -> bool:
    """Whether the shorter of two paths is the end of the longer."""
    parts = (reversed(PurePosixPath(path).parts) for path in (first, second))
    return all(one == other for one, other in zip(*parts, strict=False))
