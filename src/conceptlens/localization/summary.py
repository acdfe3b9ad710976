"""Rows to a table: means by group with intervals, what the right concept adds, and how methods differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError, near
from conceptlens.localization.methods import METHODS
from conceptlens.localization.result_rows import ORACLE, Row
from conceptlens.metrics.map_mask import LOCATED
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Float

MACRO, ALL = "macro", "all"
SCHEMA = "conceptlens.evaluate.localization/1"
DRAWS = 1000
LEVEL = 0.95
# A bootstrap of fewer photos draws from too few: its intervals are too narrow, and may miss the truth.
FEW = 8

# Intervals by group, then by metric.
Intervals = Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class Line:
    """What one method reached: intervals by group and metric.

    - `scores`: its maps. `control`: its maps of a wrong concept, against the same masks.
    - `specific`: right minus wrong, paired; what knowing the concept's name adds.
    - `against`: this method minus the reference, paired; empty for the reference itself.
    - `matched`: the share of pairs for which the method had an answer of its own.
    """

    method: str
    title: str
    oracle: bool
    scores: Intervals
    control: Intervals
    specific: Intervals
    against: Intervals
    matched: float


@dataclass(frozen=True)
class Summary:
    """All methods over the same pairs of photo and concept.

    `groups` are `macro` (the mean of the groups' means), each group of the set, and `all` (the mean over pairs);
    `pairs` is how many pairs each group has and `shares` the mean share of the photo that its masks cover, which is
    what chance reaches in some metrics. Intervals are 95 % bootstrap intervals that resample photos.
    """

    lines: tuple[Line, ...]
    groups: tuple[str, ...]
    pairs: Mapping[str, int]
    shares: Mapping[str, float]
    photos: int
    against: str | None

    @property
    def warning(self) -> str | None:
        """What to say of intervals that resample only a few photos; None where there are enough, or no interval."""
        if not 1 < self.photos < FEW:
            return None
        return f"{self.photos} photos are few: intervals of fewer than {FEW} are too narrow to rely on"

    def line(self, method: str) -> Line:
        """Return one method's line."""
        names = [line.method for line in self.lines]
        if method not in names:
            raise InputError(f"no method '{method}' in these results; methods: {near(method, names, len(names))}")
        return self.lines[names.index(method)]

    def best(self, group: str, metric: str) -> str | None:
        """Return the method with the best mean, oracles left out; None where there is nothing to compare."""
        fair = [line for line in self.lines if not line.oracle and metric in line.scores.get(group, {})]
        if len(fair) < 2:
            return None
        sign = 1 if LOCATED[metric].higher_is_better else -1
        return max(fair, key=lambda line: sign * line.scores[group][metric].mean).method


def summarise(rows: Iterable[Row], against: str | None = "grad_cam", draws: int = DRAWS) -> Summary:
    """Return means and intervals of every method over the pairs of photo and concept that the metrics apply to.

    `against` names the method that the others are compared with, pair by pair; None leaves the comparison out. Raises
    `InputError` where methods were not scored on the same pairs.
    """
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        if row.applies:
            by_method.setdefault(row.method, []).append(row)
    if not by_method:
        raise InputError("no row has a score; evaluate at least one photo with a mask that covers a part of it")
    pairs = _Pairs.of(by_method)
    if against is not None and against not in by_method:
        raise InputError(f"no method '{against}' to compare with; methods: {', '.join(by_method)}")
    reference = None if against is None else _values(by_method[against])
    lines = tuple(
        _line(name, own, pairs, None if name == against else reference, draws) for name, own in by_method.items()
    )
    sizes = {group: int(pairs.within(group).sum()) for group in pairs.names}
    shares = pairs.means(np.array([row.share for row in next(iter(by_method.values()))]))
    return Summary(lines, pairs.names, sizes, shares, len(set(pairs.photos)), against)


def summary_numbers(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON's own types."""
    return {
        "photos": summary.photos,
        "pairs": dict(summary.pairs),
        "mask_share": dict(summary.shares),
        "groups": list(summary.groups),
        "against": summary.against,
        "level": LEVEL,
        "metrics": [
            {
                "name": metric.name,
                "title": metric.title,
                "higher_is_better": metric.higher_is_better,
                "range": [metric.low, metric.high],
                "chance": metric.chance,
                "source": metric.source,
            }
            for metric in LOCATED.values()
        ],
        "methods": [_line_numbers(line) for line in summary.lines],
    }


def title_of(method: str) -> str:
    """Return what a method is called in a table; an oracle keeps its mark."""
    name = method.removesuffix(ORACLE)
    kind = METHODS.get(name)
    return (name if kind is None else kind.title) + (ORACLE if method.endswith(ORACLE) else "")


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The photo and the group of every pair, in the one order that all methods share."""

    photos: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, by_method: Mapping[str, Sequence[Row]]) -> _Pairs:
        keys = {name: [(r.photo, r.concept, r.type) for r in rows] for name, rows in by_method.items()}
        first = next(iter(keys))
        for name, own in keys.items():
            if own != keys[first]:
                raise InputError(
                    f"'{name}' was scored on {len(own)} pairs of photo and concept and '{first}' on "
                    f"{len(keys[first])}, or in another order; compare methods on the same pairs"
                )
        rows = by_method[first]
        return cls(tuple(row.photo for row in rows), tuple(row.group for row in rows))

    @property
    def names(self) -> tuple[str, ...]:
        """The groups of a table: the mean over groups, each of them, all pairs."""
        return (MACRO, *sorted(set(self.groups)), ALL)

    def within(self, group: str) -> np.ndarray:
        """Return which pairs a group of the table holds."""
        if group in (MACRO, ALL):
            return np.ones(len(self.photos), bool)
        return np.array([own == group for own in self.groups])

    def means(self, values: Float[np.ndarray, "pair"]) -> dict[str, float]:
        """Return the mean of every group of the table."""
        found = {group: float(values[self.within(group)].mean()) for group in self.names}
        return found | {MACRO: float(np.mean([found[group] for group in self.names[1:-1]]))}

    def intervals(self, values: Mapping[str, Float[np.ndarray, "pair"]], draws: int) -> Intervals:
        """Return the intervals of every group and metric."""
        return {group: {name: self._interval(group, v, draws) for name, v in values.items()} for group in self.names}

    def _interval(self, group: str, values: np.ndarray, draws: int) -> Interval:
        if group == MACRO:
            return bootstrap_macro_mean(values, self.groups, self.photos, draws, LEVEL)
        kept = self.within(group)
        return bootstrap_mean(values[kept], [p for p, k in zip(self.photos, kept, strict=True) if k], draws, LEVEL)


def _line(name: str, rows: Sequence[Row], pairs: _Pairs, reference: dict[str, Any] | None, draws: int) -> Line:
    scores, control = _values(rows), _controls(rows)
    specific = {metric: scores[metric] - values for metric, values in control.items()}
    gained = {} if reference is None else {metric: values - reference[metric] for metric, values in scores.items()}
    return Line(
        method=name,
        title=title_of(name),
        oracle=name.endswith(ORACLE),
        scores=pairs.intervals(scores, draws),
        control=pairs.intervals(control, draws) if control else {},
        specific=pairs.intervals(specific, draws) if specific else {},
        against=pairs.intervals(gained, draws) if gained else {},
        matched=float(np.mean([row.matched for row in rows])),
    )


def _values(rows: Sequence[Row]) -> dict[str, Float[np.ndarray, "pair"]]:
    return {metric: np.array([row.scores[metric] for row in rows], np.float64) for metric in LOCATED}


def _controls(rows: Sequence[Row]) -> dict[str, Float[np.ndarray, "pair"]]:
    if not all(row.control for row in rows):
        return {}
    return {metric: np.array([row.control[metric] for row in rows], np.float64) for metric in LOCATED}


def _line_numbers(line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {"name": line.method, "title": line.title, "oracle": line.oracle, "matched": line.matched}
    for part in ("scores", "control", "specific", "against"):
        told[part] = {
            group: {metric: _interval_numbers(value) for metric, value in row.items()}
            for group, row in getattr(line, part).items()
        }
    return told


def _interval_numbers(value: Interval) -> dict[str, Any]:
    return {name: getattr(value, name) for name in ("mean", "low", "high", "count", "images")}
