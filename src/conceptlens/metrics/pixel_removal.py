"""What a network still says while more and more of an image is removed: curves that most faithfulness metrics read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.pixel_fills import prepare_fill
from conceptlens.metrics.removal_order import TieOrder, check_ties, maps_for, pixel_ranks, ranked
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

    Removed = Callable[[Int[Tensor, "job"]], Bool[Tensor, "job ..."]]

Removal: TypeAlias = Literal["highest", "lowest"]
# What one pass takes of variants at most, and of ranks held at once; a GPU takes `ACCELERATOR_FACTOR` times as much.
VARIANT_BYTES, RANK_BYTES, ACCELERATOR_FACTOR = 6 * 2**20, 32 * 2**20, 32
STEPS = 20


class Fill(Protocol):
    """What puts something in the place of what is removed: of pixels, or of channels."""

    @property
    def images(self) -> Float[Tensor, "image colour rows columns"]:
        """The images, or cells."""
        ...

    def remove(self, rows: Int[Tensor, "variant"], removed: Bool[Tensor, "variant ..."]) -> Tensor:
        """Return variants of the images without a part of them.

        Args:
            rows: The image of each variant.
            removed: What each of them loses.
        """
        ...


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read of a network for every variant.

    Args:
        run: From variants and the image of each to outputs `variant number`.
        read: From outputs, the image and the question of each to the values that are kept, `variant value`.
        by_question: Whether a network gives one number for each question, so that there must be as many as maps.
    """

    run: Callable[[Tensor, Tensor], Float[Tensor, "variant number"]]
    read: Callable[[Tensor, Tensor, Tensor], Float[Tensor, "variant value"]]
    by_question: bool = False


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
    counts = pixel_counts(steps, scored)
    pixels = scored.images.shape[2] * scored.images.shape[3]
    return RemovalCurves(counts.double() / pixels, values[..., 0], whole[..., 0], ranked(maps).cpu(), fill, removed)


def removed_values(
    explained: Maps,
    scored: ScoredImages,
    reading: Reading,
    shares: Float[Tensor, "step"],
    fill: str,
    removed: Removal = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> tuple[Tensor, Float[Tensor, "image question step value"], Float[Tensor, "image question value"]]:
    """Return the maps, what is read while shares of their pixels are removed, and what is read of whole images.

    Args:
        explained: The maps.
        scored: The images and what scores them.
        reading: What is read of the network.
        shares: Rising shares of the pixels.
        fill: What stands in their place.
        removed: Which go first.
        ties: The order of equal pixels.
        seed: Draws it, and noise.

    Returns:
        Values in float64 on the CPU, 0 where a map ranks nothing.
    """
    check_ties(ties)
    if removed not in get_args(Removal):
        raise InputError(f"no removed '{removed}'; there are: {', '.join(get_args(Removal))}")
    maps = maps_for(explained, scored)
    ready = prepare_fill(fill, scored.images, scored.black, seed)
    whole = whole_values(scored, reading, maps.shape[1])
    counts = pixel_counts(shares, scored)
    found = torch.zeros(*maps.shape[:2], len(counts), whole.shape[2], dtype=torch.float64)
    found[:, :, counts == 0] = whole[:, :, None]
    wanted = (counts > 0).nonzero()[:, 0]
    pairs = ranked(maps).nonzero()
    at_once = _at_once(RANK_BYTES, 4 * ready.images[0, 0].numel(), maps)
    for part in pairs.split(at_once) if len(pairs) and len(wanted) else ():
        values = _pairs_removed(maps, part, ready, reading, counts[wanted], removed, ties, seed)
        image, question = part.cpu().unbind(1)
        found[image[:, None], question[:, None], wanted] = values
    found[~ranked(maps).cpu()] = 0
    return maps, found, whole


def values_without(
    ready: Fill, reading: Reading, image: Int[Tensor, "job"], question: Int[Tensor, "job"], removed: Removed
) -> Float[Tensor, "job value"]:
    """Return what is read of images without some of their pixels, in chunks of at most `VARIANT_BYTES`.

    Args:
        ready: The images and their fill.
        reading: What is read of the network.
        image: The image of each job.
        question: Its question.
        removed: From indices of jobs to the pixels that they lose.

    Returns:
        Values in float64 on the CPU.
    """
    found = []
    bytes_each = 4 * ready.images[0].numel()
    for jobs in torch.arange(len(image), device=image.device).split(_at_once(VARIANT_BYTES, bytes_each, ready.images)):
        variants = ready.remove(image[jobs], removed(jobs))
        outputs = reading.run(variants, image[jobs])
        found.append(reading.read(outputs, image[jobs], question[jobs]).double().cpu())
    return torch.cat(found)


def whole_values(scored: ScoredImages, reading: Reading, questions: int) -> Float[Tensor, "image question value"]:
    """Return what is read of the whole images, each run once for all its questions.

    Args:
        scored: The images and what scores them.
        reading: What is read of the network.
        questions: How many questions there are about each.

    Raises:
        InputError: The network gives scores of another number of questions.
    """
    images = scored.images
    rows = torch.arange(len(images), device=images.device)
    outputs = torch.cat([reading.run(images[part], part) for part in rows.split(variants_at_once(images))])
    if reading.by_question and outputs.shape[1] != questions:
        raise InputError(
            f"there are maps of {questions} questions and scores of {outputs.shape[1]}; give the same targets, in the "
            "same order, as the maps are of"
        )
    image, question = rows.repeat_interleave(questions), torch.arange(questions, device=rows.device).repeat(len(rows))
    return reading.read(outputs[image], image, question).double().cpu().reshape(len(images), questions, -1)


def variants_at_once(images: Float[Tensor, "image colour rows columns"]) -> int:
    """Return how many variants one pass takes.

    Args:
        images: The images that they are variants of.
    """
    return _at_once(VARIANT_BYTES, 4 * images[0].numel(), images)


def scores_of(scored: ScoredImages) -> Reading:
    """Return what reads the score of each variant's question.

    Args:
        scored: The images and what scores them.
    """

    return Reading(scored.run, lambda outputs, image, question: outputs.gather(1, question[:, None]), True)


def pixel_counts(shares: Float[Tensor, "step"], scored: ScoredImages) -> Int[Tensor, "step"]:
    """Return how many pixels each share is, rounded to the nearest.

    Args:
        shares: Shares of the pixels.
        scored: The images.
    """
    pixels = scored.images.shape[2] * scored.images.shape[3]
    return (shares * pixels).round().long()


def checked_shares(shares: Sequence[float] | int) -> Float[Tensor, "step"]:
    """Return shares of pixels, or as many equal steps from 0 to 1.

    Args:
        shares: Rising shares, or how many steps.

    Raises:
        InputError: They do not rise within 0..1, or there are fewer than one step.
    """
    if isinstance(shares, int):
        if shares < 1:
            raise InputError(f"there are {shares} steps; expected at least 1")
        return torch.linspace(0, 1, shares + 1, dtype=torch.float64)
    found = torch.tensor([float(share) for share in shares], dtype=torch.float64)
    if not len(found) or not bool((found >= 0).all() and (found <= 1).all() and (found.diff() > 0).all()):
        raise InputError(f"shares are {list(shares)}; expected shares of the pixels, rising, from 0 to 1")
    return found


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
    return values_without(ready, reading, image, question, taken).reshape(len(pairs), len(limits), -1)


def _at_once(max_bytes: int, bytes_each: int, like: Tensor) -> int:
    return max(1, max_bytes * (1 if like.device.type == "cpu" else ACCELERATOR_FACTOR) // bytes_each)
