"""The metrics that remove pixels in the order of a map, all from the same forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_names
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.pixel_removal import Removal, removed_values, taken_shares
from conceptlens.metrics.relative_drops import class_pairs
from conceptlens.metrics.removal_order import TieOrder, maps_for, ranked
from conceptlens.metrics.removal_readings import REMOVAL_READINGS, RemovedShares, SharedCurve, share_key
from conceptlens.metrics.scored_images import check_probabilities, check_scored
from conceptlens.metrics.variant_runs import Reading, scores_of, whole_values
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.relative_drops import Rivals
    from conceptlens.metrics.scored_images import ScoredImages


def removal_scores(
    explained: Maps,
    scored: ScoredImages,
    fill: str = "mean",
    rivals: Rivals = "highest",
    ties: TieOrder = "seeded",
    seed: int = 0,
    metrics: Sequence[str] | None = None,
) -> dict[str, Score]:
    """Return deletion, insertion, ROAD, comprehensiveness, sufficiency and relative drops with one fill, from one run.

    The same values as those metrics of `FAITHFULNESS_METRICS` give one by one, in half of their forward passes: at most
    42 for each map, fewer where maps of one image remove the same pixels. Where the classes of the questions are known,
    their probabilities are the scores.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        fill: What stands in the place of removed pixels.
        rivals: The class that each question's class stands against, as in `relative_drop`.
        ties: The order of equal pixels.
        seed: Draws it, and the noise of a fill.
        metrics: Which are wanted, by their names in `FAITHFULNESS_METRICS`; images are run for those alone. By default
            all, but for relative drops where the classes are not known.

    Returns:
        A score by its name in `FAITHFULNESS_METRICS`.

    Raises:
        InputError: A metric is none of these, as in `removal_curves` and `relative_drop`, or scores are no
            probabilities.
    """
    check_scored(scored)
    if metrics is None:
        metrics = [name for name, one in REMOVAL_READINGS.items() if scored.classes is not None or not one.rivals]
    wanted = {name: REMOVAL_READINGS[_checked(name)] for name in check_names(metrics, "metrics")}
    paired = any(one.rivals for one in wanted.values())
    if paired:
        pairs = class_pairs(scored, rivals)
        _check_questions(explained, scored, pairs.classes)
        reading, whole = pairs.reading(scored), pairs.whole
    else:
        reading = _own(explained, scored)
        whole = whole_values(scored, reading, maps_for(explained, scored).shape[1])

    def curve(removed: Removal, shares: Iterable[float]) -> SharedCurve:
        keys = sorted({share_key(share) for share in shares})
        steps = torch.tensor(keys, dtype=torch.float64)
        _, values, _ = removed_values(explained, scored, reading, steps, fill, removed, ties, seed, whole)
        taken = taken_shares(steps, scored).tolist()
        return SharedCurve(dict(zip(keys, values.unbind(2), strict=True)), dict(zip(keys, taken, strict=True)))

    highest = curve("highest", (share for one in wanted.values() for share in one.highest))
    lowest = curve("lowest", (share for one in wanted.values() for share in one.lowest))
    read = [*highest.values.values(), *lowest.values.values(), whole]
    check_probabilities(torch.cat([part[..., 0].flatten() for part in read]))
    found, applies = RemovedShares(highest, lowest, whole), ranked(maps_for(explained, scored)).cpu()
    return {name: Score(torch.where(applies, one.read(found), 0.0), applies, fill=fill) for name, one in wanted.items()}


def _checked(name: str) -> str:
    if name not in REMOVAL_READINGS:
        known = near(name, REMOVAL_READINGS, "there are")
        raise InputError(f"no metric '{name}' that removes pixels in the order of a map; {known}")
    return name


def _own(explained: Maps, scored: ScoredImages) -> Reading:
    """Return what reads the probability of a question's class, or its score where no class is known."""
    if scored.classes is None or scored.probabilities is None:
        return scores_of(scored)
    own = scored.classes.to(scored.images.device)
    _check_questions(explained, scored, own)
    return Reading(
        scored.run_classes, lambda outputs, image, question: outputs.gather(1, own[image, question][:, None])
    )


def _check_questions(explained: Maps, scored: ScoredImages, own: Tensor) -> None:
    if maps_for(explained, scored).shape[1] != own.shape[1]:
        raise InputError(f"there are classes of {own.shape[1]} questions; give one for each question of the maps")
