"""What a detector tells of concepts: boxes in photos, as VLG-CBM writes them or in one file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from conceptlens.concepts.concept_table import ConceptTable, KnownNames
from conceptlens.data.annotation_files import read_json
from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from jaxtyping import Float64

_NUMBERED = re.compile(r"(0|[1-9]\d*)\.json", re.ASCII)
_MARKS = re.compile(r"[-,.()]")
_MAX_NUMBER = 1e9  # no photo has so many pixels on a side, and no number that is none is below


class Detections(NamedTuple):
    """Which concepts a detector saw in which photos, and where.

    - `presence`: 1 where a concept was seen, 0 where not, NaN for a photo that was not looked at.
    - `boxes[photo][concept]`: left, top, right, bottom in pixels of what was seen, for each photo that was looked at.
    """

    presence: ConceptTable
    boxes: Mapping[str, Mapping[str, Float64[np.ndarray, "box 4"]]]


class _Found(NamedTuple):
    label: str
    box: list[float]
    confidence: float


def read_detections(
    path: str | Path,
    photos: Sequence[str],
    labels: Sequence[str] | None = None,
    threshold: float = 0.15,
    numbered: Sequence[str] | None = None,
) -> Detections:
    """Read boxes, and say that a photo shows the concepts of which one has at least the confidence `threshold`.

    - A folder as VLG-CBM writes it (NeurIPS 2024): `N.json` is a list, first `{"img_path"}`, then `{"label", "box",
      "logit"}` for each box. Where the path is null, photo N of `numbered` is meant.
    - A JSON file: an object with a list of `{"label", "box", "score"}` for each photo.

    VLG-CBM numbers photos as torchvision's `ImageFolder` sorts them, by class folder and file: so does `numbered` where
    it is left out, though `Cub` lists its photos in another order.
    Boxes are left, top, right, bottom in pixels of the photo as the detector read it: VLG-CBM does not turn it by EXIF.
    Labels are compared as there: in lower case, without `-,.()` and a first "a" or "an". By default the concepts are
    all labels, by alphabet; VLG-CBM asks for the names of classes as well, which giving `labels` leaves out.

    Args:
        path: The folder or file.
        photos: Names of the photos of the set.
        labels: Concepts to look for; by default all labels.
        threshold: The smallest confidence, 0 to 1.
        numbered: The photo that each number of the folder means.

    Returns:
        Which photo shows which concept, and the boxes.

    Raises:
        InputError: A photo is unknown, an entry is no box or confidence, or none of `labels` was found.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold is {threshold}; expected a confidence from 0 to 1, as 0.15")
    place, known = Path(path), KnownNames(photos, "photo")
    folder = place.is_dir()
    order = sorted(photos, key=lambda name: name.split("/")) if numbered is None else numbered
    read = _from_folder(place, known, order) if folder else _from_file(place, known)
    wanted = None if labels is None else _wanted(labels)
    looked: dict[int, dict[str, np.ndarray]] = {}
    said: dict[str, str] = {}
    furthest = 0.0
    for number, found in read:
        if number in looked:
            raise InputError(f"{str(place)!r} speaks of {photos[number]!r} twice; leave one of them out")
        looked[number] = _boxes(found, threshold)
        for one in found:
            said.setdefault(_said(one.label), " ".join(one.label.split()))
            furthest = max(furthest, *one.box)
    _check(said, wanted, furthest, place)
    named = dict(sorted(said.items())) if wanted is None else wanted
    return _in_order(looked, named, photos)


def _boxes(found: Sequence[_Found], threshold: float) -> dict[str, np.ndarray]:
    """Return the boxes of one photo that count, by what their labels are compared as."""
    seen: dict[str, list[list[float]]] = defaultdict(list)
    for one in found:
        if one.confidence >= threshold:
            seen[_said(one.label)].append(one.box)
    return {key: np.array(boxes, np.float64) for key, boxes in seen.items()}


def _in_order(
    looked: Mapping[int, Mapping[str, np.ndarray]], named: Mapping[str, str], photos: Sequence[str]
) -> Detections:
    """Return what was seen of the concepts named, with a row for each photo."""
    targets = np.full((len(photos), len(named)), np.nan)
    boxes: dict[str, dict[str, np.ndarray]] = {}
    for place, seen in looked.items():
        targets[place] = [key in seen for key in named]
        boxes[photos[place]] = {named[key]: own for key, own in seen.items() if key in named}
    return Detections(ConceptTable(tuple(named.values()), targets, "photo"), boxes)


def _from_folder(folder: Path, known: KnownNames, numbered: Sequence[str]) -> Iterator[tuple[int, list[_Found]]]:
    """Read the files of a folder in the order of their numbers: the place of the photo, and what was found there."""
    files = {int(match[1]): file for file in folder.iterdir() if (match := _NUMBERED.fullmatch(file.name))}
    if not files:
        inner = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:5]) or "none"
        raise InputError(
            f"{str(folder)!r} holds no 0.json, 1.json and so on; folders there: {inner}, give one of those"
        )
    for number, file in sorted(files.items()):
        where = repr(str(file))
        first, *entries = _a_list(read_json(file), where) or [None]
        if not isinstance(first, dict) or "img_path" not in first:
            raise InputError(f"{where} does not begin with 'img_path'; expected a list of that and then of boxes")
        named = first["img_path"]
        named = named[0] if isinstance(named, list) and named else named  # of Places: with its class
        if named is None and number >= len(numbered):
            raise InputError(
                f"{where} is of photo {number}, and {len(numbered)} were given, from 0; give all photos of the split "
                "that was looked at"
            )
        yield _place(numbered[number] if named is None else str(named), known, where), _all_found(entries, where)


def _from_file(file: Path, known: KnownNames) -> Iterator[tuple[int, list[_Found]]]:
    """Read the photos of a file: the place of each, and what was found there."""
    read = read_json(file)
    if not isinstance(read, dict) or not read:
        raise InputError(f"{str(file)!r} names no photo; expected an object with a list of boxes for each photo")
    for name, entries in read.items():
        where = f"{str(file)!r}, {name!r}"
        yield _place(name, known, repr(str(file))), _all_found(_a_list(entries, where), where)


def _place(name: str, known: KnownNames, where: str) -> int:
    try:
        return known.place(name)
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
    if not isinstance(label, str) or not _said(label):
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


def _wanted(labels: Sequence[str]) -> dict[str, str]:
    """Return concepts in order: what they are compared as, and what they are called."""
    wanted: dict[str, str] = {}
    for label in labels:
        key = _said(label)
        if not key or key in wanted:
            why = f"is compared as {key!r}, and so is {wanted[key]!r}" if key else "has no word"
            raise InputError(f"the concept {label!r} {why}; leave it out")
        wanted[key] = label
    return wanted


def _check(said: Mapping[str, str], wanted: Mapping[str, str] | None, furthest: float, place: Path) -> None:
    """Refuse what has no box, none of the concepts wanted, or boxes that are shares of a photo."""
    if not said:
        raise InputError(f"{str(place)!r} has no box in any photo; give what a detector wrote for this set")
    if wanted is not None and not wanted.keys() & said.keys():
        first = next(iter(wanted.values()), "")
        raise InputError(
            f"none of {len(wanted)} concepts was found in any photo of {str(place)!r}; near {first!r}: "
            f"{near(first, said.values())}; name them as the detector was asked"
        )
    if furthest <= 1:
        raise InputError(f"no box of {str(place)!r} goes beyond 1; expected pixels: multiply by width and height")


def _said(label: str) -> str:
    """Return a label as VLG-CBM compares it (`format_concept` of its code)."""
    words = _MARKS.sub(" ", label.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an") else words)
