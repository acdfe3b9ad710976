"""The commands that measure: `conceptlens evaluate localization` and `bottleneck`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.engine import LOCAL, EngineName, RayAddress, Workers, chosen_engine
from conceptlens.cli.evaluate_bottleneck import bottleneck
from conceptlens.cli.options import answering, data_option, load, option_group, run_option
from conceptlens.cli.printing import print_end, print_excluded, print_failures, print_files, print_json
from conceptlens.cli.run_progress import with_progress
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.io.errors import Failure
    from conceptlens.localization.localization_task import LocalizationTask
    from conceptlens.localization.result_rows import Row
    from conceptlens.runs.run_task import Engine

DEFAULT_METHODS = "ce_fam, competing, per_cell, grad_cam, clip_dissect, www, centre, edges, random"
# Written out, since the tables of methods and rules load torch; a test holds them together.
METHODS_HELP = (
    "Comma-separated methods; the page shows cases of the first. ce_fam, competing, coarse, fine, per_cell, "
    "clip_dissect, www, centre, edges, random; or RULE:TARGET, such as layer_cam:concept, with the rules "
    "grad_cam, grad_cam++, xgrad_cam, hires_cam, element_wise, layer_cam, score_cam, score_cam_fast, ablation_cam, "
    "eigen_cam, random and the targets predicted (where none is named), class, concept, contrast."
)

measured_option = option_group("What is measured")

app = typer.Typer(**shared.SETTINGS)
app.command(cls=shared.Command)(bottleneck)


@app.callback()
def evaluate() -> None:
    """Measure explanations where the truth is known."""


@app.command(cls=shared.Command)
@answering
def localization(
    data: shared.MaskedData,
    split: shared.EvaluationSplit = None,
    ignore: shared.Ignore = None,
    max_photos: Annotated[int | None, data_option(min=1, help="Evaluate at most this many photos.")] = None,
    min_area: Annotated[float, data_option(help="Leave out concepts that cover a smaller share of the photo.")] = 0.01,
    methods: Annotated[str, measured_option(help=METHODS_HELP)] = DEFAULT_METHODS,
    compare_with: Annotated[
        str | None,
        measured_option(help="The method to compare the others with; by default grad_cam, where it takes part."),
    ] = None,
    resolution: Annotated[
        int,
        measured_option(
            help="Rows and columns at which maps and masks are compared, in pixels; 0: the annotation's own."
        ),
    ] = 112,
    probe: Annotated[
        Path | None,
        measured_option(
            metavar="DIR",
            help="Photos on which clip_dissect and www find neuron labels; by default the set's train split.",
        ),
    ] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    branch: shared.BranchFolder = None,
    out_dir: Annotated[Path | None, shared.out_dir("the page, the numbers and a table of all rows")] = None,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    retry_failed: shared.RetryFailed = False,
    engine: EngineName = LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    device: shared.Device = "cpu",
    seed: Annotated[int, run_option(help="Seed of the wrong concepts and of the random maps.")] = 0,
) -> None:
    """Measure how well maps of concepts fit masks of them, with a wrong concept as control."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.localization.evaluate_localization import check_settings
    from conceptlens.localization.localization_folder import run_settings
    from conceptlens.localization.localization_outputs import evaluation_json, print_summary, write_evaluation
    from conceptlens.localization.localization_run import (
        LocalizationRun,
        check_use,
        needs_probe,
        probe_photos,
        reference_method,
    )
    from conceptlens.localization.localization_task import LocalizationTask
    from conceptlens.localization.methods import MethodContext, build_methods, method_names
    from conceptlens.localization.summary import summarise

    start = time.perf_counter()
    names, size = method_names(methods.split(",")), resolution or None
    reference = reference_method(compare_with, names)
    check_use(names, branch, probe)
    check_settings(min_area, size, max_photos)
    check_folder(out_dir)
    if out_dir is None:
        kept = {"--resume": resume or None, "--retry-failed": retry_failed or None}
        shared.refuse_unused(kept, "without --out-dir DIR, where rows are kept; add it, or leave it out")
    run_on = chosen_engine(engine, ray_address, workers)
    choices = shared.mask_choices(ignore=ignore)
    opened, translator = open_set(data, split, **choices), shared.load_branch(branch)
    photos, mark = probe_photos(data, probe, names, **choices)
    print_excluded(opened.excluded)
    # The whole photo, so that maps and masks cover the same.
    backbone = load(model, weights, pretrained, device, class_names, crop_mode="squash", task=task)
    context = MethodContext(backbone, opened.concepts, translator, photos, seed=seed)
    count = len(opened) if max_photos is None else min(max_photos, len(opened))
    measured = LocalizationTask(opened, build_methods(names, context), min_area, size, seed, count)
    identity = run_settings(measured, context, mark, choices)
    rows, failures = _rows(measured, identity, out_dir, resume or retry_failed, retry_failed, run_on)
    probed = (probe or "the set's own, of its train split") if needs_probe(names) else None
    settings = {
        "split": opened.name, "methods": ", ".join(names), "weights": weights if pretrained else "random",
        "branch": branch, "probe_photos": probed, "resolution": size or "the annotation's own",
        "min_area": min_area, "max_photos": max_photos, "seed": seed, **choices,
    }  # fmt: skip
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    description = {"data": opened.name, "model": backbone.name, "settings": plain}
    run = LocalizationRun(opened, measured.methods, rows, failures, summarise(rows, reference), description)
    if as_json:
        print_json(evaluation_json(run))
    else:
        print_summary(run.summary)
    written = [] if out_dir is None else write_evaluation(out_dir, run)
    print_end(
        f"{counted(run.summary.photos, 'photo')}, {counted(run.summary.pairs['all'], 'pair')}", len(failures), start
    )
    print_files(written)
    if failures:
        raise typer.Exit(1)


def _rows(
    task: LocalizationTask,
    settings: dict[str, Any],
    out_dir: Path | None,
    resume: bool,
    retry_failed: bool,
    engine: Engine,
) -> tuple[list[Row], list[Failure]]:
    """Measure the photos that are left, in a folder that is removed at the end where none is named; return all rows."""
    from conceptlens.localization.localization_folder import evaluate_into, evaluated

    with nullcontext(out_dir) if out_dir is not None else TemporaryDirectory() as folder:
        steps = evaluate_into(Path(folder), task, settings, resume, retry_failed, engine)
        kept = "nothing is kept without --out-dir DIR"
        go_on = kept if out_dir is None else f"they are kept in {out_dir}; continue with --resume"
        with_progress(steps, "evaluating photos", go_on=go_on)
        rows, failures = evaluated(Path(folder))
    print_failures(failure.reason for failure in failures)
    return rows, failures
