"""Variants of images, run through a network in passes of bounded size, and what is read of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.scored_images import check_scored
from conceptlens.statistics.distinct_rows import distinct_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.metrics.scored_images import ScoredImages

    Removed = Callable[[Int[Tensor, "job"]], Bool[Tensor, "job ..."]]

# What is filled at once, and what one pass of the network takes of it, each at least one variant: small passes stay in
# a processor's cache. A GPU takes `ACCELERATOR_FACTOR` times as much.
VARIANT_BYTES, PASS_BYTES, ACCELERATOR_FACTOR = 6 * 2**20, 5 * 2**19, 64


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


def values_without(
    ready: Fill,
    reading: Reading,
    image: Int[Tensor, "job"],
    question: Int[Tensor, "job"],
    removed: Removed,
    alike: Int[Tensor, "job number"] | None = None,
) -> Float[Tensor, "job value"]:
    """Return what is read of images without some of their pixels, in chunks of at most `VARIANT_BYTES`.

    Args:
        ready: The images and their fill.
        reading: What is read of the network.
        image: The image of each job.
        question: Its question.
        removed: From indices of jobs to the pixels that they lose.
        alike: The same numbers for jobs of one image that lose the same pixels, whose variant is run once. By default
            each job has a variant of its own.

    Returns:
        Values in float64 on the CPU.
    """
    jobs = torch.arange(len(image), device=image.device)
    firsts, variant = (jobs, jobs) if alike is None else distinct_rows(alike)
    found, places = [], []
    bytes_each = 4 * ready.images[0].numel()
    at_once = variants_at_once(ready.images)
    together = at_once_in(VARIANT_BYTES, bytes_each, ready.images)
    for start, run in enumerate(firsts.split(together)):
        variants = ready.remove(image[run], removed(run))
        parts = zip(variants.split(at_once), image[run].split(at_once), strict=True)
        outputs = torch.cat([reading.run(some, rows) for some, rows in parts])
        row = variant - start * together
        here = jobs[(row >= 0) & (row < len(run))]
        found.append(reading.read(outputs[row[here]], image[here], question[here]).double().cpu())
        places.append(here)
    return torch.cat(found)[torch.cat(places).argsort().cpu()]


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
    return at_once_in(PASS_BYTES, 4 * images[0].numel(), images)


def scores_of(scored: ScoredImages) -> Reading:
    """Return what reads the score of each variant's question.

    Args:
        scored: The images and what scores them.

    Raises:
        InputTypeError: It is no `ScoredImages`.
    """
    check_scored(scored)
    return Reading(scored.run, lambda outputs, image, question: outputs.gather(1, question[:, None]), True)


def at_once_in(max_bytes: int, bytes_each: int, like: Tensor) -> int:
    """Return how many of `bytes_each` fit into `max_bytes`, at least one.

    Args:
        max_bytes: On a processor; a GPU takes more.
        bytes_each: Of one.
        like: A tensor on the device.
    """
    return max(1, max_bytes * (1 if like.device.type == "cpu" else ACCELERATOR_FACTOR) // bytes_each)
