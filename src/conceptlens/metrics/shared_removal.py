"""The metrics that remove pixels in the order of a map, all from the same forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.io.errors import InputError
from conceptlens.metrics.faithfulness import ERASER_SHARES, ROAD_SHARES
from conceptlens.metrics.pixel_removal import STEPS, Removal, RemovalCurves, removed_values, taken_shares
from conceptlens.metrics.relative_drops import classes_and_rivals
from conceptlens.metrics.removal_order import TieOrder, maps_for, ranked
from conceptlens.metrics.scored_images import check_probabilities
from conceptlens.metrics.variant_runs import Reading, scores_of
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.relative_drops import Rivals
    from conceptlens.metrics.scored_images import ScoredImages

_EVERY_STEP = tuple(step / STEPS for step in range(STEPS + 1))


def removal_scores(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    rivals: Rivals = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
) -> dict[str, Score]:
    """Return deletion, insertion, ROAD, comprehensiveness, sufficiency and relative drops with one fill, from one run.

    The same values as those metrics of `FAITHFULNESS_METRICS` give one by one, in half of their forward passes: 42 for
    each map. Where the classes of the questions are known, their probabilities are the scores; where not, relative
    drops are left out.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What stands in the place of removed pixels.
        rivals: The class that each question's class stands against, as in `relative_drop`.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.

    Returns:
        A score by its name in `FAITHFULNESS_METRICS`.

    Raises:
        InputError: As in `removal_curves` and `relative_drop`, or scores are no probabilities.
    """
    reading = _reading(explained, scored, rivals)
    first, whole = _values(explained, scored, reading, "highest", fill, ties, seed)
    last, _ = _values(explained, scored, reading, "lowest", fill, ties, seed)
    applies = ranked(maps_for(explained, scored)).cpu()
    check_probabilities(torch.cat([part[..., 0].flatten() for part in (*first.values(), *last.values(), whole)]))
    before = whole[..., 0]

    def score(values: Float[Tensor, "image question"]) -> Score:
        return Score(torch.where(applies, values, 0.0), applies, fill=fill)

    def mean(values: dict[float, Tensor], shares: Sequence[float]) -> Float[Tensor, "image question"]:
        return torch.stack([values[_key(share)][..., 0] for share in shares]).mean(0)

    def area(values: dict[float, Tensor]) -> Float[Tensor, "image question"]:
        shares = taken_shares(torch.tensor(_EVERY_STEP, dtype=torch.float64), scored)
        scores = torch.stack([values[_key(share)] for share in _EVERY_STEP], 2)
        return RemovalCurves(shares, scores[..., 0], before, applies, fill, "highest").area().values

    most, least = mean(first, ROAD_SHARES) - before, mean(last, ROAD_SHARES) - before
    found = {
        "deletion": area(first),
        "insertion": area(last),
        "road": (least - most) / 2,
        "road_most": most,
        "road_least": least,
        "comprehensiveness": before - mean(first, ERASER_SHARES),
        "sufficiency": before - mean(last, [1 - share for share in ERASER_SHARES]),
    }
    if whole.shape[2] == 2:  # the class and its rival
        drops = {share: whole.diff(dim=2) * -1 + values.diff(dim=2) for share, values in first.items()}
        found |= {
            "relative_drop_5": drops[_key(0.05)][..., 0],
            "relative_drop_10": drops[_key(0.1)][..., 0],
            "relative_drop_area": area(drops),
        }
    return {name: score(values) for name, values in found.items()}


def _reading(explained: Maps, scored: ScoredImages, rivals: Rivals) -> Reading:
    """Return what reads the probabilities of a question's class and its rival, or the score where no class is known."""
    if scored.classes is None:
        return scores_of(scored)
    own, other = classes_and_rivals(scored, rivals)
    if maps_for(explained, scored).shape[1] != own.shape[1]:
        raise InputError(f"there are classes of {own.shape[1]} questions; give one for each question of the maps")

    def read(outputs: Tensor, image: Tensor, question: Tensor) -> Tensor:
        return outputs.gather(1, torch.stack([own[image, question], other[image, question]], 1))

    return Reading(scored.run_classes, read)


def _values(
    explained: Maps,
    scored: ScoredImages,
    reading: Reading,
    removed: Removal,
    fill: str,
    ties: TieOrder,
    seed: int,
) -> tuple[dict[float, Float[Tensor, "image question value"]], Float[Tensor, "image question value"]]:
    """Return what is read at every share that a metric needs, by share, and of whole images."""
    eraser = ERASER_SHARES if removed == "highest" else [1 - share for share in ERASER_SHARES]
    shares = sorted({_key(share) for share in (*_EVERY_STEP, *ROAD_SHARES, *eraser)})
    steps = torch.tensor(shares, dtype=torch.float64)
    _, found, whole = removed_values(explained, scored, reading, steps, fill, removed, ties, seed)
    return dict(zip(shares, found.unbind(2), strict=True)), whole


def _key(share: float) -> float:
    """Return a share without what arithmetic adds to it."""
    return round(share, 9)
