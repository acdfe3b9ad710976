"""Data sets with a class for each photo, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from conceptlens.data.cifar import Cifar
from conceptlens.data.class_folder import ClassFolder, open_imagenet
from conceptlens.data.cub import Cub
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.data.masked_sets import folder_of, parse_name
from conceptlens.data.places365 import open_places


class LabelledSetKind(NamedTuple):
    """One kind of labelled set: how to open its folder and split, its splits, its line."""

    open: Callable[..., LabelledSet]
    splits: tuple[str, ...]
    about: str


def open_classes(text: str, split: str | None = None) -> LabelledSet:
    """Return the labelled set that `NAME` or `NAME:DIR` means; names are in `LABELLED_SETS`.

    A folder alone is `folder:DIR`. Without `DIR` the folder is `$CONCEPTLENS_DATA/NAME`. Without `split` it is `train`,
    or `all` for a folder of classes that is not split.

    Args:
        text: `NAME`, `NAME:DIR`, or a folder.
        split: A split of the set.

    Returns:
        The set; its photos are read one by one.

    Raises:
        InputError: The name or split is unknown, the folder is missing, or it lacks what the set needs.

    Example:
        >>> photos = cl.open_classes("folder:birds", "train")
        >>> photos.classes, photos.labels  # names, and a class number for each photo
    """
    name, argument = parse_name(text, LABELLED_SETS, "folder")
    folder = folder_of(name, argument)
    kind = LABELLED_SETS[name]
    return kind.open(folder) if split is None else kind.open(folder, split)


LABELLED_SETS: dict[str, LabelledSetKind] = {
    "cub": LabelledSetKind(Cub, ("train", "test", "all"), "CUB-200-2011: birds, with boxes, parts and attributes"),
    "folder": LabelledSetKind(
        ClassFolder, ("train", "val", "test", "all"), "any folder with a folder of photos for each class"
    ),
    "cifar10": LabelledSetKind(Cifar, Cifar.splits, "CIFAR-10, the binary version"),
    "cifar100": LabelledSetKind(
        partial(Cifar, version=100), Cifar.splits, "CIFAR-100, the binary version, fine classes"
    ),
    "places": LabelledSetKind(open_places, ("train", "val"), "Places365-Standard: scenes"),
    "imagenet": LabelledSetKind(open_imagenet, ("train", "val"), "ImageNet: folders called by WordNet numbers"),
}
