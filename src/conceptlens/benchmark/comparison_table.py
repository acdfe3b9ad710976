"""A comparison as a table: plain text, Markdown and LaTeX, one table for each fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlens.benchmark.comparison import REAL, BenchmarkComparison, ComparedLine, MeasuredCell
from conceptlens.benchmark.suite_metrics import SUITE_METRICS
from conceptlens.metrics.concept_removal import LAYER_MEAN
from conceptlens.pages.number_format import number

if TYPE_CHECKING:
    from conceptlens.benchmark.protocol import Measure

GAIN, LOSS, UNBEATEN = "▲", "▼", "°"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--",
    GAIN: r"$\blacktriangle$", LOSS: r"$\blacktriangledown$", UNBEATEN: r"$^\circ$",
}  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """One table of a comparison, as texts.

    Attributes:
        title: What its columns have in common: the fill.
        heading: The names of the columns, the methods' first.
        rows: One list of cells for each method.
        controls: How many of the last rows are controls.
    """

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    controls: int


def text_tables(comparison: BenchmarkComparison, intervals: bool = True) -> tuple[TextTable, ...]:
    """Return a table for each fill.

    Args:
        comparison: What is shown.
        intervals: Whether each mean has its interval.
    """
    return tuple(_table(comparison, fill, intervals) for fill in comparison.fills)


def notes(comparison: BenchmarkComparison, intervals: bool = True) -> tuple[str, ...]:
    """Return the sentences below the tables: what the marks mean, and what was corrected for what.

    Args:
        comparison: What is shown.
        intervals: Whether each mean has its interval; else the files are named that have them.
    """
    against = sorted({line.method.against for line in comparison.lines if line.method.against})
    titles = {line.method.name: line.method.title for line in comparison.lines}
    found = [f"Means over {comparison.photos_text}."]
    if comparison.photos > 1:
        place = "" if intervals else " are in benchmark.html, .txt, .md, .tex and .json"
        found.append(f"95 % bootstrap intervals{place}, resampling photos.")
    if against:
        names = " or ".join(titles.get(name, name) for name in against)
        found.append(
            f"{GAIN} better, {LOSS} worse than {names}: paired differences with p at most {REAL:g}, corrected for "
            f"{comparison.comparisons} comparisons (Holm)."
        )
    if comparison.control_comparisons:
        found.append(
            f"{UNBEATEN} does not beat every control, corrected for {comparison.control_comparisons} comparisons; the "
            "last column counts these."
        )
    return (*found, *([f"{comparison.warning}."] if comparison.warning else []))


def plain_text(comparison: BenchmarkComparison, intervals: bool = True, further: Sequence[TextTable] = ()) -> str:
    """Return the tables as plain text in columns.

    Args:
        comparison: What is shown.
        intervals: Whether each mean has its interval.
        further: Tables that stand behind those of the comparison.
    """

    def lines(table: TextTable) -> list[str]:
        grid = [table.heading, *table.rows]
        widths = [max(len(row[column]) for row in grid) for column in range(len(table.heading))]
        first = len(table.rows) - table.controls + 1
        shown = [
            "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in
                      enumerate(zip(row, widths, strict=True))).rstrip()
            for row in grid
        ]  # fmt: skip
        return [table.title, *shown[:first], *(["controls"] if table.controls else []), *shown[first:], ""]

    tables = (*text_tables(comparison, intervals), *further)
    parts = [line for table in tables for line in lines(table)]
    return "\n".join([*parts, *notes(comparison, intervals), ""])


def markdown(comparison: BenchmarkComparison, further: Sequence[TextTable] = ()) -> str:
    """Return the tables in Markdown.

    Args:
        comparison: What is shown.
        further: Tables that stand behind those of the comparison.
    """
    below = "\n".join(f"- {note}" for note in notes(comparison))
    return _tables((*text_tables(comparison), *further), _markdown_table, below)


def latex(comparison: BenchmarkComparison, further: Sequence[TextTable] = ()) -> str:
    """Return the tables in LaTeX, for the packages booktabs and amssymb.

    Args:
        comparison: What is shown.
        further: Tables that stand behind those of the comparison.
    """
    below = "\n\n".join(f"% {note}" for note in notes(comparison))
    return _tables((*text_tables(comparison), *further), _latex_table, below)


def measure_title(measure: Measure) -> str:
    """Return a column's name with an arrow to the better side.

    Args:
        measure: The column.
    """
    metric = SUITE_METRICS[measure.metric]
    return f"{metric.title} {'↑' if metric.higher_is_better else '↓'}"


def measure_heading(measure: Measure) -> str:
    """Return a column's name whose arrow stays with its last word where lines are broken.

    Args:
        measure: The column.
    """
    return "\N{NO-BREAK SPACE}".join(measure_title(measure).rsplit(" ", 1))


def fill_title(comparison: BenchmarkComparison, fill: str) -> str:
    """Return what the columns of a fill have in common.

    Args:
        comparison: What is shown.
        fill: One of its fills; the empty one has another title where others stand beside it.
    """
    if fill == LAYER_MEAN:
        return "removed channels become: the mean of their layer"
    if fill:
        return f"removed pixels become: {fill.replace('_', ' ')}"
    return "every metric" if len(comparison.fills) == 1 else "nothing is removed"


def shown_lines(comparison: BenchmarkComparison, measures: Sequence[Measure]) -> tuple[ComparedLine, ...]:
    """Return the methods of a table: those that have a number in it.

    Args:
        comparison: What is shown.
        measures: The columns of the table.
    """
    found = [line for line in comparison.lines if any(line.cells[one].interval is not None for one in measures)]
    return tuple(found) or comparison.lines


def unbeaten_text(line: ComparedLine, measures: Sequence[Measure]) -> str:
    """Return in how many of the columns that a method has numbers in a control is not beaten for sure.

    Args:
        line: The method.
        measures: The columns of a table.
    """
    return f"{line.unbeaten(measures)} of {sum(line.cells[one].interval is not None for one in measures)}"


def _table(comparison: BenchmarkComparison, fill: str, intervals: bool) -> TextTable:
    measures = comparison.measures_of(fill)
    heading = ["method", *map(measure_title, measures)]
    lines = shown_lines(comparison, measures)
    checked = any(line.method.control for line in lines)

    def row(line: ComparedLine) -> tuple[str, ...]:
        cells = [_cell(line.cells[measure], intervals) for measure in measures]
        last = "" if line.method.control else unbeaten_text(line, measures)
        return (line.method.title, *cells, *([last] if checked else []))

    rows = tuple(row(line) for line in lines)
    controls = sum(line.method.control for line in lines)
    return TextTable(
        fill_title(comparison, fill), (*heading, *(["not above controls"] if checked else [])), rows, controls
    )  # fmt: skip


def _cell(cell: MeasuredCell, intervals: bool) -> str:
    if cell.interval is None:
        return "–"
    text = number(cell.interval.mean, 3)
    if intervals and cell.interval.low is not None:
        text += f" [{number(cell.interval.low, 3)}, {number(cell.interval.high, 3)}]"
    return text + marks(cell)


def marks(cell: MeasuredCell) -> str:
    """Return the marks of a cell: better or worse for sure, and not above every control.

    Args:
        cell: The cell.
    """
    real = cell.difference is not None and cell.difference.real
    gain = "" if cell.difference is None or not real else GAIN if cell.difference.better else LOSS
    return gain + (UNBEATEN if cell.unbeaten else "")


def _tables(tables: Sequence[TextTable], draw: Callable[[TextTable], str], below: str) -> str:
    return "\n\n".join([*map(draw, tables), below]) + "\n"


def _markdown_table(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    first = len(table.rows) - table.controls
    rows = [*table.rows[:first], *((f"*{row[0]}*", *row[1:]) for row in table.rows[first:])]
    title = f"**{table.title[:1].upper()}{table.title[1:]}**\n"
    return "\n".join(
        [title, line(table.heading), line(["---", *["---:"] * (len(table.heading) - 1)]), *map(line, rows)]
    )


def _latex_table(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    first = len(table.rows) - table.controls
    body = [*map(line, table.rows[:first]), *([r"\midrule"] if table.controls else []), *map(line, table.rows[first:])]
    heading = line(table.heading).replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
    return "\n".join([
        f"% {table.title}", rf"\begin{{tabular}}{{l{'r' * (len(table.heading) - 1)}}}", r"\toprule", heading,
        r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
    ])  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
