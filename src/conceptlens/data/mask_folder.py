"""Your own photos and masks: two folders and a list of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.data.annotation_files import (
    code_masks,
    entry_errors,
    existing_folder,
    read_aligned,
    read_indices,
    read_table,
    read_text,
    union_masks,
)
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError
from conceptlens.io.images import find_images

BACKGROUND, IGNORED = 0, 255


class MaskFolder(ListedMaskedSet[tuple[str, Path, Path]]):
    """Photos in `images/`, index PNGs of the same names in `masks/`, and `labels.csv` or `labels.txt`.

    - `labels.csv` has the columns `index` and `label`, and may have `type` (see `CONCEPT_TYPES`) and `group`, by
      default the type. Line n of `labels.txt` is the label of index n, from 1, with `:type` where it is not an object.
    - Index 0 is background and 255 is ignored, unless `labels.csv` lists them.
    - A mask may be smaller or larger than its photo, not of another shape. Folders within are kept apart by name; a
      `split` other than `all` is such a folder.
    - Photos come by name, and every one is read; a mask without a photo is not.

    Args:
        folder: The folder that holds `images/`, `masks/` and the labels.
        split: `all`, or a folder within `images/` and `masks/`.

    Raises:
        InputError: A file is missing or broken, a photo has no mask, or a mask holds an index without label.
    """

    def __init__(self, folder: str | Path, split: str = "all") -> None:
        self._folder = existing_folder(folder, "images/, masks/ and labels.csv or labels.txt")
        self.name = f"masks {self._folder.resolve().name}" + ("" if split == "all" else f" {split}")
        self._read_labels()
        self._ignored = [] if IGNORED in self._numbers else [IGNORED]
        images, masks = self._folder / "images", self._folder / "masks"
        if split != "all":
            images, masks = images / split, masks / split
        found: dict[str, tuple[str, Path, Path]] = {}
        for photo in find_images(existing_folder(images, "photos")):
            name = photo.relative_to(images).with_suffix("").as_posix()
            mask = masks / f"{name}.png"
            if name in found:
                raise InputError(f"{str(photo)!r} and {found[name][1].name!r} share one mask; rename one of them")
            if not mask.is_file():
                raise InputError(f"{str(photo)!r} has no mask {str(mask)!r}; add it, or take the photo away")
            found[name] = (name, photo, mask)
        self._entries = list(found.values())

    def _read_labels(self) -> None:
        """Read which index is which concept."""
        table, lines = self._folder / "labels.csv", self._folder / "labels.txt"
        listed: dict[int, tuple[ConceptName, str]] = {}
        self._file = table if table.is_file() or not lines.is_file() else lines
        with entry_errors(self._file, "an index and a label a line"):
            if self._file == table:
                for row in read_table(table, "index", "label"):
                    concept = ConceptName(row["label"].strip(), row.get("type", "").strip() or "object")
                    self._check_new(int(row["index"]), listed)
                    listed[int(row["index"])] = (concept, row.get("group", "").strip() or concept.type)
            else:
                for index, line in enumerate(read_text(lines).splitlines(), start=1):
                    if line.strip():
                        concept = parse_concepts([line])[0]
                        listed[index] = (concept, concept.type)
        if not listed:
            raise InputError(f"{str(self._file)!r} names no label; write one a line")
        self.concepts = tuple(dict.fromkeys(concept for concept, _ in listed.values()))
        positions = {concept: number for number, concept in enumerate(self.concepts)}
        self._numbers = {index: positions[concept] for index, (concept, _) in listed.items()}
        groups = dict(listed.values())
        self._groups = tuple(groups[concept] for concept in self.concepts)

    def _check_new(self, index: int, listed: dict[int, tuple[ConceptName, str]]) -> None:
        if index in listed:
            raise InputError(f"{str(self._file)!r} names index {index} twice; give each index one label")

    def _read(self, entry: tuple[str, Path, Path]) -> MaskedPhoto:
        name, path, mask = entry
        indices = read_indices(mask)
        unknown = np.setdiff1d(indices, [BACKGROUND, *self._ignored, *self._numbers])
        if unknown.size:
            raise InputError(
                f"{str(mask)!r} holds index {unknown[0]}, which {self._file.name} does not name; add its label, or "
                "set the pixels to 0"
            )
        photo, indices = read_aligned(path, indices, exact=False)
        found = union_masks(code_masks(indices, self._numbers))
        return self._masked_photo(name, photo, found, indices.shape, np.isin(indices, self._ignored))
