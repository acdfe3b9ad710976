"""The commands that measure: `conceptlens evaluate localization` and `bottleneck`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.evaluate_bottleneck import bottleneck
from conceptlens.cli.options import (
    OUTPUT,
    SETTINGS,
    BranchFolder,
    Device,
    Json,
    Labels,
    Model,
    Pretrained,
    Weights,
    answering,
    load,
    load_branch,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.io.failures import Failure
    from conceptlens.localization.methods import Method
    from conceptlens.localization.result_rows import Row
    from conceptlens.localization.summary import LocalizationSummary
    from conceptlens.model.backbone import Photo

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
    labels: Labels = None,
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
    from conceptlens.localization.methods import MethodContext, build_methods, method_names
    from conceptlens.localization.summary import summarise

    start = time.perf_counter()
    names, size = method_names(methods.split(",")), resolution or None
    reference = _reference(compare_with, names)
    _check_use(names, branch, probe)
    check_settings(min_area, size, max_photos)
    check_output(out, folder=True)
    opened, translator, photos = open_set(data, split), load_branch(branch), _probe(data, probe, names)
    backbone = load(model, weights, labels, pretrained, fit="squash", device=device)  # masks and maps cover the same
    built = build_methods(names, MethodContext(backbone, opened.concepts, translator, photos, seed=seed))
    found = evaluate(opened, built, min_area, size, seed=seed, max_photos=max_photos)
    rows, failures = _collected(found, len(opened) if max_photos is None else min(max_photos, len(opened)))
    settings = {
        "split": opened.name, "methods": ", ".join(names), "weights": weights if pretrained else "random",
        "branch": branch, "probe photos": _probe_text(names, probe), "resolution": size or "the annotation's own",
        "min area": min_area, "max photos": max_photos, "seed": seed,
    }  # fmt: skip
    description = {"data": opened.name, "model": backbone.name, "settings": {n: _plain(v) for n, v in settings.items()}}
    done = _Evaluation(opened, built, rows, failures, summarise(rows, reference), description)
    _finish(done, out, as_json, time.perf_counter() - start)
    if failures:
        raise typer.Exit(1)


def _check_use(names: Sequence[str], branch: Path | None, probe: Path | None) -> None:
    """Refuse options that none of the methods uses."""
    if branch is not None and not {"ce_fam", "competing", "per_cell"} & set(names):
        raise InputError("--branch has no effect without one of the methods ce_fam, competing, per_cell; leave it out")
    if probe is not None and not _needs_probe(names):
        raise InputError("--probe has no effect without one of the methods clip_dissect, www; leave it out")


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


def _probe(data: str, folder: Path | None, names: Sequence[str]) -> Iterable[Photo]:
    """Return photos for neuron labels, read one by one: of a folder, or the set's own of its train split."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.io.images import find_images

    if not _needs_probe(names):
        return ()
    if folder is not None:
        return find_images(folder)
    try:
        return (one.photo for one in open_set(data, "train"))
    except InputError as error:
        raise InputError(
            f"clip_dissect and www need probe photos, and {data} gives no train split ({error}); "
            "give photos with --probe FOLDER, or leave these methods out"
        ) from None


def _reference(compare_with: str | None, names: tuple[str, ...]) -> str | None:
    """Return the method to compare with: Grad-CAM where it takes part and none is named."""
    if compare_with is None:
        return "grad_cam" if "grad_cam" in names and len(names) > 1 else None
    if compare_with not in names:
        raise InputError(
            f"--compare-with {compare_with} is none of the methods {', '.join(names)}; add it to --methods"
        )
    return compare_with


@dataclass(frozen=True)
class _Evaluation:
    """All that an evaluation gave; `description` names the data, the model and the settings."""

    data: MaskedSet
    methods: Mapping[str, Method]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    summary: LocalizationSummary
    description: Mapping[str, Any]


def _finish(done: _Evaluation, out: Path | None, as_json: bool, seconds: float) -> None:
    """Print the table or the numbers, write the files, and say what was done."""
    from conceptlens.localization.localization_outputs import evaluation_numbers, print_summary, write_evaluation

    summary, failures = done.summary, done.failures
    numbers = evaluation_numbers(summary, failures, done.description)
    if as_json:
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        print_summary(summary)
    written = (
        [] if out is None else write_evaluation(out, done.data, done.methods, done.rows, failures, summary, numbers)
    )
    bad = f", {len(failures)} failed" if failures else ""
    typer.echo(f"{summary.photos} photos, {summary.pairs['all']} pairs{bad} in {seconds:.1f} s", err=True)
    for file in written:
        typer.echo(f"{ {'.html': 'report', '.json': 'numbers'}.get(file.suffix, 'rows') }: {file}", err=True)


def _needs_probe(names: Sequence[str]) -> bool:
    from conceptlens.localization.methods import METHODS

    return any(METHODS[name].probes for name in names)


def _probe_text(names: Sequence[str], probe: Path | None) -> str | None:
    if not _needs_probe(names):
        return None
    return "the set's own, of its train split" if probe is None else str(probe)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (int, float, str)) else str(value)
