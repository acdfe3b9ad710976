"""From rows to a table: means by group with intervals, differences to a wrong concept and to a reference method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.localization.methods import find_kind
from conceptlens.localization.result_rows import ORACLE, Row, check_named
from conceptlens.metrics.map_mask import MAP_MASK_METRICS
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.statistics.score import Metric

MACRO, ALL = "macro", "all"
SCHEMA = "conceptlens.evaluate-localization/2"
N_BOOTSTRAP = 1000
LEVEL = 0.95
# A bootstrap of fewer photos draws from too few: its intervals are too narrow, and may miss the truth.
MIN_PHOTOS = 8

# Intervals by group, then by metric; without a metric that applies to no pair of the group.
Intervals = Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class MethodSummary:
    """The scores of one method: means with intervals, by group and metric.

    Attributes:
        method: The method's name.
        title: Its name in tables.
        oracle: Whether its map was chosen among several with the mask.
        scores: Of its own maps.
        wrong_scores: Of its maps of a wrong concept, compared with the same masks; empty without this control.
        minus_wrong: `scores` minus `wrong_scores`, paired: what the concept's name adds.
        minus_reference: This method minus the reference method, paired; empty for the reference itself.
        own_map_share: The share of pairs for which the method has a map for the concept itself, 0 to 1.
    """

    method: str
    title: str
    oracle: bool
    scores: Intervals
    wrong_scores: Intervals
    minus_wrong: Intervals
    minus_reference: Intervals
    own_map_share: float


@dataclass(frozen=True)
class LocalizationSummary:
    """All methods over the same pairs of photo and concept.

    Attributes:
        methods: One summary per method, oracles too.
        groups: `macro` (the mean of the groups' means), each group of the set, and `all` (the mean over pairs).
        pairs: How many pairs each group has.
        mask_shares: The mean share of the photo that a group's masks cover: what chance reaches in some metrics.
        photos: How many photos the pairs come from.
        reference: The method that the others are compared with.
        metrics: What was measured, by name: `MAP_MASK_METRICS`, and metrics of one's own behind them.
    """

    methods: tuple[MethodSummary, ...]
    groups: tuple[str, ...]
    pairs: Mapping[str, int]
    mask_shares: Mapping[str, float]
    photos: int
    reference: str | None
    metrics: Mapping[str, Metric] = field(default_factory=lambda: MAP_MASK_METRICS)

    @property
    def own_metrics(self) -> tuple[Metric, ...]:
        """The metrics of one's own."""
        return tuple(metric for name, metric in self.metrics.items() if name not in MAP_MASK_METRICS)

    @property
    def warning(self) -> str | None:
        """A warning that few photos make intervals too narrow; None where there are enough, or no interval."""
        if not 1 < self.photos < MIN_PHOTOS:
            return None
        return f"{self.photos} photos are few: intervals of fewer than {MIN_PHOTOS} are too narrow to rely on"

    def best(self, group: str, metric: str) -> str | None:
        """Return the method with the best mean, oracles left out; None where there is nothing to compare.

        Args:
            group: The name of a group of pairs.
            metric: The name of one of `metrics`.

        Returns:
            The name of the method, or `None`.
        """
        fair = [line for line in self.methods if not line.oracle and metric in line.scores.get(group, {})]
        if len(fair) < 2:
            return None
        sign = 1 if self.metrics[metric].higher_is_better else -1
        return max(fair, key=lambda line: sign * line.scores[group][metric].mean).method


def summarise(
    rows: Iterable[Row],
    reference: str | None = "grad_cam",
    n_bootstrap: int = N_BOOTSTRAP,
    metrics: Iterable[Metric] = (),
) -> LocalizationSummary:
    """Return means and 95 % bootstrap intervals of every method, resampling photos.

    Args:
        rows: What `evaluate_localization` yields; pairs that no metric applies to are left out.
        reference: The method that the others are compared with, pair by pair; None leaves the comparison out.
        n_bootstrap: Draws of the bootstrap.
        metrics: The metrics of your own that `evaluate_localization` was given.

    Returns:
        The summary of all methods.

    Raises:
        InputError: No row has a score, the reference is missing, methods were not scored on the same pairs, or rows
            hold other metrics.
    """
    several = list(rows)
    known = {**MAP_MASK_METRICS, **{metric.name: metric for metric in check_named(several, metrics)}}
    by_method: dict[str, list[Row]] = {}
    for row in several:
        if row.applies:
            by_method.setdefault(row.method, []).append(row)
    if not by_method:
        raise InputError("no row has a score; evaluate at least one photo with a mask that covers a part of it")
    pairs = _Pairs.of(by_method)
    if reference is not None and reference not in by_method:
        raise InputError(f"no method '{reference}' to compare with; methods: {', '.join(by_method)}")
    reference_scores = None if reference is None else _values(by_method[reference], known)
    lines = tuple(
        _method_summary(name, own, pairs, known, None if name == reference else reference_scores, n_bootstrap)
        for name, own in by_method.items()
    )
    sizes = {group: int(pairs.within(group).sum()) for group in pairs.names}
    shares = pairs.means(np.array([row.mask_share for row in next(iter(by_method.values()))]))
    return LocalizationSummary(lines, pairs.names, sizes, shares, len(set(pairs.photos)), reference, known)


def summary_numbers(summary: LocalizationSummary) -> dict[str, Any]:
    """Return a summary as JSON's own types."""
    return {
        "photos": summary.photos,
        "pairs": dict(summary.pairs),
        "mask_share": dict(summary.mask_shares),
        "groups": list(summary.groups),
        "reference": summary.reference,
        "level": LEVEL,
        "metrics": [metric.described() for metric in summary.metrics.values()],
        "methods": [_method_numbers(line) for line in summary.methods],
    }


def title_of(method: str) -> str:
    """Return what a method is called in a table; an oracle keeps its mark."""
    name = method.removesuffix(ORACLE)
    kind = find_kind(name)
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

    def intervals(self, values: Mapping[str, Float[np.ndarray, "pair"]], n_bootstrap: int) -> Intervals:
        """Return the intervals of every group and metric that has a value; NaN where a metric does not apply."""
        found: dict[str, dict[str, Interval]] = {group: {} for group in self.names}
        for group in self.names:
            for name, value in values.items():
                kept = self.within(group) & ~np.isnan(value)
                if kept.any():
                    found[group][name] = self._interval(group, value, kept, n_bootstrap)
        return found

    def _interval(
        self, group: str, values: Float[np.ndarray, "pair"], kept: Bool[np.ndarray, "pair"], n_bootstrap: int
    ) -> Interval:
        photos, groups = (list(compress(names, kept)) for names in (self.photos, self.groups))
        if group == MACRO:
            return bootstrap_macro_mean(values[kept], groups, photos, n_bootstrap, LEVEL)
        return bootstrap_mean(values[kept], photos, n_bootstrap, LEVEL)


def _method_summary(
    name: str,
    rows: Sequence[Row],
    pairs: _Pairs,
    metrics: Iterable[str],
    reference: dict[str, Any] | None,
    n_bootstrap: int,
) -> MethodSummary:
    scores, wrong = _values(rows, metrics), _wrong_values(rows, metrics)
    specific = {metric: scores[metric] - values for metric, values in wrong.items()}
    gained = {} if reference is None else {metric: values - reference[metric] for metric, values in scores.items()}
    return MethodSummary(
        method=name,
        title=title_of(name),
        oracle=name.endswith(ORACLE),
        scores=pairs.intervals(scores, n_bootstrap),
        wrong_scores=pairs.intervals(wrong, n_bootstrap) if wrong else {},
        minus_wrong=pairs.intervals(specific, n_bootstrap) if specific else {},
        minus_reference=pairs.intervals(gained, n_bootstrap) if gained else {},
        own_map_share=float(np.mean([row.has_own_map for row in rows])),
    )


def _values(rows: Sequence[Row], metrics: Iterable[str]) -> dict[str, Float[np.ndarray, "pair"]]:
    """Return the scores of every metric, NaN where it does not apply."""
    return {metric: np.array([row.scores.get(metric) for row in rows], np.float64) for metric in metrics}


def _wrong_values(rows: Sequence[Row], metrics: Iterable[str]) -> dict[str, Float[np.ndarray, "pair"]]:
    if not all(row.wrong_scores for row in rows):
        return {}
    return {metric: np.array([row.wrong_scores.get(metric) for row in rows], np.float64) for metric in metrics}


def _method_numbers(line: MethodSummary) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "name": line.method,
        "title": line.title,
        "oracle": line.oracle,
        "own_map_share": line.own_map_share,
    }
    for part in ("scores", "wrong_scores", "minus_wrong", "minus_reference"):
        numbers[part] = {
            group: {metric: asdict(value) for metric, value in row.items()}
            for group, row in getattr(line, part).items()
        }
    return numbers
