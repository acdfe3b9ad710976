"""From the numbers of a run to a comparison: intervals by photo, which differences are real, what controls reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.benchmark.metric_agreement import MetricAgreement, metric_agreement
from conceptlens.benchmark.paired_values import PairedValues, collect_values
from conceptlens.benchmark.protocol import Measure, Protocol
from conceptlens.benchmark.result_parts import PhotoRows
from conceptlens.benchmark.suite_metrics import SUITE_METRICS
from conceptlens.pages.number_format import counted
from conceptlens.statistics.bootstrap import Interval, bootstrap
from conceptlens.statistics.multiple_comparisons import ENOUGH_IMAGES, MIN_IMAGES, N_DRAWS, holm, paired_p_values

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.io.errors import Failure

N_BOOTSTRAP, LEVEL = 2000, 0.95
# A difference is called real where its p value, corrected for the number of comparisons, is at most this.
REAL = 0.05


@dataclass(frozen=True)
class ComparedMethod:
    """A method of a table.

    Attributes:
        name: Its name in rows.
        title: Its name in tables.
        about: What it does, in one line.
        control: Whether it knows nothing, so that others must beat it.
        against: The method that it is compared with; empty for none.
        control_of: The one method that must beat it; empty where all must, and for what is no control.
    """

    name: str
    title: str
    about: str = ""
    control: bool = False
    against: str = ""
    control_of: str = ""

    def controls(self, other: ComparedMethod) -> bool:
        """Whether this is a control that another method must beat.

        Args:
            other: The other method.
        """
        return self.control and not other.control and self.control_of in ("", other.name)


@dataclass(frozen=True)
class PairedDifference:
    """A method's mean difference from another one, photo by photo.

    Attributes:
        other: The other method's name.
        interval: The mean difference with its 95 % interval, uncorrected.
        p_value: Of the bootstrap, two-sided.
        corrected: The same, corrected by Holm for all comparisons of its kind in the table.
        better: Whether the method is on the better side, by the metric's direction.
    """

    other: str
    interval: Interval
    p_value: float
    corrected: float
    better: bool

    @property
    def real(self) -> bool:
        """Whether the difference is real: its corrected p value is at most 0.05."""
        return self.corrected <= REAL


@dataclass(frozen=True)
class MeasuredCell:
    """One method in one column.

    Attributes:
        interval: Its mean with the 95 % interval by photo; `None` where the metric applies nowhere.
        difference: From the method that it is compared with; `None` where it is with none.
        unbeaten: Titles of the controls that it does not beat for sure; empty for controls themselves.
    """

    interval: Interval | None
    difference: PairedDifference | None = None
    unbeaten: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparedLine:
    """One method in every column."""

    method: ComparedMethod
    cells: Mapping[Measure, MeasuredCell]

    def unbeaten(self, measures: Iterable[Measure]) -> int:
        """Return in how many columns a control is not beaten for sure.

        Args:
            measures: The columns.
        """
        return sum(bool(self.cells[measure].unbeaten) for measure in measures)


@dataclass(frozen=True)
class BenchmarkComparison:
    """A whole comparison.

    Attributes:
        measures: The columns: metrics, each with its fill.
        lines: The methods, controls last.
        photos: How many photos were measured.
        comparisons: How many differences from another method were tested together.
        control_comparisons: How many differences from controls were.
        agreement: How far the columns agree; `None` with one column alone.
        failures: Photos that failed.
    """

    measures: tuple[Measure, ...]
    lines: tuple[ComparedLine, ...]
    photos: int
    comparisons: int
    control_comparisons: int
    agreement: MetricAgreement | None
    failures: tuple[Failure, ...] = ()

    @property
    def fills(self) -> tuple[str, ...]:
        """The fills, in the order of the columns; the empty one where a metric removes nothing."""
        return tuple(dict.fromkeys(measure.fill for measure in self.measures))

    def measures_of(self, fill: str) -> tuple[Measure, ...]:
        """Return the columns of one fill.

        Args:
            fill: A fill.
        """
        return tuple(measure for measure in self.measures if measure.fill == fill)

    @property
    def warning(self) -> str | None:
        """A warning that photos are too few; `None` where there are enough."""
        if self.photos >= ENOUGH_IMAGES:
            return None
        if self.photos == 1:
            return "1 photo is too few: it gives no interval, and nothing is real"
        few = f"{self.photos} photos are few: intervals of fewer than {ENOUGH_IMAGES} are too narrow"
        return f"{few}, and nothing is real" if self.photos < MIN_IMAGES else f"{few}, and little can be told real"

    @property
    def photos_text(self) -> str:
        """How many photos were measured, and how many failed, such as `3 of 6 photos; 3 failed`."""
        failed = len(self.failures)
        if not failed:
            return counted(self.photos, "photo")
        return f"{self.photos} of {counted(self.photos + failed, 'photo')}; {failed} failed"


def compare_methods(
    photos: Iterable[PhotoRows],
    protocols: Mapping[str, Protocol],
    methods: Sequence[ComparedMethod],
    n_bootstrap: int = N_BOOTSTRAP,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> BenchmarkComparison:
    """Return means with intervals by photo, paired differences with corrected p values, and how metrics agree.

    Differences from the methods that are compared with are one family for Holm's correction, those from controls
    another one.

    Args:
        photos: What `read_photos` yields.
        protocols: Their protocols by hash.
        methods: The methods, in the order of the table.
        n_bootstrap: Draws of the intervals.
        n_draws: Draws of the p values, more where comparisons are many.
        seed: Of the draws.

    Returns:
        The comparison; controls stand last.

    Raises:
        InputError: Numbers of one column were measured by different protocols, or no photo was measured.
    """
    ordered = sorted(methods, key=lambda one: one.control)
    names = [one.name for one in ordered]
    against = [(one.name, one.against) for one in ordered if one.against in names]
    above = [(one.name, other.name) for one in ordered for other in ordered if other.controls(one)]
    values = collect_values(photos, protocols, names, [*against, *above])
    draws = _Draws(n_bootstrap, n_draws, seed)
    gains = _differences(values, range(len(against)), draws)
    above_controls = _differences(values, range(len(against), len(values.pairs)), draws)
    titles = {one.name: one.title for one in ordered}

    def cell(row: int, column: int) -> MeasuredCell:
        key = (names[row], values.measures[column])
        interval = _interval(values.sums[:, row, column], values.counts[:, row, column], draws)
        unbeaten = [titles[one.other] for one in above_controls.get(key, ()) if not (one.real and one.better)]
        return MeasuredCell(interval, next(iter(gains.get(key, ())), None), tuple(unbeaten))

    lines = tuple(
        ComparedLine(method, {measure: cell(row, column) for column, measure in enumerate(values.measures)})
        for row, method in enumerate(ordered)
    )
    signs = np.array([1 if SUITE_METRICS[measure.metric].higher_is_better else -1 for measure in values.measures])
    agreement = metric_agreement(signs * values.by_photo(), [one.control for one in ordered])
    tests = [sum(map(len, found.values())) for found in (gains, above_controls)]
    return BenchmarkComparison(
        values.measures, lines, values.photos, tests[0], tests[1], agreement, values.failures
    )  # fmt: skip


@dataclass(frozen=True)
class _Draws:
    """How many draws, and their seed."""

    intervals: int
    p_values: int
    seed: int


def _differences(
    values: PairedValues, pairs: range, draws: _Draws
) -> dict[tuple[str, Measure], list[PairedDifference]]:
    """Return the differences of some pairs in every column, one family of comparisons, by method and column."""
    columns = len(values.measures)
    sums = values.difference_sums[:, pairs].reshape(values.photos, len(pairs) * columns)
    counts = values.difference_counts[:, pairs].reshape(sums.shape)
    tested = np.flatnonzero(counts.sum(0) > 0)
    if not len(tested):
        return {}
    # So many draws that even the first corrected p value can be below half of REAL.
    enough = max(draws.p_values, round(2 * len(tested) / REAL))
    p_values = paired_p_values(sums[:, tested], counts[:, tested], enough, draws.seed)
    found: dict[tuple[str, Measure], list[PairedDifference]] = {}
    for place, p_value, corrected in zip(tested.tolist(), p_values, holm(p_values), strict=True):
        (name, other), measure = values.pairs[pairs[place // columns]], values.measures[place % columns]
        interval = _interval(sums[:, place], counts[:, place], draws)
        if interval is not None:
            better = interval.mean > 0 if SUITE_METRICS[measure.metric].higher_is_better else interval.mean < 0
            one = PairedDifference(other, interval, float(p_value), float(corrected), better)
            found.setdefault((name, measure), []).append(one)
    return found


def _interval(sums: Float[np.ndarray, "photo"], counts: Float[np.ndarray, "photo"], draws: _Draws) -> Interval | None:
    """Return a mean with its interval, resampling the photos that have a number; `None` where none has."""
    has = counts > 0
    if not has.any():
        return None
    kept, sizes = sums[has], counts[has]

    def resampled(times: Float[np.ndarray, "draw image"]) -> Float[np.ndarray, "draw"]:
        return (times @ kept) / (times @ sizes)

    mean = float(kept.sum() / sizes.sum())
    return bootstrap(mean, resampled, len(kept), int(sizes.sum()), draws.intervals, LEVEL, draws.seed)
