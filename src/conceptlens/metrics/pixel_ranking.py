"""Pixels in falling order of a map: one sort, from which every metric of a map and a mask is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import check_cells, maps_of, tensor_of
from conceptlens.metrics.removal_order import enlarged
from conceptlens.statistics.random_seed import check_seed
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Ignored, Maps, Masks

    Values: TypeAlias = Float[np.ndarray, "pair"]
    Curve: TypeAlias = Float[np.ndarray, "pair rank"]

Ties: TypeAlias = Literal["average", "seeded", "official"]
BATCH_PIXELS = 2**18  # bounds the memory, at about 150 bytes a pixel; small chunks also stay in the cache


@dataclass(frozen=True, eq=False)
class Ranking:
    """Pairs of a map and a mask, their pixels sorted from the highest to the lowest; ignored pixels come last.

    - `values[pair pixel]`: the map, falling; minus infinity for ignored pixels.
    - `inside[pair pixel]`: whether the pixel lies in the mask.
    - `ends[pair pixel]`: how many pixels are at least as high as this one.
    - `found[pair pixel+1]`: how many of the first 0, 1, 2, ... pixels lie inside. With ties averaged this is the
      expectation over every order of equal pixels, which is linear within them.
    - `size[pair]`, `kept[pair]`: pixels of the mask and of the image, ignored ones left out.
    """

    values: Curve
    inside: Bool[np.ndarray, "pair pixel"]
    ends: Int[np.ndarray, "pair pixel"]
    found: Curve
    size: Values
    kept: Values

    @cached_property
    def ratio(self) -> Values:
        """`r`: the mask's share of the image."""
        return self.size / self.kept

    @cached_property
    def overlap(self) -> Curve:
        """IoU of the mask and the first 0, 1, 2, ... pixels, `c / (K + i - c)`."""
        count = np.arange(self.found.shape[1])
        return self.found / (self.size[:, None] + count - self.found)

    @cached_property
    def overlap_area(self) -> Values:
        """Area under IoU over the share of pixels taken, exact: a pixel is taken bit by bit.

        While pixel i is taken, `c` grows by `m` and the union by `o = 1 - m`, so the area is
        `integral over v in [0, 1] of (c + m v) / (b + o v)`, with `b = K + i - c` and `z = o / b` equal to
        `(c ln(1 + z) / z + m (1 - ln(1 + z) / z) / z) / b`. The ideal map so has exactly `r/2 - r ln r`.
        """
        before = self.found[:, :-1]
        gained = np.diff(self.found, axis=1)
        rank = np.arange(before.shape[1])
        union = self.size[:, None] + rank - before
        z = (1 - gained) / union
        safe = np.maximum(z, 1e-3)
        first = np.where(z > 1e-3, np.log1p(safe) / safe, 1 - z * (1 / 2 - z * (1 / 3 - z * (1 / 4 - z / 5))))
        second = np.where(z > 1e-3, (1 - first) / safe, 1 / 2 - z * (1 / 3 - z * (1 / 4 - z * (1 / 5 - z / 6))))
        parts = (before * first + gained * second) / union
        return np.where(rank < self.kept[:, None], parts, 0).sum(1) / self.kept


def score_pixels(
    explained: Maps,
    masks: Masks,
    ignored: Ignored,
    measures: Mapping[str, Callable[[Ranking], Values]],
    ties: Ties = "average",
    seed: int = 0,
) -> dict[str, Score]:
    """Return a score for each measure, from one sort per map and with bounded memory; computed on the CPU.

    No measure applies to a mask that is empty or full, ignored pixels left out.

    Args:
        explained: The maps, as in `map_mask`.
        masks: The masks.
        ignored: Pixels to leave out.
        measures: Functions of a `Ranking`, by name.
        ties: The order of equal pixels, as in `ranked_area`.
        seed: Draws the order of `ties="seeded"`.

    Returns:
        A score by name.

    Raises:
        InputError: Shapes or types do not fit, or a map is not finite.
    """
    maps = maps_of(explained)
    if ties not in get_args(Ties):
        raise InputError(f"no ties '{ties}'; there are: {', '.join(get_args(Ties))}")
    inside = tensor_of(masks, "masks")
    outside = None if ignored is None else tensor_of(ignored, "ignored pixels")
    _check(maps, inside, outside)
    applies = _applies(maps, inside, outside)
    found = {name: torch.zeros(applies.shape, dtype=torch.float64) for name in measures}
    step = max(1, BATCH_PIXELS // max(1, inside.shape[-2] * inside.shape[-1]))
    for pairs in applies.nonzero().split(step) if applies.any() else ():
        ranking = _ranked(*_pixels(pairs, maps, inside, outside), ties, seed)
        for name, measure in measures.items():
            found[name][pairs[:, 0], pairs[:, 1]] = torch.from_numpy(np.asarray(measure(ranking), np.float64))
    return {name: Score(values, applies) for name, values in found.items()}


def _check(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> None:
    """Check shapes, types and finiteness; the mask may not be coarser than the map."""
    check_cells(maps)
    images, questions = maps.shape[:2]
    if masks.ndim not in (3, 4) or masks.shape[0] != images or (masks.ndim == 4 and masks.shape[1] != questions):
        raise InputError(
            f"masks have shape {tuple(masks.shape)}; expected image rows columns for {images} images, "
            f"or image question rows columns for {questions} questions each"
        )
    if ignored is not None and tuple(ignored.shape) != (images, *masks.shape[-2:]):
        raise InputError(f"ignored has shape {tuple(ignored.shape)}; expected {(images, *masks.shape[-2:])}")
    for name, given in (("masks", masks), ("ignored", ignored)):
        if given is not None and given.dtype != torch.bool:
            raise InputError(
                f"{name} have type {given.dtype}; expected torch.bool: compare them first, as in masks > 0"
            )
    if masks.shape[-2] < maps.shape[2] or masks.shape[-1] < maps.shape[3]:
        raise InputError(
            f"masks of {masks.shape[-2]} x {masks.shape[-1]} pixels are coarser than maps of "
            f"{maps.shape[2]} x {maps.shape[3]} cells; give masks at the size of the photo"
        )


def _applies(maps: Tensor, masks: Tensor, ignored: Tensor | None) -> Bool[Tensor, "image question"]:
    """Return where a mask has pixels both inside and outside."""
    kept = torch.ones_like(masks[:, 0] if masks.ndim == 4 else masks) if ignored is None else ~ignored
    size = ((masks if masks.ndim == 4 else masks[:, None]) & kept[:, None]).sum((2, 3))
    return ((size > 0) & (size < kept.sum((1, 2))[:, None])).expand(maps.shape[:2])


def _pixels(
    pairs: Tensor, maps: Tensor, masks: Tensor, ignored: Tensor | None
) -> tuple[Float[np.ndarray, "pair pixel"], Bool[np.ndarray, "pair pixel"], Int[np.ndarray, "pair"]]:
    """Return enlarged maps and masks, one row for each pair, and the number of pixels kept."""
    image, question = pairs[:, 0], pairs[:, 1]
    values = enlarged(maps[image, question], (masks.shape[-2], masks.shape[-1])).flatten(1).numpy()
    inside = (masks[image, question] if masks.ndim == 4 else masks[image]).flatten(1).numpy()
    kept = np.full(len(pairs), values.shape[1])
    if ignored is not None:
        out = ignored[image].flatten(1).numpy()
        values, inside, kept = np.where(out, -np.inf, values), inside & ~out, (~out).sum(1)
    return values.reshape(len(pairs), -1), inside, kept


def _ranked(values: np.ndarray, inside: np.ndarray, kept: np.ndarray, ties: Ties, seed: int) -> Ranking:
    """Sort each row once, falling.

    `seeded` looks at the pixels in one shuffled order, the same for every map of a size, so that a map's score does
    not depend on its batch. `official` is `argsort()[::-1]`, where the order of equal pixels is NumPy's own affair
    and may differ between machines.
    """
    drawn = check_seed(seed)
    if ties == "seeded":
        shuffled = np.random.default_rng(drawn).permutation(values.shape[1])
        values, inside = values[:, shuffled], inside[:, shuffled]
    rows, pixels = values.shape
    order = np.argsort(values, axis=1, kind="stable" if ties == "seeded" else None)[:, ::-1]
    order = order + pixels * np.arange(rows)[:, None]
    values, inside = values.take(order), inside.take(order)
    begins = np.ones((rows, pixels), bool)  # whether a pixel is lower than the one before it
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=rows * pixels)
    ends = np.repeat(starts % pixels + lengths, lengths).reshape(rows, pixels)
    gained = inside
    if ties == "average":
        within = np.add.reduceat(inside.ravel(), starts, dtype=np.float64)
        gained = np.repeat(within / lengths, lengths).reshape(rows, pixels)
    found = np.zeros((rows, pixels + 1))
    np.cumsum(gained, axis=1, out=found[:, 1:])
    return Ranking(values, inside, ends, found, inside.sum(1, dtype=np.float64), kept.astype(np.float64))
