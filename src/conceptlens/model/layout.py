"""How a layer's raw output becomes `image channel height width`, found from shapes and refused where unclear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from conceptlens.io.errors import InputError

Order = Literal[
    "image channel height width", "image height width channel", "image token channel", "token image channel"
]

# Parameters by which the families of vision transformers hold the tokens that stand before the patches.
_PREFIX_PARAMETERS = {
    "cls_token", "class_token", "class_embedding", "reg_token", "register_token", "register_tokens",
    "dist_token", "distillation_token",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Where the cells of an image lie in one layer's output, and how to read and write them."""

    order: Order
    height: int
    width: int
    channels: int
    prefix: int = 0

    def read(self, raw: Tensor) -> Tensor:
        """Return the cells as `... image channel height width`; leading axes are kept, prefix tokens dropped."""
        match self.order:
            case "image channel height width":
                return raw
            case "image height width channel":
                return rearrange(raw, "... n h w c -> ... n c h w")
            case "image token channel":
                return rearrange(raw[..., self.prefix :, :], "... n (h w) c -> ... n c h w", h=self.height)
            case "token image channel":
                return rearrange(raw[..., self.prefix :, :, :], "... (h w) n c -> ... n c h w", h=self.height)

    def write(self, raw: Tensor, cells: Tensor) -> Tensor:
        """Return a copy of `raw` whose cells are `cells[image channel height width]`; prefix tokens stay."""
        match self.order:
            case "image channel height width":
                return cells.to(raw.dtype).contiguous()
            case "image height width channel":
                return rearrange(cells, "n c h w -> n h w c").to(raw.dtype).contiguous()
            case "image token channel":
                written = raw.clone()
                written[:, self.prefix :] = rearrange(cells, "n c h w -> n (h w) c").to(raw.dtype)
                return written
            case "token image channel":
                written = raw.clone()
                written[self.prefix :] = rearrange(cells, "n c h w -> (h w) n c").to(raw.dtype)
                return written

    def repeat(self, raw: Tensor, times: int) -> Tensor:
        """Return `raw` with its one image repeated `times` times along the image axis."""
        axis = 1 if self.order == "token image channel" else 0
        return raw.repeat_interleave(times, dim=axis)


def find_grid(
    shape: tuple[int, ...],
    image: tuple[int, int, int],
    prefix: int | None = None,
    channels_last: bool | None = None,
    known: Grid | None = None,
) -> Grid:
    """Return the grid of an output of `shape` for a batch of `image = (images, height, width)`.

    Four axes are channels-first or channels-last, whichever gives cells in the image's own proportions; three axes
    are tokens, less the `prefix` tokens (class, registers, distillation) that the model declares.

    Args:
        shape: The shape of the raw output.
        image: The number of images, and the rows and columns of each.
        prefix: How many tokens stand before those of the cells.
        channels_last: The order of four axes, where it is known.
        known: How the same layer was read in another batch or at another size: its order of axes and its prefix are
            kept, whatever the new shape would suggest.

    Raises:
        InputError: No reading fits, or more than one: an unknown layout is never guessed.
    """
    found = None if known is None else _as_known(shape, image, known)
    if found is not None:
        return found
    if len(shape) == 4:
        return _find_map(shape, image, channels_last)
    if len(shape) == 3:
        return _find_tokens(shape, image, prefix)
    raise InputError(f"an output of shape {shape} has no grid of cells; expected three or four axes")


def prefix_tokens(module: nn.Module) -> int:
    """Return how many tokens stand before the patches: class, registers, distillation.

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


def _as_known(shape: tuple[int, ...], image: tuple[int, int, int], known: Grid) -> Grid | None:
    """Return the grid of `shape` in the order of `known`; `None` where it does not fit that order."""
    axes = known.order.split()
    if len(shape) != len(axes) or shape[axes.index("image")] != image[0]:
        return None
    size = dict(zip(axes, shape, strict=True))
    if "token" not in size:
        return Grid(known.order, size["height"], size["width"], size["channel"])
    cells = _factor(size["token"] - known.prefix, (image[1], image[2]))
    return None if cells is None else Grid(known.order, *cells, channels=size["channel"], prefix=known.prefix)


def _find_map(shape: tuple[int, ...], image: tuple[int, int, int], channels_last: bool | None) -> Grid:
    images, height, width = image
    first = last = False
    for loose in (False, True):  # a reading that needs no allowance goes before one that does
        first = shape[0] == images and _same_proportions((shape[2], shape[3]), (height, width), loose)
        last = shape[0] == images and _same_proportions((shape[1], shape[2]), (height, width), loose)
        if channels_last is not None:
            first, last = first and not channels_last, last and channels_last
        if first and not last:
            return Grid("image channel height width", shape[2], shape[3], shape[1])
        if last and not first:
            return Grid("image height width channel", shape[1], shape[2], shape[3])
        if first and last:
            break
    what = "both channels-first and channels-last" if first else "neither channels-first nor channels-last"
    raise InputError(
        f"an output of shape {shape} fits {what} for {images} images of {height} x {width}; "
        "say which with Backbone(..., channels_last=True or False)"
    )


def _find_tokens(shape: tuple[int, ...], image: tuple[int, int, int], prefix: int | None) -> Grid:
    images, height, width = image
    sequence_first = shape[1] == images and shape[0] != images
    if not sequence_first and shape[0] != images:
        raise InputError(f"an output of shape {shape} has no axis for the {images} images")
    tokens = shape[0] if sequence_first else shape[1]
    order: Order = "token image channel" if sequence_first else "image token channel"
    for skip in dict.fromkeys([prefix or 0, 0]):
        cells = _factor(tokens - skip, (height, width))
        if cells is not None:
            return Grid(order, *cells, channels=shape[2], prefix=skip)
    raise InputError(
        f"{tokens} tokens for a {height} x {width} image do not form a grid after {prefix or 0} prefix tokens"
        + _prefix_hint(tokens, (height, width))
    )


def _prefix_hint(tokens: int, image: tuple[int, int]) -> str:
    for skip in range(1, min(tokens, 17)):
        cells = _factor(tokens - skip, image)
        if cells is not None and min(cells) > 1:
            grid = f"a {cells[0]} x {cells[1]} grid"
            return f"; if the first {skip} stand before {grid}, say Backbone(..., prefix_tokens={skip})"
    return ""


def _factor(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Return the one `(rows, columns)` of `tokens` cells with the proportions of `image`, or None."""
    found = [
        (rows, tokens // rows)
        for rows in range(1, tokens + 1)
        if tokens % rows == 0 and _same_proportions((rows, tokens // rows), image)
    ]
    if len(found) > 1:
        exact = [(r, c) for r, c in found if r * image[1] == c * image[0]]
        found = exact or found
    return found[0] if len(found) == 1 else None


def _same_proportions(cells: tuple[int, int], image: tuple[int, int], loose: bool = False) -> bool:
    """Whether one stride, rounded the same way on both axes, gives `cells` from `image`.

    `loose` also allows a cell lost on each axis to unpadded convolutions.
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
