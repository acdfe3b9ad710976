"""The outputs of an evaluation: all rows, the JSON document, the page, and a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.io.atomic import write_json, write_text
from conceptlens.io.versions import versions
from conceptlens.localization.localization_cases import choose_cases, load_cases
from conceptlens.localization.localization_page import LEAD, evaluation_page
from conceptlens.localization.result_rows import write_rows
from conceptlens.localization.summary import MACRO, SCHEMA, LocalizationSummary, summary_numbers, title_of
from conceptlens.metrics.map_mask import MAP_MASK_METRICS

if TYPE_CHECKING:
    from conceptlens.localization.localization_run import LocalizationRun

PRINTED = ("ranked_area", "pointing_energy")


def evaluation_json(run: LocalizationRun) -> dict[str, Any]:
    """Return the JSON document of a run: what `conceptlens evaluate localization --json` prints."""
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **run.description,
        **summary_numbers(run.summary),
        "failures": [{"image": failure.name, "error": failure.reason} for failure in run.failures],
    }


def write_evaluation(out: Path, run: LocalizationRun) -> list[Path]:
    """Write `localization.html`, `.json` and `.parquet` into a folder, and return them; cases are read again."""
    chosen = choose_cases(run.rows, run.primary)
    cases = sorted(load_cases(run.data, run.methods, chosen), key=lambda one: chosen.index(one.case))
    files = [out / f"localization.{suffix}" for suffix in ("html", "json", "parquet")]
    write_text(files[0], evaluation_page(run, cases))
    write_json(files[1], evaluation_json(run))
    write_rows(run.rows, files[2])
    return files


def print_summary(summary: LocalizationSummary) -> None:
    """Print the leading metric with its interval and differences, and the published ones, as means of groups."""
    console = Console()
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    against = [] if summary.reference is None else [f"minus {title_of(summary.reference)}"]
    titles = [
        MAP_MASK_METRICS[LEAD].title,
        "95%",
        "minus wrong",
        *against,
        *(MAP_MASK_METRICS[name].title for name in PRINTED),
    ]
    for title in titles:
        table.add_column("\n".join(title.rsplit(" ", 1)), justify="right", no_wrap=True)
    for line in summary.methods:
        scores = line.scores[MACRO]
        lead = scores[LEAD]
        spread = "-" if lead.low is None else f"{lead.low:.2f} to {lead.high:.2f}"
        gains = [line.minus_wrong, *([line.minus_reference] if against else [])]
        gained = [f"{gain[MACRO][LEAD].mean:+.3f}" if gain else "-" for gain in gains]
        table.add_row(line.title, f"{lead.mean:.3f}", spread, *gained, *(f"{scores[n].mean:.3f}" for n in PRINTED))
    console.print(table)
    if summary.warning:
        console.print(f"{summary.warning}.", highlight=False)
