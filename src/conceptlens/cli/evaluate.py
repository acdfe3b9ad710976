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
    from conceptlens.data.located_set import LocatedSet
    from conceptlens.io.failures import Failure
    from conceptlens.localization.methods import Method
    from conceptlens.localization.result_rows import Row
    from conceptlens.localization.summary import Summary
    from conceptlens.model.backbone import Photo

DEFAULT_METHODS = "ce_fam,competing,per_cell,grad_cam,clip_dissect,www,centre,random"

Data = Annotated[str, typer.Option("--data", "-d", help="NAME or NAME:DIR, such as coco_panoptic:DIR or drawn:50.")]
MethodNames = Annotated[
    str, typer.Option("--methods", help="Comma-separated; the page shows cases of the first.", show_default=True)
]
Probe = Annotated[
    Path | None,
    typer.Option("--probe", help="Photos for neuron labels; by default those of the set's train split."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="A folder for the page, the numbers and every row.")
]

app = typer.Typer(help="Measure explanations where the truth is known.", **SETTINGS)
app.command()(bottleneck)


@app.callback()
def evaluate() -> None:
    """Measure explanations where the truth is known."""


@app.command()
@answering
def localization(
    data: Data,
    split: Annotated[str | None, typer.Option(help="By default the set's own for evaluation.")] = None,
    methods: MethodNames = DEFAULT_METHODS,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    branch: BranchFolder = None,
    probe: Probe = None,
    out: OutFolder = None,
    resolution: Annotated[int, typer.Option(help="Rows and columns of the masks; 0: the annotation's own.")] = 112,
    least_share: Annotated[float, typer.Option(help="Leave out concepts that cover less of the photo.")] = 0.01,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only so many photos.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the wrong concepts and the random maps.")] = 0,
    against: Annotated[str | None, typer.Option(help="The method that the others are compared with.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Say how well methods point at what a concept names, by masks, with a wrong concept as control."""
    from conceptlens.data.located_sets import open_set
    from conceptlens.io.output_path import check_output
    from conceptlens.localization.evaluate_localization import check_settings, evaluate
    from conceptlens.localization.methods import Setting, build_methods, method_names
    from conceptlens.localization.summary import summarise

    start = time.perf_counter()
    names, size = method_names(methods.split(",")), resolution or None
    reference = _reference(against, names)
    check_settings(least_share, size, limit)
    check_output(out, folder=True)
    opened, translator, photos = open_set(data, split), load_branch(branch), _probe(data, probe, names)
    backbone = load(model, weights, labels, pretrained, fit="squash", device=device)  # masks and maps cover the same
    built = build_methods(names, Setting(backbone, opened.concepts, translator, photos, seed=seed))
    found = evaluate(opened, built, least_share, size, seed=seed, most=limit)
    rows, failures = _collected(found, len(opened) if limit is None else min(limit, len(opened)))
    settings = {
        "split": opened.name, "methods": ", ".join(names), "weights": weights if pretrained else "random",
        "branch": branch, "probe photos": _probe_told(names, probe), "resolution": size or "the annotation's own",
        "least share": least_share, "limit": limit, "seed": seed,
    }  # fmt: skip
    told = {"data": opened.name, "model": backbone.name, "settings": {n: _plain(v) for n, v in settings.items()}}
    done = _Done(opened, built, rows, failures, summarise(rows, reference), told)
    _finish(done, out, as_json, time.perf_counter() - start)
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


def _probe(data: str, folder: Path | None, names: Sequence[str]) -> Iterable[Photo]:
    """Return photos for neuron labels, read one by one: of a folder, or the set's own of its train split."""
    from conceptlens.data.located_sets import open_set
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


def _reference(against: str | None, names: tuple[str, ...]) -> str | None:
    """Return the method to compare with: Grad-CAM where it takes part and none is named."""
    if against is None:
        return "grad_cam" if "grad_cam" in names and len(names) > 1 else None
    if against not in names:
        raise InputError(f"--against {against} is none of the methods {', '.join(names)}; add it to --methods")
    return against


@dataclass(frozen=True)
class _Done:
    """What an evaluation came to; `told` says what was evaluated, and how."""

    data: LocatedSet
    methods: Mapping[str, Method]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    summary: Summary
    told: Mapping[str, Any]


def _finish(done: _Done, out: Path | None, as_json: bool, seconds: float) -> None:
    """Print the table or the numbers, write the files, and say what was done."""
    from conceptlens.localization.localization_outputs import evaluation_numbers, print_summary, write_evaluation

    summary, failures = done.summary, done.failures
    numbers = evaluation_numbers(summary, failures, done.told)
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


def _probe_told(names: Sequence[str], probe: Path | None) -> str | None:
    if not _needs_probe(names):
        return None
    return "the set's own, of its train split" if probe is None else str(probe)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (int, float, str)) else str(value)
