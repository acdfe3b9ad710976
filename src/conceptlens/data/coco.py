"""COCO: panoptic masks of things and stuff, and instance masks as polygons and run lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from conceptlens.data.annotation import (
    a_folder,
    by_concept,
    entries_of,
    lay,
    located,
    read_colours,
    read_json,
)
from conceptlens.data.located import Located
from conceptlens.data.run_lengths import drawn_mask
from conceptlens.error import InputError, near
from conceptlens.text.vocabulary import ConceptName

Crowds = Literal["ignore", "join"]

# Names of COCO whose words stand in an order, or a form, that nobody writes.
SPOKEN: dict[str, str] = {
    "floor-wood": "wooden floor",
    "playingfield": "playing field",
    "wall-brick": "brick wall",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
}
_SUFFIXES = ("-merged", "-other", "-stuff")


class CocoPanoptic:
    """A COCO panoptic set: every pixel is a thing, stuff, or void, which is ignored.

    Expects `FOLDER/annotations/panoptic_SPLIT.json`, its PNGs (id = red + 256 green + 65536 blue) in
    `FOLDER/annotations/panoptic_SPLIT/` and the photos in `FOLDER/SPLIT/`. A split may be given without its year.

    - The segments of one category are one concept; groups are `thing` and `stuff`.
    - `crowds="ignore"`: pixels of a segment marked as a crowd are ignored, as in COCO's own evaluation;
      `"join"`: they belong to their category.

    Raises `InputError` where a file is missing or broken, names a category or segment that is not listed, or a photo
    and its PNG differ in size.
    """

    def __init__(self, folder: str | Path, split: str = "val2017", crowds: Crowds = "ignore") -> None:
        self._folder = a_folder(folder, "COCO panoptic")
        self._crowds = _checked(crowds)
        self._split = _dated(self._folder, "panoptic", split)
        self._file = self._folder / "annotations" / f"panoptic_{self._split}.json"
        read = read_json(self._file, "images", "annotations", "categories")
        with entries_of(self._file, "COCO panoptic"):
            self._numbers, self._concepts, self._groups = _categories(read["categories"], self._file)
            photos = {image["id"]: str(image["file_name"]) for image in read["images"]}
            entries = (
                (_photo_of(entry, photos, self._file), str(entry["file_name"]), entry["segments_info"])
                for entry in read["annotations"]
            )
            self._entries: list[tuple[str, str, list[dict[str, Any]]]] = sorted(entries, key=lambda entry: entry[0])

    @property
    def name(self) -> str:
        """The set and its split."""
        return f"coco_panoptic {self._split}"

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The categories, in the order of the file, with names as one would say them."""
        return self._concepts

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other, by file name."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Located:
        """Read the photo at a place."""
        return self._read(*self._entries[place])

    def _read(self, name: str, png: str, segments: Sequence[dict[str, Any]]) -> Located:
        """Read one photo and its PNG."""
        ids = read_colours(self._folder / "annotations" / f"panoptic_{self._split}" / png)
        photo, ids = lay(self._folder / self._split / name, ids)
        numbers: dict[int, int] = {}
        ignored = {0}
        with entries_of(self._file, "COCO panoptic"):
            for segment in segments:
                number = _number(segment["category_id"], self._numbers, self._file)
                if segment.get("iscrowd") and self._crowds == "ignore":
                    ignored.add(segment["id"])
                else:
                    numbers[segment["id"]] = number
        unknown = sorted(set(np.unique(ids).tolist()) - ignored - set(numbers))
        if unknown:
            raise InputError(
                f"{png!r} holds segment {unknown[0]}, which {str(self._file)!r} does not list for it; "
                "download both again, they belong together"
            )
        found = by_concept(ids, numbers)
        return located(name, photo, self._concepts, self._groups, found, ids.shape, np.isin(ids, list(ignored)))


class CocoInstances:
    """A COCO instances set: masks of things, which may overlap, from polygons or run lengths.

    `images` is the folder of the photos, `annotations` the JSON file. Every listed photo is read, also one without
    any instance; the instances of one category are one concept, and the group is `thing`.

    - `crowds="ignore"`: pixels of a crowd region are ignored, except where an instance lies: the crowd is its
      category, but drawn roughly. Ignored pixels are ignored for every concept of the photo.
    - `crowds="join"`: they belong to their category.

    Raises `InputError` where a file is missing or broken, an entry names a photo or category that is not listed, a
    mask cannot be decoded, or a photo differs in size from its entry.
    """

    def __init__(self, images: str | Path, annotations: str | Path, crowds: Crowds = "ignore") -> None:
        self._images = a_folder(images, "COCO's photos")
        self._file = Path(annotations)
        self._crowds = _checked(crowds)
        read = read_json(self._file, "images", "annotations", "categories")
        with entries_of(self._file, "COCO instances"):
            self._numbers, self._concepts, self._groups = _categories(read["categories"], self._file)
            photos = {image["id"]: str(image["file_name"]) for image in read["images"]}
            sizes = {str(image["file_name"]): (int(image["height"]), int(image["width"])) for image in read["images"]}
            self._entries: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(photos.values())}
            self._sizes = sizes
            for entry in read["annotations"]:
                self._entries[_photo_of(entry, photos, self._file)].append(entry)

    @property
    def name(self) -> str:
        """The set and its split, as the file is called."""
        return f"coco_instances {self._file.stem.removeprefix('instances_')}"

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """The categories, in the order of the file."""
        return self._concepts

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Located]:
        """Read one photo after the other, by file name."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Located:
        """Read the photo at a place."""
        name = list(self._entries)[place]
        return self._read(name, self._entries[name])

    def _read(self, name: str, entries: Sequence[dict[str, Any]]) -> Located:
        """Read one photo and draw its instances; the last of the layers is what is ignored."""
        size = self._sizes[name]
        crowd = np.zeros(size, bool)
        found: dict[int, np.ndarray] = {}
        with entries_of(self._file, "COCO instances"):
            for entry in entries:
                number = _number(entry["category_id"], self._numbers, self._file)
                mask = _decoded(entry, size, self._file)
                if entry.get("iscrowd") and self._crowds == "ignore":
                    crowd |= mask
                else:
                    found[number] = found[number] | mask if number in found else mask
        for mask in found.values():
            crowd &= ~mask
        photo, layers = lay(self._images / name, np.stack([*found.values(), crowd]))
        turned = dict(zip(found, layers, strict=False))
        return located(name, photo, self._concepts, self._groups, turned, layers.shape[1:], layers[-1])


def spoken(name: str) -> str:
    """Return a category as one would say it: `tree-merged` is a tree, `wall-brick` a brick wall."""
    while name.endswith(_SUFFIXES):
        name = name[: name.rindex("-")]
    return SPOKEN.get(name, name.replace("-", " "))


def _categories(
    listed: Sequence[dict[str, Any]], file: Path
) -> tuple[dict[int, int], tuple[ConceptName, ...], tuple[str, ...]]:
    """Return the place of each category id, the concepts and their groups; distinct names stay distinct."""
    names = [str(category["name"]) for category in listed]
    ids = [category["id"] for category in listed]
    if len(set(names)) < len(names) or len(set(ids)) < len(ids):
        raise InputError(f"{str(file)!r} lists a category twice; give each category one id and one name")
    said = [spoken(name) for name in names]
    labels = [one if said.count(one) == 1 else name for one, name in zip(said, names, strict=True)]
    groups = tuple("thing" if category.get("isthing", 1) else "stuff" for category in listed)
    return {id_: number for number, id_ in enumerate(ids)}, tuple(map(ConceptName, labels)), groups


def _number(category: int, numbers: dict[int, int], file: Path) -> int:
    """Return the place of a category by its id."""
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
        return drawn_mask(drawn, size)
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
    raise InputError(f"no file {wanted!r}; splits there: {near(split, sorted(files)) or 'none'}")


def open_instances(folder: str | Path, split: str = "val2017") -> CocoInstances:
    """Return the instances of COCO's own layout: `annotations/instances_SPLIT.json`, with the photos in `SPLIT/`."""
    place = a_folder(folder, "COCO instances")
    split = _dated(place, "instances", split)
    return CocoInstances(place / split, place / "annotations" / f"instances_{split}.json")


def _checked(crowds: Crowds) -> Crowds:
    if crowds not in ("ignore", "join"):
        raise InputError(f"crowds may not be {crowds!r}; 'ignore' or 'join' them")
    return crowds
