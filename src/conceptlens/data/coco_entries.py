"""The entries of a COCO file: which photos, categories and annotations can be used, and why others are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.io.errors import InputError
from conceptlens.io.run_lengths import MAX_COORDINATE, not_a_number
from conceptlens.io.text_file import readable_text

Entry = dict[str, Any]
Excluded = dict[str, str]  # what is left out, to the reason


def objects(listed: Sequence[Any], what: str, *fields: str) -> tuple[list[Entry], Excluded]:
    """Return the entries of a list that are objects with the `fields` named, and why others are left out.

    Args:
        listed: A list of the file.
        what: What an entry is called, with its number in the list: "image".
        *fields: What each must have. An id must be a number or a text, a height or width a whole number above 0.
    """
    kept: list[Entry] = []
    excluded: Excluded = {}
    for number, entry in enumerate(listed, start=1):
        reason = _no_object(entry) or next(filter(None, (_no_field(entry, field) for field in fields)), "")
        if reason:
            excluded[f"{what} number {number}"] = reason
        else:
            kept.append(entry)
    return kept, excluded


def photos_by_id(images: Sequence[Any], file: Path, *fields: str) -> tuple[dict[Any, Entry], Excluded]:
    """Return the entries of photos by their ids, and those that are left out.

    Args:
        images: The list `images` of the file.
        file: The file, for messages.
        *fields: What each must have beside its id and its file name.

    Raises:
        InputError: An id or a file name is listed twice, as in files that were joined, or no entry can be used.
    """
    usable, excluded = objects(images, "image", "id", "file_name", *fields)
    if excluded and not usable:
        title, reason = next(iter(excluded.items()))
        raise InputError(
            f"{str(file)!r} lists {len(images)} images and none can be used; {title}: {reason}; download or export it "
            "again"
        )
    photos: dict[Any, Entry] = {}
    names: dict[str, Any] = {}
    for image in usable:
        number, name = image["id"], str(image["file_name"])
        if number in photos:
            raise InputError(
                f"{str(file)!r} lists image id {number!r} for {photos[number]['file_name']!r} and for {name!r}; where "
                "files were joined, number the images of one anew, and image_id of its annotations with them"
            )
        if name in names:
            raise InputError(
                f"{str(file)!r} lists {name!r} under the image ids {names[name]!r} and {number!r}; give each photo "
                "one id, and its annotations that image_id"
            )
        photos[number], names[name] = image, number
    return photos, excluded


def distinct_categories(listed: Sequence[Any], used: set[Any], file: Path) -> tuple[list[Entry], Excluded]:
    """Return categories with one id and one name each, and those that are left out.

    A category without annotations may share its name with another one, as the root of a group does in Roboflow's files.

    Args:
        listed: The list `categories` of the file.
        used: The category ids of its annotations.
        file: The file, for messages.

    Raises:
        InputError: An id has two names, or a name has two categories with annotations.
    """
    usable, excluded = objects(listed, "category", "id", "name")
    by_id: dict[Any, Entry] = {}
    by_name: dict[str, list[Any]] = {}
    for category in usable:
        number, name = category["id"], str(category["name"])
        if number in by_id and str(by_id[number]["name"]) != name:
            raise InputError(
                f"{str(file)!r} lists category id {number!r} for {by_id[number]['name']!r} and for {name!r}; give each "
                "category one id"
            )
        if number not in by_id:
            by_id[number] = category
            by_name.setdefault(name, []).append(number)
    for name, numbers in by_name.items():
        shown = [number for number in numbers if number in used]
        if len(shown) > 1:
            raise InputError(
                f"{str(file)!r} has annotations of two categories called {name!r}, with the ids {shown[0]!r} and "
                f"{shown[1]!r}; give them names of their own, or one id"
            )
        kept = [*shown, *numbers][0]
        for number in set(numbers) - {kept}:
            del by_id[number]
            excluded[f"category {number} ({readable_text(name)})"] = f"no annotation, and the name of category {kept}"
    return list(by_id.values()), excluded


def usable_annotations(
    annotations: Sequence[Any], photos: Mapping[Any, Entry], problem: Callable[[Entry], str], file: Path, hint: str
) -> tuple[list[Entry], Excluded]:
    """Return the annotations of listed photos that can be used, and why others are left out.

    Args:
        annotations: The list `annotations` of the file.
        photos: Photos by id.
        problem: Says why an annotation of a listed photo cannot be used; empty where it can.
        file: The file, for messages.
        hint: What to do where none can be used.

    Raises:
        InputError: There are annotations, and none can be used.
    """
    kept: list[Entry] = []
    excluded: Excluded = {}
    known: dict[Any, Entry] = {}
    for position, entry in enumerate(annotations, start=1):
        reason = _no_object(entry) or _orphan(entry, photos) or problem(entry) or _repeated(entry, known)
        if not reason:
            kept.append(entry)
            if _is_id(entry.get("id")):
                known.setdefault(entry["id"], entry)
            continue
        number = entry.get("id") if isinstance(entry, dict) else None
        title = f"annotation {f'number {position}' if number is None else number}"
        excluded[title if title not in excluded else f"{title}, number {position}"] = reason
    if annotations and not kept:
        first = next(iter(excluded.items()))
        raise InputError(
            f"{str(file)!r} has {len(annotations)} annotations and none can be used; {first[0]}: {first[1]}; {hint}"
        )
    return kept, excluded


def unlisted_category(entry: Entry, categories: Iterable[Any]) -> str:
    """Say that an annotation is of a category that is not listed; empty where it is listed.

    Args:
        entry: The annotation.
        categories: The ids that are listed.
    """
    if "category_id" not in entry:
        return "it has no category_id"
    number = entry["category_id"]
    return (
        "" if _is_id(number) and number in categories else f"its category {number!r} is not listed under 'categories'"
    )


def unknown_crowd(entry: Entry) -> str:
    """Say that an annotation's `iscrowd` is neither 0 nor 1, as a "0" in quotes, which would pass for a crowd.

    Args:
        entry: The annotation.
    """
    given = entry.get("iscrowd")
    return "" if given is None or (isinstance(given, int) and given in (0, 1)) else f"its iscrowd is {given!r:.40}"


def box_of(entry: Entry) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an annotation; raises `ValueError` or `TypeError` where it has no box."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"its bbox is {box!r:.40}; expected left, top, width and height")
    if wrong := not_a_number(box):
        raise TypeError(f"its bbox holds {wrong}, which is no number")
    if not all(-MAX_COORDINATE <= side <= MAX_COORDINATE for side in box):
        raise ValueError("a box far outside its photo")
    left, top, width, height = map(float, box)
    return left, top, width, height


def check_in_view(corners: Sequence[float], size: tuple[int, int], what: str) -> None:
    """Raise `ValueError` where points lie all left of a photo, or all right of, above or below it.

    Args:
        corners: x and y of each point, in turn.
        size: Rows and columns of the photo.
        what: What the points draw, for the message.
    """
    across, down = corners[::2], corners[1::2]
    if min(across) > size[1] or max(across) < 0 or min(down) > size[0] or max(down) < 0:
        raise ValueError(f"{what} wholly outside the photo, which has {size[0]} rows and {size[1]} columns")


def _no_object(entry: Any) -> str:
    """Say that an entry of a list is no object."""
    return "" if isinstance(entry, dict) else f"it is {json.dumps(entry):.40}; expected an object with fields"


def _no_field(entry: Entry, field: str) -> str:
    """Say that an entry lacks a field, or has another kind of value there."""
    if field not in entry:
        return f"it has no {field}"
    value = entry[field]
    if field == "id" and not _is_id(value):
        return f"its id is {json.dumps(value):.40}; expected a number or a text"
    if field in ("height", "width") and not _is_length(value):
        return f"its {field} is {json.dumps(value):.40}; expected a whole number of pixels"
    if field in ("file_name", "name") and (value is None or isinstance(value, (dict, list))):
        return f"its {field} is {json.dumps(value):.40}; expected a text"
    if field == "segments_info" and not isinstance(value, list):
        return f"its segments_info is {json.dumps(value):.40}; expected a list"
    return ""


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and value == value


def _is_length(value: Any) -> bool:
    if isinstance(value, str):
        return value.isdecimal() and int(value) > 0
    return isinstance(value, (int, float)) and 0 < value <= MAX_COORDINATE and value == int(value)


def _orphan(entry: Entry, photos: Mapping[Any, Entry]) -> str:
    """Say that an annotation is of no listed photo."""
    if "image_id" not in entry:
        return "it has no image_id"
    number = entry["image_id"]
    return "" if _is_id(number) and number in photos else f"its photo {number!r} is not listed under 'images'"


def _repeated(entry: Entry, known: Mapping[Any, Entry]) -> str:
    """Say that the same annotation is listed before, as where files were joined that share it."""
    number = entry.get("id")
    return "it is listed twice" if _is_id(number) and known.get(number) == entry else ""
