"""What a network still says while more and more of an image is removed: curves that most faithfulness metrics read."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from conceptlens.io.argument_kinds import check_integer, check_number, in_order
from conceptlens.io.errors import InputError
from conceptlens.metrics.pixel_fills import prepare_fill
from conceptlens.metrics.removal_order import TieOrder, check_ties, maps_for, pixel_ranks, ranked
from conceptlens.metrics.variant_runs import Fill, Reading, at_once_in, scores_of, values_without, whole_values
from conceptlens.statistics.random_seed import check_seed
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages


Removal: TypeAlias = Literal["highest", "lowest"]
# What is held of ranks at once, and for each pixel of a map: its rank, its place and its mark.
RANK_BYTES, RANK_BYTES_EACH = 64 * 2**20, 4 + 8 + 8
STEPS = 20


@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """Scores while more and more of an image is removed, for plots and for the metrics made of them.

    Args:
        shares: The share of the pixels that is removed at each step, between 0 and 1, rising.
        scores: The score at each step, float64 on the CPU; 0 where the map ranks nothing.
        whole: The score of the whole image.
        applies: Whether the map ranks pixels at all: not where it is the same everywhere.
        fill: What stands in the place of removed pixels.
        removed: Whether the map's "highest" or its "lowest" pixels are removed first.
    """

    shares: Float[Tensor, "step"]
    scores: Float[Tensor, "image question step"]
    whole: Float[Tensor, "image question"]
    applies: Bool[Tensor, "image question"]
    fill: str
    removed: Removal

    def area(self) -> Score:
        """Return the area under each curve, by the trapezoid rule, over the width of its shares: the mean score.

        Returns:
            `values[image question]`, in the unit of the scores.

        Raises:
            InputError: There is one share alone.
        """
        if len(self.shares) < 2:
            raise InputError("an area needs at least two shares; there is one")
        width = self.shares[-1] - self.shares[0]
        return self.score(torch.trapezoid(self.scores, self.shares, dim=2) / width)

    def score(self, values: Float[Tensor, "image question"]) -> Score:
        """Return values made from these curves as a score that names the fill, 0 where the map ranks nothing.

        Args:
            values: One for each image and question.
        """
        return Score(torch.where(self.applies, values, 0.0), self.applies, fill=self.fill)


def removal_curves(
    explained: Maps,
    scored: ScoredImages,
    shares: Sequence[float] | int = STEPS,
    fill: str = "mean",
    removed: Removal = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> RemovalCurves:
    """Return how the score of every question changes while the pixels that its map ranks are removed.

    Maps are enlarged bilinearly to the images. To insert a share `s` of the highest pixels into a filled image is to
    remove the lowest `1 - s`: `removed="lowest"`, read from the right.

    Args:
        explained: An explanation, or `maps[image question height width]`.
        scored: The images and what scores them.
        shares: The shares of pixels that are removed, rising, 0 to 1; or into how many equal steps all are divided.
        fill: What stands in their place, see `cl.metrics.FILLS`.
        removed: Whether "highest" or "lowest" pixels go first.
        ties: The order of equal pixels: "seeded" draws one, "rows" is that of a stable sort, from the top left.
        seed: Draws the order of equal pixels and the noise of a fill.

    Returns:
        The curves. One forward pass a step, and one for the whole image.

    Raises:
        InputError: A word is unknown, shares do not rise within 0..1, shapes do not fit, a map is not finite, or a
            network gives scores that are not.
    """
    reading = scores_of(scored)
    steps = checked_shares(shares)
    maps, values, whole = removed_values(explained, scored, reading, steps, fill, removed, ties, seed)
    taken = taken_shares(steps, scored)
    return RemovalCurves(taken, values[..., 0], whole[..., 0], ranked(maps).cpu(), fill, removed)


def removed_values(
    explained: Maps,
    scored: ScoredImages,
    reading: Reading,
    shares: Float[Tensor, "step"],
    fill: str,
    removed: Removal = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
    whole: Float[Tensor, "image question value"] | None = None,
) -> tuple[Tensor, Float[Tensor, "image question step value"], Float[Tensor, "image question value"]]:
    """Return the maps, what is read while shares of their pixels are removed, and what is read of whole images.

    Maps of one image that remove the same pixels share their passes: all share the image without any.

    Args:
        explained: The maps.
        scored: The images and what scores them.
        reading: What is read of the network.
        shares: Rising shares of the pixels.
        fill: What stands in their place.
        removed: Which go first.
        ties: The order of equal pixels.
        seed: Draws it, and noise.
        whole: What is read of whole images, where it is known.

    Returns:
        Values in float64 on the CPU, 0 where a map ranks nothing.
    """
    check_ties(ties)
    check_seed(seed)
    if removed not in get_args(Removal):
        raise InputError(f"no removed '{removed}'; there are: {', '.join(get_args(Removal))}")
    maps = maps_for(explained, scored)
    ready = prepare_fill(fill, scored.images, scored.black, seed)
    if whole is None:
        whole = whole_values(scored, reading, maps.shape[1])
    pixels = scored.images.shape[2] * scored.images.shape[3]
    counts = (taken_shares(shares, scored) * pixels).round().long()
    found = torch.zeros(*maps.shape[:2], len(counts), whole.shape[2], dtype=torch.float64)
    found[:, :, counts == 0] = whole[:, :, None]
    wanted = (counts > 0).nonzero()[:, 0]
    pairs = ranked(maps).nonzero()
    together = at_once_in(RANK_BYTES, RANK_BYTES_EACH * ready.images[0, 0].numel(), maps)
    for part in pairs.split(together) if len(pairs) and len(wanted) else ():
        values = _pairs_removed(maps, part, ready, reading, counts[wanted], removed, ties, seed)
        image, question = part.cpu().unbind(1)
        found[image[:, None], question[:, None], wanted] = values
    found[~ranked(maps).cpu()] = 0
    return maps, found, whole


def taken_shares(shares: Float[Tensor, "step"], scored: ScoredImages) -> Float[Tensor, "step"]:
    """Return shares of the pixels, rounded to whole pixels.

    Args:
        shares: Shares of the pixels.
        scored: The images.
    """
    pixels = scored.images.shape[2] * scored.images.shape[3]
    return (shares * pixels).round() / pixels


def checked_shares(shares: Sequence[float] | int) -> Float[Tensor, "step"]:
    """Return shares of pixels, or as many equal steps from 0 to 1.

    Args:
        shares: Rising shares, or how many steps.

    Raises:
        InputError: They do not rise within 0..1, or there are fewer than one step.
        InputTypeError: They are no numbers, or in no order.
    """
    if isinstance(shares, numbers.Number):
        return torch.linspace(0, 1, check_integer(shares, "the number of steps") + 1, dtype=torch.float64)
    return listed_shares(shares, "numbers from 0 to 1, or a number of steps")


def listed_shares(shares: object, expected: str = "numbers from 0 to 1") -> Float[Tensor, "step"]:
    """Return shares of pixels that are listed.

    Args:
        shares: Rising shares.
        expected: What is taken, in words.

    Raises:
        InputError: They do not rise within 0..1.
        InputTypeError: They are no numbers, or in no order.
    """
    listed = in_order(shares, "shares", expected)
    alone = (one.item() if isinstance(one, torch.Tensor) and one.ndim == 0 else one for one in listed)
    found = [check_number(one, "a share", expected) for one in alone]
    values = torch.tensor(found, dtype=torch.float64)
    if not len(values) or not bool((values >= 0).all() and (values <= 1).all() and (values.diff() > 0).all()):
        raise InputError(f"shares are {found}; expected shares of the pixels, rising, from 0 to 1")
    return values


def remaining_shares(shares: Sequence[float] | int) -> Sequence[float] | int:
    """Return what is left beside each share, rising again; equal steps are the same from either end.

    Args:
        shares: Rising shares, or how many steps.

    Raises:
        InputError: As in `checked_shares`.
    """
    if isinstance(shares, numbers.Number):
        return check_integer(shares, "the number of steps")
    return [1 - share for share in reversed(checked_shares(shares).tolist())]


def _pairs_removed(
    maps: Tensor,
    pairs: Tensor,
    ready: Fill,
    reading: Reading,
    counts: Tensor,
    removed: Removal,
    ties: TieOrder,
    seed: int,
) -> Float[Tensor, "pair step value"]:
    """Return what is read at every step of some pairs of an image and a question."""
    size = (ready.images.shape[2], ready.images.shape[3])
    ranks = pixel_ranks(maps[pairs[:, 0], pairs[:, 1]], size, ties, seed)
    if removed == "lowest":
        ranks = size[0] * size[1] - 1 - ranks
    limits = counts.to(ranks)

    def taken(jobs: Tensor) -> Tensor:
        return ranks[jobs // len(limits)] < limits[jobs % len(limits)][:, None, None]

    image, question = (part.repeat_interleave(len(limits)) for part in pairs.unbind(1))
    alike = torch.stack([image, _marks(ranks, counts)], 1) if len(pairs) > 1 else None
    return values_without(ready, reading, image, question, taken, alike).reshape(len(pairs), len(limits), -1)


def _marks(ranks: Int[Tensor, "pair rows columns"], counts: Int[Tensor, "step"]) -> Int[Tensor, "job"]:
    """Return a number for each pair and step, the same where the same pixels are removed.

    Every pixel has a random number of 64 bits, and a set of pixels the sum of theirs: that two of a
    million different sets have the same one has a chance below one in ten million.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    own = torch.randint(-(2**63), 2**63 - 1, ranks.shape[1:], generator=generator, device="cpu").to(ranks.device)
    places = ranks.flatten(1).long()
    in_order = torch.empty_like(places).scatter_(1, places, own.flatten().expand_as(places))
    return in_order.cumsum(1)[:, counts.to(places.device) - 1].flatten()
