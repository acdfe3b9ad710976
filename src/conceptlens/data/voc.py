"""Pascal VOC: twenty classes in palette PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conceptlens.data.annotation import a_folder, by_concept, lay, located, read_indices, read_text
from conceptlens.data.located import Located
from conceptlens.error import InputError
from conceptlens.text.vocabulary import ConceptName

# In the order of their index in the palette, from 1; 0 is background.
CLASSES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
IGNORED = 255  # the white border around objects, and what is too hard to tell
_CONCEPTS = tuple(map(ConceptName, CLASSES))
_GROUPS = ("thing",) * len(CLASSES)
_NUMBERS = {index + 1: index for index in range(len(CLASSES))}


class Voc:
    """The segmentation part of Pascal VOC 2012, or any year of its layout.

    Expects `ImageSets/Segmentation/SPLIT.txt`, `JPEGImages/` and `SegmentationClass/` in the folder, in its
    `VOC2012` or in its `VOCdevkit/VOC2012`. Index 0 is background, 255 is ignored. Raises `InputError` where a file
    is missing or broken, holds another index, or a photo and its PNG differ in size.
    """

    def __init__(self, folder: str | Path, split: str = "val") -> None:
        given = a_folder(folder, "Pascal VOC")
        places = [given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"]
        self._folder = next((place for place in places if (place / "ImageSets/Segmentation").is_dir()), given)
        self._split = split
        listed = self._folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            splits = ", ".join(sorted(path.stem for path in listed.parent.glob("*.txt"))) or "none"
            raise InputError(f"no file {str(listed)!r}; splits there: {splits}")
        self._names = [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]

    @property
    def name(self) -> str:
        """The set and its split."""
        return f"voc {self._split}"

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The twenty classes."""
        return _CONCEPTS

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other, in the order of the split's file."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Located:
        """Read the photo at a place."""
        name = self._names[place]
        png = self._folder / "SegmentationClass" / f"{name}.png"
        indices = read_indices(png)
        unknown = np.setdiff1d(indices, [0, IGNORED, *_NUMBERS])
        if unknown.size:
            raise InputError(
                f"{str(png)!r} holds index {unknown[0]}, expected 0 to {len(CLASSES)} or {IGNORED}; "
                "take it from SegmentationClass, not from SegmentationObject"
            )
        photo, indices = lay(self._folder / "JPEGImages" / f"{name}.jpg", indices)
        found = by_concept(indices, _NUMBERS)
        return located(name, photo, _CONCEPTS, _GROUPS, found, indices.shape, indices == IGNORED)
