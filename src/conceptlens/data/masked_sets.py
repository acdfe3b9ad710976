"""Data sets with masks, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from conceptlens.data.broden import Broden
from conceptlens.data.coco import CocoPanoptic, open_instances
from conceptlens.data.drawn_scene import MAX_SCENES, DrawnSet
from conceptlens.data.imagenet_s import ImageNetS
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.data.mask_labels import labels_file
from conceptlens.data.masked_set import MaskedSet
from conceptlens.data.voc import Voc
from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.io.image_file import quoted

FOLDER = "CONCEPTLENS_DATA"
DRAWN = "drawn"


class MaskedSetKind(NamedTuple):
    """One kind of set.

    Attributes:
        open: From a folder (for `drawn` a count, or `None`), a split and the options of its masks to the set.
        split: The split that is opened by default: the one for evaluation.
        choices: The options of its masks: `by`, `crowds`, `shape`, `ignore`.
    """

    open: Callable[..., MaskedSet]
    split: str
    choices: tuple[str, ...] = ()


def open_set(text: str, split: str | None = None, **choices: Any) -> MaskedSet:
    """Return the data set that `NAME` or `NAME:DIR` means (`drawn:COUNT` for drawn scenes); names are in `SETS`.

    A folder alone is `masks:DIR`. Without `DIR` the folder is `$CONCEPTLENS_DATA/NAME`. `choices` say which masks, as
    `crowds="skip"`, where the set has them (`SETS[name].choices`).

    Args:
        text: `NAME`, `NAME:DIR`, or a folder.
        split: A split of the set; by default the one for evaluation.
        **choices: Which masks, such as `crowds="skip"` or `ignore=[11]`.

    Returns:
        The set; its photos are read one by one.

    Raises:
        InputError: The name or a choice is unknown, the folder is missing, or it lacks what the set needs.
        InputTypeError: `text` is no text.

    Example:
        >>> scenes = cl.open_set("drawn:20")
        >>> scenes[0].masks.shape  # concept rows columns
    """
    name, argument = parse_name(text, SETS, "masks")
    if name == "masks" and argument and text.strip() == argument and labels_file(Path(argument).expanduser()) is None:
        raise InputError(
            f"the folder {quoted(argument)} has no labels.csv or labels.txt, so it is no set with masks; give one with "
            f"images/, masks/ and labels.csv, or write NAME or NAME:FOLDER with one of {', '.join(SETS)}"
        )
    kind = SETS[name]
    unknown = [choice for choice in choices if choice not in kind.choices]
    if unknown:
        known = ", ".join(kind.choices) or "none"
        raise InputError(f"{unknown[0]} was chosen, which the masks of {name} do not have; their choices: {known}")
    source = argument if name == DRAWN else folder_of(name, argument)
    return kind.open(source, kind.split if split is None else split, **choices)


def parse_name(text: str, known: Iterable[str], folder_name: str) -> tuple[str, str | None]:
    """Return the two parts of `NAME:ARGUMENT`, where a folder alone means `folder_name:FOLDER`.

    Args:
        text: `NAME`, `NAME:ARGUMENT`, or a folder that exists.
        known: The names that there are.
        folder_name: The name that reads any folder.

    Returns:
        The name, and what follows the colon; `None` without one.

    Raises:
        InputError: There is no such name.
        InputTypeError: `text` is no text.
    """
    if not isinstance(text, str):
        raise InputTypeError(f"a {type(text).__name__} was given as the data set; expected a text, NAME or NAME:FOLDER")
    whole, names = text.strip(), list(known)
    name, colon, argument = whole.partition(":")
    if name in names:
        return name, argument if colon else None
    if name and Path(whole).expanduser().is_dir():
        return folder_name, whole
    raise InputError(f"no data set {name!r}; {near(name, names, 'data sets')}; write NAME or NAME:FOLDER")


def folder_of(name: str, argument: str | None) -> Path:
    """Return the folder that a set is read from: the one named, else `$CONCEPTLENS_DATA/NAME`.

    Args:
        name: The name of the set.
        argument: A folder; `None` or empty where none is named.

    Raises:
        InputError: None is named and that one is not there.
    """
    if argument:
        return Path(argument).expanduser()
    data = os.environ.get(FOLDER)
    if not data:
        raise InputError(f"the data set {name!r} needs its folder; write {name}:FOLDER, or set {FOLDER}")
    folder = Path(data) / name
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}, where {FOLDER} says {name!r} is; write {name}:FOLDER")
    return folder


def _drawn(argument: str | None, split: str) -> MaskedSet:
    """Draw a number of scenes."""
    if argument is None:
        return DrawnSet(split=split)
    if not (argument.isdecimal() and len(argument) < 8 and 1 <= int(argument) <= MAX_SCENES):
        raise InputError(
            f"'drawn:{argument}' counts no scenes; write a number from 1 to {MAX_SCENES}, such as drawn:200"
        )
    return DrawnSet(int(argument), split)


INSTANCES = ("by", "crowds", "shape")
SETS: dict[str, MaskedSetKind] = {
    "coco_panoptic": MaskedSetKind(CocoPanoptic, "val2017", ("by", "crowds")),
    "coco_instances": MaskedSetKind(open_instances, "val2017", INSTANCES),
    "coco": MaskedSetKind(open_instances, "val2017", INSTANCES),
    "voc": MaskedSetKind(Voc, "val", ("by",)),
    "broden": MaskedSetKind(Broden, "all"),
    "imagenet_s": MaskedSetKind(ImageNetS, "validation"),
    "masks": MaskedSetKind(MaskFolder, "all", ("by", "ignore")),
    DRAWN: MaskedSetKind(_drawn, "val"),
}
