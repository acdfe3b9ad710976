"""COCO: panoptic masks of things and stuff, and instance masks as polygons and run lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from conceptlens.data.coco_entries import (
    box_of,
    check_in_view,
    distinct_categories,
    objects,
    photos_by_id,
    unknown_crowd,
    unlisted_category,
    usable_annotations,
)
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto, coarse_mask
from conceptlens.io.errors import InputError, near
from conceptlens.io.run_lengths import check_drawn, decode_mask
from conceptlens.io.text_file import readable_text

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
            drawn, _ = objects(read["annotations"], "annotation", "segments_info")
            used = _used([one for entry in drawn for one in objects(entry["segments_info"], "segment")[0]])
            categories, self.excluded = distinct_categories(read["categories"], used, self._file)
            self._numbers, self.concepts, self._groups = _concepts(categories)
            photos, without = photos_by_id(read["images"], self._file)
            hint = "give the annotations that belong to these images and categories"
            kept, left = usable_annotations(read["annotations"], photos, self._without_segment, self._file, hint)
            self._entries = []
            for entry in kept:
                name = _name(photos[entry["image_id"]])
                segments, broken = objects(entry["segments_info"], "segment", "id")
                left |= {readable_text(f"{name}, {title}"): reason for title, reason in broken.items()}
                self._entries.append((name, str(entry["file_name"]), segments))
            self._entries.sort(key=lambda entry: entry[0])
            self.excluded |= without | left | self._left_out(photos.values())

    def _without_segment(self, entry: dict[str, Any]) -> str:
        """Say that a photo's annotation has no list of segments, or segments of unlisted categories alone."""
        if problem := objects([entry], "annotation", "file_name", "segments_info")[1]:
            return next(iter(problem.values()))
        segments, broken = objects(entry["segments_info"], "segment", "id")
        unlisted = [*broken.values(), *(unlisted_category(one, self._numbers) for one in segments)]
        return unlisted[0] if unlisted and all(unlisted) else ""

    def _left_out(self, images: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Return photos without an annotation, and segments whose category is not listed; refuses a photo with two."""
        pngs: dict[str, str] = {}
        excluded: dict[str, str] = {}
        for name, png, segments in self._entries:
            if name in pngs:
                raise InputError(f"{str(self._file)!r} annotates {name!r} by {pngs[name]!r} and {png!r}; keep one")
            pngs[name] = png
            for one in segments:
                if reason := unlisted_category(one, self._numbers):
                    excluded[readable_text(f"{name}, segment {one['id']}")] = reason
        names = map(_name, images)
        return excluded | {readable_text(name): "no annotation" for name in names if name not in pngs}

    def _read(self, entry: tuple[str, str, Segments]) -> MaskedPhoto:
        name, png, segments = entry
        ids = read_colours(self._folder / "annotations" / f"panoptic_{self._split}" / png)
        photo, ids = read_aligned(self._folder / self._split / name, ids)
        with entry_errors(self._file, "COCO panoptic"):
            numbers = {one["id"]: self._numbers.get(one.get("category_id")) for one in segments}
            crowds = {one["id"] for one in segments if one.get("iscrowd") and self._crowds != "join"}
        if len(numbers) < len(segments):
            raise InputError(f"{str(self._file)!r} lists a segment of {name!r} twice; give each segment one id")
        unknown = sorted(set(np.unique(ids).tolist()) - {0} - set(numbers))
        if unknown:
            raise InputError(
                f"{png!r} holds segment {unknown[0]}, which {str(self._file)!r} does not list for it; "
                "download both again, they belong together"
            )
        unlisted = {segment for segment, number in numbers.items() if number is None}  # counted when the set is opened
        kept = {segment: n for segment, n in numbers.items() if n is not None and segment not in crowds}
        found = code_masks(ids, kept)
        n_excluded = len(kept if self._crowds == "ignore" else numbers.keys() - unlisted) - len(found)
        found = found if self._by == "instance" else union_masks(found)
        ignored = np.isin(ids, [0, *unlisted, *crowds] if self._crowds == "ignore" else [0, *unlisted])
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
        self.name = readable_text(f"coco_instances {self._file.stem.removeprefix('instances_')}")
        read = read_json(self._file, "images", "annotations", "categories")
        with entry_errors(self._file, "COCO instances"):
            used = _used(objects(read["annotations"], "annotation")[0])
            categories, self.excluded = distinct_categories(read["categories"], used, self._file)
            self._numbers, self.concepts, self._groups = _concepts(categories)
            photos, without = photos_by_id(read["images"], self._file, "height", "width")
            sizes = {number: (int(image["height"]), int(image["width"])) for number, image in photos.items()}
            drawn: dict[Any, list[dict[str, Any]]] = {number: [] for number in photos}
            hint = 'give the file of these images, or, where it has no outlines, choose shape="box"'
            kept, left = usable_annotations(
                read["annotations"], photos, lambda entry: self._problem(entry, sizes), self._file, hint
            )
            for entry in kept:
                drawn[entry["image_id"]].append(entry)
        self.excluded |= without | left
        self._entries = sorted(
            ((_name(photos[number]), sizes[number], entries) for number, entries in drawn.items()),
            key=lambda one: one[0],
        )

    def _problem(self, entry: dict[str, Any], sizes: Mapping[Any, tuple[int, int]]) -> str:
        """Say why an annotation has no category or no mask."""
        if reason := unlisted_category(entry, self._numbers) or unknown_crowd(entry):
            return reason
        size = sizes[entry["image_id"]]
        try:
            if self._shape == "outline":
                drawn = entry.get("segmentation")
                check_drawn(drawn, size)
                if isinstance(drawn, list):
                    check_in_view([at for polygon in drawn for at in polygon], size, "its outline lies")
            else:
                left, top, width, height = box_of(entry)
                check_in_view((left, top, left + width, top + height), size, "its box lies")
        except (ValueError, TypeError) as error:
            return f"it cannot be drawn ({error})"
        return ""

    def _read(self, entry: tuple[str, tuple[int, int], Segments]) -> MaskedPhoto:
        name, size, drawn = entry
        crowd, skipped = np.zeros(size, bool), 0
        found: list[tuple[int, np.ndarray]] = []
        excluded: list[str] = []
        with entry_errors(self._file, "COCO instances"):
            for one in drawn:
                number = self._numbers[one["category_id"]]
                try:
                    mask = self._mask(one, size)
                except Exception as error:  # compiled code fills the polygons and raises what it likes
                    excluded.append(f"annotation {one.get('id')} cannot be drawn ({error})")
                    continue
                if not mask.any():
                    excluded.append(f"annotation {one.get('id')} covers no pixel")
                    continue
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
        return self._masked_photo(name, photo, turned, layers.shape[1:], layers[-1], skipped, excluded)

    def _mask(self, entry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Draw one instance in the shape that was chosen: bool `rows columns`."""
        if self._shape == "outline":
            return decode_mask(entry["segmentation"], size)
        left, top, width, height = box_of(entry)
        if not (width > 0 and height > 0):
            return np.zeros(size, bool)
        return coarse_mask((left, top, left + width, top + height), size, self._shape)


def readable_name(name: str) -> str:
    """Return a category as one would say it: `tree-merged` is a tree, `wall-brick` a brick wall."""
    while name.endswith(_SUFFIXES):
        name = name[: name.rindex("-")]
    return READABLE_NAMES.get(name, name.replace("-", " "))


def _concepts(listed: Sequence[dict[str, Any]]) -> tuple[dict[Any, int], tuple[ConceptName, ...], tuple[str, ...]]:
    """Return the index of each category id, the concepts and their groups; distinct names stay distinct."""
    names = [readable_text(str(category["name"])) for category in listed]
    readable = [readable_name(name) for name in names]
    labels = [one if readable.count(one) == 1 else name for one, name in zip(readable, names, strict=True)]
    groups = tuple("thing" if category.get("isthing", 1) else "stuff" for category in listed)
    numbers = {category["id"]: number for number, category in enumerate(listed)}
    return numbers, tuple(map(ConceptName, labels)), groups


def _used(entries: Iterable[dict[str, Any]]) -> set[Any]:
    """Return the categories of annotations or segments."""
    given = (entry.get("category_id") for entry in entries)
    return {number for number in given if isinstance(number, (int, float, str))}


def _name(image: dict[str, Any]) -> str:
    return str(image["file_name"])


def _dated(folder: Path, kind: str, split: str) -> str:
    """Return a split with its year, where only that exists."""
    files = {path.stem.removeprefix(f"{kind}_") for path in folder.glob(f"annotations/{kind}_*.json")}
    if split in files:
        return split
    dated = sorted(name for name in files if name.removeprefix(split).isdigit())
    if len(dated) == 1:
        return dated[0]
    wanted = str(folder / "annotations" / f"{kind}_{split}.json")
    raise InputError(f"no file {wanted!r}; {near(split, sorted(files), 'splits there')}")


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
