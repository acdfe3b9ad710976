"""COCO: panoptic masks of things and stuff, and instance masks as polygons and run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import (
    MaskBy,
    check_option,
    code_masks,
    entry_errors,
    existing_folder,
    read_aligned,
    read_colours,
    read_json,
    union_masks,
)
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto, coarse_mask
from conceptlens.io.errors import InputError, near
from conceptlens.io.run_lengths import decode_mask

Crowds = Literal["ignore", "join", "skip"]
MaskShape = Literal["outline", "box", "ellipse"]
Segments = Sequence[dict[str, Any]]

# COCO's category names in an unusual order of words, with the usual one.
READABLE_NAMES: dict[str, str] = {
    "floor-wood": "wooden floor",
    "playingfield": "playing field",
    "wall-brick": "brick wall",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
}
_SUFFIXES = ("-merged", "-other", "-stuff")


class CocoPanoptic(ListedMaskedSet[tuple[str, str, Segments]]):
    """A COCO panoptic set: every pixel is a thing, stuff, or void, which is ignored.

    Expects `FOLDER/annotations/panoptic_SPLIT.json`, its PNGs (id = red + 256 green + 65536 blue) in
    `FOLDER/annotations/panoptic_SPLIT/` and the photos in `FOLDER/SPLIT/`. A split may be given without its year.

    - `by="category"`: the segments of one category are one mask; `"instance"`: each segment has its own. Groups are
      `thing` and `stuff`, names as one would say them.
    - `crowds="ignore"`: pixels of a segment marked as a crowd are ignored, as in COCO's own evaluation;
      `"join"`: they belong to their category, as a segment of it; `"skip"`: they are rest.
    - Photos come by file name; `n_excluded` counts those that are listed without an annotation.

    Args:
        folder: The folder that holds `annotations/` and the photos.
        split: A split, with or without its year.
        crowds: `"ignore"`, `"join"` or `"skip"`, see above.
        by: `"category"` or `"instance"`, see above.

    Raises:
        InputError: A file is missing or broken, names a category or segment that is not listed, or a photo and its PNG
            differ in size.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "val2017",
        crowds: Crowds = "ignore",
        by: MaskBy = "category",
    ) -> None:
        self._folder = existing_folder(folder, "COCO panoptic")
        self._crowds: Crowds = check_option(crowds, "crowds", Crowds)
        self._by: MaskBy = check_option(by, "by", MaskBy)
        self._split = _dated(self._folder, "panoptic", split)
        self.name = f"coco_panoptic {self._split}"
        self._file = self._folder / "annotations" / f"panoptic_{self._split}.json"
        read = read_json(self._file, "images", "annotations", "categories")
        with entry_errors(self._file, "COCO panoptic"):
            self._numbers, self.concepts, self._groups = _categories(read["categories"], self._file)
            photos = {image["id"]: str(image["file_name"]) for image in read["images"]}
            entries = (
                (_photo_of(entry, photos, self._file), str(entry["file_name"]), entry["segments_info"])
                for entry in read["annotations"]
            )
            self._entries = sorted(entries, key=lambda entry: entry[0])
        self.n_excluded = len(set(photos.values()) - {name for name, _, _ in self._entries})

    def _read(self, entry: tuple[str, str, Segments]) -> MaskedPhoto:
        name, png, segments = entry
        ids = read_colours(self._folder / "annotations" / f"panoptic_{self._split}" / png)
        photo, ids = read_aligned(self._folder / self._split / name, ids)
        with entry_errors(self._file, "COCO panoptic"):
            numbers = {one["id"]: _number(one["category_id"], self._numbers, self._file) for one in segments}
            crowds = {one["id"] for one in segments if one.get("iscrowd") and self._crowds != "join"}
        unknown = sorted(set(np.unique(ids).tolist()) - {0} - set(numbers))
        if unknown:
            raise InputError(
                f"{png!r} holds segment {unknown[0]}, which {str(self._file)!r} does not list for it; "
                "download both again, they belong together"
            )
        kept = {segment: number for segment, number in numbers.items() if segment not in crowds}
        found = code_masks(ids, kept)
        n_excluded = len(kept if self._crowds == "ignore" else numbers) - len(found)
        found = found if self._by == "instance" else union_masks(found)
        ignored = np.isin(ids, [0, *crowds] if self._crowds == "ignore" else [0])
        return self._masked_photo(name, photo, found, ids.shape, ignored, n_excluded)


class CocoInstances(ListedMaskedSet[tuple[str, tuple[int, int], Segments]]):
    """A COCO instances set: masks of things, which may overlap, from polygons, run lengths or boxes.

    `images` is the folder of the photos, `annotations` the JSON file. Photos come by file name, and every listed one
    is read, also one without any instance; the group is `thing`.

    - `by="category"`: the instances of one category are one mask; `"instance"`: each has its own, and the other
      instances of its category are rest.
    - `crowds="ignore"`: pixels of a crowd region are ignored, except where an instance lies: the crowd is its
      category, but drawn roughly. Ignored pixels are ignored for every concept of the photo. `"join"`: they belong to
      their category, as an instance of it; `"skip"`: they are rest.
    - `shape="outline"`: masks as drawn; `"box"` and `"ellipse"`: the annotated box of each instance, or the ellipse
      in it, so that a set without outlines can be read too (see `coarse_mask`).

    Args:
        images: The folder of the photos.
        annotations: The JSON file.
        crowds: `"ignore"`, `"join"` or `"skip"`, see above.
        by: `"category"` or `"instance"`, see above.
        shape: `"outline"`, `"box"` or `"ellipse"`, see above.

    Raises:
        InputError: A file is missing or broken, an entry names a photo or category that is not listed, a mask cannot be
            decoded, or a photo differs in size from its entry.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        crowds: Crowds = "ignore",
        by: MaskBy = "category",
        shape: MaskShape = "outline",
    ) -> None:
        self._images = existing_folder(images, "COCO's photos")
        self._file = Path(annotations)
        self._crowds: Crowds = check_option(crowds, "crowds", Crowds)
        self._by: MaskBy = check_option(by, "by", MaskBy)
        self._shape: MaskShape = check_option(shape, "shape", MaskShape)
        self.name = f"coco_instances {self._file.stem.removeprefix('instances_')}"
        read = read_json(self._file, "images", "annotations", "categories")
        with entry_errors(self._file, "COCO instances"):
            self._numbers, self.concepts, self._groups = _categories(read["categories"], self._file)
            photos = {image["id"]: str(image["file_name"]) for image in read["images"]}
            sizes = {str(image["file_name"]): (int(image["height"]), int(image["width"])) for image in read["images"]}
            drawn: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(photos.values())}
            for entry in read["annotations"]:
                drawn[_photo_of(entry, photos, self._file)].append(entry)
        self._entries = [(name, sizes[name], entries) for name, entries in drawn.items()]

    def _read(self, entry: tuple[str, tuple[int, int], Segments]) -> MaskedPhoto:
        name, size, drawn = entry
        crowd, skipped = np.zeros(size, bool), 0
        found: list[tuple[int, np.ndarray]] = []
        with entry_errors(self._file, "COCO instances"):
            for one in drawn:
                number, mask = _number(one["category_id"], self._numbers, self._file), self._mask(one, size)
                if not one.get("iscrowd") or self._crowds == "join":
                    found.append((number, mask))
                elif self._crowds == "ignore":
                    crowd |= mask
                else:
                    skipped += 1
        found = found if self._by == "instance" else union_masks(found)
        for _, mask in found:
            crowd &= ~mask
        photo, layers = read_aligned(self._images / name, np.stack([*(mask for _, mask in found), crowd]))
        turned = [(number, mask) for (number, _), mask in zip(found, layers, strict=False)]
        return self._masked_photo(name, photo, turned, layers.shape[1:], layers[-1], skipped)

    def _mask(self, entry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Draw one instance in the shape that was chosen: bool `rows columns`."""
        if self._shape == "outline":
            return _decoded(entry, size, self._file)
        left, top, width, height = map(float, entry["bbox"])
        if not (width > 0 and height > 0):
            return np.zeros(size, bool)
        return coarse_mask((left, top, left + width, top + height), size, self._shape)


def readable_name(name: str) -> str:
    """Return a category as one would say it: `tree-merged` is a tree, `wall-brick` a brick wall."""
    while name.endswith(_SUFFIXES):
        name = name[: name.rindex("-")]
    return READABLE_NAMES.get(name, name.replace("-", " "))


def _categories(
    listed: Sequence[dict[str, Any]], file: Path
) -> tuple[dict[int, int], tuple[ConceptName, ...], tuple[str, ...]]:
    """Return the index of each category id, the concepts and their groups; distinct names stay distinct."""
    names = [str(category["name"]) for category in listed]
    ids = [category["id"] for category in listed]
    if len(set(names)) < len(names) or len(set(ids)) < len(ids):
        raise InputError(f"{str(file)!r} lists a category twice; give each category one id and one name")
    readable = [readable_name(name) for name in names]
    labels = [one if readable.count(one) == 1 else name for one, name in zip(readable, names, strict=True)]
    groups = tuple("thing" if category.get("isthing", 1) else "stuff" for category in listed)
    return {id_: number for number, id_ in enumerate(ids)}, tuple(map(ConceptName, labels)), groups


def _number(category: int, numbers: dict[int, int], file: Path) -> int:
    """Return the index of a category by its id."""
    if category not in numbers:
        raise InputError(f"{str(file)!r} uses category {category}, which it does not list; add it to 'categories'")
    return numbers[category]


def _photo_of(entry: dict[str, Any], photos: dict[Any, str], file: Path) -> str:
    """Return the file name of the photo that an annotation speaks of."""
    if entry["image_id"] not in photos:
        raise InputError(f"{str(file)!r} annotates photo {entry['image_id']}, which it does not list under 'images'")
    return photos[entry["image_id"]]


def _decoded(entry: dict[str, Any], size: tuple[int, int], file: Path) -> np.ndarray:
    """Return the mask of one instance: bool `rows columns`."""
    drawn = entry["segmentation"]
    try:
        return decode_mask(drawn, size)
    except Exception as error:  # compiled code fills the polygons and raises what it likes
        raise InputError(
            f"{str(file)!r} has a mask that cannot be drawn, of annotation {entry.get('id')} ({error}); export it again"
        ) from error


def _dated(folder: Path, kind: str, split: str) -> str:
    """Return a split with its year, where only that exists."""
    files = {path.stem.removeprefix(f"{kind}_") for path in folder.glob(f"annotations/{kind}_*.json")}
    if split in files:
        return split
    dated = sorted(name for name in files if name.removeprefix(split).isdigit())
    if len(dated) == 1:
        return dated[0]
    wanted = str(folder / "annotations" / f"{kind}_{split}.json")
    raise InputError(f"no file {wanted!r}; splits there: {near(split, sorted(files), len(files)) or 'none'}")


def open_instances(
    folder: str | Path,
    split: str = "val2017",
    crowds: Crowds = "ignore",
    by: MaskBy = "category",
    shape: MaskShape = "outline",
) -> CocoInstances:
    """Return the instances of COCO's own layout: `annotations/instances_SPLIT.json`, with the photos in `SPLIT/`.

    Args:
        folder: The folder that holds `annotations/` and the photos.
        split: A split, with or without its year.
        crowds: As in `CocoInstances`.
        by: As in `CocoInstances`.
        shape: As in `CocoInstances`.
    """
    root = existing_folder(folder, "COCO instances")
    split = _dated(root, "instances", split)
    return CocoInstances(root / split, root / "annotations" / f"instances_{split}.json", crowds, by, shape)
