"""Where keypoints are in what a network sees of a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.data.labelled_set import LabelledSet, PhotoKeypoints
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.model.preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class KeypointsInView:
    """Keypoints of photos as a network sees them.

    - `xy[photo keypoint 2]`: shares of the width and height of what is seen, 0 where not visible.
    - `visible[photo keypoint]`: false too for what is cut off. `sizes[photo 2]`: width and height of what is seen, in
      pixels of the photo.
    """

    names: tuple[str, ...]
    xy: Float[Tensor, "photo keypoint 2"]
    visible: Bool[Tensor, "photo keypoint"]
    sizes: Float[Tensor, "photo 2"]


def known_keypoints(photos: LabelledSet) -> PhotoKeypoints:
    """Return the keypoints of a set.

    Args:
        photos: A labelled set.

    Returns:
        Its keypoints.

    Raises:
        InputError: The set has none.
    """
    known = photos.annotation.keypoints if photos.annotation else None
    if known is None:
        raise InputError(f"{photos.name} has no keypoints; give a set that has them, such as cub:FOLDER")
    return known


def keypoints_in_view(photos: LabelledSet, indices: Sequence[int], view: Preprocess) -> KeypointsInView:
    """Return the keypoints of the photos at `indices` through a network's view of a photo.

    Args:
        photos: A labelled set with keypoints.
        indices: Indices of photos.
        view: The `Preprocess` of the network.

    Returns:
        Keypoints as shares of what the network sees.

    Raises:
        InputError: The set has no keypoints.
    """
    known = known_keypoints(photos)
    at = [int(index) for index in indices]
    boxes, sizes = [], []
    for index in at:
        width, height = photos[index].size
        left, top, right, bottom = view.box((width, height))
        boxes.append((left, top, right, bottom))
        sizes.append(((right - left) * width, (bottom - top) * height))
    box = torch.tensor(boxes, dtype=torch.float64)[:, None]
    xy = (torch.tensor(known.xy[at]) - box[..., :2]) / (box[..., 2:] - box[..., :2])
    visible = torch.tensor(known.visible[at]) & ((xy >= 0) & (xy <= 1)).all(2)
    return KeypointsInView(
        known.names, torch.where(visible[..., None], xy, 0.0).float(), visible, torch.tensor(sizes, dtype=torch.float32)
    )
