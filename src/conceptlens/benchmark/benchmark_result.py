"""A finished run of a suite: the comparison of its methods, and the protocols of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.benchmark.benchmark_run import read_protocols
from conceptlens.benchmark.comparison import BenchmarkComparison, compare_methods
from conceptlens.benchmark.published_averages import PublishedAverages, averages_tables, published_averages
from conceptlens.benchmark.result_parts import read_photos

if TYPE_CHECKING:
    from conceptlens.benchmark.comparison_table import TextTable
    from conceptlens.benchmark.protocol import Measure, Protocol
    from conceptlens.benchmark.suite_options import PreparedSuite


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """A finished run: its suite, the comparison of methods, the protocols of numbers, and averages over types.

    `averages` is `None` where questions are no concepts, or CE-FAM's columns were not measured.
    """

    suite: PreparedSuite
    comparison: BenchmarkComparison
    protocols: Mapping[str, Protocol]
    averages: PublishedAverages | None = None

    @property
    def further_tables(self) -> tuple[TextTable, ...]:
        """The tables of averages over types."""
        return () if self.averages is None else averages_tables(self.averages, self.suite.methods)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the reader must know, as sentences: what was left out, how many photos failed, whether they are few."""
        found = self.comparison
        failed = [f"Measured are {found.photos_text}."] if found.failures else []
        return (*self.suite.remarks, *failed, *([f"{found.warning}."] if found.warning else []))

    def column(self, measure: Measure) -> str:
        """Return the hash of the protocol of a column, methods left out.

        Args:
            measure: The column.
        """
        return next(one.column for one in self.protocols.values() if one.measure == measure)


def finished(suite: PreparedSuite, folder: Path) -> BenchmarkResult:
    """Return the comparison of the rows that a run has written.

    Args:
        suite: The suite that ran.
        folder: The folder of the run.

    Raises:
        InputError: No photo was measured.
    """
    protocols = read_protocols(folder)
    found = compare_methods(read_photos(folder), protocols, suite.methods)
    names = [one.name for one in suite.methods]
    averages = published_averages(read_photos(folder), names) if suite.by_type else None
    return BenchmarkResult(suite, found, protocols, averages)
