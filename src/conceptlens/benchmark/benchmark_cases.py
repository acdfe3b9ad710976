"""Photos to look at: where a method gains most over the one that it is compared with, is as usual, loses most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.benchmark.comparison import BenchmarkComparison
    from conceptlens.benchmark.protocol import Measure
    from conceptlens.benchmark.result_parts import PhotoRows

Side = Literal["gain", "usual", "loss"]
SIDES: tuple[Side, ...] = ("gain", "usual", "loss")
CASES_PER_SIDE = 2


@dataclass(frozen=True)
class BenchmarkCase:
    """One photo to look at.

    Attributes:
        side: Why it is shown.
        index: The photo's index in the run.
        photo: Its name.
        question: What was asked about it.
        gain: The difference that it was chosen by, turned so that more is better.
        values: Every method's number in the column that it was chosen by; `None` where there is none.
    """

    side: Side
    index: int
    photo: str
    question: str
    gain: float
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class ChosenCases:
    """Cases, and what they were chosen by: a method, the one it is compared with, and a column."""

    method: str
    against: str
    measure: Measure
    cases: tuple[BenchmarkCase, ...]


@dataclass(frozen=True, eq=False)
class ShownPhoto:
    """A photo and the raw map of every method over the part of it that the model saw."""

    photo: Image.Image
    maps: Mapping[str, Float[np.ndarray, "height width"]] = field(repr=False)
    signed: Mapping[str, bool]
    box: tuple[float, float, float, float]


# From the index of a photo to its maps, made again.
Show: TypeAlias = Callable[[int], ShownPhoto]


def choose_benchmark_cases(
    photos: Iterable[PhotoRows], comparison: BenchmarkComparison, higher_is_better: bool
) -> ChosenCases | None:
    """Choose photos by the first column, for the method that differs most from the one it is compared with.

    Args:
        photos: What `read_photos` yields.
        comparison: The comparison of these rows.
        higher_is_better: The direction of the first column.

    Returns:
        Two photos each with the highest, the middle and the lowest gain, fewer where there are few; `None` where no
        method is compared with another one.
    """
    measure = comparison.measures[0]
    gaps = [(line.method, line.cells[measure].difference) for line in comparison.lines]
    known = [(method, gap) for method, gap in gaps if gap is not None]
    if not known:
        return None
    method, _ = max(known, key=lambda one: abs(one[1].interval.mean))
    found = [case for one in photos if (case := _case(one, measure, method.name, method.against)) is not None]
    sign = 1 if higher_is_better else -1
    ordered = sorted(found, key=lambda case: -sign * case.gain)
    count = min(CASES_PER_SIDE, len(ordered) // len(SIDES) or len(ordered))
    middle = max(0, (len(ordered) - count) // 2)
    sides: dict[Side, list[BenchmarkCase]] = {"gain": ordered[:count]}
    if len(ordered) >= len(SIDES):
        sides |= {"usual": ordered[middle : middle + count], "loss": ordered[::-1][:count]}
    chosen = [
        BenchmarkCase(side, case.index, case.photo, case.question, sign * case.gain, case.values)
        for side, cases in sides.items()
        for case in cases
    ]
    return ChosenCases(method.name, method.against, measure, tuple(chosen))


def _case(found: PhotoRows, measure: Measure, method: str, against: str) -> BenchmarkCase | None:
    """Return what a photo's first question got by every method; `None` where the difference is not known."""
    values: dict[str, float | None] = {}
    question = next((row.question for row in found.values), "")
    for row in found.values:
        if (row.metric, row.fill) == measure and row.question == question:
            values.setdefault(row.method, row.value)
    own, other = values.get(method), values.get(against)
    if own is None or other is None:
        return None
    return BenchmarkCase("usual", found.index, found.photo, question, own - other, values)
