"""A labelled set seen otherwise: some of its photos, each cut to its annotated box, or mirrored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.data.labelled_set import Annotation, LabelledSet, PhotoAttributes, PhotoKeypoints
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64


@dataclass(frozen=True, eq=False)
class PhotoView:
    """A labelled set of photos of another one; its classes and their numbers are the same.

    Attributes:
        photos: The other set.
        name: What this one is called in results.
        labels: The number of each photo's class.
        rows: The index of each photo in the other set.
        shown: From a photo of the other set and its index there to the photo of this one.
        annotation: What is known of the photos as they are shown.
    """

    photos: LabelledSet
    name: str
    labels: Int64[np.ndarray, "photo"]
    rows: Int64[np.ndarray, "photo"]
    shown: Callable[[Image.Image, int], Image.Image]
    annotation: Annotation | None

    @property
    def split(self) -> str:
        """Which split the photos are from."""
        return self.photos.split

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split of the other set."""
        return self.photos.splits

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.photos.classes

    @property
    def excluded(self) -> Mapping[str, str]:
        """What the other set left out, to the reason."""
        return self.photos.excluded

    @property
    def names(self) -> list[str]:
        """What each photo is called, as in the other set."""
        known = self.photos.names
        return [known[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        """Read the photo at an index and show it."""
        row = int(self.rows[index])
        return self.shown(self.photos[row], row)


def some_photos(photos: LabelledSet, rows: Sequence[int] | np.ndarray, called: str) -> PhotoView:
    """Return some photos of a set, as a set; the others are never read through it.

    Args:
        photos: The set.
        rows: Their indices.
        called: What these photos are, for the name: `"held out"`.

    Returns:
        The photos in the order of `rows`.

    Raises:
        InputError: There is no row, or one that the set does not have.
    """
    kept = np.asarray(rows, np.int64)
    if not len(kept) or kept.min() < 0 or kept.max() >= len(photos):
        raise InputError(
            f"{len(kept)} rows of {photos.name} were given; expected at least one, each from 0 to {len(photos) - 1}"
        )
    known = photos.annotation
    return PhotoView(
        photos, f"{photos.name}, {called}", photos.labels[kept], kept, _as_it_is, known and _of_rows(known, kept)
    )


def mirrored(photos: LabelledSet) -> PhotoView:
    """Return the photos of a set with left and right exchanged; parts keep their names.

    Args:
        photos: The set.

    Returns:
        The mirrored photos, with mirrored keypoints and boxes.
    """

    def mirror(photo: Image.Image, row: int) -> Image.Image:
        return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    known = photos.annotation
    moved = known and _moved(known, lambda xy: xy * (-1, 1) + (1, 0))
    return PhotoView(photos, f"{photos.name}, mirrored", photos.labels, np.arange(len(photos)), mirror, moved)


def box_crops(photos: LabelledSet, margin: float = 0.1) -> PhotoView:
    """Return the photos of a set, each cut to its annotated box.

    A crop begins and ends between pixels, on the outer side; keypoints and boxes are moved as if it were cut exactly,
    so they are right to a pixel.

    Args:
        photos: A set that annotates a box in each photo, such as CUB.
        margin: How much is added to the box on each side, as a share of its width or height; cut at the photo's edges.

    Returns:
        The crops, with keypoints and boxes as shares of them; a keypoint outside counts as not visible.

    Raises:
        InputError: The set has no boxes, or `margin` is no number from 0.
    """
    if not (isinstance(margin, int | float) and 0 <= margin < math.inf):
        raise InputError(
            f"margin is {margin!r}; expected a share of the box's sides that is added to it, from 0, such as 0.1"
        )
    known = photos.annotation
    if known is None or known.boxes is None:
        raise InputError(
            f"{photos.name} annotates no boxes, so its photos cannot be cut to them; use whole photos, or a set with "
            "boxes such as cub:DIR"
        )
    left_top, right_bottom = known.boxes[:, :2], known.boxes[:, 2:]
    wider = margin * (right_bottom - left_top)
    start, end = (left_top - wider).clip(0, 1), (right_bottom + wider).clip(0, 1)

    def cut(photo: Image.Image, row: int) -> Image.Image:
        (left, top), (right, bottom) = start[row] * photo.size, end[row] * photo.size
        # float shares of whole pixels may lie a hair beside them
        corner = math.floor(left + 1e-6), math.floor(top + 1e-6)
        opposite = max(math.ceil(right - 1e-6), corner[0] + 1), max(math.ceil(bottom - 1e-6), corner[1] + 1)
        return photo.crop((*corner, *opposite))

    size = np.where(end > start, end - start, 1.0)
    moved = _moved(known, lambda xy: (xy - start[:, None]) / size[:, None])
    return PhotoView(photos, f"{photos.name}, boxes and {margin:g}", photos.labels, np.arange(len(photos)), cut, moved)


def _as_it_is(photo: Image.Image, row: int) -> Image.Image:
    return photo


def _of_rows(known: Annotation, rows: np.ndarray) -> Annotation:
    """Return what is known of some photos."""
    seen, points = known.photos, known.keypoints
    return replace(
        known,
        photos=seen and PhotoAttributes(seen.names, seen.present[rows], seen.visible[rows]),
        keypoints=points and PhotoKeypoints(points.names, points.xy[rows], points.visible[rows], points.parts),
        boxes=None if known.boxes is None else known.boxes[rows],
    )


def _moved(
    known: Annotation, moved: Callable[[Float64[np.ndarray, "photo point 2"]], Float64[np.ndarray, "photo point 2"]]
) -> Annotation:
    """Return what is known, with keypoints and boxes in shares of the photos as they are shown."""
    points, boxes = known.keypoints, known.boxes
    if points is not None:
        xy = moved(points.xy)
        visible = points.visible & ((xy >= 0) & (xy <= 1)).all(-1)
        points = PhotoKeypoints(points.names, np.where(visible[..., None], xy, np.nan), visible, points.parts)
    if boxes is not None:
        boxes = np.sort(moved(boxes.reshape(-1, 2, 2)), axis=1).clip(0, 1).reshape(-1, 4)
    return replace(known, keypoints=points, boxes=boxes)
