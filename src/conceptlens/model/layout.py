"""How a layer's raw output becomes `image channel height width`: which axis is which, and where each cell stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

Order = Literal[
    "image channel height width",
    "image height width channel",
    "image channel width height",
    "image width height channel",
    "image token channel",
    "token image channel",
    "image channel token",
]
MAP_ORDERS: tuple[Order, ...] = (
    "image channel height width",
    "image height width channel",
    "image channel width height",
    "image width height channel",
)
TOKEN_ORDERS: tuple[Order, ...] = ("image token channel", "token image channel", "image channel token")

# Parameters by which the families of vision transformers hold the tokens that stand before the patches.
_PREFIX_PARAMETERS = {
    "cls_token", "class_token", "class_embedding", "reg_token", "register_token", "register_tokens",
    "dist_token", "distillation_token",
}  # fmt: skip
# No more tokens than these are taken for tokens that stand beside the cells of an image without being told.
MAX_EXTRA_TOKENS = 128
MAX_MIDDLE_TOKENS = 16


@dataclass(frozen=True)
class Arrangement:
    """In which order the cells of an image follow each other in a sequence of tokens.

    Args:
        kind: `rows`: row by row. `columns`: column by column. `windows`: window by window, each row by row. `halved`:
            the image is halved along both axes `size` times, coarse halves first (Morton order), what is left row by
            row. `interleaved`: the same, fine halves first, as in Hiera, whose pooling takes neighbouring tokens.
        size: Rows and columns of a window, or how often the image is halved.
    """

    kind: Literal["rows", "columns", "windows", "halved", "interleaved"] = "rows"
    size: int = 1

    def numbers(self, height: int, width: int) -> Tensor | None:
        """Return the place in the sequence of each cell, row by row; `None` where the image cannot be divided so.

        Args:
            height: Rows of cells.
            width: Columns of cells.
        """
        places = torch.arange(height * width, device="cpu")
        if self.kind == "rows":
            return places
        if self.kind == "columns":
            return places.view(width, height).T.flatten()
        part = self.size if self.kind == "windows" else 2**self.size
        if height % part or width % part:
            return None
        if self.kind == "windows":
            return _in_axes(places, (height // part, width // part, part, part), (0, 2, 1, 3))
        rest, halves = (height // part, width // part), (2, 2) * self.size
        # Axes of the sequence: (row half, column half) for each level, and rows and columns of what is left.
        levels = [(2 * level, 2 * level + 1) for level in range(self.size)]
        if self.kind == "interleaved":
            last = 2 * self.size
            rows = [last, *(row for row, _ in reversed(levels))]
            columns = [last + 1, *(column for _, column in reversed(levels))]
            return _in_axes(places, (*halves, *rest), (*rows, *columns))
        rows = [row for row, _ in levels] + [2 * self.size]
        columns = [column for _, column in levels] + [2 * self.size + 1]
        return _in_axes(places, (*halves, *rest), (*rows, *columns))


def _in_axes(places: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    return places.view(shape).permute(axes).flatten()


@dataclass(frozen=True)
class Grid:
    """Where the cells of an image lie in one layer's output, and how to read and write them.

    Args:
        order: What the axes of the output are.
        height: Rows of cells.
        width: Columns of cells.
        channels: Entries of a cell.
        prefix: Tokens that stand before the cells (class, registers, distillation).
        suffix: Tokens that stand behind the cells.
        middle: Tokens that stand between the two halves of the cells.
        arrangement: In which order the cells follow each other, where they are tokens.
    """

    order: Order
    height: int
    width: int
    channels: int
    prefix: int = 0
    suffix: int = 0
    middle: int = 0
    arrangement: Arrangement = Arrangement()

    @property
    def image_axis(self) -> int:
        """The axis of the images in the output."""
        return self.order.split().index("image")

    def read(self, raw: Tensor) -> Tensor:
        """Return the cells as `... image channel height width`; leading axes are kept, other tokens dropped."""
        axes = self.order.split()
        if "token" in axes:
            axis = axes.index("token") - len(axes)
            raw = self._cells_of(raw, axis).unflatten(axis, (self.height, self.width))
            axes[axis : axis + 1 or None] = ["height", "width"]
        lead = raw.ndim - len(axes)
        places = [lead + axes.index(name) for name in ("image", "channel", "height", "width")]
        return raw.permute(*range(lead), *places)

    def write(self, raw: Tensor, cells: Tensor) -> Tensor:
        """Return a copy of `raw` whose cells are `cells[image channel height width]`; other tokens stay."""
        axes, cell_axes = self.order.split(), ["image", "channel", "height", "width"]
        cells = cells.to(raw.dtype)
        if "token" not in axes:
            return cells.permute(*(cell_axes.index(name) for name in axes)).contiguous()
        cells = cells.flatten(2).permute(*(["image", "channel", "token"].index(name) for name in axes))
        axis, index = axes.index("token"), self._token_index()
        if index is None:
            written = raw.clone()
            written.narrow(axis, self.prefix, self.height * self.width).copy_(cells)
            return written
        return raw.index_copy(axis, index.to(raw.device), cells)

    def repeat(self, raw: Tensor, times: int) -> Tensor:
        """Return `raw` with its one image repeated `times` times along the image axis."""
        return raw.repeat_interleave(times, dim=self.image_axis)

    def at(self, shape: tuple[int, ...], image: tuple[int, int, int]) -> Grid | None:
        """Return how the same layer is read in another batch or at another size; `None` where its order does not fit.

        Args:
            shape: The shape of the layer's output there.
            image: The number of images there, and the rows and columns of each.
        """
        axes = self.order.split()
        if len(shape) != len(axes) or shape[self.image_axis] != image[0]:
            return None
        size = dict(zip(axes, shape, strict=True))
        if "token" not in size:
            return replace(self, height=size["height"], width=size["width"], channels=size["channel"])
        tokens = size["token"] - self.prefix - self.suffix - self.middle
        same = tokens == self.height * self.width and self._fits(image)
        cells = (self.height, self.width) if same else _factor(tokens, image[1:])
        if cells is None or self.arrangement.numbers(*cells) is None:
            return None
        return replace(self, height=cells[0], width=cells[1], channels=size["channel"])

    def _fits(self, image: tuple[int, int, int]) -> bool:
        return same_proportions((self.height, self.width), (image[1], image[2]), loose=True)

    def _cells_of(self, raw: Tensor, axis: int) -> Tensor:
        """Return the tokens that are cells, row by row."""
        index = self._token_index()
        if index is None:
            return raw.narrow(axis, self.prefix, self.height * self.width)
        return raw.index_select(axis, index.to(raw.device))

    def _token_index(self) -> Tensor | None:
        return _token_index(self.height, self.width, self.prefix, self.middle, self.arrangement)


@lru_cache(maxsize=256)
def _token_index(height: int, width: int, prefix: int, middle: int, arrangement: Arrangement) -> Tensor | None:
    """Return the token of each cell, row by row; `None` where the cells are one run of tokens, row by row."""
    if not middle and arrangement.kind == "rows":
        return None
    numbers = arrangement.numbers(height, width)
    assert numbers is not None
    half = height * width // 2
    return prefix + numbers + middle * (numbers >= half)


def possible_grids(
    shape: tuple[int, ...], image: tuple[int, int, int], image_axis: int, prefix: int = 0
) -> Iterator[Grid]:
    """Yield the ways in which an output of `shape` can be read as cells, likely ones first.

    Args:
        shape: The shape of the raw output.
        image: The number of images, and the rows and columns of each.
        image_axis: Which axis is that of the images.
        prefix: How many tokens stand before those of the cells, as far as the module says so.
    """
    size = (image[1], image[2])
    if len(shape) == 4:
        found = [_map_grid(order, shape) for order in MAP_ORDERS if image_axis == 0]
        inside = [grid for grid in found if _may_have_strides((grid.height, grid.width), size)]
        yield from sorted(inside, key=lambda grid: not same_proportions((grid.height, grid.width), size, loose=True))
    if len(shape) == 3:
        plain = [
            grid
            for order in TOKEN_ORDERS
            if order.split()[image_axis] == "image"
            for grid in _token_grids(order, shape, size, prefix)
        ]
        yield from plain
        for grid in plain:
            if grid.middle == 0 and grid.prefix + grid.suffix in (0, 1, prefix):
                ways = (replace(grid, arrangement=arrangement) for arrangement in _ARRANGEMENTS)
                yield from (one for one in ways if one.arrangement.numbers(one.height, one.width) is not None)


_ARRANGEMENTS = (
    Arrangement("columns"),
    *(Arrangement("interleaved", levels) for levels in (1, 2, 3, 4)),
    *(Arrangement("halved", levels) for levels in (1, 2, 3, 4)),
    *(Arrangement("windows", side) for side in (2, 3, 4, 5, 6, 7, 8, 12, 14, 16)),
)


def _map_grid(order: Order, shape: tuple[int, ...]) -> Grid:
    size = dict(zip(order.split(), shape, strict=True))
    return Grid(order, size["height"], size["width"], size["channel"])


def _token_grids(order: Order, shape: tuple[int, ...], image: tuple[int, int], prefix: int) -> Iterator[Grid]:
    """Yield grids in the proportions of the image, row by row, with the other tokens before, behind or amidst them."""
    size = dict(zip(order.split(), shape, strict=True))
    tokens, channels = size["token"], size["channel"]
    for extra in dict.fromkeys([min(prefix, tokens), *range(min(tokens, MAX_EXTRA_TOKENS + 1))]):
        cells = _factor(tokens - extra, image)
        if cells is None or cells[0] * cells[1] < extra:
            continue
        class_token = min(max(1, prefix), extra)
        for before in dict.fromkeys((extra, class_token, 0)):
            yield Grid(order, *cells, channels, prefix=before, suffix=extra - before)
        if 0 < extra <= MAX_MIDDLE_TOKENS:
            yield Grid(order, *cells, channels, middle=extra)


def prefix_tokens(module: nn.Module) -> int:
    """Return how many tokens stand before the patches, as far as a module says so: class, registers, distillation.

    timm says so itself (`num_prefix_tokens`); elsewhere the parameters that hold such tokens are counted.
    """
    declared = [getattr(part, "num_prefix_tokens", None) for part in module.modules()]
    counts = [count for count in declared if isinstance(count, int)]
    if counts:
        return max(counts)
    found: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in _PREFIX_PARAMETERS:
            found[leaf] = parameter.shape[-2] if parameter.ndim > 1 else 1
    return sum(found.values())


def _may_have_strides(cells: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether cells are no finer than pixels, and the strides of the two axes differ at most by a factor of four."""
    if min(cells) < 1 or cells[0] > image[0] or cells[1] > image[1]:
        return False
    strides = image[0] / cells[0], image[1] / cells[1]
    return max(strides) <= 4 * min(strides)


@lru_cache(maxsize=4096)
def _factor(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Return the one `(rows, columns)` of `tokens` cells with the proportions of `image`, or None."""
    found = [
        (rows, tokens // rows)
        for rows in range(1, tokens + 1)
        if tokens % rows == 0 and same_proportions((rows, tokens // rows), image)
    ]
    if len(found) > 1:
        exact = [(r, c) for r, c in found if r * image[1] == c * image[0]]
        found = exact or found
    return found[0] if len(found) == 1 else None


def same_proportions(cells: tuple[int, int], image: tuple[int, int], loose: bool = False) -> bool:
    """Whether one stride, rounded the same way on both axes, gives `cells` from `image`.

    Args:
        cells: Rows and columns of cells.
        image: Rows and columns of the image.
        loose: Whether a cell may be lost on each axis to unpadded convolutions.
    """
    if min(cells) < 1 or cells[0] > image[0] or cells[1] > image[1]:
        return False
    down = [(size / (n + 1), size / n) for n, size in zip(cells, image, strict=True)]
    up = [(size / n, size / (n - 1) if n > 1 else math.inf) for n, size in zip(cells, image, strict=True)]
    lost = [(size / (n + 2), size / (n - 1) if n > 1 else math.inf) for n, size in zip(cells, image, strict=True)]
    return any(
        max(a[0], b[0]) < min(a[1], b[1]) or a[1] == b[1] or a[0] == b[0]
        for a, b in ([down, up, lost] if loose else [down, up])
    )
