"""The entries of a COCO file: which photos, categories and annotations can be used, and why others are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptlens.io.errors import InputError
from conceptlens.io.run_lengths import MAX_COORDINATE
from conceptlens.io.text_file import readable_text

Entry = dict[str, Any]
Excluded = dict[str, str]  # what is left out, to the reason


def photos_by_id(images: Sequence[Entry], file: Path) -> dict[Any, Entry]:
    """Return the entries of photos by their ids.

    Args:
        images: The list `images` of the file.
        file: The file, for messages.

    Raises:
        InputError: An id or a file name is listed twice, as in files that were joined.
    """
    photos: dict[Any, Entry] = {}
    names: dict[str, Any] = {}
    for image in images:
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
    return photos


def distinct_categories(listed: Sequence[Entry], used: set[Any], file: Path) -> tuple[list[Entry], Excluded]:
    """Return categories with one id and one name each, and those that are left out.

    A category without annotations may share its name with another one, as the root of a group does in Roboflow's files.

    Args:
        listed: The list `categories` of the file.
        used: The category ids of its annotations.
        file: The file, for messages.

    Raises:
        InputError: An id has two names, or a name has two categories with annotations.
    """
    by_id: dict[Any, Entry] = {}
    by_name: dict[str, list[Any]] = {}
    for category in listed:
        number, name = category["id"], str(category["name"])
        if number in by_id and str(by_id[number]["name"]) != name:
            raise InputError(
                f"{str(file)!r} lists category id {number!r} for {by_id[number]['name']!r} and for {name!r}; give each "
                "category one id"
            )
        if number not in by_id:
            by_id[number] = category
            by_name.setdefault(name, []).append(number)
    excluded: Excluded = {}
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
    annotations: Sequence[Entry], photos: Mapping[Any, Entry], problem: Callable[[Entry], str], file: Path, hint: str
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
        reason = _orphan(entry, photos) or problem(entry) or _repeated(entry, known)
        if not reason:
            kept.append(entry)
            known.setdefault(entry.get("id"), entry)
            continue
        title = f"annotation {entry.get('id', f'number {position}')}"
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
    return "" if number in categories else f"its category {number!r} is not listed under 'categories'"


def box_of(entry: Entry) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an annotation; raises `ValueError` or `TypeError` where it has no box."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"its bbox is {box!r:.40}; expected left, top, width and height")
    left, top, width, height = map(float, box)
    if not all(abs(side) <= MAX_COORDINATE for side in (left, top, width, height)):
        raise ValueError("a box far outside its photo")
    return left, top, width, height


def _orphan(entry: Entry, photos: Mapping[Any, Entry]) -> str:
    """Say that an annotation is of no listed photo."""
    if "image_id" not in entry:
        return "it has no image_id"
    number = entry["image_id"]
    return "" if number in photos else f"its photo {number!r} is not listed under 'images'"


def _repeated(entry: Entry, known: Mapping[Any, Entry]) -> str:
    """Say that the same annotation is listed before, as where files were joined that share it."""
    return "it is listed twice" if entry.get("id") is not None and known.get(entry["id"]) == entry else ""
