"""Reading photo files for a model: the photo, or why it cannot be used; ready for it, in threads if need be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.errors import Failure, InputError
from conceptlens.io.image_file import quoted
from conceptlens.io.images import fingerprint, read_image
from conceptlens.model.image_batch import ReadyPhoto
from conceptlens.model.input_sizes import resized
from conceptlens.runs.local_engine import batches_of, read_ahead

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.model.backbone import Backbone

# Photos of a batch that are decoded at the same time.
N_READERS = 4


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo that could be read, and the name of its file."""

    name: str
    photo: Image.Image


def read_photos_for(
    model: Backbone, paths: Sequence[str | Path], larger: Iterable[tuple[int, int]] = (), keep: bool = True
) -> list[ReadyPhoto | Failure]:
    """Decode and prepare the photos of one batch, several at a time; say why one cannot be read.

    Args:
        model: The model.
        paths: The files.
        larger: Other input sizes, rows and columns, that they will be shown at.
        keep: Whether the photos themselves are kept.
    """
    sizes = tuple(larger)

    def ready(path: str | Path) -> ReadyPhoto | Failure:
        loaded = load_photo(model, path)
        if isinstance(loaded, Failure):
            return loaded
        try:
            return ready_photo(model, loaded, sizes, keep)
        except InputError as error:
            return Failure(loaded.name, f"{quoted(loaded.name)}: {error}")

    with ThreadPoolExecutor(min(N_READERS, len(paths)), "decoder") as pool:
        return list(pool.map(ready, paths))


def photos_ahead(
    model: Backbone, photos: Sequence[str | Path], batch_size: int, keep: bool = True
) -> Iterator[list[ReadyPhoto | Failure]]:
    """Yield the photos of each batch, or why one cannot be read; the next two batches are read meanwhile.

    Args:
        model: The model.
        photos: The files.
        batch_size: Photos of a batch.
        keep: Whether the photos themselves are kept.
    """
    return read_ahead(
        lambda batch: read_photos_for(model, [photos[index] for index in batch], keep=keep),
        batches_of(len(photos), batch_size),
    )


def load_photo(model: Backbone, path: str | Path) -> LoadedPhoto | Failure:
    """Return a photo that the model can be given, or why it cannot.

    Args:
        model: The model.
        path: The file.
    """
    try:
        photo = read_image(path)
    except InputError as error:
        return Failure(str(path), str(error))
    try:
        model.check_size(photo.size)
    except InputError as error:
        return Failure(str(path), f"{quoted(path)}: {error}")
    return LoadedPhoto(str(path), photo)


def ready_photo(
    model: Backbone, loaded: LoadedPhoto, larger: Iterable[tuple[int, int]] = (), keep: bool = True
) -> ReadyPhoto:
    """Return a photo as the model reads it.

    Args:
        model: The model.
        loaded: The photo.
        larger: Other input sizes, rows and columns, that it will be shown at.
        keep: Whether the photo itself is kept.

    Raises:
        InputError: The model's own transform fails.
    """
    photo, known = loaded.photo, model.preprocess
    info = model.image_info(loaded.name, photo.size, fingerprint(photo))
    others = {} if known is None else {size: resized(known, size)(photo) for size in larger}
    return ReadyPhoto(model.read_photo(photo), info, others, photo if keep else None)
