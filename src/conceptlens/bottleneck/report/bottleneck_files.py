"""What an evaluation of a bottleneck leaves behind: numbers, tables of photos and concepts, the page; a short print."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.bottleneck.evaluate.bottleneck_result import SCHEMA, bottleneck_json, concept_rows
from conceptlens.bottleneck.evaluate.case_selection import select_cases
from conceptlens.bottleneck.evaluate.metric_result import CONTROLS
from conceptlens.bottleneck.map_evidence import evidence_lines
from conceptlens.bottleneck.report.bottleneck_page import bottleneck_page
from conceptlens.bottleneck.report.bottleneck_sentences import plainly, shown
from conceptlens.bottleneck.report.case_images import read_case_images
from conceptlens.io.atomic import replacing, write_json, write_text
from conceptlens.io.text_file import READABLE
from conceptlens.io.versions import versions

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

PRINTED = ("accuracy", "concepts_per_class", "concept_auroc", "keypoint_error", "keypoint_pointing", "keypoint_swap")


def evaluation_json(result: BottleneckResult, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `conceptlens evaluate bottleneck --json` prints; `record` says what was evaluated, and how."""
    return {"schema": SCHEMA, "versions": versions(), **record, **bottleneck_json(result)}


def write_bottleneck_report(
    out: Path,
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    result: BottleneckResult,
    choice: CaseSelection,
    record: Mapping[str, Any],
    cache: str | Path | None = None,
) -> list[Path]:
    """Write `report.html`, `bottleneck.json`, `photos.csv` and `concepts.csv` into a folder.

    Args:
        out: The folder.
        bottleneck: The bottleneck.
        model: The network as it was loaded for the fit.
        photos: The photos that were measured; those that are shown are read again.
        result: The evaluation.
        choice: Which cases the page shows.
        record: `bottleneck`, the folder that it was read from, and `settings`.
        cache: A folder of cells.

    Returns:
        The files.
    """
    cases = select_cases(bottleneck, result.table, choice)
    images = read_case_images(bottleneck, model, photos, result.table, cases.needed(), cache)
    files = [out / name for name in ("report.html", "bottleneck.json", "photos.csv", "concepts.csv")]
    write_text(files[0], bottleneck_page(bottleneck, result, cases, images, record["settings"]))
    write_json(files[1], evaluation_json(result, record))
    _write_rows(files[2], _photo_rows(bottleneck, result))
    _write_rows(files[3], concept_rows(result))
    return files


def print_result(result: BottleneckResult) -> None:
    """Print the leading metrics with their intervals and controls, and how far maps can be trusted."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("metric")
    for title in ("value", "95%"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in PRINTED:
        one = result.metric(name)
        text = shown(one, one.value)
        table.add_row(one.description.title, text["value"], text["spread"] or "-")
        if one.reason:
            table.add_row(f"  {one.reason}", style="dim")
        for own in one.controls:
            if own.value:
                table.add_row(f"  {CONTROLS[own.name]}", plainly(one, own.value), style="dim")
    Console().print(table)
    for line in evidence_lines([one.label for one in result.concepts], result.map_evidence):
        Console(soft_wrap=True).print(line, markup=False, highlight=False)


def _photo_rows(bottleneck: Bottleneck, result: BottleneckResult) -> list[dict[str, Any]]:
    """Return each photo's class and prediction with their logits."""
    table, names = result.table, bottleneck.classes
    rows = []
    for row, name in enumerate(table.names):
        truth, predicted = int(table.classes[row]), int(table.predicted[row])
        rows.append(
            {
                "photo": name,
                "class": names[truth],
                "predicted": names[predicted],
                "correct": truth == predicted,
                "class_logit": float(table.logits[row, truth]),
                "predicted_logit": float(table.logits[row, predicted]),
            }
        )
    return rows


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file; what does not apply is empty."""
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8", errors=READABLE, newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
