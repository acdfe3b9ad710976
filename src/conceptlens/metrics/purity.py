"""Do the images that activate a concept most show the same part at its peak: purity, as PIP-Net measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_integer, check_names
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import maps_of, tensor_of
from conceptlens.metrics.keypoints import check_keypoints
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.keypoints import Keypoints

SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Purity:
    """Purity of every concept, over its top images; scores of one row, since all images speak together.

    - `purest[1 concept]`: the highest share of any part, among the top images that show this part: PIP-Net's headline.
      A part that only one top image shows may so give 1.
    - `frequent[1 concept]`: the share of the part that lies in most patches, among the top images that show it:
      PIP-Net's second number.
    - `overall[1 concept]`: the same part's share of all top images; never above `frequent`.
    - `part[concept]`: that part; "" where none lies in any patch.
    """

    purest: Score
    frequent: Score
    overall: Score
    part: tuple[str, ...]


def merge_sides(parts: Sequence[str]) -> tuple[str, ...]:
    """Return part names without the words left and right, so that both sides of a part have one name.

    Args:
        parts: Names of keypoints, such as `left_wing`.

    Returns:
        The names without the words, such as `wing`.
    """
    words = (name.replace("_", " ").split() for name in check_names(parts, "parts"))
    return tuple(" ".join(word for word in name if word.lower() not in SIDES) for name in words)


def part_purity(
    explained: Maps,
    keypoints: Keypoints,
    parts: Sequence[str],
    activations: Float[Tensor, "image concept"] | None = None,
    top: int = 10,
    patch: int = 32,
    pixels: int = 224,
) -> Purity:
    """Return how purely each concept's patches show one part; 0 to 1, higher is better.

    PIP-Net (Nauta et al., CVPR 2023), measured as its official `eval_cub_csv.py` does: the `top` images by activation;
    in each, the patch of `patch` pixels, of `pixels` that the model sees, at the highest cell; and for each part, the
    share of patches that hold its keypoint, edges included. Patches are spread evenly, the first and the last flush
    with the image's edge, at whole pixels; at 7 x 7 cells, 32 and 224 each is its cell. Keypoints of one name in
    `parts` are one part: merge left and right with `merge_sides`.

    `parts` name the keypoints; which of them are a concept's own, and where it is present, is not asked. `activations`
    rank the images, by default each map's maximum; of equal images, and of equal cells column by column, the first.
    PIP-Net takes training images, uncropped, and prototypes that some class uses: both are the caller's to choose. With
    fewer images than `top`, all. Where no top image shows any part, nothing applies. What a concept gets that knows
    nothing depends on the parts: measure it, with random maps. Differs in two rarities: among parts in equally many
    patches the official second number takes the part met first, here the purest; and its special case for 26 x 26
    cells is left out.

    Args:
        explained: An explanation, or `maps[image concept height width]`.
        keypoints: Of the same images and concepts.
        parts: The name of each keypoint.
        activations: `[image concept]`, ranks the images.
        top: How many images of each concept.
        patch: Side of a patch, in pixels.
        pixels: Side of what the model sees, in pixels.

    Returns:
        Purity of each concept.

    Raises:
        InputError: Shapes do not fit, or a number is out of range.
    """
    maps, parts = maps_of(explained), check_names(parts, "parts")
    check_keypoints(keypoints)
    _check(maps, keypoints, parts)
    ranked = maps.amax((2, 3)) if activations is None else tensor_of(activations, "activations")
    _check_ranked(ranked, maps, top, patch, pixels)
    visible = keypoints.visible.cpu()
    chosen = torch.sort(ranked, dim=0, descending=True, stable=True).indices[:top]  # rank concept
    names = list(dict.fromkeys(parts))
    member = torch.tensor([[name == part for part in parts] for name in names])
    inside = _inside(maps, keypoints.xy.cpu(), chosen, patch, pixels) & visible[chosen]
    within = _any(inside, member).sum(0).double()  # concept name
    shown = _any(visible[chosen], member).sum(0).double()
    share = within / shown.clamp(min=1)
    best = (within + share / 2).argmax(1, keepdim=True)  # most patches, then the purest
    applies = (shown > 0).any(1)
    frequent, overall = share.gather(1, best)[:, 0], within.gather(1, best)[:, 0] / len(chosen)
    most_frequent = tuple(names[int(b)] if own.any() else "" for b, own in zip(best[:, 0], within, strict=True))
    purest, frequent, overall = (Score(value[None], applies[None]) for value in (share.amax(1), frequent, overall))
    return Purity(purest, frequent, overall, most_frequent)


def _any(
    flags: Bool[Tensor, "rank concept part"], member: Bool[Tensor, "name part"]
) -> Bool[Tensor, "rank concept name"]:
    """Return, for each name, whether any of its keypoints is flagged."""
    return torch.einsum("rcp,np->rcn", flags.float(), member.float()) > 0


def _inside(
    maps: Tensor, xy: Tensor, chosen: Int[Tensor, "rank concept"], patch: int, pixels: int
) -> Bool[Tensor, "rank concept part"]:
    """Return whether each keypoint lies in the patch of the chosen images' highest cell."""
    height, width = maps.shape[2:]
    concept = torch.arange(maps.shape[1]).expand_as(chosen)
    cell = maps[chosen, concept].transpose(2, 3).flatten(2).argmax(2)
    left, top = _start(cell // height, width, patch, pixels), _start(cell % height, height, patch, pixels)
    low = torch.stack([left, top], dim=-1)[:, :, None]
    at = xy[chosen].double() * pixels
    return ((at >= low) & (at <= low + patch)).all(3)


def _start(index: Int[Tensor, "rank concept"], cells: int, patch: int, pixels: int) -> Int[Tensor, "rank concept"]:
    """Return the first pixel of the patch of each cell along one axis."""
    skip = round((pixels - patch) / max(cells - 1, 1))
    last = (index == cells - 1) | (index * skip + patch >= pixels)
    return torch.where(last, pixels - patch, index * skip)


def _check(maps: Tensor, keypoints: Keypoints, parts: Sequence[str]) -> None:
    shape, known = tuple(keypoints.present.shape), keypoints.own.shape[1]
    if maps.ndim != 4 or tuple(maps.shape[:2]) != shape or not len(maps) or len(parts) != known or not known:
        raise InputError(
            f"got maps of shape {tuple(maps.shape)} and {len(parts)} names of parts, for keypoints of {shape[0]} "
            f"images, {shape[1]} concepts and {known} parts; expected maps[image concept height width] of at "
            "least one image, and one name for each of at least one part"
        )


def _check_ranked(ranked: Tensor, maps: Tensor, top: int, patch: int, pixels: int) -> None:
    if tuple(ranked.shape) != tuple(maps.shape[:2]):
        raise InputError(
            f"activations have shape {tuple(ranked.shape)}; expected one for each image and concept, "
            f"{tuple(maps.shape[:2])}"
        )
    if not bool(torch.isfinite(maps).all()) or not bool(torch.isfinite(ranked).all()):
        raise InputError("maps or activations are NaN or infinite; only numbers can be ranked")
    for name, given in (("top", top), ("patch", patch), ("pixels", pixels)):
        check_integer(given, name)
    if patch > pixels:
        raise InputError(f"patch is {patch} and pixels {pixels}; expected a patch within pixels")
