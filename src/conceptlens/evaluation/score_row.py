"""One value of an evaluation of maps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreRow:
    """One value: what one metric says of one map.

    Attributes:
        method: The name of the method, or of a control.
        image: The name of the image.
        question: What the map is about.
        metric: The name of the metric.
        fill: What stood in the place of removed pixels; empty for metrics that remove none.
        value: The value; `None` where the metric does not apply.
    """

    method: str
    image: str
    question: str
    metric: str
    fill: str
    value: float | None
