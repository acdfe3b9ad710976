"""What an evaluation of maps gives: plain rows, means with intervals, a table to print and one for pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from conceptlens.evaluation.compared_maps import (
    Column,
    ComparedMaps,
    compare_maps,
    comparison_remarks,
    fill_remarks,
    places_of,
)
from conceptlens.evaluation.score_row import ScoreRow
from conceptlens.io.errors import Failure, InputError, near
from conceptlens.statistics.bootstrap import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd

    from conceptlens.statistics.score import Metric

N_BOOTSTRAP = 1000
# What a table calls the share `r` of an image that its mask holds.
SHARE = "the mask's share"


@dataclass(frozen=True, eq=False, repr=False)
class EvaluatedMaps:
    """The rows of an evaluation; printed, it is a table of means.

    Methods are compared on the images where each of them has a value: a mean is over those that all have in common.

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
    def compared(self) -> Mapping[Column, ComparedMaps]:
        """The images and questions that each metric with each fill compares: where all methods have a value."""
        return compare_maps(self.rows)

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What to know of the means: what is left out of which metrics and why, and where there is one fill alone."""
        return (*comparison_remarks(self.compared, self._unit), *fill_remarks(self.compared))

    @cached_property
    def means(self) -> Mapping[tuple[str, str, str], Interval]:
        """The mean of every method, metric and fill over what is compared, with its 95 % interval over images."""
        values: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
        for row, counts in zip(self.rows, self._in_means, strict=True):
            if row.value is not None and counts:
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
            The mean with its interval, which says of how many images; `None` where nothing can be compared.

        Raises:
            InputError: There is no such method, metric or fill.
        """
        for what, given, known in (
            ("method", method, self.methods),
            ("metric", metric, self.metrics),
            (f"fill of {metric}", fill, {row.fill for row in self.rows if row.metric == metric}),
        ):
            if given not in known:
                raise InputError(f"no {what} '{given}'; {near(given, sorted(known), 'there are')}")
        return self.means.get((method, metric, fill))

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas table, one line each, NaN where a metric does not apply.

        Returns:
            The columns are the attributes of `ScoreRow`; `compared`, whether all methods have a value of that image
            and question, so that it counts in the means; and `compared_maps`, how many of each method are so.

        Raises:
            InputError: pandas is not installed.

        Examples:
            >>> frame = found.to_frame()
            >>> frame[frame.compared].pivot_table("value", ["metric", "fill", "compared_maps"], "method")
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_frame needs pandas: pip install 'conceptlens[pandas]'") from None
        columns = list(ScoreRow.__dataclass_fields__)
        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=columns).astype({"value": "float64"})
        frame["compared"] = list(self._in_means)
        frame["compared_maps"] = [len(self.compared[row.metric, row.fill].places) for row in self.rows]
        return frame

    def __repr__(self) -> str:
        """Return the table of means: a line for each metric and fill, a column for each method."""
        measured = list(dict.fromkeys((row.metric, row.fill) for row in self.rows))
        head = ("metric", "fill", "better", "chance", self._unit, *self.methods)
        lines = [head, *(self._line(metric, fill) for metric, fill in measured)]
        if not any(fill for _, fill in measured):
            lines = [(line[0], *line[2:]) for line in lines]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        shown = ["  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines]
        images = len({row.image for row in self.rows})
        notes = [f"{images} images; in brackets 95 % intervals, resampling images"]
        notes += [f"controls: {', '.join(self.controls)}"] * bool(self.controls)
        notes += self.remarks
        if self.failures:
            photos = "1 photo" if len(self.failures) == 1 else f"{len(self.failures)} photos"
            notes.append(f"{photos} could not be scored: see failures")
        return "\n".join(line.rstrip() for line in (*shown, *notes))

    def _line(self, metric: str, fill: str) -> tuple[str, ...]:
        about = self.metrics[metric]
        means = [self.means.get((method, metric, fill)) for method in self.methods]
        values = ["-" if mean is None else str(mean) for mean in means]
        count = str(len(self.compared[metric, fill].places))
        return (metric, fill, "higher" if about.higher_is_better else "lower", about.chance_of(SHARE), count, *values)

    @cached_property
    def _in_means(self) -> Sequence[bool]:
        """Whether each row speaks of what is compared."""
        places = zip(self.rows, places_of(self.rows), strict=True)
        return [place in self.compared[row.metric, row.fill].places for row, place in places]

    @cached_property
    def _unit(self) -> str:
        """What is counted: images, or their maps where an image has several questions."""
        several = any(len({image for image, *_ in one.places}) < len(one.places) for one in self.compared.values())
        return "maps" if several else "images"
