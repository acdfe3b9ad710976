"""How mask PNGs of one's own are read: class indices, object ids with their classes, a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import read_indices
from conceptlens.data.mask_labels import LabelList
from conceptlens.io.errors import InputError
from conceptlens.io.image_file import quoted

BACKGROUND, IGNORED = 0, 255
_OUT = -1  # the code of an ignored pixel
_CLASSES = 65536  # more than a PNG has class indices


class PixelCodes(NamedTuple):
    """The codes of one photo's pixels, as stored.

    - `layers[layer rows columns]`: int64, codes; -1 is ignored, and what `numbers` lacks is rest.
    - `numbers`: the number of the concept of each code.
    - `excluded`: objects that are left out, with the reason.
    """

    layers: np.ndarray
    numbers: Mapping[int, int]
    excluded: tuple[str, ...] = ()

    @property
    def ignored(self) -> np.ndarray:
        """Bool `[layer rows columns]`: pixels that are ignored."""
        return self.layers == _OUT


class MaskLayout(Protocol):
    """How the masks of a folder are read."""

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """Every concept that a mask may show."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each concept."""
        ...

    def files(self, name: str) -> list[Path]:
        """Return the PNGs that a photo of this name needs; those that are missing too."""
        ...

    def read(self, name: str) -> PixelCodes:
        """Read the codes of one photo's pixels."""
        ...


@dataclass(frozen=True)
class ClassIndices:
    """`masks/NAME.png` with a class index for each pixel, and in `instances/NAME.png` its object where that is read."""

    masks: Path
    labels: LabelList
    ignored: tuple[int, ...]
    objects: Path | None = None

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The labels of the indices."""
        return self.labels.concepts

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the labels."""
        return self.labels.groups

    def files(self, name: str) -> list[Path]:
        """Return the mask of a photo, and the PNG of its objects."""
        return [folder / f"{name}.png" for folder in (self.masks, self.objects) if folder is not None]

    def read(self, name: str) -> PixelCodes:
        """Read the indices, and objects of one class as codes of their own."""
        mask, *others = self.files(name)
        indices = read_indices(mask).astype(np.int64)
        _check_values(mask, indices, (BACKGROUND, *self.ignored, *self.labels.numbers), self.labels.file)
        codes = np.where(np.isin(indices, self.ignored), _OUT, indices)
        if not others:
            return PixelCodes(codes[None], self.labels.numbers)
        objects = read_indices(others[0]).astype(np.int64)
        if objects.shape != codes.shape:
            raise InputError(
                f"{quoted(others[0])} has {objects.shape} rows and columns, {quoted(mask)} {codes.shape}; "
                "expected the same"
            )
        named = np.isin(codes, list(self.labels.numbers))
        lost = sorted(set(np.unique(objects).tolist()) - {BACKGROUND} - set(np.unique(objects[codes != 0]).tolist()))
        codes = np.where(named, codes + _CLASSES * objects, np.minimum(codes, BACKGROUND))
        found = np.unique(codes[named]).tolist()
        numbers = {code: self.labels.numbers[code % _CLASSES] for code in found}
        return PixelCodes(codes[None], numbers, tuple(f"object {one} has no class in {mask.name}" for one in lost))


@dataclass(frozen=True)
class ObjectTable:
    """`masks/NAME.png` with an object's id for each pixel, and a table of the class of each id."""

    masks: Path
    labels: Mapping[str, LabelList]  # of each photo; of all photos under an empty name
    every: LabelList
    ignored: tuple[int, ...]

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The classes in the table."""
        return self.every.concepts

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the classes."""
        return self.every.groups

    def files(self, name: str) -> list[Path]:
        """Return the mask of a photo."""
        return [self.masks / f"{name}.png"]

    def read(self, name: str) -> PixelCodes:
        """Read the ids; 255 is ignored where the table does not name it."""
        (mask,) = self.files(name)
        listed = self.labels.get(name) or self.labels.get("")
        known = {} if listed is None else {one: n for one, n in listed.numbers.items() if one not in self.ignored}
        out = self.ignored if IGNORED in known else (*self.ignored, IGNORED)
        ids = read_indices(mask).astype(np.int64)
        _check_values(mask, ids, (BACKGROUND, *out, *known), self.every.file)
        return PixelCodes(np.where(np.isin(ids, out), _OUT, ids)[None], known)


@dataclass(frozen=True)
class ClassFolders:
    """`masks/CLASS/NAME.png` with an object's id for each pixel: one PNG for each class that a photo shows."""

    masks: Path
    folders: tuple[str, ...]
    labels: LabelList
    ignored: tuple[int, ...]

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The classes, as their folders are called."""
        return self.labels.concepts

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the classes."""
        return self.labels.groups

    def files(self, name: str) -> list[Path]:
        """Return the masks of a photo, at least one."""
        places = [self.masks / folder / f"{name}.png" for folder in self.folders]
        return [place for place in places if os.path.lexists(place)] or places[:1]

    def read(self, name: str) -> PixelCodes:
        """Read the ids of each class."""
        layers: list[np.ndarray] = []
        numbers: dict[int, int] = {}
        files = self.files(name)
        for file in files:
            number = self.folders.index(file.relative_to(self.masks).parts[0])
            ids = read_indices(file).astype(np.int64)
            found = set(np.unique(ids).tolist()) - {BACKGROUND, *self.ignored}
            if IGNORED in found and len(found) > 1:
                raise InputError(
                    f"{quoted(file)} holds {IGNORED} beside the ids of other objects, and nothing says whether it is "
                    f"one of them; leave it out by ignore=[{IGNORED}] (--ignore {IGNORED}), or give it another id"
                )
            layers.append(np.where(np.isin(ids, self.ignored), _OUT, np.where(ids > 0, number + _CLASSES * ids, 0)))
            numbers |= {number + _CLASSES * one: self.labels.numbers[number] for one in found}
        for file, layer in zip(files, layers, strict=True):
            if layer.shape != layers[0].shape:
                raise InputError(
                    f"the masks {quoted(files[0])} {layers[0].shape} and {quoted(file)} {layer.shape} differ in size; "
                    "expected one size for the masks of a photo"
                )
        return PixelCodes(np.stack(layers), numbers)


def _check_values(mask: Path, values: np.ndarray, known: Sequence[int], file: Path) -> None:
    """Refuse a mask with a value that nothing explains."""
    unknown = np.setdiff1d(values, known)
    if unknown.size:
        raise InputError(
            f"{quoted(mask)} holds index {unknown[0]}, which {file.name} does not name; add its label, or leave its "
            f"pixels out, neither its class nor background: ignore=[{unknown[0]}] (--ignore {unknown[0]})"
        )
