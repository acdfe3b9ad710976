"""Masks made of keypoints and boxes, for the metrics of a map and a mask in `map_mask`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_number, check_size
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import maps_of, tensor_of
from conceptlens.metrics.keypoints import check_keypoints
from conceptlens.metrics.map_mask import map_mask_scores
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.keypoints import Keypoints

SIZE = (56, 56)  # rows and columns of a mask
BATCH_PIXELS = 2**24  # bounds the memory, at about 5 bytes a pixel


def part_discs(
    keypoints: Keypoints, size: tuple[int, int] = SIZE, radius: float = 0.1
) -> Bool[Tensor, "image concept rows columns"]:
    """Return a mask of discs around the visible keypoints of each concept's part; empty where the concept is absent.

    A pixel is inside if its centre lies within `radius` of a keypoint, as a share of the image's diagonal, by true
    distance: `sizes` are needed. 0.1 is the distance of `keypoint_pointing`. One byte for every pixel of every
    concept: for many images, `part_mask_scores` makes them a few at a time.

    Args:
        keypoints: With `sizes`.
        size: Rows and columns of the masks.
        radius: Share of the image's diagonal, above 0 up to 1.

    Returns:
        Bool `[image concept rows columns]`.

    Raises:
        InputError: `sizes` are missing, or `radius` is out of range.
    """
    check_keypoints(keypoints)
    check_number(radius, "radius", "a share of the diagonal, above 0 up to 1", lambda one: 0 < one <= 1)
    if keypoints.sizes is None:
        raise InputError(
            "discs need sizes[image 2], the width and height of what the model saw; give them to Keypoints"
        )
    xs, ys = _centres(size)
    sizes = keypoints.sizes.cpu().double()[:, None]
    away = torch.where(keypoints.visible.cpu()[..., None], keypoints.xy.cpu().double(), torch.inf)
    across = ((xs - away[..., :1]) * sizes[..., :1]).square()
    down = ((ys - away[..., 1:]) * sizes[..., 1:]).square()
    reach = radius**2 * sizes.square().sum(2)
    discs = across[:, :, None] + down[..., None] <= reach[..., None, None]
    own = torch.einsum("cp,nprq->ncrq", keypoints.own.cpu().float(), discs.float()) > 0
    return own & keypoints.present.cpu()[..., None, None]


def seen_box_mask(
    box: Float[Tensor, "4"], seen: Sequence[float], size: tuple[int, int] = SIZE
) -> Bool[Tensor, "1 rows columns"]:
    """Return the mask of a photo's box on the part of the photo that the model saw.

    Args:
        box: Left, top, right, bottom, as shares of the photo.
        seen: What the model saw of it, likewise.
        size: Rows and columns of the mask.
    """
    left, top, right, bottom = seen
    corners = torch.tensor([left, top, left, top], dtype=torch.float64)
    sides = torch.tensor([right - left, bottom - top] * 2, dtype=torch.float64)
    return box_masks(((box - corners) / sides)[None], size)


def box_masks(boxes: Float[Tensor, "*any 4"], size: tuple[int, int] = SIZE) -> Bool[Tensor, "*any rows columns"]:
    """Return masks of boxes `(left, top, right, bottom)`, as shares of the width and height of what the model saw.

    A pixel is inside if its centre is. `boxes[image 4]` gives masks that hold for all concepts, `[image concept 4]` one
    for each. A box without an inside gives an empty mask, to which no metric applies.

    Args:
        boxes: `[... 4]`, finite shares.
        size: Rows and columns of the masks.

    Returns:
        Bool `[... rows columns]`.

    Raises:
        InputError: Boxes have another shape, or are not finite.
    """
    boxes = tensor_of(boxes, "boxes")
    if boxes.shape[-1:] != (4,) or not bool(torch.isfinite(boxes).all()):
        raise InputError(
            f"boxes have shape {tuple(boxes.shape)}; expected finite left, top, right, bottom in the last axis"
        )
    xs, ys = _centres(size)
    left, top, right, bottom = boxes.double()[..., None].unbind(-2)
    across, down = (xs >= left) & (xs <= right), (ys >= top) & (ys <= bottom)
    return down[..., None] & across[..., None, :]


def part_mask_scores(
    explained: Maps, keypoints: Keypoints, size: tuple[int, int] = SIZE, radius: float = 0.1
) -> dict[str, Score]:
    """Return every metric of `MAP_MASK_METRICS` against `part_discs`, for present concepts with a visible part.

    Args:
        explained: An explanation, or `maps[image concept height width]`.
        keypoints: Of the same images and concepts, with `sizes`.
        size: Rows and columns of the masks.
        radius: Of the discs, a share of the image's diagonal.

    Returns:
        A `Score` for each metric by its name.

    Raises:
        InputError: Shapes do not fit, or `sizes` are missing.
    """
    check_keypoints(keypoints)
    size, maps = check_size(size, "size"), maps_of(explained)
    images, concepts = keypoints.present.shape
    if tuple(maps.shape[:2]) != (images, concepts):
        raise InputError(
            f"maps have shape {tuple(maps.shape)} for {images} images and {concepts} concepts of the keypoints; "
            "expected image concept height width"
        )
    step = max(1, BATCH_PIXELS // max(1, max(concepts, keypoints.own.shape[1]) * size[0] * size[1]))
    pieces: list[dict[str, Score]] = []
    for start in range(0, max(images, 1), step):
        some = slice(start, start + step)
        pieces.append(map_mask_scores(maps[some], part_discs(keypoints.select(some), size, radius)))
    return {
        name: Score(torch.cat([p[name].values for p in pieces]), torch.cat([p[name].applies for p in pieces]))
        for name in pieces[0]
    }


def _centres(size: tuple[int, int]) -> tuple[Float[Tensor, "columns"], Float[Tensor, "rows"]]:
    """Return the centres of pixels, as shares of the width and of the height."""
    rows, columns = check_size(size, "size")
    return (torch.arange(columns).double() + 0.5) / columns, (torch.arange(rows).double() + 0.5) / rows
