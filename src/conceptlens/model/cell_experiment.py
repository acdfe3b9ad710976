"""Where the cells of each layer lie in the image, found by an experiment: images that differ in one block.

A cell that lies in a block changes more than others when the block changes. So of all the ways to read a layer's
output as rows and columns of cells, the right one is that in which changes are found where they were made. What is
found nowhere is no grid of cells, whatever its shape: vectors of a decoder's queries, matrices of attention, tokens
that were shuffled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.model.forward import forward
from conceptlens.model.model_input import ModelInput

if TYPE_CHECKING:
    from jaxtyping import Float

Kept = TypeVar("Kept")

# Centre (row, column) and side of the block in which each changed image differs, as shares of the image: in all parts
# of both axes, away from the diagonal so that a swap of the axes shows, and on no regular grid. Two sizes.
BLOCKS = (
    (0.20, 0.62, 0.28),
    (0.78, 0.24, 0.28),
    (0.45, 0.83, 0.28),
    (0.86, 0.57, 0.28),
    (0.27, 0.16, 0.28),
    (0.36, 0.93, 0.13),
    (0.92, 0.33, 0.13),
    (0.62, 0.09, 0.13),
)
# The base image twice, and one image for each block.
IMAGES = 2 + len(BLOCKS)
# The same image twice may differ by this share of what a block changes, and so may an image alone.
SAME_IMAGE_TOLERANCE = 0.02
# How far probabilities that were rounded, or kept from 0, may be from a sum of 1.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LayerChanges:
    """How one layer answers to changed blocks.

    Args:
        shape: The shape of its output for the batch of the experiment.
        image_axis: Which axis is that of the images; `None` where there is none.
        changes: For each axis that may be that of the channels, how much each entry changes with each block: the
            length along that axis of the difference to the base image, with the axes of the output.
        problem: Why the layer cannot be read, in words; `None` where nothing speaks against it.
        overflows: Whether the problem is that values are not finite.
        constant: Whether the problem is that it does not depend on the image.
        base: What the layer gives for the first image, with the axes of the output.
    """

    shape: tuple[int, ...]
    image_axis: int | None
    changes: Mapping[int, Tensor]
    problem: str | None = None
    overflows: bool = False
    constant: bool = False
    base: Tensor | None = None


def changed_images(
    colours: int, size: tuple[int, int]
) -> tuple[Float[Tensor, "image colour rows columns"], Float[Tensor, "block 1 rows columns"]]:
    """Return seeded noise twice and with each of `BLOCKS` replaced, and where these lie.

    Args:
        colours: Channels of the images.
        size: Their rows and columns.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    device = torch.device("cpu")  # the same images wherever the caller makes tensors by default

    def noise() -> Tensor:
        """Fine and coarse, so that neighbouring cells differ and stay different through convolutions."""
        fine = torch.randn(1, colours, *size, generator=generator, device=device)
        coarse = torch.randn(1, colours, 6, 7, generator=generator, device=device)
        return fine + 2 * F.interpolate(coarse, size=size, mode="bilinear")

    base, masks = noise(), block_masks(size)
    changed = [torch.where(mask > 0, 1.5 * noise() + 0.5, base) for mask in masks]
    return torch.cat([base, base, *changed]), masks


def block_masks(size: tuple[int, int]) -> Float[Tensor, "block 1 rows columns"]:
    """Return where each of `BLOCKS` lies: one within, zero outside.

    Args:
        size: Rows and columns of the images.
    """
    masks = torch.zeros(len(BLOCKS), 1, *size, device="cpu")
    for mask, (centre_row, centre_column, side) in zip(masks, BLOCKS, strict=True):
        rows, columns = (_span(c, side, n) for c, n in zip((centre_row, centre_column), size, strict=True))
        mask[..., rows, columns] = 1
    return masks


def _span(centre: float, side: float, length: int) -> slice:
    first = max(0, round((centre - side / 2) * length))
    return slice(first, min(length, max(first + 1, round((centre + side / 2) * length))))


@dataclass(frozen=True, eq=False)
class Experiment:
    """What the images of `changed_images` show of a module.

    Args:
        layers: How each layer answers.
        in_batches: Whether all images were run in one batch: a module that fails on it, as exported ones do, gets one
            image at a time.
        outputs: What the module returned: for all images, or one by one.
    """

    layers: Mapping[str, LayerChanges]
    in_batches: bool
    outputs: Sequence[Any]

    def answers_alike(self, read: Callable[[Any, int], Tensor]) -> bool:
        """Whether the answer is the same for the same image twice, as far as it depends on the image at all.

        Args:
            read: From what the module returned, and for how many images, to `(image, ...)`.
        """
        answers = self._answers(read)
        if len(answers) != IMAGES:
            return True
        differs = _same_twice(_squared_differences(answers, 0))
        return not SAME_IMAGE_TOLERANCE < differs < math.inf

    def answers_within_one(self, read: Callable[[Any, int], Tensor]) -> bool:
        """Whether all numbers of the answer lie between 0 and 1, as probabilities do and logits hardly ever.

        Args:
            read: From what the module returned, and for how many images, to `(image, ...)`.
        """
        answers = self._answers(read)
        return len(answers) == IMAGES and within_one(answers)

    def answers_sum_to_one(self, read: Callable[[Any, int], Tensor]) -> bool:
        """Whether the numbers of every answer are shares of 1, as probabilities of one class of many are.

        Args:
            read: From what the module returned, and for how many images, to `(image, ...)`.
        """
        answers = self._answers(read)
        if answers.ndim != 2 or answers.shape[1] < 2 or len(answers) != IMAGES:
            return False
        return within_one(answers) and bool(((answers.float().sum(1) - 1).abs() < SUM_TOLERANCE).all())

    def _answers(self, read: Callable[[Any, int], Tensor]) -> Tensor:
        images = IMAGES if self.in_batches else 1
        return torch.cat([read(output, images).detach() for output in self.outputs])


def within_one(answers: Tensor) -> bool:
    """Whether all numbers lie between 0 and 1.

    Args:
        answers: Numbers of any shape.
    """
    return bool(((answers >= 0) & (answers <= 1)).all())


def layer_changes(module: nn.Module, given: ModelInput, names: Iterable[str]) -> Experiment:
    """Run the module once on the images of `changed_images`, without a graph, and return how each layer answers.

    Args:
        module: The module; it is left as it is.
        given: The images, in the order of `changed_images`, and the other inputs.
        names: Names of layers. Those that run more than once or give no floating tensor are left out.
    """
    names = tuple(names)
    try:
        found, output = _run(module, given, names, lambda tensor: _changes_of(tensor.detach()))
        return Experiment(found, True, (output,))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError):
        single = [
            _run(module, given.of_one(image, given.images[image : image + 1]), names, lambda t: t.detach().clone())
            for image in range(IMAGES)
        ]
    alone = [found for found, _ in single]
    changes = {
        name: _changes_of(torch.cat([one[name] for one in alone]))
        for name, first in alone[0].items()
        if first.ndim and len(first) == 1 and all(name in one and one[name].shape == first.shape for one in alone)
    }
    return Experiment(changes, False, tuple(output for _, output in single))


def _run(
    module: nn.Module, given: ModelInput, names: tuple[str, ...], keep: Callable[[Tensor], Kept]
) -> tuple[dict[str, Kept], Any]:
    """Run the module without a graph; return what `keep` makes of each layer that runs once, and its output."""
    found: dict[str, Kept] = {}
    times: Counter[str] = Counter()
    last: tuple[Tensor, int, Kept] | None = None

    def watch(name: str, tensor: Tensor) -> None:
        nonlocal last
        times[name] += 1
        if not tensor.is_floating_point() or times[name] > 1:
            return
        # A block hands on what its last layer put out, and an identity what it was given: the same, once looked at.
        changed = -1 if tensor.is_inference() else tensor._version
        if last is None or last[0] is not tensor or last[1] != changed or changed < 0:
            last = tensor, changed, keep(tensor)
        found[name] = last[2]

    with torch.no_grad():
        output = forward(module, given, {name: partial(watch, name) for name in names})
    return {name: kept for name, kept in found.items() if times[name] == 1}, output


def _changes_of(raw: Tensor) -> LayerChanges:
    shape = tuple(raw.shape)
    if raw.ndim not in (3, 4):
        return LayerChanges(shape, None, {}, f"its output of shape {shape} has {raw.ndim} axes; cells have 3 or 4")
    looked_at = (0, 1) if raw.ndim == 3 else (0,)
    axes = [axis for axis in looked_at if shape[axis] == IMAGES]
    if not axes:
        where = "its first axis" if looked_at == (0,) else "its first or second axis"
        why = f"the {IMAGES} images do not lie along {where}, where they are looked for: its output has shape {shape}"
        return LayerChanges(shape, None, {}, why)
    squares = {axis: _squared_differences(raw, axis) for axis in axes}
    axis = min(axes, key=lambda one: _same_twice(squares[one]))
    twice = _same_twice(squares[axis])
    if math.isnan(twice):
        return LayerChanges(shape, axis, {}, "its output is not finite for an image of noise", True)
    if twice > SAME_IMAGE_TOLERANCE:
        why = "does not depend on the image" if twice == math.inf else "is not the same for the same image twice"
        return LayerChanges(shape, axis, {}, f"its output {why}", constant=twice == math.inf)
    changed = squares[axis][1:].movedim(0, axis)
    channel_axes = (1, 3) if raw.ndim == 4 else ((1, 2) if axis == 0 else (2,))
    changes = {one: changed.sum(one, keepdim=True).sqrt().cpu() for one in channel_axes}
    return LayerChanges(shape, axis, changes, base=raw.narrow(axis, 0, 1).clone())


def _squared_differences(raw: Tensor, axis: int) -> Tensor:
    """Return the squares of the differences of each image to the first, with the axis of the images in front."""
    images = raw.movedim(axis, 0).float()
    return (images[1:] - images[:1]).square_()


def _same_twice(squares: Tensor) -> float:
    """Return how much the same image twice differs, as a share of what blocks change (root mean squares)."""
    differs, changed = (float(one.mean().sqrt()) for one in (squares[0], squares[1:]))
    if not math.isfinite(differs + changed):
        return math.nan
    return differs / changed if changed > 0 else math.inf
