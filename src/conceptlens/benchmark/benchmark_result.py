"""A finished run of a suite: the comparison of its methods, and the protocols of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.benchmark.benchmark_run import read_protocols
from conceptlens.benchmark.comparison import BenchmarkComparison, compare_methods
from conceptlens.benchmark.result_parts import read_photos

if TYPE_CHECKING:
    from conceptlens.benchmark.protocol import Measure, Protocol
    from conceptlens.benchmark.suite_options import PreparedSuite


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """A finished run: the suite, the comparison of its methods, and the protocols of its numbers."""

    suite: PreparedSuite
    comparison: BenchmarkComparison
    protocols: Mapping[str, Protocol]

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
    return BenchmarkResult(suite, compare_methods(read_photos(folder), protocols, suite.methods), protocols)
