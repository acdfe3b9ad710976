"""What a keypoint error must be compared with: peaks and maps that know nothing, and peaks that know something else.

`centre_peaks`, `constant_peaks` and `uniform_maps` go where a map goes, into every metric of `keypoints`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from conceptlens.io.argument_kinds import check_integer, check_size
from conceptlens.io.errors import InputError
from conceptlens.metrics.keypoints import GRID, Keypoints, check_keypoints, error_by_part, keypoint_error
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.keypoints import MapsOrPeaks


def centre_peaks(keypoints: Keypoints) -> Float[Tensor, "image concept 2"]:
    """Return the image's centre for every concept: the middle cell of a grid with an odd number of cells.

    Args:
        keypoints: Their images and concepts give the shape.

    Returns:
        `peaks[image concept 2]`, all 0.5.
    """
    check_keypoints(keypoints)
    return torch.full((*keypoints.present.shape, 2), 0.5)


def uniform_maps(keypoints: Keypoints, grid: tuple[int, int] = GRID) -> Float[Tensor, "image concept rows columns"]:
    """Return maps without a peak, of which every metric gives the exact expectation over a random cell of `grid`.

    Args:
        keypoints: Their images and concepts give the shape.
        grid: Rows and columns.

    Returns:
        `maps[image concept rows columns]`, all 0.
    """
    check_keypoints(keypoints)
    check_size(grid, "grid")
    return torch.zeros(1, 1, *grid).expand(*keypoints.present.shape, *grid)


def constant_peaks(train: Keypoints, images: int, grid: tuple[int, int] = GRID) -> Float[Tensor, "image concept 2"]:
    """Return, for each concept, the one cell of `grid` with the lowest mean error over train images, `images` times.

    A prior on where a part is: a map that looks at the image must do better. Fitted for each part on every train image
    that shows a keypoint of it, whether or not the concept is present; of equal cells, the first by rows. The centre
    where no train image shows the part.

    Args:
        train: Keypoints of train images.
        images: How many images the peaks are for.
        grid: Rows and columns of the reference grid, the unit of the result.

    Returns:
        `peaks[image concept 2]`, the same for every image.

    Raises:
        InputError: `images` is negative.
    """
    check_keypoints(train, "train")
    check_integer(images, "the number of images", 0)
    rows, columns = check_size(grid, "grid")
    part, group = torch.unique(train.own, dim=0, return_inverse=True)
    everywhere = torch.ones(len(train.visible), len(part), dtype=torch.bool)
    parts = Keypoints(train.xy, train.visible, part, everywhere.to(part.device), train.sizes)
    cells = [((column + 0.5) / columns, (row + 0.5) / rows) for row in range(rows) for column in range(columns)]
    totals = torch.stack(
        [keypoint_error(torch.tensor(cell).expand(*everywhere.shape, 2), parts, grid).values.sum(0) for cell in cells]
    )
    best = torch.tensor(cells)[totals.argmin(0)]
    shown = parts.applies.any(0).cpu()
    best = torch.where(shown[:, None], best, 0.5)
    return best[group.cpu()].expand(images, -1, -1)


def swapped_error(
    maps: MapsOrPeaks,
    keypoints: Keypoints,
    grid: tuple[int, int] = GRID,
    by: Literal["other_part", "absent"] = "other_part",
) -> Score:
    """Return the error at the concept's own part, made by other concepts' peaks; the mean over them.

    `by="other_part"`: concepts of the image whose part is another, the control of `keypoint_swap`. `by="absent"`: wrong
    concepts, those that the image does not show, whatever their part. Applies where `keypoint_error` does and there is
    such a concept.

    Args:
        maps: Maps or peaks, as in `keypoints`.
        keypoints: Where the parts are.
        grid: Rows and columns of the reference grid, the unit of the result.
        by: Which other concepts, as above.

    Returns:
        `values[image concept]`, in squared cells.

    Raises:
        InputError: `by` is unknown, or as in `keypoint_error`.
    """
    if by not in ("other_part", "absent"):
        raise InputError(f"no by '{by}'; there are: other_part, absent")
    table, group = error_by_part(maps, keypoints, grid)
    applies, present = keypoints.applies.cpu(), keypoints.present.cpu()
    member = torch.nn.functional.one_hot(group, table.shape[2]).double()
    counted = (1 - member) * applies[..., None] if by == "other_part" else (~present)[..., None].double()
    weight = counted.expand_as(table)
    others = weight.sum(1)
    mean = (table * weight).sum(1) / others.clamp(min=1)
    some = applies & (others[:, group] > 0)
    return Score(torch.where(some, mean[:, group], 0.0), some)
