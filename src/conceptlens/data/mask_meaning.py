"""What masks of one's own mean: class indices, or objects whose classes are told in one of three ways."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conceptlens.data.annotation_files import entry_errors, read_table
from conceptlens.data.mask_labels import Labelled, LabelList, label_list, labelled, labels_file, read_labels
from conceptlens.data.mask_layouts import IGNORED, ClassFolders, ClassIndices, MaskLayout, ObjectTable
from conceptlens.io.errors import InputError
from conceptlens.io.text_file import readable_text

OBJECTS = "instances"  # the folder of object ids
TABLE = "instances.csv"


def class_indices(folder: Path, masks: Path, ignore: Sequence[int], objects: Path | None = None) -> ClassIndices:
    """Return the layout of class indices; 255 is ignored where the labels do not name it.

    Args:
        folder: The folder of `labels.csv` or `labels.txt`.
        masks: The folder of the masks.
        ignore: Further values that are ignored, also where they have a label.
        objects: The folder of the ids of objects.
    """
    labels = read_labels(labels_file(folder) or folder / "labels.csv", ignore)
    return ClassIndices(masks, labels, _ignored(ignore, labels.numbers), objects)


def instance_layout(
    folder: Path, masks: Path, split: str, names: Sequence[str], ignore: Sequence[int]
) -> tuple[MaskLayout, dict[str, str]]:
    """Return how a folder tells its objects and their classes, and what its table says of photos that are not there.

    Args:
        folder: The folder that is opened.
        masks: The folder of the masks of the split.
        split: The split, a folder within, or `all`.
        names: What the photos are called.
        ignore: Values that are ignored.

    Raises:
        InputError: The classes of the objects are not told, or in two ways.
    """
    table, objects = folder / TABLE, folder / OBJECTS / ("" if split == "all" else split)
    plain = any(os.path.lexists(masks / f"{name}.png") for name in names)
    told = [name for name, there in ((TABLE, table.is_file()), (f"{OBJECTS}/", objects.is_dir())) if there]
    if len(told) > 1:
        raise InputError(
            f"{str(folder)!r} has {told[0]} and {told[1]}, which both say what objects are; keep one of them"
        )
    if objects.is_dir():
        return class_indices(folder, masks, ignore, objects), {}
    if table.is_file():
        return _object_table(table, labels_file(folder), masks, split, names, ignore)
    inner = sorted(one.name for one in masks.iterdir() if one.is_dir() and not one.name.startswith("."))
    if plain or not inner:
        raise InputError(
            f"{str(folder)!r} does not say of which class each object is; for by='instance' give {TABLE} with the "
            f"columns id and label (and image, where ids begin anew in each photo), or a folder {OBJECTS}/ with the "
            "ids beside the class indices of masks/, or a folder for each class, masks/CLASS/NAME.png"
        )
    return _class_folders(labels_file(folder), masks, inner, ignore), {}


def _object_table(
    table: Path, labels: Path | None, masks: Path, split: str, names: Sequence[str], ignore: Sequence[int]
) -> tuple[ObjectTable, dict[str, str]]:
    """Read a table of ids and classes; a class that is a number has the label of that index, where there are labels."""
    rows = read_table(table, "id")
    column = next((name for name in ("label", "class") if rows and name in rows[0]), None)
    if column is None:
        raise InputError(f"{str(table)!r} has no row, or no column 'label'; expected the columns id and label")
    known = read_labels(labels) if labels is not None else None
    photos = {shown: name for name in names for shown in (name, name if split == "all" else f"{split}/{name}")}
    by_photo: dict[str, dict[int, Labelled]] = {}
    excluded: dict[str, str] = {}
    with entry_errors(table, "an id and a label a line"):
        for row in rows:
            given = row["image"].strip() if "image" in row else ""
            name = photos.get(given, photos.get(os.path.splitext(given)[0])) if "image" in row else ""
            if name is None:
                excluded[f"{TABLE}, {given}"] = "no photo of this name"
                continue
            number, listed = int(row["id"]), by_photo.setdefault(name, {})
            if number in listed:
                raise InputError(f"{str(table)!r} names the id {number} {given!r} twice; give each id one label")
            listed[number] = _labelled(row, row[column].strip(), known)
    every = dict.fromkeys(one for listed in by_photo.values() for one in listed.values())
    whole = label_list(dict(enumerate(every)), table)
    numbers = {concept: number for number, concept in enumerate(whole.concepts)}
    found = {
        name: replace(whole, numbers={one: numbers[concept] for one, (concept, _) in listed.items()})
        for name, listed in by_photo.items()
    }
    return ObjectTable(masks, found, whole, tuple(ignore)), excluded


def _labelled(row: dict[str, str], label: str, known: LabelList | None) -> Labelled:
    """Return the concept of a row: the label of an index where the labels name that index, else the label itself."""
    if known is not None and label.isdecimal() and int(label) in known.numbers:
        number = known.numbers[int(label)]
        return known.concepts[number], known.groups[number]
    return labelled(row, label)


def _class_folders(labels: Path | None, masks: Path, inner: Sequence[str], ignore: Sequence[int]) -> ClassFolders:
    """Return a layout with a folder for each class; with labels, each folder is called as one of them."""
    plain = {number: labelled({}, readable_text(name)) for number, name in enumerate(inner)}
    if labels is None:
        return ClassFolders(masks, tuple(inner), label_list(plain, masks), tuple(ignore))
    known = read_labels(labels)
    by_label = {concept.label: number for number, concept in enumerate(known.concepts)}
    strange = next((name for name in inner if readable_text(name) not in by_label), None)
    if strange is not None:
        raise InputError(
            f"{str(masks / strange)!r} is called as no label of {labels.name}; expected a folder for each class, "
            "masks/CLASS/NAME.png"
        )
    listed = {number: by_label[readable_text(name)] for number, name in enumerate(inner)}
    return ClassFolders(masks, tuple(inner), LabelList(labels, known.concepts, known.groups, listed), tuple(ignore))


def _ignored(ignore: Sequence[int], known: Mapping[int, int]) -> tuple[int, ...]:
    """Return the values that are ignored: those given, and 255 where it has no label."""
    return tuple(ignore) if IGNORED in known else tuple(sorted({*ignore, IGNORED}))
