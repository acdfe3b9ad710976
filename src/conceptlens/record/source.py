"""Where an explanation comes from: the photos as a model saw them, the model, the layer, the method."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class ImageInfo:
    """One photo as a model saw it.

    Args:
        name: The file's path, or a title.
        fingerprint: 16 hexadecimal digits that identify the photo's pixels; empty where no photo was given.
        width: The photo's width in pixels, upright; 0 where it is not known.
        height: Its height in pixels.
        box: The part of the upright photo that reached the model, `(left, top, right, bottom)` as shares of its width
            and height: a centre crop does not see the borders.
        box_known: Whether `box` is known; where the model has a transform of its own it is not, `box` is then the whole
            photo, and overlays need not lie where they are drawn.
    """

    name: str
    fingerprint: str = ""
    width: int = 0
    height: int = 0
    box: tuple[float, float, float, float] = WHOLE
    box_known: bool = True


@dataclass(frozen=True)
class Source:
    """What an explanation was made from: enough to make it again.

    Args:
        model: The model's name.
        layer: The layer whose features were weighed; several are joined by " + ".
        method: The rule or method.
        image_info: One entry for each image.
        settings: What else the method was given or chose.
        versions: Of ConceptLens, PyTorch and the like.
        photos: Weak references to the photos, while somebody holds them; they are neither saved nor compared.
    """

    model: str
    layer: str
    method: str
    image_info: tuple[ImageInfo, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    photos: tuple[Callable[[], Image.Image | None], ...] = field(default=(), repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "photos": ()}

    def of(self, image: int) -> Source:
        """Return the source of one image of the batch.

        Args:
            image: Its index in the batch, from 0.

        Returns:
            The same source with that image's record and photo alone.
        """
        one = slice(image, image + 1)
        return replace(self, image_info=self.image_info[one], photos=self.photos[one])

    def photo(self, image: int = 0) -> Image.Image | None:
        """Return a photo, upright, while it is in memory or where its file still holds it.

        Args:
            image: Its index in the batch, from 0.

        Returns:
            The photo with the turn of its EXIF orientation applied; `None` where it is nowhere.
        """
        from conceptlens.io.images import upright

        held = self.photos[image]() if image < len(self.photos) else None
        return _from_file(self.image_info[image]) if held is None else upright(held)


def hold_weakly(photos: Iterable[Image.Image | None]) -> tuple[Callable[[], Image.Image | None], ...]:
    """Return weak references to photos, for `Source.photos`: they live as long as somebody else holds them."""
    return tuple((lambda: None) if photo is None else weakref.ref(photo) for photo in photos)


def _from_file(info: ImageInfo) -> Image.Image | None:
    """Return the photo in the file called `info.name`, where there is one and its pixels are those observed."""
    from conceptlens.io.images import fingerprint, read_image

    try:
        if not info.fingerprint or not Path(info.name).is_file():
            return None
        photo = read_image(info.name)
    except (InputError, OSError, ValueError):  # no file name at all, or no photo any more
        return None
    return photo if fingerprint(photo) == info.fingerprint else None
