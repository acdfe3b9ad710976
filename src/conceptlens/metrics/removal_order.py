"""In which order a map says that pixels count: the order in which metrics of a map and a model remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import check_cells, held, tensor_of
from conceptlens.metrics.scored_images import check_scored
from conceptlens.record import WHOLE, Explanation
from conceptlens.statistics.random_seed import seeded_generator

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

# The order of equal pixels: drawn once by `seed`, the same for every map of a size; or row by row from the top left,
# as a stable sort leaves it (torch-cam's), which is a direction of its own where a map has large equal regions.
TieOrder: TypeAlias = Literal["seeded", "rows"]


def maps_for(explained: Maps, scored: ScoredImages) -> Float[Tensor, "image question height width"]:
    """Return the maps of an explanation, or a tensor or an array, on the device of the images that they are of.

    Args:
        explained: Maps that cover what the network saw.
        scored: The images.

    Raises:
        InputTypeError: They are no maps, or `scored` is no `ScoredImages`.
        InputError: They have another shape, are of other photos, another part of them or another class, finer than the
            images, or not finite.
    """
    check_scored(scored)
    if isinstance(explained, Explanation):
        _check_photos(explained, scored)
        _check_classes(explained, scored)
        maps = held(explained.maps, "maps").detach()
    else:
        maps = tensor_of(explained, "maps")
    if maps.ndim != 4 or len(maps) != len(scored.images):
        raise InputError(
            f"maps have shape {tuple(maps.shape)}; expected image question height width for {len(scored.images)} images"
        )
    size = tuple(scored.images.shape[2:])
    if maps.shape[2] > size[0] or maps.shape[3] > size[1]:
        raise InputError(
            f"maps of {maps.shape[2]} x {maps.shape[3]} cells are finer than images of {size[0]} x {size[1]} pixels; "
            "give them at the size that the network takes, or coarser"
        )
    check_cells(maps)
    if maps.shape[1] == 0 or maps.numel() == 0:
        raise InputError("the maps hold no question; there is nothing to measure")
    return maps.to(scored.images.device)


def ranked(maps: Float[Tensor, "image question height width"]) -> Bool[Tensor, "image question"]:
    """Say which maps put pixels in an order at all: a map that is the same everywhere does not.

    Args:
        maps: Raw maps; what float32 does not tell apart is the same.
    """
    values = _rounded(maps)
    return values.amax((2, 3)) != values.amin((2, 3))


def enlarged(maps: Float[Tensor, "pair height width"], size: tuple[int, int]) -> Float[Tensor, "pair rows columns"]:
    """Return maps at the size of the images, bilinearly, cell centres keep their place.

    Enlarged in float64 and rounded to the precision of float32, so that equal cells stay equal pixels.

    Args:
        maps: Raw maps.
        size: Rows and columns.
    """
    if tuple(maps.shape[1:]) == size:
        return maps if maps.dtype == torch.float64 else maps.float()
    large = torch.nn.functional.interpolate(maps[:, None].double(), size, mode="bilinear", align_corners=False)
    return _rounded(large[:, 0]) if maps.dtype == torch.float64 else large[:, 0].float()


def _rounded(maps: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
    """Return maps at the precision of float32; those in float64 stay so, for float32 has not their range."""
    if maps.dtype != torch.float64:
        return maps.float()
    exponent = torch.frexp(maps.abs().amax((-2, -1), keepdim=True)).exponent.clamp(-1000, 1000)
    return torch.ldexp(torch.ldexp(maps, -exponent).float().double(), exponent)


def pixel_ranks(
    maps: Float[Tensor, "pair height width"], size: tuple[int, int], ties: TieOrder = "seeded", seed: int = 0
) -> Int[Tensor, "pair rows columns"]:
    """Return the place of every pixel in the falling order of its map, 0 for the highest.

    Args:
        maps: Raw maps; enlarged to `size`.
        size: Rows and columns.
        ties: The order of equal pixels, see `TieOrder`.
        seed: Draws the order of `ties="seeded"`.
    """
    values = enlarged(maps, size).flatten(1)
    pixels = values.shape[1]
    if ties == "seeded":
        shuffled = torch.randperm(pixels, generator=seeded_generator(seed), device="cpu").to(values.device)
        order = shuffled[values[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    else:
        order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(pixels, device=values.device, dtype=torch.int32).expand_as(order)
    ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places)
    return ranks.reshape(-1, *size)


def check_ties(ties: str) -> None:
    """Refuse a word that names no order of equal pixels.

    Args:
        ties: What was given.

    Raises:
        InputError: There is no such order.
    """
    if ties not in get_args(TieOrder):
        raise InputError(f"no ties '{ties}'; there are: {', '.join(get_args(TieOrder))}")


def _check_photos(explained: Explanation, scored: ScoredImages) -> None:
    """Refuse maps of other photos, or of another part of them, where it is known which they are."""
    known = scored.image_info
    if not known:
        return
    for mine, theirs in zip(explained.source.image_info, known, strict=False):
        if mine.fingerprint and theirs.fingerprint and mine.fingerprint != theirs.fingerprint:
            raise InputError(f"the maps are of {mine.name}, the images of {theirs.name}; give them in one order")
        if mine.box != theirs.box:
            part = "the whole photo" if mine.box == WHOLE else "another part of the photo"
            raise InputError(
                f"the maps of {mine.name} cover {part}, and the network saw a part of it; give the explanation as it "
                "is, without upsampled()"
            )


def _check_classes(explained: Explanation, scored: ScoredImages) -> None:
    """Refuse maps of another class than the scores, where it is known which they are."""
    if scored.classes is None or scored.classes.shape != explained.maps.shape[:2]:
        return
    pairs = zip(explained.target_classes, explained.labels, scored.classes.tolist(), strict=False)
    for image, (mine, labels, theirs) in enumerate(pairs):
        for question, (own, label, asked) in enumerate(zip(mine, labels, theirs, strict=True)):
            if own is not None and own != asked:
                raise InputError(
                    f"map {question} of {explained.source.image_info[image].name} is of class {own} ('{label}'), the "
                    f"score of class {asked}; give both the same targets in one order, such as cl.scored_images(seen, "
                    "targets), or explanation.maps where another network numbers its classes otherwise"
                )
