"""Test-time intervention as the page of a bottleneck shows it: a sentence, a plot, the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.intervention_curve import CONTROL, PERCENTILES, PRESENCE_MEANS, InterventionCurve
from conceptlens.pages.number_format import counted, interval_text, number

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.statistics.bootstrap import Interval

TITLE = "Test-time intervention"
# What each curve puts in: its style, and its name in the legend and the table.
DRAWN: dict[str, tuple[str, str]] = {
    PERCENTILES: ("ends", "the truth, as percentiles"),
    PRESENCE_MEANS: ("means", "the truth, as means"),
    CONTROL: ("control", "another photo's truth, as percentiles (control)"),
}
HEIGHT = 260  # pixels from no photo that is right to all
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def corrections(result: BottleneckResult) -> dict[str, Any] | None:
    """Return what the section shows; `None` where nothing was measured."""
    curves = result.interventions.curves
    if not curves:
        return None
    first = curves[PERCENTILES]
    max_corrected = first.points[-1].corrected or 1
    return {
        "text": intervention_sentence(result),
        "max_corrected": first.points[-1].corrected,
        "n_orders": first.n_orders,
        "means": PRESENCE_MEANS in curves,
        "height": HEIGHT,
        "across": [{"at": _share(point.corrected / max_corrected), "text": point.corrected} for point in first.points],
        "up": [{"at": _high(tick), "text": f"{tick:.0%}"} for tick in TICKS],
        "curves": [_drawn(name, curves[name], max_corrected) for name in reversed(DRAWN) if name in curves],
        "columns": [DRAWN[name][1] for name in DRAWN if name in curves],
        "rows": [_row(index, curves) for index in range(len(first.points))],
    }


def intervention_sentence(result: BottleneckResult) -> str:
    """Return whether correcting helps or harms this bottleneck, by how many points, and what the control does."""
    curves = result.interventions.curves
    own, means = curves[PERCENTILES], curves.get(PRESENCE_MEANS)
    points = own.points
    text = (
        f"{_percent(points[0].accuracy)} of photos are right as the bottleneck reads them. With all "
        f"{counted(points[-1].corrected, 'group')} of concepts corrected, the truth put in as percentiles "
        f"{_does(own.gain)}: {_end(own)} are right."
    )
    if means is not None:
        text += f" Put in as means, it {_does(means.gain)}: {_end(means)}."
    return f"{text} Another photo's truth, the control, leaves {_end(curves[CONTROL])}."


def _end(one: InterventionCurve) -> str:
    return _percent(one.points[-1].accuracy)


def _does(difference: Interval) -> str:
    """Return what a difference of accuracies comes to, in points; `helps` or `harms` where its interval has no 0."""
    points = f"{number(100 * abs(difference.mean), 1)} points"
    if difference.low is None or difference.high is None:
        return f"changes accuracy by {number(100 * difference.mean, 1)} points"
    low, high = (number(100 * one, 1) for one in (difference.low, difference.high))
    if difference.low <= 0 <= difference.high:
        return f"neither surely helps nor surely harms (95%: {low} to {high} points)"
    if difference.mean < 0:
        low, high = (number(-100 * one, 1) for one in (difference.high, difference.low))
    return f"{'helps' if difference.mean > 0 else 'harms'} by {points} (95%: {low} to {high})"


def _drawn(name: str, one: InterventionCurve, max_corrected: int) -> dict[str, Any]:
    """Return where a curve is in the plot: dots with their intervals, and the lines between them."""
    style, title = DRAWN[name]
    dots = []
    for point in one.points:
        value = point.accuracy
        low, high = (value.mean if end is None else end for end in (value.low, value.high))
        dots.append(
            {
                "x": _share(point.corrected / max_corrected),
                "y": _high(value.mean),
                "low": _high(low),
                "high": _high(high),
            }
        )
    ends = [_percent(point.accuracy) for point in (one.points[0], one.points[-1])]
    return {
        "style": style,
        "title": title,
        "text": f"{title}: from {ends[0]} of photos right to {ends[1]}",
        "dots": dots,
        "lines": [{"from": a, "to": b} for a, b in pairwise(dots)],
    }


def _row(index: int, curves: Mapping[str, InterventionCurve]) -> dict[str, Any]:
    """Return a row of the table: how much is corrected, and the accuracy of each curve."""
    point = curves[PERCENTILES].points[index]
    values = [curves[name].points[index].accuracy for name in DRAWN if name in curves]
    return {
        "corrected": counted(point.corrected, "group"),
        "concepts": number(point.concepts, 1),
        "values": [interval_text(one, _write) for one in values],
    }


def _percent(value: Interval) -> str:
    return _write(value.mean)


def _write(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 1)}%"


def _share(share: float) -> str:
    return f"{100 * share:.2f}%"


def _high(accuracy: float) -> str:
    return f"{HEIGHT * (1 - accuracy):.1f}"
