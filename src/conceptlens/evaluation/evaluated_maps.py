"""What an evaluation of maps gives: plain rows, means with intervals, a table to print and one for pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from conceptlens.io.errors import Failure, InputError, near
from conceptlens.statistics.bootstrap import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd

    from conceptlens.statistics.score import Metric

N_BOOTSTRAP = 1000
# What a table calls the share `r` of an image that its mask holds.
SHARE = "the mask's share"


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


@dataclass(frozen=True, eq=False, repr=False)
class EvaluatedMaps:
    """The rows of an evaluation; printed, it is a table of means.

    Attributes:
        rows: One for each method, image, question, metric and fill.
        metrics: What was measured, by name: direction, range, chance and source of each.
        controls: The methods that know nothing, which a method has to beat.
        failures: Photos of a data set that could not be scored, with reasons.

    Examples:
        >>> pandas.DataFrame(found.rows)  # or found.to_frame()
    """

    rows: Sequence[ScoreRow]
    metrics: Mapping[str, Metric]
    controls: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods in the order given, controls last."""
        names = dict.fromkeys(row.method for row in self.rows)
        return tuple(sorted(names, key=lambda name: name in self.controls))

    @cached_property
    def means(self) -> Mapping[tuple[str, str, str], Interval]:
        """The mean of every method, metric and fill that applies to a map, with its 95 % interval over images."""
        values: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
        for row in self.rows:
            if row.value is not None:
                values.setdefault((row.method, row.metric, row.fill), []).append((row.value, row.image))
        return {
            key: bootstrap_mean([value for value, _ in pairs], [image for _, image in pairs], N_BOOTSTRAP)
            for key, pairs in values.items()
        }

    def mean(self, method: str, metric: str, fill: str = "") -> Interval | None:
        """Return one mean.

        Args:
            method: The name of a method or a control.
            metric: The name of a metric.
            fill: The fill, for a metric that removes pixels.

        Returns:
            The mean with its interval; `None` where the metric applies to no map.

        Raises:
            InputError: There is no such method, metric or fill.
        """
        for what, given, known in (
            ("method", method, self.methods),
            ("metric", metric, self.metrics),
            (f"fill of {metric}", fill, {row.fill for row in self.rows if row.metric == metric}),
        ):
            if given not in known:
                raise InputError(f"no {what} '{given}'; there are: {near(given, sorted(known), len(known))}")
        return self.means.get((method, metric, fill))

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas table, one line each, NaN where a metric does not apply.

        Returns:
            The columns are the attributes of `ScoreRow`.

        Raises:
            InputError: pandas is not installed.

        Examples:
            >>> found.to_frame().pivot_table("value", ["metric", "fill"], "method")
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_frame needs pandas: pip install 'conceptlens[pandas]'") from None
        columns = list(ScoreRow.__dataclass_fields__)
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns).astype({"value": "float64"})

    def __repr__(self) -> str:
        """Return the table of means: a line for each metric and fill, a column for each method."""
        measured = list(dict.fromkeys((row.metric, row.fill) for row in self.rows))
        head = ("metric", "fill", "better", "chance", *self.methods)
        lines = [head, *(self._line(metric, fill) for metric, fill in measured)]
        if not any(fill for _, fill in measured):
            lines = [(line[0], *line[2:]) for line in lines]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        shown = ["  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines]
        images = len({row.image for row in self.rows})
        notes = [f"{images} images; in brackets 95 % intervals, resampling images"]
        notes += [f"controls: {', '.join(self.controls)}"] * bool(self.controls)
        if self.failures:
            photos = "1 photo" if len(self.failures) == 1 else f"{len(self.failures)} photos"
            notes.append(f"{photos} could not be scored: see failures")
        return "\n".join(line.rstrip() for line in (*shown, *notes))

    def _line(self, metric: str, fill: str) -> tuple[str, ...]:
        about = self.metrics[metric]
        means = [self.means.get((method, metric, fill)) for method in self.methods]
        values = ["-" if mean is None else str(mean) for mean in means]
        return (metric, fill, "higher" if about.higher_is_better else "lower", about.chance_of(SHARE), *values)
