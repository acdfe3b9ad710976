"""The true class of each photo: the folder that it lies in, or a row of a table, as the model calls its classes."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from conceptlens.concepts.concept_table import KnownNames
from conceptlens.data.imagenet_s import imagenet_names
from conceptlens.io.errors import InputError
from conceptlens.io.text_file import read_text

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

FOLDERS = "folders"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMNS = ("photo", "class")
_WNID = re.compile(r"n\d{8}")


class _Row(NamedTuple):
    photo: str
    class_name: str
    line: int


def true_classes(labels: str, photos: Sequence[str | Path], model: Backbone) -> list[str]:
    """Return the true class of each photo, by the name that the model has for it.

    A class is given by a name of the model, one of its synonyms, its index, or ImageNet's number (`n02123045`).

    Args:
        labels: `"folders"`, where the folder of each photo is its class; or a table (`.csv`, `.tsv`) with the columns
            `photo` and `class`, which has a row for each photo, by its path or the end of it that no other one has. The
            class may be empty where it is not known; rows of other photos are passed over.
        photos: The photos.
        model: The model whose classes they are.

    Returns:
        A name for each photo, in their order; `""` where it is not known.

    Raises:
        InputError: A class is none of the model's (near ones are named), a photo has no row or two, or the table
            cannot be read.
    """
    names = [os.path.abspath(photo) for photo in photos]
    if labels == FOLDERS:
        given = [Path(name).parent.name for name in names]
        places = [f"{name!r} lies in the folder {folder!r}" for name, folder in zip(names, given, strict=True)]
        advice = "put photos into folders that are called as their classes, or give a table with --labels FILE.csv"
    else:
        rows = _rows_of_photos(Path(labels), names)
        given = [row.class_name for row in rows]
        places = [f"{labels!r}, line {row.line}" for row in rows]
        advice = "write a name or the index of one of the model's classes, or nothing where it is not known"
    return _known_classes(given, places, model, advice)


def _known_classes(given: Sequence[str], places: Sequence[str], model: Backbone, advice: str) -> list[str]:
    """Return the model's names of classes; raises `InputError` for the first unknown one, and says how many more."""
    found: dict[str, str] = {"": ""}
    unknown: dict[str, str] = {}
    for word, place in zip(given, places, strict=True):
        if word not in found and word not in unknown:
            try:
                found[word] = model.class_name(_class_index(word, model))
            except InputError as error:
                unknown[word] = f"{place}: {error}; {advice}"
    if unknown:
        others = list(unknown)[1:4]
        more = f" ({len(unknown) - 1} more are unknown: {', '.join(others)}{', …' if len(unknown) > 4 else ''})"
        raise InputError(next(iter(unknown.values())) + (more if others else ""))
    return [found[word] for word in given]


def _class_index(word: str, model: Backbone) -> int:
    """Return the index of a class by a name of the model, its index, or ImageNet's number."""
    try:
        return model.class_index(word)
    except InputError:
        index = _index(word, model)
        if index is None:
            raise
        return index


def _index(word: str, model: Backbone) -> int | None:
    if word.isdecimal() and word.isascii():
        index, names = int(word), model.class_names
        if names is not None and index >= len(names):
            raise InputError(f"no class {index} in {model.name}, whose classes are 0 to {len(names) - 1}")
        return index
    known = imagenet_names().get(word) if _WNID.fullmatch(word) else None
    return None if known is None else model.class_index(known)


def _rows_of_photos(file: Path, names: Sequence[str]) -> list[_Row]:
    """Return the row of each photo; raises `InputError` where one has none or two."""
    known, found = KnownNames(names, "photo"), dict[int, _Row]()
    for row in _rows(file):
        indices = known.indices(row.photo)
        if len(indices) > 1:
            both = " and ".join(repr(names[index]) for index in indices[:2])
            raise InputError(f"{str(file)!r}, line {row.line}: {row.photo!r} may be {both}; write more of its path")
        for index in indices:
            if index in found:
                raise InputError(
                    f"{str(file)!r}, line {row.line}: {row.photo!r} has line {found[index].line} too; leave one out"
                )
            found[index] = row
    lacking = [name for index, name in enumerate(names) if index not in found]
    if lacking:
        more = f" and {len(lacking) - 1} more photos have" if len(lacking) > 1 else " has"
        raise InputError(
            f"{lacking[0]!r}{more} no row in {str(file)!r}; add one, with an empty class where it is not known"
        )
    return [found[index] for index in range(len(names))]


def _rows(file: Path) -> Iterator[_Row]:
    advice = "give --labels folders, or a table (.csv, .tsv) with the columns photo and class"
    if file.suffix.lower() not in SEPARATORS:
        raise InputError(f"--labels is {str(file)!r}; {advice}")
    reader = csv.reader(io.StringIO(read_text(file, advice)), delimiter=SEPARATORS[file.suffix.lower()], strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if any(header.count(name) != 1 for name in COLUMNS):
            raise InputError(f"{str(file)!r} has the columns {', '.join(header) or 'none'}; expected photo and class")
        photo, class_name = map(header.index, COLUMNS)
        for cells in reader:
            if len(cells) == len(header):
                yield _Row(cells[photo].strip(), cells[class_name].strip(), reader.line_num)
            elif any(map(str.strip, cells)):
                raise InputError(f"{str(file)!r}, line {reader.line_num}: {len(cells)} cells; expected {len(header)}")
    except csv.Error as error:
        raise InputError(f"{str(file)!r}, line {reader.line_num}: {error}; save it as a plain CSV table") from None
