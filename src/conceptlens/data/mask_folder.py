"""Your own photos and masks: two folders, and what the values of the masks mean."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conceptlens.data.annotation_files import (
    MaskBy,
    check_option,
    code_masks,
    existing_folder,
    read_aligned,
    union_masks,
)
from conceptlens.data.mask_labels import parse_values
from conceptlens.data.mask_layouts import MaskLayout
from conceptlens.data.mask_meaning import class_indices, instance_layout
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError
from conceptlens.io.folder_files import files_below
from conceptlens.io.image_file import quoted
from conceptlens.io.images import find_images
from conceptlens.io.text_file import readable_text


class MaskFolder(ListedMaskedSet[tuple[str, Path]]):
    """Photos in `images/`, PNGs of the same names in `masks/`, and `labels.csv` or `labels.txt`.

    - `labels.csv` has the columns `index` and `label`, and may have `type` (see `CONCEPT_TYPES`) and `group`, by
      default the type. Line n of `labels.txt` is the label of index n, from 1, with `:type` where it is not an object.
    - Index 0 is background and 255 is ignored, unless the labels name them. Pixels of the values in `ignore` count as
      nothing either, neither as a class nor as background, whatever the labels say.
    - `by="category"`: a mask holds class indices, and those of one label are one mask. `"instance"`: each object has
      its own, where the folder tells its class in one of three ways: `instances/NAME.png` holds object ids beside the
      class indices of `masks/NAME.png` (id 0: all of that class without an id); or `masks/NAME.png` holds object ids,
      and `instances.csv` has the columns `id` and `label`, and `image` where ids begin anew in each photo; or
      `masks/CLASS/NAME.png` holds the ids of the objects of one class.
    - A mask may be smaller or larger than its photo, not of another shape. Folders within are kept apart by name; a
      `split` other than `all` is such a folder.
    - Photos come by name, and every one is read; a mask without a photo is not, and stands in `excluded`.

    Args:
        folder: The folder that holds `images/`, `masks/` and the labels.
        split: `all`, or a folder within `images/` and `masks/`.
        by: `"category"` or `"instance"`, see above.
        ignore: Values of pixels to leave out, such as 11 or `[11, 12]`.

    Raises:
        InputError: A file is missing or broken, a photo has no mask, a mask holds a value that nothing explains, or the
            class of objects is not told.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "all",
        by: MaskBy = "category",
        ignore: int | str | Sequence[int | str] = (),
    ) -> None:
        self._folder = existing_folder(folder, "images/, masks/ and labels.csv or labels.txt")
        self._by: MaskBy = check_option(by, "by", MaskBy)
        values = parse_values(ignore)
        self._ignore = ", ".join(map(str, values))
        self.name = readable_text(f"masks {self._folder.resolve().name}" + ("" if split == "all" else f" {split}"))
        images, self._masks = self._folder / "images", self._folder / "masks"
        if by == "category":
            self._layout: MaskLayout = class_indices(self._folder, self._within(split), values)
        if split != "all":
            images, self._masks = images / split, self._within(split)
        found = self._found(images)
        if by == "instance":
            masks = existing_folder(self._masks, "masks")
            self._layout, self.excluded = instance_layout(self._folder, masks, split, [*found], values)
        self.concepts, self._groups = self._layout.concepts, self._layout.groups
        self._entries = list(found.items())
        self._check_masks()

    def _within(self, split: str) -> Path:
        return self._folder / "masks" if split == "all" else self._folder / "masks" / split

    @staticmethod
    def _found(images: Path) -> dict[str, Path]:
        """Return the photos by what they are called, without their suffix."""
        found: dict[str, Path] = {}
        for photo in find_images(existing_folder(images, "photos")):
            name = photo.relative_to(images).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{quoted(photo)} and {found[name].name!r} share one mask; rename one of them")
            found[name] = photo
        return found

    def _check_masks(self) -> None:
        """Refuse a photo without its mask; count masks without a photo."""
        used: set[Path] = set()
        for name, photo in self._entries:
            for mask in self._layout.files(name):
                if not mask.is_file():
                    raise InputError(f"{quoted(photo)} has no mask {quoted(mask)}; add it, or take the photo away")
                used.add(mask)
        below = files_below(self._masks).photos
        left = [inner for inner in below if inner.endswith(".png") and self._masks / inner not in used]
        self.excluded = {**self.excluded} | {
            readable_text(os.path.join("masks", inner)): "a mask without a photo" for inner in left
        }

    def _read(self, entry: tuple[str, Path]) -> MaskedPhoto:
        name, path = entry
        codes = self._layout.read(name)
        photo, layers = read_aligned(path, codes.layers, exact=False)
        found = [pair for layer in layers for pair in code_masks(layer, codes.numbers)]
        found = found if self._by == "instance" else union_masks(found)
        ignored = np.any(codes._replace(layers=layers).ignored, axis=0)
        return self._masked_photo(name, photo, found, layers.shape[1:], ignored, excluded=codes.excluded)
