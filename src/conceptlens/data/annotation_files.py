"""Annotation files: codes per pixel, JSON, tables; and how they come to lie on the pixels of the upright photo."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from conceptlens.io import text_file
from conceptlens.io.errors import InputError
from conceptlens.io.image_file import TURNS, Turn, opened, orientation, quoted
from conceptlens.io.images import read_image
from conceptlens.io.text_file import readable_text

MaskBy = Literal["category", "instance"]
_Option = TypeVar("_Option", bound=str)
_Value = TypeVar("_Value")


def read_colours(path: Path) -> np.ndarray:
    """Return `red + 256 green + 65536 blue` for each pixel of a colour PNG: int32 `rows columns`.

    Raises:
        InputError: The file is missing, broken, not a PNG or without colours.
    """
    image = _png(path)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise InputError(
            f"{quoted(path)} has pixels of kind {image.mode}, expected RGB: its ids are coded in red, green and blue; "
            "download or export it again"
        )
    if image.mode == "P":
        image = image.convert("RGB")
    pixels = np.asarray(image).astype(np.int32)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def read_indices(path: Path) -> np.ndarray:
    """Return the index of each pixel of a palette or grey PNG: int32 `rows columns`, whatever the palette's colours.

    Raises:
        InputError: The file is missing, broken, not a PNG or has colours without a palette.
    """
    image = _png(path)
    if image.mode not in ("P", "L", "1", "I", "I;16"):
        raise InputError(
            f"{quoted(path)} has pixels of kind {image.mode}, expected one index a pixel; save it as a palette or "
            "grey PNG whose values are the indices"
        )
    return np.asarray(image).astype(np.int32)


def read_aligned(path: Path, codes: np.ndarray, exact: bool = True) -> tuple[Image.Image, np.ndarray]:
    """Read a photo upright and return it with `codes[... rows columns]` turned the same way.

    Annotations are taken to be drawn on the pixels as stored, before the turn that EXIF asks for, wherever their
    sizes allow it; on the upright photo otherwise. With `exact`, both must have one size, else one shape.

    Args:
        path: The photo.
        codes: Annotations `[... rows columns]`, as stored.
        exact: Whether photo and annotation must have one size, or one shape.

    Returns:
        The upright photo, and the codes on its pixels.

    Raises:
        InputError: They fit neither way.
    """
    photo = read_image(path)
    turn = _turn(path)
    width, height = photo.size
    if turn in TURNS and _fits(codes, (height, width) if TURNS[turn].swapped else (width, height), exact):
        return photo, np.ascontiguousarray(_turned(codes, TURNS[turn]))
    if not _fits(codes, photo.size, exact):
        rows, columns = codes.shape[-2:]
        raise InputError(
            f"{quoted(path)} is {width} x {height} pixels and its annotation {columns} x {rows}, expected "
            f"the same {'size' if exact else 'shape'}; use the photo that was annotated, neither resized nor cut"
        )
    return photo, codes


def code_masks(codes: np.ndarray, numbers: Mapping[int, int]) -> list[tuple[int, np.ndarray]]:
    """Return a mask for each of the codes listed in `numbers` that has a pixel, with the number of its concept."""
    return [(numbers[code], codes == code) for code in np.unique(codes).tolist() if code in numbers]


def union_masks(found: Iterable[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """Return one mask for each concept: all masks that have its number."""
    masks: dict[int, np.ndarray] = {}
    for number, mask in found:
        masks[number] = masks[number] | mask if number in masks else mask
    return list(masks.items())


def read_json(path: Path, *lists: str) -> dict[str, Any]:
    """Return the object in a JSON file that must hold the `lists` named; raises `InputError` naming the file."""
    try:
        read = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{quoted(path)} is not JSON or cut short ({error}); download or export it again") from error
    for name in lists:
        if not isinstance(read, dict) or not isinstance(read.get(name), list):
            raise InputError(f"{quoted(path)} has no list {name!r}; expected {', '.join(lists)}: is it the right file?")
    return read


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file whose header must hold the `columns` named; raises `InputError` naming the file."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        header = list(reader.fieldnames or [])
        rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
    except csv.Error as error:
        raise InputError(f"{quoted(path)} is not a CSV file ({error}); download it again") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(
            f"{quoted(path)} has no column {missing[0]!r}, its first line is {','.join(header)!r}; "
            f"expected the columns {', '.join(columns)}"
        )
    return rows


def once_each_entry(entries: Iterable[tuple[str, _Value]], path: Path) -> tuple[dict[str, _Value], dict[str, str]]:
    """Return the entries of a list by their names, and those that are listed again, as where lists were joined.

    Args:
        entries: A name and what the list says of it.
        path: The file, for messages.

    Returns:
        What is said of each name, and what is left out, to the reason.

    Raises:
        InputError: Two entries of one name differ.
    """
    found: dict[str, _Value] = {}
    again: dict[str, str] = {}
    for name, value in entries:
        if name not in found:
            found[name] = value
        elif found[name] == value:
            again[f"{readable_text(name)}, listed again"] = f"the same entry of {path.name} as before"
        else:
            raise InputError(
                f"{quoted(path)} lists {name!r} twice, as {found[name]!r} and as {value!r}; keep the one that is right"
            )
    return found, again


def read_text(path: Path) -> str:
    """Return the text of an annotation file (UTF-8); raises `InputError` naming the file."""
    return text_file.read_text(path, "check the folder's layout, or download it again")


def check_option(given: _Option, what: str, among: Any) -> _Option:
    """Return an option that is a value of the `Literal` it is chosen among; raises `InputError` naming all of them."""
    if given not in get_args(among):
        raise InputError(f"{what}={given!r} was given; expected one of {', '.join(map(repr, get_args(among)))}")
    return given


def existing_folder(path: str | Path, what: str) -> Path:
    """Return a folder that exists; raises `InputError` saying what was looked for."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}, where {what} was looked for; check the path")
    return folder


@contextmanager
def entry_errors(path: Path, layout: str) -> Iterator[None]:
    """Turn an entry that lacks a field, or has another kind of value, into an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f"{quoted(path)} has an entry without {error.args[0]!r}; expected {layout}, download or export it again"
        ) from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{quoted(path)} has an entry that cannot be read ({error}); expected {layout}, download or export it again"
        ) from error


def _png(path: Path) -> Image.Image:
    """Read a PNG with its pixels as they are stored."""
    with opened(path, ["PNG"]) as image:
        image.load()
        return image


def _turn(path: Path) -> int:
    """Return the EXIF orientation of a photo that `read_image` has read."""
    with opened(path) as image:
        if image.format == "PNG":
            image.load()  # its EXIF may come after its pixels
        return orientation(image)


def _turned(codes: np.ndarray, turn: Turn) -> np.ndarray:
    """Return `codes[... rows columns]` of stored pixels upright."""
    swapped = codes.swapaxes(-2, -1) if turn.swapped else codes
    return swapped[..., :: -1 if turn.down else 1, :: -1 if turn.across else 1]


def _fits(codes: np.ndarray, size: tuple[int, int], exact: bool) -> bool:
    """Whether `codes[... rows columns]` has the size (width, height), or its shape up to a pixel of rounding."""
    rows, columns = codes.shape[-2:]
    width, height = size
    return (columns, rows) == size if exact else abs(columns * height - rows * width) <= width + height
