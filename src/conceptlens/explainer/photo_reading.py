"""Reading photo files for a model: the photo, or why it cannot be used; ready for it, in threads if need be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.errors import Failure, InputError
from conceptlens.io.image_file import quoted
from conceptlens.io.images import fingerprint, read_image
from conceptlens.model.image_batch import ReadyPhoto
from conceptlens.model.input_sizes import resized

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo that could be read, and the name of its file."""

    name: str
    photo: Image.Image


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
