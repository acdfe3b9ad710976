"""What an evaluation of a bottleneck leaves behind: numbers, tables of photos and concepts, the page; a short print."""

from __future__ import annotations

import csv
import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.bottleneck.evaluate.bottleneck_cases import Choice, choose_bottleneck_cases
from conceptlens.bottleneck.evaluate.figure import CONTROLS
from conceptlens.bottleneck.evaluate.measures import SCHEMA, bottleneck_numbers
from conceptlens.bottleneck.report.bottleneck_page import AboutBottleneck, write_bottleneck_page
from conceptlens.bottleneck.report.bottleneck_sentences import plainly, shown
from conceptlens.bottleneck.report.pictures import read_pictures
from conceptlens.io.atomic import replacing
from conceptlens.io.versions import versions

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.measures import BottleneckMeasures
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

PRINTED = ("accuracy", "concepts_per_class", "concept_auroc", "keypoint_error", "keypoint_pointing", "keypoint_swap")


def evaluated_numbers(measures: BottleneckMeasures, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `conceptlens evaluate bottleneck --json` prints; `told` says what was evaluated, and how."""
    numbers = bottleneck_numbers(measures)
    return {"schema": SCHEMA, "versions": versions(), **told, **numbers}


def write_bottleneck_report(
    out: Path,
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    measures: BottleneckMeasures,
    choice: Choice | None = None,
    cache: str | Path | None = None,
    told: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `report.html`, `bottleneck.json`, `photos.csv` and `concepts.csv` into a folder, and return them.

    `told`: `bottleneck`, where it was read from, and `settings`. Photos that are shown are read again.
    """
    said = dict(told or {"bottleneck": "", "settings": {}})
    cases = choose_bottleneck_cases(bottleneck, measures.table, choice or Choice())
    pictures = read_pictures(bottleneck, model, photos, measures.table, cases.needed(), cache)
    now = datetime.datetime.now().astimezone()
    settings = {**said["settings"], "versions": ", ".join(f"{name} {value}" for name, value in versions().items())}
    about = AboutBottleneck(
        str(said["bottleneck"]), f"{now.day} {now:%B %Y, %H:%M}", settings, shlex.join(["conceptlens", *sys.argv[1:]])
    )
    files = [out / name for name in ("report.html", "bottleneck.json", "photos.csv", "concepts.csv")]
    write_bottleneck_page(files[0], bottleneck, measures, cases, pictures, about)
    with replacing(files[1]) as temporary:
        temporary.write_text(json.dumps(evaluated_numbers(measures, said), allow_nan=False, indent=1), "utf-8")
    _write_rows(files[2], _photo_rows(bottleneck, measures))
    _write_rows(files[3], [dict(vars(one)) for one in measures.concepts])
    return files


def print_measures(measures: BottleneckMeasures, console: Console | None = None) -> None:
    """Print the leading figures with their intervals and controls."""
    console = console or Console()
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("figure")
    for title in ("value", "95%"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in PRINTED:
        one = measures.figure(name)
        said = shown(one, one.value)
        table.add_row(one.kind.title, said["value"], said["spread"] or "-")
        if one.reason:
            table.add_row(f"  {one.reason}", style="dim")
        for own in one.controls:
            if own.value:
                table.add_row(f"  {CONTROLS[own.name]}", plainly(one, own.value), style="dim")
    console.print(table)


def _photo_rows(bottleneck: Bottleneck, measures: BottleneckMeasures) -> list[dict[str, Any]]:
    """Return each photo's class, answer and scores."""
    table, names = measures.table, bottleneck.classes
    rows = []
    for row, name in enumerate(table.names):
        truth, answer = int(table.classes[row]), int(table.predicted[row])
        scores = {
            "score_of_class": float(table.logits[row, truth]),
            "score_of_answer": float(table.logits[row, answer]),
        }
        rows.append({"photo": name, "class": names[truth], "answer": names[answer], "right": truth == answer, **scores})
    return rows


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file; what does not apply is empty."""
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
