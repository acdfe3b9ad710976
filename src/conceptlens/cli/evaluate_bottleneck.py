"""`conceptlens evaluate bottleneck`: metrics of a bottleneck and a report of the concepts behind its predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import (
    OUTPUT,
    RUN,
    BatchSize,
    Device,
    Json,
    Model,
    Pretrained,
    Weights,
    answering,
    load,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

MEASURED, SHOWN = "What is measured", "What the report shows"
Folder = Annotated[
    Path, typer.Option("--bottleneck", "-b", metavar="FOLDER", help="A folder made by `conceptlens fit loc-cbm`.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data", "-d", metavar="NAME:DIR", help="Photos of the bottleneck's classes: cub:DIR, folder:DIR, ..."
    ),
]
Split = Annotated[str, typer.Option(help="The split that is measured.", rich_help_panel=MEASURED)]
Train = Annotated[
    str | None,
    typer.Option(
        "--train",
        help="The split it was fitted on, for controls; by default train, where there is one.",
        rich_help_panel=MEASURED,
    ),
]
Leakage = Annotated[
    bool,
    typer.Option("--leakage", help="Measure leakage and impurity too; fits linear heads.", rich_help_panel=MEASURED),
]
Interventions = Annotated[
    bool,
    typer.Option(
        "--interventions",
        help="Measure accuracy with corrected concepts too; reads all train photos.",
        rich_help_panel=MEASURED,
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Measure this many photos only, evenly spaced.", rich_help_panel=MEASURED)
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="A folder for page, numbers and tables.", rich_help_panel=OUTPUT
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class", help="Show this class; repeat for several. By default the best and the worst.", rich_help_panel=SHOWN
    ),
]
Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--pair",
        metavar="A,B",
        help="Show what separates two classes; repeat. By default the most confused.",
        rich_help_panel=SHOWN,
    ),
]
Shown = Annotated[
    list[str] | None,
    typer.Option(
        "--photo", help="Show this photo, by its name or the end of it; repeat for several.", rich_help_panel=SHOWN
    ),
]
MaxPhotos = Annotated[
    int, typer.Option("--photos", min=0, help="How many photos and how many errors are shown.", rich_help_panel=SHOWN)
]
MaxConcepts = Annotated[
    int, typer.Option("--top", min=1, help="How many concepts of each are shown.", rich_help_panel=SHOWN)
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Keep the cells of the photos here, for the next run.", rich_help_panel=RUN),
]
Seed = Annotated[int, typer.Option(help="Seed of intervals, drawn concepts and random maps.", rich_help_panel=RUN)]


@answering
def bottleneck(
    folder: Folder,
    data: Data,
    split: Split = "test",
    train: Train = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    pretrained: Pretrained = True,
    out: OutFolder = None,
    classes: Classes = None,
    pairs: Pairs = None,
    photo: Shown = None,
    photos: MaxPhotos = 6,
    top: MaxConcepts = 6,
    leakage: Leakage = False,
    interventions: Interventions = False,
    cache: Cache = None,
    limit: Limit = None,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure accuracy, concepts and maps of a bottleneck beside controls, and report classes, photos and errors."""
    from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_sets import open_classes
    from conceptlens.explainer.run_outputs import report_failures
    from conceptlens.io.output_path import check_output

    start = time.perf_counter()
    check_output(out, folder=True)
    made, opened = Bottleneck.from_pretrained(folder), open_classes(data, split)
    choice = _choice(made, opened, classes, pairs, photo, photos, top)
    backbone = load(model, weights, None, pretrained, device=device)
    result = evaluate_bottleneck(
        made.to(device), backbone, opened, _train(data, opened, train), _evenly(opened, limit), cache,
        leakage, interventions, seed=seed, batch_size=batch_size, progress=_progress,
    )  # fmt: skip
    report_failures(result.failures)
    for option, reason in _unmeasured(result, leakage, interventions):
        typer.echo(f"conceptlens: {option} measured nothing: {reason}", err=True)
    record = _record(
        folder, split=split, train=result.train, weights=weights if pretrained else "random", limit=limit,
        leakage=leakage, interventions=interventions, seed=seed,
    )  # fmt: skip
    _finish(made, backbone, opened, result, choice, out, cache, record, as_json)
    bad = f", {len(result.failures)} failed" if result.failures else ""
    typer.echo(f"{result.photos} photos{bad} in {time.perf_counter() - start:.1f} s", err=True)
    if result.failures:
        raise typer.Exit(1)


def _progress(parts: Iterable[Any], total: int) -> Iterable[Any]:
    """Yield the parts of a set, and show how many are done."""
    from conceptlens.io.progress import progress

    return progress(parts, total, "parts of the set")


def _unmeasured(result: BottleneckResult, leakage: bool, interventions: bool) -> list[tuple[str, str]]:
    """Return the options that measured nothing, each with the reason."""
    found = []
    one = result.metric("leakage_task")
    if leakage and one.value is None:
        found.append(("--leakage", str(one.reason)))
    if interventions and not result.interventions.curves:
        found.append(("--interventions", result.interventions.reason))
    return found


def _record(folder: Path, **settings: object) -> dict[str, Any]:
    """Return the bottleneck and the settings, without those that are `None`."""
    return {
        "bottleneck": str(folder),
        "settings": {name: value for name, value in settings.items() if value is not None},
    }


def _finish(
    made: Bottleneck,
    backbone: Any,
    opened: LabelledSet,
    result: BottleneckResult,
    choice: CaseSelection,
    out: Path | None,
    cache: Path | None,
    record: dict[str, Any],
    as_json: bool,
) -> None:
    """Print the metrics or the JSON, and write the files."""
    from conceptlens.bottleneck.report.bottleneck_files import (
        evaluation_json,
        print_result,
        write_bottleneck_report,
    )

    if as_json:
        typer.echo(json.dumps(evaluation_json(result, record), allow_nan=False))
    else:
        print_result(result)
    if out is not None:
        for file in write_bottleneck_report(out, made, backbone, opened, result, choice, cache, record):
            kind = {"report.html": "report", "bottleneck.json": "numbers"}.get(file.name, "table")
            typer.echo(f"{kind}: {file}", err=True)


def _choice(
    made: Bottleneck,
    opened: LabelledSet,
    classes: list[str] | None,
    pairs: list[str] | None,
    photo: list[str] | None,
    photos: int,
    top: int,
) -> CaseSelection:
    """Return the cases to show; names of classes and photos are checked before anything is computed."""
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, find_photo

    for name in photo or ():
        find_photo(opened.names, name)
    named = tuple(made.classes[made.class_index(name)] for name in classes or ())
    return CaseSelection(named, tuple(_pair(made, one) for one in pairs or ()), tuple(photo or ()), photos, top)


def _pair(made: Bottleneck, text: str) -> tuple[str, str]:
    """Return the two classes of `A,B`; a class name may hold commas."""
    from conceptlens.bottleneck.module import split_names

    found = split_names(text, made.classes, made.classes)
    if found is not None:
        return made.classes[found[0]], made.classes[found[1]]
    parts = text.split(",")
    if len(parts) != 2:
        raise InputError(f"--pair {text} is given; expected two classes with a comma between, such as --pair wren,crow")
    for part in parts:
        made.class_index(part.strip())  # says which of the two is unknown
    raise InputError(f"--pair {text} is given; expected two classes of the bottleneck")


def _train(data: str, opened: LabelledSet, split: str | None) -> LabelledSet | None:
    """Return the photos that the bottleneck was fitted on, where the set has them."""
    from conceptlens.data.labelled_sets import open_classes

    if split is None and ("train" not in opened.splits or opened.split == "train"):
        return opened if opened.split == "train" else None
    return open_classes(data, split or "train")


def _evenly(opened: LabelledSet, limit: int | None) -> list[int] | None:
    """Return the indices of `limit` photos, evenly spaced: a set lists its classes one after the other."""
    total = len(opened)
    if limit is None or limit >= total:
        return None
    return [index * total // limit for index in range(limit)]
