"""Boxes that a detector found in photos, as VLG-CBM writes them or in one file, read as a table of concepts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conceptlens.concepts.concept_table import ConceptTable, KnownNames
from conceptlens.data.annotation_files import read_json
from conceptlens.io.errors import InputError

MIN_CONFIDENCE = 0.15  # of a box that counts, as in VLG-CBM
_NUMBERED = re.compile(r"(0|[1-9]\d*)\.json", re.ASCII)
_MARKS = re.compile(r"[-,.()]")
_MAX_NUMBER = 1e9  # no photo has so many pixels on a side, and infinity and NaN are not below it


class _Found(NamedTuple):
    label: str
    box: list[float]
    confidence: float


def read_detections(path: str | Path, photos: Sequence[str]) -> ConceptTable:
    """Read which photos show which concepts: those with a box of at least the confidence 0.15.

    - A folder as VLG-CBM writes it (NeurIPS 2024): `N.json` is a list, first `{"img_path"}`, then `{"label", "box",
      "logit"}` for each box. Where the path is null, photo N in the order of class folder and file is meant, as
      torchvision's `ImageFolder` sorts them, though `Cub` lists its photos in another order.
    - A JSON file: an object with a list of `{"label", "box", "score"}` for each photo.

    Labels are compared as in VLG-CBM's code: in lower case, without `-,.()` and a first "a" or "an". Boxes are left,
    top, right, bottom in pixels; they are only checked.

    Args:
        path: The folder or file.
        photos: Names of the photos of the set.

    Returns:
        `targets[photo concept]`: 1 where a concept was found, 0 where not, NaN for a photo that is not listed; the
        concepts are all labels, by alphabet.

    Raises:
        InputError: A photo is unknown or listed twice, or an entry is no box or confidence.
    """
    file, known = Path(path), KnownNames(photos, "photo")
    read = _from_folder(file, known, photos) if file.is_dir() else _from_file(file, known)
    listed: dict[int, set[str]] = {}
    labels: dict[str, str] = {}
    furthest = 0.0
    for index, found in read:
        if index in listed:
            raise InputError(f"{str(file)!r} lists {photos[index]!r} twice; leave one of them out")
        listed[index] = {_plain(one.label) for one in found if one.confidence >= MIN_CONFIDENCE}
        for one in found:
            labels.setdefault(_plain(one.label), " ".join(one.label.split()))
            furthest = max(furthest, *one.box)
    if not labels:
        raise InputError(f"{str(file)!r} has no box in any photo; give what a detector wrote for this set")
    if furthest <= 1:
        raise InputError(f"no box of {str(file)!r} goes beyond 1; expected pixels: multiply by width and height")
    targets = np.full((len(photos), len(labels)), np.nan)
    for index, shown in listed.items():
        targets[index] = [key in shown for key in sorted(labels)]
    return ConceptTable(tuple(labels[key] for key in sorted(labels)), targets, "photo")


def _from_folder(folder: Path, known: KnownNames, photos: Sequence[str]) -> Iterator[tuple[int, list[_Found]]]:
    """Read the files of a folder in the order of their numbers: the index of the photo, and what was found in it."""
    files = {int(match[1]): file for file in folder.iterdir() if (match := _NUMBERED.fullmatch(file.name))}
    if not files:
        inner = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:5]) or "none"
        raise InputError(
            f"{str(folder)!r} holds no 0.json, 1.json and so on; folders there: {inner}, give one of those"
        )
    ordered = sorted(photos, key=lambda name: name.split("/"))
    for number, file in sorted(files.items()):
        where = repr(str(file))
        first, *entries = _a_list(read_json(file), where) or [None]
        if not isinstance(first, dict) or "img_path" not in first:
            raise InputError(f"{where} does not begin with 'img_path'; expected a list of that and then of boxes")
        named = first["img_path"]
        named = named[0] if isinstance(named, list) and named else named  # of Places: with its class
        if named is None and number >= len(ordered):
            raise InputError(
                f"{where} is of photo {number}, and {len(ordered)} were given, from 0; give all photos of the split "
                "that the detector was run on"
            )
        yield _index(ordered[number] if named is None else str(named), known, where), _all_found(entries, where)


def _from_file(file: Path, known: KnownNames) -> Iterator[tuple[int, list[_Found]]]:
    """Read the photos of a file: the index of each, and what was found in it."""
    read = read_json(file)
    if not isinstance(read, dict) or not read:
        raise InputError(f"{str(file)!r} names no photo; expected an object with a list of boxes for each photo")
    for name, entries in read.items():
        where = f"{str(file)!r}, {name!r}"
        yield _index(name, known, repr(str(file))), _all_found(_a_list(entries, where), where)


def _index(name: str, known: KnownNames, where: str) -> int:
    try:
        return known.index(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _a_list(read: Any, where: str) -> list[Any]:
    if not isinstance(read, list):
        raise InputError(f"{where} holds {type(read).__name__}; expected a list of boxes")
    return read


def _all_found(entries: Sequence[Any], where: str) -> list[_Found]:
    return [_found(entry, f"{where}, box {number}") for number, entry in enumerate(entries, start=1)]


def _found(entry: Any, where: str) -> _Found:
    """Return a checked entry; `where` is for the error."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}; expected an object with label, box, and score or logit")
    label, box = entry.get("label"), entry.get("box")
    confidence: Any = entry.get("score", entry.get("logit"))
    if not isinstance(label, str) or not _plain(label):
        raise InputError(f"{where} has the label {label!r}; expected what was found, in words")
    if not _is_number(confidence) or not 0 <= confidence <= 1:
        raise InputError(
            f"{where} has the confidence {confidence!r} in score or logit; expected 0 to 1: take the sigmoid of what "
            "is not"
        )
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(f"{where} is {box!r}; expected four numbers: left, top, right, bottom")
    if box[0] > box[2] or box[1] > box[3]:
        raise InputError(f"{where} is {box}; expected left, top, right, bottom: add left to a width, top to a height")
    return _Found(label, box, confidence)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER


def _plain(label: str) -> str:
    """Return a label as VLG-CBM compares it (`format_concept` of its code)."""
    words = _MARKS.sub(" ", label.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an") else words)
