"""Broden, the joined set of Network Dissection: objects, parts, materials and colours to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import (
    code_masks,
    entry_errors,
    existing_folder,
    once_each_entry,
    read_aligned,
    read_colours,
    read_table,
    union_masks,
)
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError

# Broden's category to our type. Scenes and textures describe whole images, so they have no mask and are left out.
CATEGORIES: dict[str, str] = {"object": "object", "part": "part", "material": "material", "color": "colour"}
_IMAGE_LEVEL = ("scene", "texture")


class Broden(ListedMaskedSet[tuple[str, tuple[str, ...]]]):
    """Broden (`broden1_224` and its kin), as Network Dissection published it.

    Expects `index.csv`, `label.csv` and `images/`, with masks of half the photo's size among the photos; the dense
    codings `c_*.csv` and `category.csv` are not needed. `split` is `train`, `val` or `all`.

    - A pixel's label is `256 green + red`; 0 is none. A cell may name several PNGs, separated by `;`: parts lie
      over parts, and each PNG counts.
    - A label's type is the first category that `label.csv` lists, the commonest; `-c` and `-s` are cut from names.
      Groups are the types. Photos come in the order of `index.csv`.
    - Numbers in a cell hold for a whole image: they are left out, and `n_excluded` counts the photos with no others.

    Args:
        folder: The folder that holds `index.csv`.
        split: `train`, `val` or `all`.

    Raises:
        InputError: A file is missing or broken, a PNG holds a label that is not listed, or the PNGs of one photo differ
            in size.
    """

    def __init__(self, folder: str | Path, split: str = "all") -> None:
        self._folder = existing_folder(folder, "Broden")
        self.name = f"broden {split}"
        labels, index = self._folder / "label.csv", self._folder / "index.csv"
        with entry_errors(labels, "Broden's labels"):
            self._read_labels(labels)
        rows = read_table(index, "image", "split")
        splits = sorted({row["split"] for row in rows})
        if split not in ("all", *splits):
            raise InputError(f"{str(index)!r} has no split {split!r}; splits: all, {', '.join(splits)}")
        chosen = [row for row in rows if split in ("all", row["split"])]
        masks, again = once_each_entry(((row["image"], _pngs(row)) for row in chosen), index)
        self._entries = [(image, pngs) for image, pngs in masks.items() if pngs]
        blank = {image: "no mask, only labels of the whole image" for image, pngs in masks.items() if not pngs}
        self.excluded = again | blank

    def _read_labels(self, file: Path) -> None:
        """Read which number is which concept, and which numbers are known at all."""
        listed = (
            (row["number"].strip(), (row["name"], row["category"].split(";")[0].partition("(")[0].strip()))
            for row in read_table(file, "number", "name", "category")
        )
        types = {int(number): label for number, label in once_each_entry(listed, file)[0].items()}
        unknown = {category for _, category in types.values()} - {*CATEGORIES, *_IMAGE_LEVEL}
        if unknown:
            raise InputError(
                f"{str(file)!r} names category {min(unknown)!r}; expected {', '.join([*CATEGORIES, *_IMAGE_LEVEL])}"
            )
        self._known = {0, *types}
        kept = {number: ConceptName(_short(n), CATEGORIES[c]) for number, (n, c) in types.items() if c in CATEGORIES}
        self.concepts = tuple(dict.fromkeys(kept.values()))
        index = {concept: i for i, concept in enumerate(self.concepts)}
        self._numbers = {number: index[concept] for number, concept in kept.items()}
        self._groups = tuple(concept.type for concept in self.concepts)

    def _read(self, entry: tuple[str, tuple[str, ...]]) -> MaskedPhoto:
        image, pngs = entry
        photo, layers = read_aligned(self._folder / "images" / image, self._layers(image, pngs), exact=False)
        found = union_masks(pair for layer in layers for pair in code_masks(layer, self._numbers))
        return self._masked_photo(image, photo, found, layers.shape[1:])

    def _layers(self, image: str, pngs: tuple[str, ...]) -> np.ndarray:
        """Read all PNGs of one photo: int32 `png rows columns`."""
        layers = [read_colours(self._folder / "images" / png) for png in pngs]
        for png, layer in zip(pngs, layers, strict=True):
            if layer.shape != layers[0].shape:
                raise InputError(
                    f"the masks {pngs[0]!r} {layers[0].shape} and {png!r} {layer.shape} of {image!r} differ in size; "
                    "download them again"
                )
            unknown = set(np.unique(layer).tolist()) - self._known
            if unknown:
                raise InputError(
                    f"{png!r} holds label {min(unknown)}, which label.csv does not list; a label is 256 green + red"
                )
        return np.stack(layers)


def _pngs(row: dict[str, str]) -> tuple[str, ...]:
    """Return the masks of a row of `index.csv`; a number instead of a file holds for the whole image."""
    cells = [cell for category in CATEGORIES for cell in row.get(category, "").split(";")]
    return tuple(cell.strip() for cell in cells if cell.strip() and not cell.strip().isdigit())


def _short(name: str) -> str:
    """Cut the mark of a colour or a scene from a name."""
    return name[:-2] if name.endswith(("-c", "-s")) else name
