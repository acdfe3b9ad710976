"""How much classes or photos show concepts, by a table or a detector's boxes; and sets that are labelled by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.concepts.concept_table import ConceptTable, read_concept_table
from conceptlens.data.detections import read_detections
from conceptlens.data.labelled_set import Annotation, ClassAttributes, LabelledSet, PhotoAttributes

if TYPE_CHECKING:
    from jaxtyping import Int64
    from PIL import Image

MIN_SHARE = 0.5  # from which a photo shows a concept


def are_detections(path: str | Path) -> bool:
    """Whether a path means a detector's boxes: a folder, or a JSON file."""
    return Path(path).is_dir() or Path(path).suffix.lower() == ".json"


def read_target_table(path: str | Path, classes: Sequence[str], photos: Sequence[str]) -> ConceptTable:
    """Return targets `[class concept]` or `[photo concept]`; raises `InputError` where they are of others.

    Args:
        path: A table (`read_concept_table`), or a detector's boxes (`read_detections`).
        classes: The names of the classes.
        photos: The names of the photos.
    """
    return read_detections(path, photos) if are_detections(path) else read_concept_table(path, classes, photos)


@dataclass(frozen=True, eq=False)
class RelabelledSet:
    """A labelled set of which something else is known: a `LabelledSet` with another annotation."""

    photos: LabelledSet
    annotation: Annotation | None

    @property
    def name(self) -> str:
        """What the set and its split are called in results."""
        return self.photos.name

    @property
    def split(self) -> str:
        """Which split this is."""
        return self.photos.split

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that can be opened."""
        return self.photos.splits

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.photos.classes

    @property
    def excluded(self) -> Mapping[str, str]:
        """What was left out, to the reason."""
        return self.photos.excluded

    @property
    def labels(self) -> Int64[np.ndarray, "photo"]:
        """The number of each photo's class."""
        return self.photos.labels

    @property
    def names(self) -> list[str]:
        """What each photo is called."""
        return self.photos.names

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Image.Image:
        """Read the photo at an index."""
        return self.photos[index]


def labelled_by(photos: LabelledSet, table: ConceptTable | None) -> RelabelledSet:
    """Return a set whose concepts are those of a table with a row for each of its classes or photos, or of none.

    A photo shows a concept where its row has 0.5 or more; where that is empty, nothing is known. Keypoints and boxes
    stay.
    """
    known = replace(photos.annotation or Annotation(), attributes=None, photos=None)
    if table is None:
        return RelabelledSet(photos, known)
    if table.of == "class":
        return RelabelledSet(photos, replace(known, attributes=ClassAttributes(table.labels, table.targets)))
    shown = PhotoAttributes(table.labels, table.targets >= MIN_SHARE, ~np.isnan(table.targets))
    return RelabelledSet(photos, replace(known, photos=shown))
