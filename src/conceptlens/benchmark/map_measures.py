"""The columns of a benchmark of class maps: metrics of a map and a model, each with a fill, from few forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.question_measures import GIVEN, SENSITIVITY
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS
from conceptlens.metrics.pixel_fills import WHOLE_FILLS
from conceptlens.metrics.relative_drops import class_pairs
from conceptlens.metrics.removal_readings import REMOVAL_READINGS
from conceptlens.metrics.rise_settings import RISE_FILLS
from conceptlens.metrics.shared_removal import removal_scores
from conceptlens.metrics.soft_masks import soft_mask_scores

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.scored_images import ScoredImages
    from conceptlens.statistics.score import Score

# Masks of these metrics are soft, so they take the fills that replace a whole image.
SOFT = ("average_drop", "increase_in_confidence")


def check_measure(measure: Measure) -> None:
    """Refuse a metric that there is not, or one that cannot take its fill.

    Args:
        measure: The metric and its fill.

    Raises:
        InputError: As above.
    """
    known = (*FAITHFULNESS_METRICS, *GIVEN, SENSITIVITY.metric)
    if measure.metric not in known:
        raise InputError(f"no metric '{measure.metric}'; {near(measure.metric, known, 'metrics')}")
    if measure.metric in SOFT and measure.fill not in WHOLE_FILLS:
        raise InputError(f"{measure.metric} takes the fills {', '.join(WHOLE_FILLS)}, not '{measure.fill}'")
    own = RISE_FILLS.get(measure.metric, measure.fill)
    if measure.fill != own:
        raise InputError(f"{measure.metric} has a fill of its own, {own}, and takes no '{measure.fill}'")


def measured_maps(
    explained: Maps, scored: ScoredImages, measures: Sequence[Measure], seed: int = 0
) -> dict[Measure, Score]:
    """Return several metrics of the same maps; those that remove the same pixels share their forward passes.

    Relative drops are against the most probable other class.

    Args:
        explained: The maps: several of one image share what they have in common, so give all methods' at once.
        scored: The images, with the probabilities of all classes and the class of each question.
        measures: Metrics of `FAITHFULNESS_METRICS`, each with a fill.
        seed: Draws the order of equal pixels and noise.

    Returns:
        A `Score` for each measure.

    Raises:
        InputError: A metric is unknown, or as in the metrics themselves.
    """
    rivals = None
    if any(REMOVAL_READINGS[one.metric].rivals for one in measures if one.metric in REMOVAL_READINGS):
        rivals = class_pairs(scored, "highest").rivals
    found: dict[Measure, Score] = {}
    for fill in dict.fromkeys(measure.fill for measure in measures):
        names = [measure.metric for measure in measures if measure.fill == fill]
        removing = [name for name in names if name in REMOVAL_READINGS]
        values: dict[str, Score] = {}
        if removing:
            values |= removal_scores(
                explained, scored, fill, "highest" if rivals is None else rivals, seed=seed, metrics=removing
            )
        if any(name in SOFT for name in names):
            values |= soft_mask_scores(explained, scored, fill)
        for name in names:
            if name not in values:
                taken = {} if name in RISE_FILLS else {"fill": fill}
                values[name] = FAITHFULNESS_METRICS[name].compute(explained, scored, seed=seed, **taken)
            found[Measure(name, fill)] = values[name]
    return {measure: found[measure] for measure in measures}
