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
        from conceptlens.io.images import fingerprint, upright

        info = self.image_info[image]
        held = self.photos[image]() if image < len(self.photos) else None
        photo = None if held is None else upright(held)
        if photo is None or (info.fingerprint and fingerprint(photo) != info.fingerprint):  # it was drawn on since
            return _from_file(info)
        return photo


def hold_weakly(*photos: Iterable[object]) -> tuple[Callable[[], Image.Image | None], ...]:
    """Return weak references to photos, for `Source.photos`: they live as long as somebody else holds them.

    Args:
        *photos: Photos, one for each image; several sequences hold copies of the same photos, of which the first that
            is alive is taken. What is no PIL image is not held.
    """
    return tuple(_weak_reference(copies) for copies in zip(*photos, strict=True))


def _weak_reference(copies: Iterable[object]) -> Callable[[], Image.Image | None]:
    """Return what gives the first of these copies of a photo that is alive."""
    from PIL import Image

    references = [weakref.ref(one) for one in copies if isinstance(one, Image.Image)]
    return lambda: next((photo for photo in (reference() for reference in references) if photo is not None), None)


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
