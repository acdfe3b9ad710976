"""The photos of a store's images, found again by name: a store holds their names and prints, not their pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from conceptlens.data.masked_sets import SETS, open_set
from conceptlens.io.errors import InputError
from conceptlens.io.images import find_images, read_image

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.store.row import ImageRow


def check_photos(place: str, split: str | None = None) -> None:
    """Refuse a place of photos that is none before any work is done."""
    if _is_set(place):
        open_set(place, split)
    elif not Path(place).is_dir():
        raise InputError(f"--photos {place} is neither a folder nor a data set as NAME:DIR; give where the photos are")


def find_photos(
    place: str, wanted: Sequence[ImageRow], split: str | None = None
) -> Iterator[tuple[ImageRow, Image.Image]]:
    """Yield those photos that are there, one by one: of a folder, or of a data set `NAME:DIR`.

    In a folder a photo is known by its path from there, or else by its file name, with its suffix or without, where
    only one has it. A photo that cannot be read, or has another size than the one embedded, is passed over.
    """
    found = _of_set(place, wanted, split) if _is_set(place) else _of_folder(Path(place), wanted)
    for row, photo in found:
        if (row.width, row.height) in ((0, 0), photo.size):
            yield row, photo


def _is_set(place: str) -> bool:
    return place.partition(":")[0] in SETS and not Path(place).is_dir()


def _of_set(place: str, wanted: Sequence[ImageRow], split: str | None) -> Iterator[tuple[ImageRow, Image.Image]]:
    opened = open_set(place, split)
    left = {row.name: row for row in wanted}
    for number in range(len(opened)):
        if not left:
            return
        try:
            one = opened[number]
        except InputError:
            continue
        if one.name in left:
            yield left.pop(one.name), one.photo


def _of_folder(folder: Path, wanted: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, Image.Image]]:
    known: dict[str, list[Path]] = defaultdict(list)
    for path in find_images(folder):
        for name in _names(path.relative_to(folder).as_posix()):
            known[name].append(path)
    for row in wanted:
        matches = next((known[name] for name in _names(row.name) if len(known.get(name, ())) == 1), [])
        for path in matches:
            try:
                yield row, read_image(path)
            except InputError:
                continue


def _names(name: str) -> tuple[str, ...]:
    """Return what a photo may be called, the most exact first."""
    path = PurePosixPath(name)
    return tuple(dict.fromkeys((name, path.with_suffix("").as_posix() if path.name else name, path.name, path.stem)))
