"""`conceptlens evaluate bottleneck`: what a bottleneck is worth, and what it decides by."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import BatchSize, Device, Json, Labels, Model, Pretrained, Weights, answering, load
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

Folder = Annotated[Path, typer.Option("--bottleneck", "-b", help="A folder made by `conceptlens fit loc-cbm`.")]
Data = Annotated[str, typer.Option("--data", "-d", help="NAME:DIR with the bottleneck's classes: cub:DIR, folder:DIR.")]
Split = Annotated[str, typer.Option(help="Whose photos are measured.")]
Train = Annotated[
    str | None,
    typer.Option("--train", help="The split it was fitted on, for controls; by default train, where there is one."),
]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help="A folder for the page, the numbers, the tables.")]
Cache = Annotated[Path | None, typer.Option(help="A folder for what the network sees: the next run reads it.")]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", help="Show this class; repeat for several. By default the best and the worst."),
]
Pairs = Annotated[
    list[str] | None, typer.Option("--pair", help="Show what separates A,B; repeat. By default the most confused.")
]
Shown = Annotated[
    list[str] | None, typer.Option("--photo", help="Show this photo, by its name or its end; repeat for several.")
]
Leakage = Annotated[bool, typer.Option("--leakage", help="Measure leakage and impurity too; slow.")]
Interventions = Annotated[
    bool, typer.Option("--interventions", help="Measure what correcting concepts does too; reads all train photos.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Measure only so many photos, evenly taken.")]


@answering
def bottleneck(
    folder: Folder,
    data: Data,
    split: Split = "test",
    train: Train = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    out: OutFolder = None,
    classes: Classes = None,
    pairs: Pairs = None,
    photo: Shown = None,
    photos: Annotated[int, typer.Option(min=0, help="How many photos and errors are shown.")] = 6,
    top: Annotated[int, typer.Option(min=1, help="How many concepts of each are shown.")] = 6,
    leakage: Leakage = False,
    interventions: Interventions = False,
    cache: Cache = None,
    limit: Limit = None,
    batch_size: BatchSize = 16,
    seed: Annotated[int, typer.Option(help="Decides what is drawn: intervals, wrong concepts, random maps.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a bottleneck beside what knows less, and show classes, photos, pairs and errors with their maps."""
    from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_sets import open_classes
    from conceptlens.explainer.run_outputs import report_failures
    from conceptlens.io.output_path import check_output

    start = time.perf_counter()
    check_output(out, folder=True)
    made, opened = Bottleneck.from_pretrained(folder), open_classes(data, split)
    choice = _choice(made, opened, classes, pairs, photo, photos, top)
    backbone = load(model, weights, labels, pretrained, device=device)
    measures = evaluate_bottleneck(
        made.to(device), backbone, opened, _train(data, opened, train), _places(opened, limit), cache,
        leakage, interventions, seed=seed, batch_size=batch_size, progress=_progress,
    )  # fmt: skip
    report_failures(measures.failures)
    for option, reason in _unmeasured(measures, leakage, interventions):
        typer.echo(f"conceptlens: {option} measured nothing: {reason}", err=True)
    told = _told(
        folder, split=split, train=measures.train, weights=weights if pretrained else "random", limit=limit,
        leakage=leakage, interventions=interventions, seed=seed,
    )  # fmt: skip
    _finish(made, backbone, opened, measures, choice, out, cache, told, as_json)
    bad = f", {len(measures.failures)} failed" if measures.failures else ""
    typer.echo(f"{measures.photos} photos{bad} in {time.perf_counter() - start:.1f} s", err=True)
    if measures.failures:
        raise typer.Exit(1)


def _progress(parts: Iterable[Any], total: int) -> Iterable[Any]:
    """Yield the parts of a set, and show how many are done."""
    from conceptlens.io.progress import progress

    return progress(parts, total, "parts of the set")


def _unmeasured(measures: BottleneckResult, leakage: bool, interventions: bool) -> list[tuple[str, str]]:
    """Return the options that were asked for in vain, each with the reason."""
    found = []
    one = measures.metric("leakage_task")
    if leakage and one.value is None:
        found.append(("--leakage", str(one.reason)))
    if interventions and not measures.interventions.curves:
        found.append(("--interventions", measures.interventions.reason))
    return found


def _told(folder: Path, **settings: object) -> dict[str, Any]:
    """Return what was evaluated and how; a setting that is `None` is left out."""
    return {
        "bottleneck": str(folder),
        "settings": {name: value for name, value in settings.items() if value is not None},
    }


def _finish(
    made: Bottleneck,
    backbone: Any,
    opened: LabelledSet,
    measures: BottleneckResult,
    choice: CaseSelection,
    out: Path | None,
    cache: Path | None,
    told: dict[str, Any],
    as_json: bool,
) -> None:
    """Print the figures or the numbers, and write the files."""
    from conceptlens.bottleneck.report.bottleneck_files import (
        evaluation_json,
        print_result,
        write_bottleneck_report,
    )

    if as_json:
        typer.echo(json.dumps(evaluation_json(measures, told), allow_nan=False))
    else:
        print_result(measures)
    if out is not None:
        for file in write_bottleneck_report(out, made, backbone, opened, measures, choice, cache, told):
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
    """Return what is shown; names of classes and photos are checked before any work is done."""
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, find_photo

    for name in photo or ():
        find_photo(opened.names, name)
    named = tuple(made.classes[made.class_index(name)] for name in classes or ())
    return CaseSelection(named, tuple(_pair(made, one) for one in pairs or ()), tuple(photo or ()), photos, top)


def _pair(made: Bottleneck, text: str) -> tuple[str, str]:
    """Return two classes of `A,B`, wherever a class name itself holds a comma."""
    parts = text.split(",")
    for at in range(1, len(parts)):
        names = [" ".join(",".join(some).split()).casefold() for some in (parts[:at], parts[at:])]
        places = [[k for k, one in enumerate(made.classes) if one.casefold() == name] for name in names]
        if all(places):
            return made.classes[places[0][0]], made.classes[places[1][0]]
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


def _places(opened: LabelledSet, limit: int | None) -> list[int] | None:
    """Return places of so many photos, evenly over the set, which lists its classes one after the other."""
    total = len(opened)
    if limit is None or limit >= total:
        return None
    return [place * total // limit for place in range(limit)]
