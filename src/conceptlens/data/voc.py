"""Pascal VOC: twenty classes in palette PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import (
    MaskBy,
    check_option,
    code_masks,
    existing_folder,
    once_each_entry,
    read_aligned,
    read_indices,
    read_text,
)
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError

# In the order of their index in the palette, from 1; 0 is background.
CLASSES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
IGNORED = 255  # the white border around objects, and what is too hard to tell
# Class and object of a pixel in one code, `class + 256 object`, to the index of the class; object 0 is any.
_NUMBERS = {256 * thing + index + 1: index for thing in range(256) for index in range(len(CLASSES))}


class Voc(ListedMaskedSet[str]):
    """The segmentation part of Pascal VOC 2012, or any year of its layout.

    Expects `ImageSets/Segmentation/SPLIT.txt`, `JPEGImages/` and `SegmentationClass/` in the folder, in its
    `VOC2012` or in its `VOCdevkit/VOC2012`. Index 0 is background, 255 is ignored. Photos come in the order of the
    split's file, and every one of it is read.

    - `by="category"`: the objects of one class are one mask; `"instance"`: each object has its own, from
      `SegmentationObject/`.

    Args:
        folder: The folder of the set.
        split: A file of `ImageSets/Segmentation`, such as `val`.
        by: `"category"` or `"instance"`, see above.

    Raises:
        InputError: A file is missing or broken, holds another index, or a photo and its PNG differ in size.
    """

    def __init__(self, folder: str | Path, split: str = "val", by: MaskBy = "category") -> None:
        self._by = check_option(by, "by", MaskBy)
        given = existing_folder(folder, "Pascal VOC")
        candidates = [given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"]
        self._folder = next((one for one in candidates if (one / "ImageSets/Segmentation").is_dir()), given)
        self.name = f"voc {split}"
        self.concepts = tuple(map(ConceptName, CLASSES))
        self._groups = ("thing",) * len(CLASSES)
        listed = self._folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            splits = ", ".join(sorted(path.stem for path in listed.parent.glob("*.txt"))) or "none"
            raise InputError(f"no file {str(listed)!r}; splits there: {splits}")
        lines = [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]
        names, self.excluded = once_each_entry(((name, None) for name in lines), listed)
        self._entries = list(names)

    def _name_of(self, entry: str) -> str:
        return entry

    def _read(self, entry: str) -> MaskedPhoto:
        png = self._folder / "SegmentationClass" / f"{entry}.png"
        codes = read_indices(png)
        unknown = np.setdiff1d(codes, [0, IGNORED, *range(1, len(CLASSES) + 1)])
        if unknown.size:
            raise InputError(
                f"{str(png)!r} holds index {unknown[0]}, expected 0 to {len(CLASSES)} or {IGNORED}; "
                "take it from SegmentationClass, not from SegmentationObject"
            )
        if self._by == "instance":
            codes = codes + 256 * self._objects(entry, codes.shape)
        photo, codes = read_aligned(self._folder / "JPEGImages" / f"{entry}.jpg", codes)
        return self._masked_photo(entry, photo, code_masks(codes, _NUMBERS), codes.shape, codes % 256 == IGNORED)

    def _objects(self, entry: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read which object each pixel belongs to."""
        png = self._folder / "SegmentationObject" / f"{entry}.png"
        objects = read_indices(png)
        if objects.shape != shape:
            raise InputError(
                f"{str(png)!r} has {objects.shape} rows and columns, its SegmentationClass {shape}; expected the same, "
                "unpack both again"
            )
        return objects
