"""What CE-FAM reports of maps and masks, as its code computes it, beside the corrected metrics."""

from __future__ import annotations

from functools import partial

from conceptlens.metrics.map_mask import ranked_area
from conceptlens.statistics.score import Metric, Score

_CE_FAM = "CE-FAM, official code"
OWN_MAP, PUBLISHED_AREA, HIT = "own_map", "ranked_area_published", "hit"
# What CE-FAM reports, and the pointing game.
PUBLISHED = ("pointing_energy_minmax", PUBLISHED_AREA, HIT, "pointing_game")


def _has_own_map(matched: Score) -> Score:
    """Return whether a method has a map for the concept itself, which is known before any map is measured."""
    return matched


# Of a mask of few pixels the published sum is above 1: it compares i pixels with the ideal of i - 1.
PUBLISHED_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(PUBLISHED_AREA, "NRA as published", partial(ranked_area, ties="official", bins="published"), True, 0,
               float("inf"), "0.10 to 0.17", _CE_FAM, ("map", "mask")),
        Metric(OWN_MAP, "concepts with a map", _has_own_map, True, 0, 1, "1 of a map of every concept", _CE_FAM,
               ("map",)),
    )
}  # fmt: skip
