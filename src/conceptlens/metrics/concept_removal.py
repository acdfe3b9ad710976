"""Do contributions say which concepts count? Concepts are removed, or put in, in the order of their contributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import tensor_of
from conceptlens.metrics.pixel_fills import prepare_fill
from conceptlens.metrics.scored_images import check_probabilities, check_scored
from conceptlens.metrics.variant_runs import Fill, Reading, scores_of, values_without, whole_values
from conceptlens.statistics.random_seed import seeded_generator
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.metrics.scored_images import ScoredImages

    Places = (
        Bool[Tensor, "image concept rows columns"]
        | Bool[Tensor, "image concept channel"]
        | Bool[np.ndarray, "image concept rows columns"]
        | Bool[np.ndarray, "image concept channel"]
    )
    Contributions = Float[Tensor, "image concept"] | Float[np.ndarray, "image concept"]

LAYER_MEAN = "layer_mean"
# What a channel that is removed becomes: the mean over these axes of the layer's cells.
CHANNEL_FILLS: dict[str, tuple[int, ...]] = {"mean": (2, 3), LAYER_MEAN: (1, 2, 3)}


def concept_deletion(
    places: Places, contributions: Contributions, scored: ScoredImages, fill: str = "mean", seed: int = 0
) -> Score:
    """Return the area under the probability while concepts are removed, the largest contribution first; lower is
    better.

    The steps are concepts, equally far apart, from none to all of an image's concepts: an image's own region of each,
    or its channels in a layer. 0 to 1; chance is the value of random contributions, which depends on how large regions
    are.

    Args:
        places: The region of each concept in each image; or its channels, where `scored` is of cells (`scored_cells`).
        contributions: How much each concept counts; NaN where it is not known, and the concept is left out.
        scored: The images or cells, with probabilities of the questions that contributions are about.
        fill: What stands in their place, see `cl.metrics.FILLS`; for channels, as in CE-FAM, "mean", each channel's own
            mean, or "layer_mean", that of all channels, for a layer whose cells are read through their mean alone.
        seed: Draws the order of equal contributions, and the noise of a fill.

    Returns:
        `values[image question]`; it does not apply where fewer than two concepts have a region and a contribution.

    Raises:
        InputError: Shapes or types do not fit, the fill is unknown or not one of channels, or scores are no
            probabilities.
    """
    return _area(places, contributions, scored, fill, seed, put_in=False)


def concept_insertion(
    places: Places, contributions: Contributions, scored: ScoredImages, fill: str = "blur", seed: int = 0
) -> Score:
    """Return the area under the probability while concepts are put into a filled image, by falling contribution.

    As `concept_deletion`, from nothing but the fill to the regions of all concepts; higher is better.

    Args:
        places: The region or the channels of each concept in each image.
        contributions: How much each concept counts.
        scored: The images or cells, with probabilities.
        fill: What the image begins as; for channels "mean" or "layer_mean".
        seed: Draws the order of equal contributions, and the noise of a fill.

    Returns:
        `values[image question]`.

    Raises:
        InputError: As in `concept_deletion`.
    """
    return _area(places, contributions, scored, fill, seed, put_in=True)


def _area(
    places: Places, contributions: Contributions, scored: ScoredImages, fill: str, seed: int, put_in: bool
) -> Score:
    check_scored(scored)
    where = tensor_of(places, "places").to(scored.images.device)
    counts = tensor_of(contributions, "contributions").to(scored.images.device)
    _check(where, counts, scored)
    usable = where.flatten(2).any(2) & ~counts.isnan()
    applies = usable.sum(1) >= 2
    ready = _prepare(fill, where, scored, seed)
    reading = scores_of(scored)
    one = torch.arange(1, device=where.device)
    questions = reading.run(scored.images[:1], one).shape[1]
    whole = whole_values(scored, reading, questions)[..., 0]
    values = torch.zeros(len(where), questions, dtype=torch.float64)
    for image in applies.nonzero()[:, 0].tolist():
        order = _falling(counts[image], usable[image], seed)
        steps = where[image, order].cumsum(0) > 0
        steps = torch.cat([~steps, torch.ones_like(steps[:1])]) if put_in else steps
        scores = _scores_of_steps(ready, reading, image, questions, steps)
        first = scores[-1:] if put_in else whole[image][None]
        rest = scores[:-1] if put_in else scores
        check_probabilities(torch.cat([first, rest]))
        values[image] = torch.trapezoid(torch.cat([first, rest]), dim=0) / len(order)
    return Score(values, applies.cpu()[:, None].expand(values.shape).clone(), fill=fill)


def _scores_of_steps(
    ready: Fill, reading: Reading, image: int, questions: int, steps: Bool[Tensor, "step ..."]
) -> Float[Tensor, "step question"]:
    """Return every question's score of one image without what each step removes: one forward pass a step."""
    every = Reading(reading.run, lambda outputs, rows, question: outputs)
    rows = torch.full((len(steps),), image, device=steps.device)
    return values_without(ready, every, rows, rows, lambda jobs: steps[jobs]).reshape(len(steps), questions)


def _falling(contributions: Float[Tensor, "concept"], usable: Bool[Tensor, "concept"], seed: int) -> Tensor:
    """Return the usable concepts, the largest contribution first; equal ones in a seeded order."""
    shuffled = torch.randperm(len(usable), generator=seeded_generator(seed), device="cpu")
    shuffled = shuffled.to(usable.device)
    kept = shuffled[usable[shuffled]]
    return kept[contributions[kept].argsort(descending=True, stable=True)]


class _ChannelFill:
    """Channels in the place of pixels: one that is removed becomes its own mean, or that of the whole layer."""

    def __init__(self, cells: Float[Tensor, "image channel height width"], over: tuple[int, ...]) -> None:
        self.images = cells
        self.over = over

    def remove(self, rows: Tensor, removed: Bool[Tensor, "variant channel"]) -> Tensor:
        own = self.images[rows]
        return torch.where(removed[..., None, None], own.mean(self.over, keepdim=True), own)


def _prepare(fill: str, where: Tensor, scored: ScoredImages, seed: int) -> Fill:
    if where.ndim == 4:
        return prepare_fill(fill, scored.images, scored.black, seed)
    if fill not in CHANNEL_FILLS:
        raise InputError(
            f"the fill of channels is {fill}; expected mean, each channel's own, or {LAYER_MEAN}, that of all channels"
        )
    return _ChannelFill(scored.images, CHANNEL_FILLS[fill])


def _check(where: Tensor, contributions: Tensor, scored: ScoredImages) -> None:
    images, channels, *size = scored.images.shape
    if where.dtype != torch.bool:
        raise InputError(f"places have type {where.dtype}; expected torch.bool: compare them first, as in regions > 0")
    wanted = {4: tuple(size), 3: (channels,)}.get(where.ndim)
    if wanted is None or len(where) != images or tuple(where.shape[2:]) != wanted:
        raise InputError(
            f"places have shape {tuple(where.shape)}; expected image concept rows columns of {images} images of "
            f"{size[0]} x {size[1]} pixels, or image concept channel of {channels} channels"
        )
    if contributions.shape != where.shape[:2] or not contributions.is_floating_point():
        raise InputError(
            f"contributions have shape {tuple(contributions.shape)} and type {contributions.dtype}; expected floating "
            f"numbers, image concept, {tuple(where.shape[:2])}"
        )
    if bool(contributions.isinf().any()):
        raise InputError("a contribution is infinite; give finite ones, and NaN where one is not known")
