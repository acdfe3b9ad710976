"""Metrics of one's own beside those of a map and a mask: which are taken, and how they are asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.localization.result_rows import WRONG, Row
from conceptlens.metrics.map_mask import MAP_MASK_METRICS
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

# Columns of the file of rows, which no metric may be called as.
TAKEN = (*(field.name for field in fields(Row)), "oracle", "applies")


def check_metrics(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return metrics of one's own, and refuse those that cannot stand beside `MAP_MASK_METRICS`.

    Args:
        metrics: The metrics.

    Raises:
        InputTypeError: They are no list of `Metric`.
        InputError: Two metrics have one name, or a name is that of a metric or of a column that there is.
    """
    if not isinstance(metrics, Iterable) or isinstance(metrics, str):
        raise InputTypeError(f"metrics are given as {type(metrics).__name__}; expected a list of cl.metrics.Metric")
    own = tuple(metrics)
    names: set[str] = set()
    for metric in own:
        if not isinstance(metric, Metric):
            raise InputTypeError(f"metrics hold a {type(metric).__name__}; expected a list of cl.metrics.Metric")
        if metric.name in MAP_MASK_METRICS or metric.name in names:
            raise InputError(f"there is a metric '{metric.name}' already; give yours another name")
        if metric.name in TAKEN or metric.name.startswith(WRONG):
            raise InputError(f"'{metric.name}' is a column of the table of rows; give the metric another name")
        names.add(metric.name)
    return own


def own_scores(
    metrics: Iterable[Metric],
    maps: Float[Tensor, "1 question height width"],
    masks: Bool[Tensor, "1 question rows columns"],
    ignored: Bool[Tensor, "1 rows columns"] | None,
) -> dict[str, Score]:
    """Return the scores of metrics of one's own.

    Args:
        metrics: The metrics, called as `compute(maps, masks, ignored)`.
        maps: The maps of one photo.
        masks: Their masks.
        ignored: Pixels to leave out.

    Raises:
        InputError: A score has not one value for each image and question, or lies outside the metric's range.
        InputTypeError: A metric returned something else than a `Score`.
    """
    found = {metric.name: metric.measure(maps, masks, ignored) for metric in metrics}
    for name, score in found.items():
        if tuple(score.values.shape) != tuple(maps.shape[:2]):
            raise InputError(
                f"metric '{name}' gave values of shape {tuple(score.values.shape)} for maps of "
                f"{tuple(maps.shape[:2])} images and questions; expected one value for each"
            )
    return found
