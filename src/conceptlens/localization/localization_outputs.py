"""The outputs of an evaluation: the page with its table and cases, the JSON document, all rows, a table to print."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.io.atomic import write_json, write_text
from conceptlens.io.images import shrunk
from conceptlens.io.versions import versions
from conceptlens.localization.localization_cases import KINDS, LoadedCase, choose_cases, load_cases
from conceptlens.localization.methods import find_kind
from conceptlens.localization.result_rows import write_rows
from conceptlens.localization.summary import ALL, MACRO, SCHEMA, LocalizationSummary, summary_numbers, title_of
from conceptlens.pages.mask_outline import outlined
from conceptlens.pages.number_format import number, signed
from conceptlens.pages.static_page import embedded_photo, page_origin, static_page
from conceptlens.render import overlay, scale_of

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.localization.localization_run import LocalizationRun
    from conceptlens.statistics.score import Metric

LEAD = "ranked_area_corrected"
# The metrics in the table, each described in one line; the other metrics are in the JSON file.
DESCRIPTIONS: dict[str, str] = {
    LEAD: "Do the map's highest pixels lie inside the mask? Corrected for chance: 0 is chance, 1 is ideal.",
    "ranked_area": "The same as published, chance left in: a random map gets 0.10 to 0.17.",
    "hit": "The share of maps whose NRA is above one half.",
    "pointing_energy": "The share of the map's energy inside the mask.",
    "pointing_game": "How often the map's highest pixel lies inside.",
    "pixel_precision": "Average precision of the pixels, as a ranking of inside over outside.",
    "best_iou": "IoU at the threshold that fits best, which is chosen with the mask: an upper bound.",
}
# The longest side of a case's images, in pixels.
LARGE, SMALL = 460, 260
text, signed_text = functools.partial(number, digits=3), functools.partial(signed, digits=3)
HEADINGS = {
    "best": ("Best", "Where its map fits the mask best."),
    "median": ("Median", "What is usual: as many cases are better as are worse."),
    "worst": ("Worst", "Where its map points elsewhere."),
}


def evaluation_page(run: LocalizationRun, cases: Sequence[LoadedCase]) -> str:
    """Return the page of an evaluation as HTML that loads nothing from outside.

    Args:
        run: The evaluation, with its summary.
        cases: What `load_cases` yields, in the order in which they are shown.
    """
    summary = run.summary
    columns = DESCRIPTIONS | {metric.name: _described(metric) for metric in summary.own_metrics}
    return static_page(
        "conceptlens.localization",
        "localization.html.j2",
        "table.css",
        "localization.css",
        groups=range(len(summary.groups)),
        **page_origin(run.description["settings"]),
        data=run.description["data"],
        model=run.description["model"],
        failures=run.failures,
        excluded=run.data.excluded,
        summary=summary,
        primary=title_of(run.primary),
        against=None if summary.reference is None else title_of(summary.reference),
        sheets=[_sheet(summary, group) for group in summary.groups],
        columns={name: summary.metrics[name].title for name in columns},
        words=columns,
        lower=[summary.metrics[name].title for name in columns if not summary.metrics[name].higher_is_better],
        text=text,
        signed_text=signed_text,
        methods=[kind for line in summary.methods if (kind := find_kind(line.method)) is not None],
        lead=LEAD,
        kinds=[_kind(kind, cases) for kind in KINDS],
    )


def _sheet(summary: LocalizationSummary, group: str) -> dict[str, Any]:
    """Return one group's plot, and what a map that knows nothing gets in each column."""
    title = {MACRO: "mean of groups", ALL: "all pairs"}.get(group, group)
    share = summary.mask_shares[group]
    return {
        "group": group,
        "title": title,
        "share": share,
        "plot": _plot(summary, group),
        "chance": {name: metric.chance_of(text(share)) for name, metric in summary.metrics.items()},
    }


def _plot(summary: LocalizationSummary, group: str) -> dict[str, Any]:
    """Return where the dots, whiskers and ticks of the leading metric stand, in percent of the width."""
    rows = []
    for line in sorted(summary.methods, key=lambda line: line.oracle):
        value = line.scores[group][LEAD]
        wrong = line.wrong_scores[group][LEAD].mean if group in line.wrong_scores else None
        ends = (value.mean if end is None else end for end in (value.low, value.high))
        rows.append((line, value.mean, *ends, wrong))
    numbers = [n for _, *row in rows for n in row if n is not None] + [0.0]
    low, high = min(numbers), max(numbers)
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 9)
    start, end = step * (low // step), step * -(-high // step)
    end = end if end > start else start + step

    def at(value: float) -> str:
        return f"{100 * (value - start) / (end - start):.2f}%"

    count = round((end - start) / step)
    ticks = [start + step * i for i in range(count + 1)]
    return {
        "zero": at(0.0),
        "ticks": [{"at": at(t), "text": number(t), "minor": bool(round(t / step) % 2)} for t in ticks],
        "rows": [
            {
                "title": line.title,
                "oracle": line.oracle,
                "mean": at(mean),
                "low": at(below),
                "high": at(above),
                "wrong": None if wrong is None else at(wrong),
                "value": text(mean),
            }
            for line, mean, below, above, wrong in rows
        ],
    }


def _described(metric: Metric) -> str:
    """Return a metric of one's own in one line."""
    better = "higher" if metric.higher_is_better else "lower"
    return f"From {metric.low:g} to {metric.high:g}, {better} is better; {metric.source}."


def _kind(kind: str, cases: Sequence[LoadedCase]) -> dict[str, Any]:
    title, words = HEADINGS[kind]
    return {"title": title, "words": words, "cases": [_case(shown) for shown in cases if shown.case.kind == kind]}


def _case(shown: LoadedCase) -> dict[str, Any]:
    row = shown.case.rows[0]
    large, small = shrunk(shown.photo, LARGE), shrunk(shown.photo, SMALL)
    ratio = shown.photo.width / shown.photo.height
    return {
        "photo": row.photo,
        "concept": row.concept,
        "group": row.group,
        "share": f"{row.mask_share:.0%}" if row.mask_share >= 0.01 else "under 1%",
        "tall": ratio < 0.9,
        "truth": embedded_photo(outlined(large, shown.mask)),
        "maps": [
            {
                "title": title_of(own.method),
                "picture": embedded_photo(_overlay(small if index else large, shown, own.method)),
                "lead": text(own.scores[LEAD] or 0.0),
                "energy": text(own.scores["pointing_energy"] or 0.0),
            }
            for index, own in enumerate(shown.case.rows)
        ],
    }


def _overlay(photo: Image.Image, shown: LoadedCase, method: str) -> Image.Image:
    values = shown.maps[method]
    box = [min(max(side, 0.0), 1.0) for side in shown.box]
    return overlay(photo, values, scale_of([values], shown.signed[method] and bool((values < 0).any())), box=box)


PRINTED = ("ranked_area", "pointing_energy")


def evaluation_json(run: LocalizationRun) -> dict[str, Any]:
    """Return the JSON document of a run: what `conceptlens evaluate localization --json` prints."""
    return {
        "schema": SCHEMA,
        "versions": versions(),
        **run.description,
        **summary_numbers(run.summary),
        "failures": [{"image": failure.name, "error": failure.reason} for failure in run.failures],
        "left_out": [{"name": name, "reason": reason} for name, reason in run.data.excluded.items()],
    }


def write_evaluation(out: Path, run: LocalizationRun) -> list[Path]:
    """Write `localization.html`, `.json` and `.parquet` into a folder, and return them; cases are read again."""
    chosen = choose_cases(run.rows, run.primary)
    cases = sorted(load_cases(run.data, run.methods, chosen), key=lambda one: chosen.index(one.case))
    files = [out / f"localization.{suffix}" for suffix in ("html", "json", "parquet")]
    write_text(files[0], evaluation_page(run, cases))
    write_json(files[1], evaluation_json(run))
    write_rows(run.rows, files[2], run.summary.own_metrics)
    return files


def print_summary(summary: LocalizationSummary) -> None:
    """Print the leading metric with its interval and differences, the published and one's own, as means of groups."""
    console = Console()
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    against = [] if summary.reference is None else [f"minus {title_of(summary.reference)}"]
    printed = [*PRINTED, *(metric.name for metric in summary.own_metrics)]
    titles = [
        summary.metrics[LEAD].title,
        "95%",
        "minus wrong",
        *against,
        *(summary.metrics[name].title for name in printed),
    ]
    for title in titles:
        table.add_column("\n".join(title.rsplit(" ", 1)), justify="right", no_wrap=True)
    for line in summary.methods:
        scores = line.scores[MACRO]
        lead = scores[LEAD]
        spread = "-" if lead.low is None else f"{lead.low:.2f} to {lead.high:.2f}"
        gains = [line.minus_wrong, *([line.minus_reference] if against else [])]
        gained = [f"{gain[MACRO][LEAD].mean:+.3f}" if gain else "-" for gain in gains]
        others = [f"{scores[name].mean:.3f}" if name in scores else "-" for name in printed]
        table.add_row(line.title, f"{lead.mean:.3f}", spread, *gained, *others)
    console.print(table)
    if summary.warning:
        console.print(f"{summary.warning}.", highlight=False)
