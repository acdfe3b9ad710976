"""The commands that measure: `conceptlens evaluate localization` and `bottleneck`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.evaluate_bottleneck import bottleneck
from conceptlens.cli.options import (
    OUTPUT,
    SETTINGS,
    BranchFolder,
    ClassNames,
    Device,
    Json,
    Model,
    Pretrained,
    Weights,
    answering,
    load,
    load_branch,
)
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.io.failures import Failure
    from conceptlens.localization.localization_run import LocalizationRun
    from conceptlens.localization.result_rows import Row

DEFAULT_METHODS = "ce_fam,competing,per_cell,grad_cam,clip_dissect,www,centre,random"
DATA, MEASURE = "Data", "What to measure"

app = typer.Typer(help="Measure explanations where the truth is known.", **SETTINGS)
app.command()(bottleneck)


@app.callback()
def evaluate() -> None:
    """Measure explanations where the truth is known."""


@app.command()
@answering
def localization(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="NAME[:DIR]",
            help="The data set, such as coco_panoptic:DIR or drawn:50.",
            rich_help_panel=DATA,
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Its split; by default the one for evaluation.", rich_help_panel=DATA)
    ] = None,
    max_photos: Annotated[
        int | None, typer.Option(min=1, help="Evaluate at most this many photos.", rich_help_panel=DATA)
    ] = None,
    min_area: Annotated[
        float,
        typer.Option(help="Leave out concepts that cover less than this share of the photo.", rich_help_panel=DATA),
    ] = 0.01,
    methods: Annotated[
        str,
        typer.Option("--methods", help="Comma-separated; the page shows cases of the first.", rich_help_panel=MEASURE),
    ] = DEFAULT_METHODS,
    compare_with: Annotated[
        str | None,
        typer.Option(
            help="The method to compare the others with; by default grad_cam, where it takes part.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    resolution: Annotated[
        int,
        typer.Option(
            help="Rows and columns at which maps and masks are compared, in pixels; 0: the annotation's own.",
            rich_help_panel=MEASURE,
        ),
    ] = 112,
    probe: Annotated[
        Path | None,
        typer.Option(
            "--probe",
            metavar="FOLDER",
            help="Photos to find neuron labels on (clip_dissect, www); by default the set's train split.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the wrong concepts and of the random maps.", rich_help_panel=MEASURE)
    ] = 0,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    class_names: ClassNames = None,
    pretrained: Pretrained = True,
    branch: BranchFolder = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="A folder for the page, the numbers and all rows.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
    device: Device = "cpu",
) -> None:
    """Measure how well maps of concepts fit masks of them, with a wrong concept as control."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.io.output_path import check_output
    from conceptlens.localization.evaluate_localization import check_settings, evaluate
    from conceptlens.localization.localization_run import (
        LocalizationRun,
        check_use,
        needs_probe,
        probe_photos,
        reference_method,
    )
    from conceptlens.localization.methods import MethodContext, build_methods, method_names
    from conceptlens.localization.summary import summarise

    start = time.perf_counter()
    names, size = method_names(methods.split(",")), resolution or None
    reference = reference_method(compare_with, names)
    check_use(names, branch, probe)
    check_settings(min_area, size, max_photos)
    check_output(out, folder=True)
    opened, translator, photos = open_set(data, split), load_branch(branch), probe_photos(data, probe, names)
    # The whole photo, so that maps and masks cover the same.
    backbone = load(model, weights, class_names, pretrained, crop_mode="squash", device=device)
    built = build_methods(names, MethodContext(backbone, opened.concepts, translator, photos, seed=seed))
    found = evaluate(opened, built, min_area, size, seed=seed, max_photos=max_photos)
    rows, failures = _collected(found, len(opened) if max_photos is None else min(max_photos, len(opened)))
    probed = (probe or "the set's own, of its train split") if needs_probe(names) else None
    settings = {
        "split": opened.name, "methods": ", ".join(names), "weights": weights if pretrained else "random",
        "branch": branch, "probe photos": probed, "resolution": size or "the annotation's own",
        "min area": min_area, "max photos": max_photos, "seed": seed,
    }  # fmt: skip
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    description = {"data": opened.name, "model": backbone.name, "settings": plain}
    run = LocalizationRun(opened, built, rows, failures, summarise(rows, reference), description)
    _finish(run, out, as_json, time.perf_counter() - start)
    if failures:
        raise typer.Exit(1)


def _collected(found: Iterable[tuple[Row, ...] | Failure], total: int) -> tuple[list[Row], list[Failure]]:
    """Run the evaluation, and tell rows from photos that failed."""
    from conceptlens.explainer.run_outputs import report_failures
    from conceptlens.io.progress import progress

    rows: list[Row] = []
    failures: list[Failure] = []
    for one in progress(found, total, "photos"):
        if isinstance(one, tuple):
            rows += one
        else:
            failures.append(one)
    report_failures(failures)
    return rows, failures


def _finish(run: LocalizationRun, out: Path | None, as_json: bool, seconds: float) -> None:
    """Print the table or the JSON document, write the files, and say what was done."""
    from conceptlens.localization.localization_outputs import evaluation_json, print_summary, write_evaluation

    if as_json:
        typer.echo(json.dumps(evaluation_json(run), allow_nan=False))
    else:
        print_summary(run.summary)
    written = [] if out is None else write_evaluation(out, run)
    bad = f", {len(run.failures)} failed" if run.failures else ""
    typer.echo(f"{run.summary.photos} photos, {run.summary.pairs['all']} pairs{bad} in {seconds:.1f} s", err=True)
    for file in written:
        typer.echo(f"{ {'.html': 'report', '.json': 'numbers'}.get(file.suffix, 'rows') }: {file}", err=True)
