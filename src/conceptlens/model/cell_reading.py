"""Which reading of a layer's output puts changes of the image where they were made (`cell_experiment`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.model.cell_experiment import IMAGES, LayerChanges, block_masks
from conceptlens.model.layout import Grid, possible_grids, same_proportions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# `placed`, once for each reading.
Place: TypeAlias = Callable[[LayerChanges, Grid], "Placement"]

# A reading passes where the mean share of right order (a cell in the block before one outside) is at least the first,
# and the second many standard deviations above what a random order of the cells gives: so many that hardly one of a
# network's hundreds of layers passes by chance. Plain are maps of four axes in the image's proportions, and tokens row
# by row behind those that the module declares; the many other readings (tokens elsewhere, another order, other strides
# on the two axes) have to be clearer.
NEEDED = {"plain": (0.7, 3.5), "other": (0.85, 5.0)}
# It has to be right for whole rows and for whole columns too: a matrix of attention between cells has rows in the
# image's order, and columns that are not.
MIN_SHARE_OF_AXIS = 0.6
# A reading that is not plain has to fit so much better than a plain one (correlation of change and block).
PLAIN_ADVANTAGE = 0.03
# A plain reading that fits so well is not doubted: no others are tried.
CLEAR_FIT = 0.97
# A reading below this share after this many blocks is given up.
_BLOCKS_FIRST, _MIN_SHARE_FIRST = 4, 0.6
# A map of four axes with at most so many cells is too coarse to be told from its changes alone.
COARSE_CELLS = 12
# Of each shape, so many layers that no likely reading fits clearly are tried with all readings.
SEARCHED_LAYERS = 8


@dataclass(frozen=True)
class Placement:
    """How far a reading of a layer puts changes where they were made.

    Args:
        share: Of all pairs of a cell in the block and one outside, the share in which the first changes more; the
            mean over blocks. Chance is .5.
        deviations: By how many standard deviations of a random order the share exceeds .5.
        rows: The same share for whole rows.
        columns: The same share for whole columns.
        fit: The correlation over cells of how much each changes and how much of it the block covers; the mean over
            blocks. It tells cells that are one place off, which the share hardly does.
    """

    share: float
    deviations: float
    rows: float = math.nan
    columns: float = math.nan
    fit: float = 0.0

    def passes(self, kind: str) -> bool:
        """Whether a reading counts as right.

        Args:
            kind: The kind of reading, a key of `NEEDED`.
        """
        share, deviations = NEEDED[kind]
        on_axes = min(self.rows, self.columns) >= MIN_SHARE_OF_AXIS
        return self.share >= share and self.deviations >= deviations and on_axes


def placed(changes: LayerChanges, grid: Grid, masks: Float[Tensor, "block 1 rows columns"]) -> Placement:
    """Return how far a grid puts the changes of a layer where they were made.

    How much a cell changes is taken relative to what the other blocks do to it, so that neither sensitive cells nor
    what changes all cells alike say anything.

    Args:
        changes: How the layer answers.
        grid: A reading of its output.
        masks: Where the blocks lie.
    """
    axis = grid.order.split().index("channel")
    cells = grid.read(changes.changes[axis])[:, 0]
    relative = cells / cells.mean(0).clamp_min(1e-30)
    blocks = _sampled_cells(_key(masks), grid.height, grid.width)
    share, deviations = _right_order(relative, blocks)
    if share < MIN_SHARE_OF_AXIS:
        return Placement(share, deviations)
    rows, _ = _right_order(relative.mean(2, keepdim=True), _sampled_cells(_key(masks), grid.height, 1))
    columns, _ = _right_order(relative.mean(1, keepdim=True), _sampled_cells(_key(masks), 1, grid.width))
    covered = _covered(_key(masks), grid.height, grid.width)
    both = torch.stack([relative.flatten(1), covered]) if relative[0].numel() > 1 else torch.ones(2, 1, 1, device="cpu")
    both = both - both.mean(2, keepdim=True)
    fit = F.cosine_similarity(both[0], both[1], dim=1).mean()
    return Placement(share, deviations, rows, columns, float(fit))


def _right_order(relative: Float[Tensor, "block height width"], sample: _Sample) -> tuple[float, float]:
    """Return how often a cell of the block changes more than one outside, and how far that is above chance.

    Where no block leaves cells outside, as along an axis of one cell, nothing speaks against the reading: 1. A block
    that changes nothing says nothing.
    """
    values = relative.flatten(1).contiguous()
    inside = values.gather(1, sample.inside)
    outside = values.gather(1, sample.outside).masked_fill_(sample.no_outside, math.inf).sort(1).values
    # For each cell inside, how many outside change less, and how many do not change more: equal ones count half.
    less, not_more = torch.searchsorted(outside, inside), torch.searchsorted(outside, inside, right=True)
    wins = (less + not_more).masked_fill_(sample.no_inside, 0).sum(1).tolist()
    shares, variances = [], []
    for won, most, (in_block, beside) in zip(wins, values.amax(1).tolist(), sample.counts, strict=True):
        if len(shares) == _BLOCKS_FIRST and sum(shares) < _BLOCKS_FIRST * _MIN_SHARE_FIRST:
            break  # the others cannot save it
        if in_block and beside and most > 0:  # a stride may step over a small block
            shares.append(won / (2 * in_block * beside))
            variances.append((in_block + beside + 1) / (12 * in_block * beside))
    if not shares:
        return 1.0, math.inf
    share = sum(shares) / len(shares)
    return share, (share - 0.5) * len(shares) / math.sqrt(sum(variances))


def _key(masks: Tensor) -> tuple[int, int]:
    return masks.shape[2], masks.shape[3]


@lru_cache(maxsize=256)
def _covered(size: tuple[int, int], height: int, width: int) -> Float[Tensor, "block cell"]:
    """Return how much of each cell each block covers."""
    return F.adaptive_avg_pool2d(block_masks(size), (height, width)).flatten(1)


@dataclass(frozen=True, eq=False)
class _Sample:
    """For each block the cells that it covers most and those that it does not touch, some hundred at most.

    Args:
        inside, outside: These cells, a row for each block; shorter rows are filled up.
        no_inside, no_outside: What in them fills rows up.
        counts: How many cells there are of each.
    """

    inside: Int[Tensor, "block covered"]
    no_inside: Bool[Tensor, "block covered"]
    outside: Int[Tensor, "block untouched"]
    no_outside: Bool[Tensor, "block untouched"]
    counts: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def _sampled_cells(size: tuple[int, int], height: int, width: int) -> _Sample:
    covered = _covered(size, height, width)
    inside = [_some((share >= share.max() / 2).nonzero()[:, 0], 96) for share in covered]
    outside = [_some((share == 0).nonzero()[:, 0], 256) for share in covered]
    counts = tuple((len(some), len(others)) for some, others in zip(inside, outside, strict=True))
    return _Sample(*_filled_up(inside), *_filled_up(outside), counts)


def _filled_up(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return rows of cells as one table, and which of its entries fill shorter rows up."""
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return table.clamp_min(0), table < 0


def _some(cells: Tensor, at_most: int) -> Tensor:
    return cells[torch.linspace(0, len(cells) - 1, at_most).round().long()] if len(cells) > at_most else cells


def find_grids(
    changes: Mapping[str, LayerChanges],
    masks: Float[Tensor, "block 1 rows columns"],
    prefix: int = 0,
    channels_last: bool | None = None,
) -> tuple[dict[str, Grid], dict[str, str]]:
    """Return how each layer is read as cells, and of the others why they are not.

    Args:
        changes: How each layer answers to changed blocks.
        masks: Where the blocks lie.
        prefix: How many tokens stand before those of the cells, as far as the module says so.
        channels_last: The order of outputs of four axes, where it is told.

    Returns:
        The grids by layer, and the reasons by layer, in words.
    """
    grids: dict[str, Grid] = {}
    best: dict[str, Placement] = {}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, one in changes.items():
        if one.problem is None:
            by_shape.setdefault(one.shape, []).append(name)
    place = cache(lambda one, grid: placed(one, grid, masks))  # layers that hand on the same have the same changes
    for names in by_shape.values():
        _read_alike(names, changes, masks, (prefix, channels_last), grids, best, place)
    _read_as_finer_maps(changes, masks, (prefix, channels_last), grids)
    refused = {name: one.problem or _unplaced(best.get(name)) for name, one in changes.items() if name not in grids}
    return grids, refused


def _read_alike(
    names: list[str],
    changes: Mapping[str, LayerChanges],
    masks: Tensor,
    told: tuple[int, bool | None],
    grids: dict[str, Grid],
    best: dict[str, Placement],
    place: Place,
) -> None:
    """Find the grids of layers whose outputs have one shape: likely readings and those found first, then all."""
    found: list[Grid] = []
    searches = SEARCHED_LAYERS
    for name in names:
        tried = dict.fromkeys([*found, *_some_grids(changes[name], masks, told, likely_only=True)])
        read = _best_reading(changes[name], tried, masks, told[0], place)
        doubtful = read is None or _kind(read[0], told[0], masks) == "other" or read[1].fit < CLEAR_FIT
        if doubtful and searches and changes[name].shape[1:] != (1, 1):
            searches -= 1
            tried |= dict.fromkeys(_some_grids(changes[name], masks, told, likely_only=False))
            read = _best_reading(changes[name], tried, masks, told[0], place)
        if read is None:
            continue
        best[name] = read[1]
        if read[1].passes(_kind(read[0], told[0], masks)):
            grids[name] = read[0]
            found.extend([] if read[0] in found else [read[0]])


def _read_as_finer_maps(
    changes: Mapping[str, LayerChanges], masks: Tensor, told: tuple[int, bool | None], grids: dict[str, Grid]
) -> None:
    """Read coarse maps, and maps that overflow for noise, in the one order of axes that fits and that a finer map has.

    In a map of 2 x 2 cells of which each sees the whole image, no change is found at its place, however it is read.
    """
    finer = {
        grid.order for grid in grids.values() if "token" not in grid.order and grid.height * grid.width > COARSE_CELLS
    }
    for name, one in changes.items():
        coarse = one.problem is None or one.overflows
        if name in grids or not coarse or len(one.shape) != 4 or one.image_axis is None:
            continue
        plain = [grid for grid in _some_grids(one, masks, told, likely_only=True) if grid.order in finer]
        if len(plain) == 1 and (one.overflows or plain[0].height * plain[0].width <= COARSE_CELLS):
            grids[name] = plain[0]


def _best_reading(
    changes: LayerChanges, grids: Iterable[Grid], masks: Tensor, prefix: int, place: Place
) -> tuple[Grid, Placement] | None:
    """Return the reading that fits best, of those that pass where any does, of equal ones the first.

    A plain reading that passes and fits clearly ends the search.
    """
    best: tuple[Grid, Placement] | None = None
    best_rank: tuple[bool, float, float] | None = None
    for grid in grids:
        kind, found = _kind(grid, prefix, masks), place(changes, grid)
        plain = kind != "other"
        if plain and found.fit >= CLEAR_FIT and found.passes(kind):
            return grid, found
        rank = found.passes(kind), found.fit + PLAIN_ADVANTAGE * plain, found.share
        if best_rank is None or rank > best_rank:
            best, best_rank = (grid, found), rank
    return best


def _kind(grid: Grid, prefix: int, masks: Tensor) -> str:
    if "token" not in grid.order:
        # Pixels of a patch by patches, as in MobileViT, pass for rows by columns where there are few of them.
        like_image = same_proportions((grid.height, grid.width), _key(masks), loose=True)
        return "plain" if "height width" in grid.order and like_image else "other"
    plain = grid.arrangement.kind == "rows" and grid.suffix == grid.middle == 0 and grid.prefix in (0, prefix)
    return "plain" if plain else "other"


def _some_grids(changes: LayerChanges, masks: Tensor, told: tuple[int, bool | None], likely_only: bool) -> list[Grid]:
    prefix, channels_last = told
    assert changes.image_axis is not None
    size = (IMAGES, *_key(masks))
    grids = [
        grid
        for grid in possible_grids(changes.shape, size, changes.image_axis, prefix)
        if channels_last is None or len(changes.shape) != 4 or (grid.order.split()[-1] == "channel") == channels_last
    ]
    if not likely_only:
        return grids
    return [grid for grid in grids if _kind(grid, prefix, masks) != "other"][:4]


def _unplaced(placement: Placement | None) -> str:
    if placement is None:
        return "no rows and columns of cells in the proportions of the image can be made of its shape"
    seen = f"{placement.share:.0%} of the pairs, {placement.deviations:.1f} standard deviations above chance"
    if placement.share >= MIN_SHARE_OF_AXIS:
        seen += f", {placement.rows:.0%} for whole rows and {placement.columns:.0%} for whole columns"
    return (
        "a change in one block of the image is not found at that block: cells of the block change more than others in "
        f"{seen}"
    )
