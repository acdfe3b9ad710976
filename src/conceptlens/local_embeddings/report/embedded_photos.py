"""The photos that a store was embedded from: found again in a folder, or in a data set opened as the run opened it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from conceptlens.data.masked_set import read_named
from conceptlens.data.masked_sets import SETS, open_set
from conceptlens.io.errors import InputError
from conceptlens.io.images import find_images, read_image

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.store.row import ImageRow
    from conceptlens.store.store import Store


def check_photos(source: str | None, store: Store, split: str | None = None) -> None:
    """Raise `InputError` where this is neither a folder of photos nor a data set `NAME:DIR`; `None` is right."""
    if source is None:
        if split is not None:
            raise InputError("--split has no effect without --photos, whose split it is; leave it out")
    elif _is_set(source):
        _open_as_embedded(source, store, split)
    elif not Path(source).is_dir():
        raise InputError(f"--photos {source} is neither a folder nor a data set as NAME:DIR; give where the photos are")


def find_photos(
    source: str, wanted: Sequence[ImageRow], store: Store, split: str | None = None
) -> Iterator[tuple[ImageRow, Image.Image]]:
    """Yield those photos that are found, one by one: of a folder, or of a data set `NAME:DIR`.

    In a folder a photo is found by its relative path, or else by its file name, with its suffix or without, where
    only one has it. A photo that cannot be read, or has another size than the one embedded, is skipped. A data set's
    masks are read as the store's run read them (`by`, `ignore` ...), as its record says.

    Args:
        source: A folder, or a data set `NAME:DIR`.
        wanted: The store's rows of the images.
        store: The store, whose runs say how masks were read.
        split: The split of the data set.

    Yields:
        A row and its photo.
    """
    if _is_set(source):
        found = _of_set(_open_as_embedded(source, store, split), wanted)
    else:
        found = _of_folder(Path(source), wanted)
    for row, photo in found:
        if (row.width, row.height) in ((0, 0), photo.size):
            yield row, photo


def _is_set(source: str) -> bool:
    return source.partition(":")[0] in SETS and not Path(source).is_dir()


def _open_as_embedded(source: str, store: Store, split: str | None) -> MaskedSet:
    """Open a data set with the choices of the run that embedded it; of other runs where the store has none of it.

    A set that only opens with such choices (object ids, values to leave out) would else be refused, and a photo whose
    mask holds other values passed over.
    """
    name = source.partition(":")[0]
    runs = sorted(store.runs(), key=lambda run: run.started, reverse=True)
    opened, refused = None, None
    for run in runs:
        masks = run.settings.get("masks", {})
        choices = {key: value for key, value in masks.items() if key in SETS[name].choices and value != ""}
        try:
            found = open_set(source, split, **choices)
        except InputError as error:
            refused = refused or error
            continue
        if found.name == run.settings.get("data"):
            return found
        opened = opened or found
    if opened is None and refused is not None:
        raise refused
    return opened or open_set(source, split)


def _of_set(opened: MaskedSet, wanted: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, Image.Image]]:
    rows = {row.name: row for row in wanted}
    for one in read_named(opened, list(rows)):
        yield rows[one.name], one.photo


def _of_folder(folder: Path, wanted: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, Image.Image]]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in find_images(folder):
        for name in _names(path.relative_to(folder).as_posix()):
            by_name[name].append(path)
    for row in wanted:
        matches = next((by_name[name] for name in _names(row.name) if len(by_name.get(name, ())) == 1), [])
        for path in matches:
            try:
                yield row, read_image(path)
            except InputError:
                continue


def _names(name: str) -> tuple[str, ...]:
    """Return the names by which a photo may be found, the most exact first."""
    path = PurePosixPath(name)
    return tuple(dict.fromkeys((name, path.with_suffix("").as_posix() if path.name else name, path.name, path.stem)))
