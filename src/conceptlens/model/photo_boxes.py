"""Boxes in pixels of a photo and in pixels of the input that a model saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from conceptlens.model.observation import Observation

Box4 = tuple[float, float, float, float]


def on_photo(observation: Observation, image: int, box: Box4) -> Box4:
    """Return a box in pixels of the upright photo, of one in pixels of the input.

    Where a tensor was observed, or a photo through a transform of which it is not known which part it shows, boxes stay
    in pixels of the input.

    Args:
        observation: One forward pass of a batch.
        image: The index of the image.
        box: Left, top, right and bottom.
    """
    x, x0, y, y0 = _scales(observation, image)
    return box[0] * x + x0, box[1] * y + y0, box[2] * x + x0, box[3] * y + y0


def on_input(observation: Observation, image: int, box: Box4) -> Box4:
    """Return a box in pixels of the input, of one in pixels of the upright photo: the reverse of `on_photo`."""
    x, x0, y, y0 = _scales(observation, image)
    return (box[0] - x0) / x, (box[1] - y0) / y, (box[2] - x0) / x, (box[3] - y0) / y


def photo_scale(observation: Observation, image: int) -> tuple[float, float]:
    """Return how many pixels of the photo a pixel of the input is wide and high."""
    x, _, y, _ = _scales(observation, image)
    return x, y


def photo_corner(observation: Observation, image: int) -> tuple[float, float]:
    """Return where on the photo the input's left upper corner lies, in pixels of the photo."""
    _, x0, _, y0 = _scales(observation, image)
    return x0, y0


def _scales(observation: Observation, image: int) -> tuple[float, float, float, float]:
    info = observation.image_info[image]
    rows, columns = observation.images.shape[2:]
    if observation.photos[image] is None or not info.box_known:
        return 1.0, 0.0, 1.0, 0.0
    left, top, right, bottom = info.box
    return (
        (right - left) * info.width / columns,
        left * info.width,
        (bottom - top) * info.height / rows,
        top * info.height,
    )


def box_words(box: Box4) -> str:
    """Return a box in whole pixels, `(34, 50, 210, 300)`.

    Args:
        box: Left, top, right and bottom.
    """
    return f"({', '.join(f'{value:.0f}' for value in box)})"


def box_numbers(box: Any) -> Box4:
    """Return a box as plain numbers.

    Args:
        box: Left, top, right and bottom: a list, tuple, array or tensor.

    Raises:
        InputError: It is empty, or its sides are exchanged.
        InputTypeError: It is not four numbers.
    """
    values = box.tolist() if hasattr(box, "tolist") else box
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise InputTypeError(f"the box is {box!r}; expected left, top, right and bottom in pixels")
    try:
        left, top, right, bottom = (float(value) for value in values)
    except (TypeError, ValueError):
        raise InputTypeError(f"the box is {box!r}; expected left, top, right and bottom in pixels") from None
    if not (left < right and top < bottom):
        raise InputError(
            f"the box is {box!r}; expected left, top, right and bottom, left before right, top above bottom"
        )
    return left, top, right, bottom
