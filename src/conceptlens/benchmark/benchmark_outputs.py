"""The files of a benchmark: page, numbers, tables as text, Markdown and LaTeX, plots, and every single row."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.benchmark.benchmark_cases import ChosenCases, ShownPhoto, choose_benchmark_cases
from conceptlens.benchmark.benchmark_figures import intervals_figure
from conceptlens.benchmark.benchmark_page import benchmark_page
from conceptlens.benchmark.benchmark_result import BenchmarkResult
from conceptlens.benchmark.comparison import BenchmarkComparison, ComparedLine, MeasuredCell
from conceptlens.benchmark.comparison_table import latex, markdown, plain_text
from conceptlens.benchmark.published_averages import averages_json
from conceptlens.benchmark.result_parts import join_parts, read_photos
from conceptlens.benchmark.suite_metrics import SUITE_METRICS
from conceptlens.io.atomic import replacing, write_json, write_text
from conceptlens.io.versions import versions
from conceptlens.local_embeddings.report.figure_style import FigureStyle, png

if TYPE_CHECKING:
    from conceptlens.benchmark.protocol import Measure

SCHEMA = "conceptlens.benchmark/1"


def write_benchmark(folder: Path, result: BenchmarkResult) -> list[Path]:
    """Write page, tables, plots, numbers and rows into the folder of a run, and return the files.

    Args:
        folder: The folder of the run.
        result: The finished run.
    """
    texts = {
        "benchmark.html": benchmark_page(result, *_cases(folder, result)),
        "benchmark.txt": plain_text(result.comparison, further=result.further_tables),
        "benchmark.md": markdown(result.comparison, result.further_tables),
        "benchmark.tex": latex(result.comparison, result.further_tables),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "benchmark.json", benchmark_json(result))
    join_parts(folder, folder / "rows.parquet")
    figures = [_write_figure(folder, result.comparison, fill) for fill in result.comparison.fills]
    return [*(folder / name for name in texts), folder / "benchmark.json", folder / "rows.parquet", *figures]


def _cases(folder: Path, result: BenchmarkResult) -> tuple[ChosenCases | None, list[ShownPhoto]]:
    """Return photos to look at, with maps that are made again; none where the suite has no maps."""
    show = result.suite.show
    if show is None:
        return None, []
    direction = SUITE_METRICS[result.comparison.measures[0].metric].higher_is_better
    chosen = choose_benchmark_cases(read_photos(folder), result.comparison, direction)
    return chosen, [] if chosen is None else [show(case.index) for case in chosen.cases]


def _write_figure(folder: Path, found: BenchmarkComparison, fill: str) -> Path:
    """Write the plot of one fill."""
    file = folder / f"intervals{f'_{fill}' if fill else ''}.png"
    with replacing(file) as temporary:
        temporary.write_bytes(png(intervals_figure(found, fill, FigureStyle())))
    return file


def benchmark_json(result: BenchmarkResult) -> dict[str, Any]:
    """Return the JSON document of a run: what `conceptlens benchmark --json` prints.

    Args:
        result: The finished run.
    """
    found = result.comparison
    one = next(iter(result.protocols.values()))
    return {
        "schema": SCHEMA,
        "suite": result.suite.name,
        "versions": versions(),
        "environment": environment(),
        "command": shlex.join(["conceptlens", *sys.argv[1:]]),
        "data": one.data,
        "model": one.model,
        "photos": found.photos,
        "comparisons": found.comparisons,
        "control_comparisons": found.control_comparisons,
        "columns": [_column_json(measure, result) for measure in found.measures],
        "methods": [_line_json(line, found) for line in found.lines],
        "averages": None if result.averages is None else averages_json(result.averages),
        "agreement": _agreement_json(found),
        "failures": [{"image": failure.name, "error": failure.reason} for failure in found.failures],
        "remarks": list(result.remarks),
        "protocols": {key: json.loads(protocol.json) for key, protocol in result.protocols.items()},
    }


def environment() -> dict[str, Any]:
    """Return what numbers and times may depend on besides versions: the machine, its threads."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _column_json(measure: Measure, result: BenchmarkResult) -> dict[str, Any]:
    metric = SUITE_METRICS[measure.metric]
    return {
        "metric": measure.metric,
        "fill": measure.fill,
        "title": metric.title,
        "higher_is_better": metric.higher_is_better,
        "range": [end if np.isfinite(end) else None for end in (metric.low, metric.high)],
        "chance": metric.chance,
        "source": metric.source,
        "needs": list(metric.needs),
        "protocol": result.column(measure),
    }


def _line_json(line: ComparedLine, found: BenchmarkComparison) -> dict[str, Any]:
    cells = [_cell_json(measure, line.cells[measure]) for measure in found.measures]
    return {**asdict(line.method), "unbeaten_columns": line.unbeaten(found.measures), "cells": cells}


def _cell_json(measure: Measure, cell: MeasuredCell) -> dict[str, Any]:
    gain = cell.difference
    return {
        "metric": measure.metric,
        "fill": measure.fill,
        "score": None if cell.interval is None else asdict(cell.interval),
        "difference": None if gain is None else {**asdict(gain), "real": gain.real},
        "unbeaten_controls": list(cell.unbeaten),
    }


def _agreement_json(found: BenchmarkComparison) -> dict[str, Any] | None:
    if found.agreement is None:
        return None

    def rows(matrix: np.ndarray) -> list[list[float | None]]:
        return [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in matrix]

    return {
        "columns": [list(measure) for measure in found.measures],
        "over_methods": rows(found.agreement.over_methods),
        "over_photos": rows(found.agreement.over_photos),
    }
