"""Does a concept's map point at its part: metrics of maps, or their peaks, and keypoints.

They take `maps`, which is an explanation, raw `maps[image concept height width]`, or `peaks[image concept 2]`, `(x, y)`
as shares of the width and height; the `Keypoints` of the same images and concepts; and the rows and columns of the
reference `grid`, the unit of errors in cells. A map says its highest cell's centre, at its own grid. **Of several
highest cells, every metric is the mean over them**: what picking one at random would give. So a map without a peak is
worth a random cell, neither the centre (as `peak` has it) nor a corner (as `argmax` has it).

They return a `Score` with `values[image concept]`, which applies where the concept is present and at least one keypoint
of its part is visible, and raise `InputError` where shapes do not fit, maps are not finite, or a share of the diagonal
lacks `Keypoints.sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from conceptlens.io.argument_kinds import check_flag, check_number, check_size, check_type
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import maps_of
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps

    MapsOrPeaks: TypeAlias = Maps | Float[Tensor, "image concept coordinate"]

GRID = (7, 7)  # rows and columns of the reference grid
BATCH_CELLS = 2**21  # bounds the memory, at up to 50 bytes a cell
BATCH_PEAKS = 2**16  # and at about 100 bytes for each peak and keypoint


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Where parts are, and which of them each concept speaks of.

    - `xy[image part 2]`: `(x, y)` as shares of the width and height of what the model saw; free where not visible.
    - `visible[image part]`: whether the part is visible.
    - `own[concept part]`: whether the part belongs to the concept; left and right both do, and the nearer one counts.
      A concept without a part has no answer anywhere.
    - `present[image concept]`: whether the image shows the concept.
    - `sizes[image 2]`: width and height of what the model saw, before it was squeezed to the model's input, in any
      unit. Needed only for shares of the diagonal.

    Raises:
        InputError: Shapes do not fit, a mask is not bool, a visible keypoint lies outside 0 to 1, or a size is not
            finite and above 0.
    """

    xy: Float[Tensor, "image part 2"]
    visible: Bool[Tensor, "image part"]
    own: Bool[Tensor, "concept part"]
    present: Bool[Tensor, "image concept"]
    sizes: Float[Tensor, "image 2"] | None = None

    def __post_init__(self) -> None:
        """Check shapes and types, and that visible keypoints are shares."""
        for name in ("xy", "visible", "own", "present", "sizes"):
            if name != "sizes" or self.sizes is not None:
                check_type(getattr(self, name), torch.Tensor, name, "a tensor")
        images, parts = self.visible.shape if self.visible.ndim == 2 else (-1, -1)
        concepts = self.own.shape[0]
        wanted = {"xy": (images, parts, 2), "own": (concepts, parts), "present": (images, concepts)}
        wrong = [name for name, shape in wanted.items() if tuple(getattr(self, name).shape) != shape]
        if wrong or (self.sizes is not None and tuple(self.sizes.shape) != (images, 2)):
            given = {name: tuple(getattr(self, name).shape) for name in ("xy", "visible", "own", "present")}
            sizes = "" if self.sizes is None else f", sizes {tuple(self.sizes.shape)}"
            raise InputError(
                f"keypoints have shapes {given}{sizes}; expected xy[image part 2], visible[image part], "
                "own[concept part], present[image concept] and sizes[image 2]"
            )
        for name in ("visible", "own", "present"):
            if getattr(self, name).dtype != torch.bool:
                raise InputError(f"{name} has type {getattr(self, name).dtype}; expected torch.bool: compare it first")
        visible = self.xy[self.visible]
        if not bool(((visible >= 0) & (visible <= 1)).all()):
            raise InputError(
                "a visible keypoint lies outside 0 to 1; give shares of the width and height of what the model saw, "
                "and call a keypoint that was cut off not visible"
            )
        if self.sizes is not None and not bool((torch.isfinite(self.sizes) & (self.sizes > 0)).all()):
            raise InputError("sizes must be finite and above 0: the width and height of what the model saw")

    @cached_property
    def applies(self) -> Bool[Tensor, "image concept"]:
        """Where the concept is present and one of its keypoints visible."""
        return self.present & (self.visible.float() @ self.own.float().T > 0)

    def select(self, images: Int[Tensor, "some"] | slice) -> Keypoints:
        """Return the keypoints of some images.

        Args:
            images: Indices of images, `[some]`, or a slice.

        Returns:
            The keypoints of these images, in that order.
        """
        sizes = None if self.sizes is None else self.sizes[images]
        return Keypoints(self.xy[images], self.visible[images], self.own, self.present[images], sizes)


def check_keypoints(given: object, name: str = "keypoints") -> None:
    """Refuse what does not say where parts are.

    Args:
        given: What was given.
        name: What it is called.

    Raises:
        InputTypeError: It is no `Keypoints`.
    """
    check_type(given, Keypoints, name, "cl.metrics.Keypoints")


@dataclass(frozen=True, eq=False)
class _Peaks:
    """Highest cells, each with its image and concept; `weight` adds up to 1 over those of one map."""

    image: Int[Tensor, "peak"]
    concept: Int[Tensor, "peak"]
    xy: Float[Tensor, "peak 2"]
    weight: Float[Tensor, "peak"]


def keypoint_error(maps: MapsOrPeaks, keypoints: Keypoints, grid: tuple[int, int] = GRID) -> Score:
    """Return the keypoint alignment error: squared cells from the peak to the nearest keypoint of the concept's part.

    `min over visible own parts of (columns (x - x_part))^2 + (rows (y - y_part))^2`, lower is better. The name is
    Loc-CBM's, whose definition is not public; this reading is the one its numbers fit. **In cells of `grid`** (rows,
    columns), whatever the map's own grid: a finer map has finer peaks, in the same unit. At 7 x 7 a peak in the true
    cell has at most 0.5, the mean over random cells is about 10, and a peak that is always in the centre may be better
    than a trained one: put `centre_peaks`, `constant_peaks` and `uniform_maps` beside it, and `keypoint_swap`.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.
        grid: Rows and columns of the reference grid.

    Returns:
        `values[image concept]`, in squared cells.

    Raises:
        InputError: `grid` has no cells, maps or peaks and keypoints do not fit, or a value is not finite.
    """
    return _own_error(maps, keypoints, _cells(keypoints, grid), lambda apart: apart)


def keypoint_distance(maps: MapsOrPeaks, keypoints: Keypoints) -> Score:
    """Return the true distance to the nearest keypoint of the concept's part, as a share of the image's diagonal.

    0 to 1, lower is better. Near by `sizes`, where `keypoint_error` counts cells of a grid that may be squeezed.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.

    Returns:
        `values[image concept]`.

    Raises:
        InputError: `sizes` are missing, maps or peaks and keypoints do not fit, or a value is not finite.
    """
    return _own_error(maps, keypoints, _diagonals(keypoints), torch.sqrt)


def keypoint_pointing(maps: MapsOrPeaks, keypoints: Keypoints, share: float = 0.1) -> Score:
    """Return 1 where `keypoint_distance` is below `share`, else 0; higher is better.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.
        share: The greatest distance that counts, as a share of the diagonal.

    Returns:
        `values[image concept]`.

    Raises:
        InputError: `share` is not above 0 up to 1, `sizes` are missing, maps or peaks and keypoints
            do not fit, or a value is not finite.
    """
    check_number(share, "share", "a share of the diagonal, above 0 up to 1", lambda one: 0 < one <= 1)
    return _own_error(maps, keypoints, _diagonals(keypoints), lambda apart: (apart < share**2).double())


def keypoint_own(maps: MapsOrPeaks, keypoints: Keypoints) -> Score:
    """Return 1 where the visible keypoint nearest to the peak is of the concept's part, else 0; higher is better.

    Near by true distance, not by cells; of two keypoints equally near, the one listed first.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.

    Returns:
        `values[image concept]`.

    Raises:
        InputError: `sizes` are missing, maps or peaks and keypoints do not fit, or a value is not finite.
    """
    scale = _diagonals(keypoints)

    def owned(peaks: _Peaks) -> Tensor:
        nearest = _squared(peaks, keypoints, scale).argmin(1)
        return keypoints.own.cpu()[peaks.concept, nearest].double()

    return _score(maps, keypoints, owned)


def keypoint_swap(maps: MapsOrPeaks, keypoints: Keypoints, grid: tuple[int, int] = GRID, paired: bool = False) -> Score:
    """Return, one value for each image, how much nearer concepts point to their own part than to one another's.

    `mean over pairs (a, b) of the error of a's peak at b's part - mean over b of b's error at its own`, over concepts
    where `keypoint_error` applies and pairs whose parts differ; in squared cells of `grid`, higher is better. **0 is no
    knowledge of parts**, wherever the maps point: for maps that are all alike exactly so if `paired`, where the second
    mean counts b once for each pair, and nearly so without (-0.02 for the centre of CUB's birds), where it counts b
    once. Applies to images with such a pair.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.
        grid: Rows and columns of the reference grid.
        paired: Whether the second mean counts a concept once for each pair.

    Returns:
        `values[image 1]`, in squared cells.
    """
    check_flag(paired, "paired")
    table, group = error_by_part(maps, keypoints, grid)
    applies = keypoints.applies.cpu().double()
    member = torch.nn.functional.one_hot(group, table.shape[2]).double()
    weight = (applies @ member)[:, None] * (1 - member) * applies[..., None]  # of a's error at a part: its concepts b
    pairs = weight.sum((1, 2))
    counted = applies * (applies @ (1 - member @ member.T)) if paired else applies
    own = ((table * member).sum(2) * counted).sum(1) / counted.sum(1).clamp(min=1)
    some = pairs > 0
    swapped = (table * weight).sum((1, 2)) / pairs.clamp(min=1) - own
    return Score(torch.where(some, swapped, 0.0)[:, None], some[:, None])


def centre_distance(maps: MapsOrPeaks, keypoints: Keypoints, grid: tuple[int, int] = GRID) -> Score:
    """Return the squared cells of `grid` from the peak to the image's centre, for the pairs of `keypoint_error`.

    Neither high nor low is better. Read it beside the error: one that fell together with this one fell by centring.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.
        grid: Rows and columns of the reference grid.

    Returns:
        `values[image concept]`.
    """
    scale = _cells(keypoints, grid)
    return _score(maps, keypoints, lambda peaks: ((peaks.xy - 0.5) * scale[peaks.image]).square().sum(1))


def error_by_part(
    maps: MapsOrPeaks, keypoints: Keypoints, grid: tuple[int, int] = GRID
) -> tuple[Float[Tensor, "image concept group"], Int[Tensor, "concept"]]:
    """Return every concept's error at every part, and which part is each concept's own.

    A part here is a set of keypoints that some concept calls its own; 0 where none of them is visible.

    Args:
        maps: Maps or peaks.
        keypoints: Where the parts are.
        grid: Rows and columns of the reference grid.

    Returns:
        `error[image concept part]` in squared cells, and the index of each concept's own part.
    """
    check_keypoints(keypoints)
    rows, group = torch.unique(keypoints.own.cpu(), dim=0, return_inverse=True)
    scale = _cells(keypoints, grid)

    def at_each(peaks: _Peaks) -> Tensor:
        apart = _squared(peaks, keypoints, scale)
        return torch.stack([torch.where(row, apart, torch.inf).amin(1) for row in rows], dim=1)

    table = _expected(maps, keypoints, at_each, (len(rows),))
    return torch.where(torch.isfinite(table), table, 0.0), group


def _own_error(maps: MapsOrPeaks, keypoints: Keypoints, scale: Tensor, read: Callable[[Tensor], Tensor]) -> Score:
    """Return a score of what `read` makes of the squared distance to the nearest visible own keypoint."""
    own = keypoints.own.cpu()

    def nearest(peaks: _Peaks) -> Tensor:
        apart = _squared(peaks, keypoints, scale)
        return read(torch.where(own[peaks.concept], apart, torch.inf).amin(1))

    return _score(maps, keypoints, nearest)


def _score(maps: MapsOrPeaks, keypoints: Keypoints, value: Callable[[_Peaks], Tensor]) -> Score:
    """Return a score of `value[peak]`, looked at only where it applies."""
    applies = keypoints.applies.cpu()
    return Score(_expected(maps, keypoints, value, only=applies), applies)


def _squared(peaks: _Peaks, keypoints: Keypoints, scale: Tensor) -> Float[Tensor, "peak part"]:
    """Return squared distances, in units of `scale[image 2]`, to all keypoints; infinite where not visible."""
    xy, visible = keypoints.xy.cpu()[peaks.image].double(), keypoints.visible.cpu()[peaks.image]
    apart = ((peaks.xy[:, None] - xy) * scale[peaks.image][:, None]).square().sum(2)
    return torch.where(visible, apart, torch.inf)


def _cells(keypoints: Keypoints, grid: tuple[int, int]) -> Float[Tensor, "image 2"]:
    check_keypoints(keypoints)
    grid = check_size(grid, "grid")
    return torch.tensor([grid[1], grid[0]], dtype=torch.float64).expand(len(keypoints.visible), 2)


def _diagonals(keypoints: Keypoints) -> Float[Tensor, "image 2"]:
    check_keypoints(keypoints)
    if keypoints.sizes is None:
        raise InputError("a share of the diagonal needs sizes[image 2], the width and height of what the model saw")
    sizes = keypoints.sizes.cpu().double()
    return sizes / sizes.square().sum(1, keepdim=True).sqrt()


def _expected(
    maps: MapsOrPeaks,
    keypoints: Keypoints,
    value: Callable[[_Peaks], Tensor],
    more: tuple[int, ...] = (),
    only: Bool[Tensor, "image concept"] | None = None,
) -> Float[Tensor, "image concept *more"]:
    """Return the mean of `value[peak *more]` over the highest cells of each map; 0 outside of `only`."""
    given = maps_of(maps)
    shape = tuple(keypoints.present.shape)
    if tuple(given.shape[:2]) != shape or not (given.ndim == 4 or (given.ndim == 3 and given.shape[2] == 2)):
        raise InputError(
            f"got maps or peaks of shape {tuple(given.shape)} for {shape[0]} images and {shape[1]} concepts; expected "
            "maps[image concept height width] or peaks[image concept 2]"
        )
    wrong = int((~torch.isfinite(given)).sum())
    if wrong:
        raise InputError(f"{wrong} of {given.numel()} values of the maps or peaks are NaN or infinite; give numbers")
    found = torch.zeros(*shape, *more, dtype=torch.float64)
    for peaks in _pieces(given, torch.ones(shape, dtype=torch.bool) if only is None else only):
        weight = peaks.weight.reshape(-1, *(1 for _ in more))
        found.index_put_((peaks.image, peaks.concept), value(peaks) * weight, accumulate=True)
    return found


def _pieces(given: Tensor, only: Tensor) -> Iterator[_Peaks]:
    """Return the highest cells of maps, or the peaks given, a bounded number at a time."""
    if given.ndim == 3:
        for image, concept in (pairs.T for pairs in only.nonzero().split(BATCH_PEAKS)):
            yield _Peaks(image, concept, given[image, concept].double(), torch.ones(len(image), dtype=torch.float64))
        return
    height, width = given.shape[2:]
    step = max(1, BATCH_CELLS // max(1, given[:1].numel()))
    for start in range(0, len(given), step):
        maps = given[start : start + step]
        highest = maps == maps.amax((2, 3), keepdim=True)
        share = 1 / highest.sum((2, 3)).double()
        highest &= only[start : start + step, :, None, None]
        for cells in highest.nonzero().split(BATCH_PEAKS):
            image, concept, row, column = cells.T
            xy = torch.stack([(column.double() + 0.5) / width, (row.double() + 0.5) / height], dim=1)
            yield _Peaks(image + start, concept, xy, share[image, concept])
