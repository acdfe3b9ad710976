"""Do a map's numbers add up, and does it stay as it is? The sum, the error and the stability of attributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_flag, check_function, check_integer, check_number
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import check_cells, tensor_of
from conceptlens.metrics.pixel_fills import WHOLE_FILLS, prepare_fill
from conceptlens.metrics.removal_order import enlarged, maps_for
from conceptlens.metrics.scored_images import check_images
from conceptlens.metrics.training_mode import only_in_eval_mode
from conceptlens.metrics.variant_runs import scores_of, values_without, whole_values
from conceptlens.record import Explanation
from conceptlens.statistics.random_seed import seeded_generator
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages

# The sides of infidelity's squares, as shares of the image's shorter side.
SMALLEST_SQUARE, LARGEST_SQUARE = 1 / 8, 1 / 2
# A score that changes by a smaller share of itself has not changed: networks round in float32.
ROUNDING = 1e-6


def completeness(explained: Maps, scored: ScoredImages, fill: str = "mean") -> Score:
    """Return how far the sum of a map is from the change of score that it explains; 0 or more, lower is better, 0 is
    exact.

    `|sum of the cells - (f(x) - f(fill))| / |f(x) - f(fill)|`: completeness of integrated gradients (Sundararajan et
    al., ICML 2017), efficiency of Shapley values. A map of zeros gives 1. Only maps that are meant to add up can be
    near 0: those of `cl.cam` are not.

    Args:
        explained: Maps in the unit of the score, raw: cells are added, not pixels.
        scored: The images; any score that the maps explain, so logits for maps of logits.
        fill: What the whole image becomes.

    Returns:
        `values[image question]`; it does not apply where the score does not change by more than rounding does.

    Raises:
        InputError: The fill makes pixels up from their neighbours, shapes do not fit, or a map is not finite.
    """
    if fill not in WHOLE_FILLS:
        raise InputError(f"the fill is {fill}; where the whole image goes, use one of {', '.join(WHOLE_FILLS)}")
    maps, reading = maps_for(explained, scored), scores_of(scored)
    ready = prepare_fill(fill, scored.images, scored.black)
    whole = whole_values(scored, reading, maps.shape[1])[..., 0]
    image, question = _every_pair(maps)
    size = tuple(scored.images.shape[2:])
    empty = values_without(
        ready, reading, image, question, lambda jobs: torch.ones(len(jobs), *size, dtype=torch.bool, device=maps.device)
    )
    left = empty[:, 0].reshape(whole.shape)
    change = whole - left
    applies = change.abs() > ROUNDING * torch.maximum(whole.abs(), left.abs())
    missed = (maps.double().sum((2, 3)).cpu() - change).abs() / torch.where(applies, change.abs(), 1)
    return Score(torch.where(applies, missed, 0.0), applies, fill=fill)


def infidelity(
    explained: Maps, scored: ScoredImages, fill: str = "mean", samples: int = 50, scaled: bool = True, seed: int = 0
) -> Score:
    """Return how badly a map predicts what happens when squares are removed; 0 or more, lower is better.

    Yeh et al., NeurIPS 2019, definition 2.1 with square removal: the mean over squares of `(b sum of the map in the
    square - (f(x) - f(x without the square)))^2`, a map's cells read as what they contribute. With `scaled`, `b` is the
    best factor for each map (the paper's optimal scaling), so a map needs no unit and a map of zeros gives the mean
    squared change; without, `b` is 1. `b` may be below 0, so a map turned around has the same value. The unit is that
    of the score, squared.

    Args:
        explained: The maps; the total of each stays what it is when it is enlarged.
        scored: The images; any score that the maps explain.
        fill: What stands in the place of a square.
        samples: How many squares; their sides are drawn between an eighth and half of the image's shorter side.
        scaled: Whether each map is multiplied by its best factor.
        seed: Draws the squares, the same for every image and question.

    Returns:
        `values[image question]`; it does not apply where no square changes the score by more than rounding does.

    Raises:
        InputError: There are fewer than one sample, shapes do not fit, a map is not finite, or the fill is unknown.
    """
    check_integer(samples, "the number of samples")
    check_flag(scaled, "scaled")
    maps, reading = maps_for(explained, scored), scores_of(scored)
    ready = prepare_fill(fill, scored.images, scored.black, seed)
    size = (scored.images.shape[2], scored.images.shape[3])
    squares = random_squares(size, samples, seed).to(maps.device)
    whole = whole_values(scored, reading, maps.shape[1])
    image, question = _every_pair(maps)
    found, moved = [], []
    for one in range(len(image)):  # a pair at a time bounds the memory, and its squares fill a pass
        here, asked = int(image[one]), int(question[one])
        several = image[one].expand(samples), question[one].expand(samples)
        without = values_without(ready, reading, several[0], several[1], lambda jobs: squares[jobs])[:, 0]
        change = whole[here, asked, 0] - without
        large = enlarged(maps[here, asked][None], size)[0].double() * (maps[0, 0].numel() / (size[0] * size[1]))
        told = torch.stack([large[square].sum() for square in squares]).cpu()
        power = told.square().sum()
        factor = (told * change).sum() / power if scaled and power > 0 else 1.0
        found.append((factor * told - change).square().mean())
        moved.append(change.abs().max() > ROUNDING * whole[here, asked, 0].abs())
    values, applies = (torch.stack(one).reshape(maps.shape[:2]) for one in (found, moved))
    return Score(torch.where(applies, values, 0.0), applies, fill=fill)


def max_sensitivity(
    explain: Callable[[Tensor], Maps],
    images: Float[Tensor, "image colour rows columns"],
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Score:
    """Return how far a map moves at most under small noise, as a share of its own size; 0 or more, lower is better.

    Yeh et al., NeurIPS 2019, definition 3.1, over draws: `max |map(x + e) - map(x)| / |map(x)|`, each value of `e`
    uniform in `-radius..radius`. A map that ignores the image has 0, so it says nothing about truth.

    Args:
        explain: Explains images again: from a batch as the network takes it to its maps, the questions fixed.
        images: The images as the network takes them.
        radius: The noise's largest size, in units of the network's input, above 0.
        samples: How many draws.
        seed: Draws the noise, the same for every image.

    Returns:
        `values[image question]`; it does not apply where a map is 0 everywhere.

    Raises:
        InputError: A number is out of range, or maps are not finite, come from a network in training mode, or change
            their shape.
        InputTypeError: `explain` cannot be called.
    """
    check_function(explain, "explain", "from images to their maps")
    explain = only_in_eval_mode()(explain)
    check_images(images)
    check_integer(samples, "the number of samples")
    wanted = "a radius above 0, in units of the network's input"
    check_number(radius, "radius", wanted, lambda one: 0 < one < float("inf"))
    before = _maps(explain(images), images)
    size = before.flatten(2).norm(dim=2)
    generator = seeded_generator(seed)
    farthest = torch.zeros_like(size)
    for _ in range(samples):
        noise = radius * (2 * torch.rand(images.shape[1:], generator=generator, device="cpu") - 1)
        after = _maps(explain(images + noise.to(images)), images)
        if after.shape != before.shape:
            raise InputError(
                f"maps had shape {tuple(before.shape)} and now have {tuple(after.shape)}; fix the questions"
            )
        farthest = torch.maximum(farthest, (after - before).flatten(2).norm(dim=2))
    applies = size > 0
    return Score(torch.where(applies, farthest / torch.where(applies, size, 1), 0.0), applies)


def random_squares(size: tuple[int, int], samples: int, seed: int) -> Bool[Tensor, "sample rows columns"]:
    """Return squares of random side and place, wholly in the image.

    Args:
        size: Rows and columns of the image.
        samples: How many.
        seed: Draws them.
    """
    generator = seeded_generator(seed)
    draws = torch.rand(samples, 3, generator=generator, dtype=torch.float64, device="cpu").tolist()
    squares = torch.zeros(samples, *size, dtype=torch.bool)
    for square, (length, down, right) in zip(squares, draws, strict=True):
        side = max(1, round(min(size) * (SMALLEST_SQUARE + length * (LARGEST_SQUARE - SMALLEST_SQUARE))))
        top, left = int(down * (size[0] - side + 1)), int(right * (size[1] - side + 1))
        square[top : top + side, left : left + side] = True
    return squares


def _every_pair(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image and the question of every map."""
    rows = torch.arange(maps.shape[0], device=maps.device)
    questions = torch.arange(maps.shape[1], device=maps.device)
    return rows.repeat_interleave(len(questions)), questions.repeat(len(rows))


def _maps(given: Maps, images: Tensor) -> Float[Tensor, "image question height width"]:
    maps = tensor_of(given.maps if isinstance(given, Explanation) else given, "maps")
    if maps.ndim != 4 or len(maps) != len(images):
        raise InputError(f"maps have shape {tuple(maps.shape)}; expected image question height width")
    check_cells(maps)
    return maps.double()
