"""Which photos show which concepts of a bottleneck, by a table of concepts such as the one it was fitted to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.bottleneck.evaluate.activation_table import classes_of
from conceptlens.bottleneck.fit.content_mark import photos_mark, same_content
from conceptlens.data.target_table import labelled_by, read_target_table
from conceptlens.io.errors import InputError, near_names

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.concepts.concept_table import ConceptTable
    from conceptlens.data.labelled_set import LabelledSet


def labelled_by_table(
    bottleneck: Bottleneck, photos: LabelledSet, train: LabelledSet | None, path: str | Path
) -> tuple[LabelledSet, LabelledSet | None]:
    """Return the photos that are measured and those of the fit, their concepts labelled by a table alone.

    A table of classes labels both; one of photos labels the measured ones, and leaves others without labels.

    Raises:
        InputError: The table is of other concepts, classes or photos.
    """
    table = read_target_table(path, bottleneck.classes, photos.names)
    _check_concepts(bottleneck, table, path)
    if table.of == "photo":
        _check_photos(bottleneck, photos, path)
        measured = labelled_by(photos, table)
        return measured, measured if train is photos else None if train is None else labelled_by(train, None)
    measured = labelled_by(photos, _of_classes(bottleneck, photos, table))
    if train is None or train is photos:
        return measured, measured if train is photos else None
    return measured, labelled_by(train, _of_classes(bottleneck, train, table))


def _of_classes(bottleneck: Bottleneck, photos: LabelledSet, table: ConceptTable) -> ConceptTable:
    """Return the rows of a set's classes, in its order: it may have fewer than the bottleneck."""
    return replace(table, targets=table.targets[classes_of(bottleneck, photos)])


def _check_concepts(bottleneck: Bottleneck, table: ConceptTable, path: str | Path) -> None:
    """Refuse columns that are no concepts, unless the fit had this very table, and left them out."""
    record = bottleneck.training_record
    own = {label.casefold() for label in bottleneck.labels}
    if not any(label.casefold() in own for label in table.labels):
        raise InputError(
            f"{str(path)!r} names none of the {len(own)} concepts of the bottleneck ({', '.join(bottleneck.labels[:3])}"
            f"{', ...' * (len(own) > 3)}); give the table that it was fitted to, or one with these as columns"
        )
    dropped = {one["label"].casefold() for one in record.get("dropped", [])}
    strange = [label for label in table.labels if label.casefold() not in own | dropped]
    if strange and not same_content(path, str(record.get("targets", ""))):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise InputError(
            f"{str(path)!r} has the column {strange[0]!r}{more}, which is no concept of the bottleneck; "
            f"{near_names(strange[0], bottleneck.labels)}; write it as the bottleneck does, or take the column out"
        )


def _check_photos(bottleneck: Bottleneck, photos: LabelledSet, path: str | Path) -> None:
    """Refuse the table of the fit's photos for others, which may have the same names in another folder."""
    record = bottleneck.training_record
    fitted_on = str(record.get("photos", ""))
    if same_content(path, str(record.get("targets", ""))) and fitted_on != photos_mark(photos):
        raise InputError(
            f"{str(path)!r} speaks of the photos of the fit ({fitted_on.rpartition(' ')[0]}), and {photos.name} was "
            "given; give a table of these, a table with a row for each class, or the photos of the fit"
        )
