"""Data sets with a class for each photo, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from conceptlens.data.cifar import Cifar
from conceptlens.data.class_folder import ClassFolder, open_imagenet
from conceptlens.data.cub import Cub
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.data.masked_sets import folder_of, parse_name
from conceptlens.data.places365 import open_places

# The splits that measure what was fitted to another one; the first that a set has is taken.
EVALUATION_SPLITS = ("test", "val", "valid", "validation")


def evaluation_split(opened: LabelledSet) -> str | None:
    """Return the split of a set that measures what was fitted to its others, or `None` where it has none.

    Args:
        opened: The set, in any of its splits.
    """
    return next((name for name in EVALUATION_SPLITS if name in opened.splits), None)


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
        InputTypeError: `text` is no text.

    Example:
        >>> photos = cl.open_classes("folder:birds", "train")
        >>> photos.classes, photos.labels  # names, and a class number for each photo
    """
    name, argument = parse_name(text, LABELLED_SETS, "folder")
    folder, opener = folder_of(name, argument), LABELLED_SETS[name]
    return opener(folder) if split is None else opener(folder, split)


# The name of a set, to what opens its folder and, where one is given, its split.
LABELLED_SETS: dict[str, Callable[..., LabelledSet]] = {
    "cub": Cub,
    "folder": ClassFolder,
    "cifar10": Cifar,
    "cifar100": partial(Cifar, version=100),
    "places": open_places,
    "imagenet": open_imagenet,
}
