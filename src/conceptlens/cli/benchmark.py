"""`conceptlens benchmark SUITE`: methods, metrics and controls on one data set, as tables that say what is real."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.engine import LOCAL, EngineName, RayAddress, Workers, chosen_engine
from conceptlens.cli.options import answering, data_option, load, option_group, run_option
from conceptlens.cli.printing import print_end, print_failures, print_files, print_json
from conceptlens.cli.run_progress import with_progress
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions
    from conceptlens.benchmark.suites import SuiteKind
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.runs.photo_by_photo import PhotoProgress
    from conceptlens.runs.run_task import Engine

ALL = "all"
measured_option = option_group("What is measured")
SUITE_HELP = "faithfulness, finer-cam, ce-fam, loc-cbm, loce, or all that the data allows."
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help=SUITE_HELP, show_default=False)]
PhotoData = Annotated[
    str,
    data_option(
        "--data", "-d", metavar="NAME:DIR", help="cub:DIR, folder:DIR, drawn:20, a folder of photos; loce: a store."
    ),
]  # fmt: skip


@answering
def benchmark(
    suite: SuiteName,
    data: PhotoData,
    out_dir: Annotated[Path, shared.out_dir("the run: rows, tables, numbers and the page")],
    split: shared.EvaluationSplit = None,
    max_photos: Annotated[
        int | None, data_option(min=1, help="Measure at most this many photos, evenly spaced.")
    ] = None,
    methods: Annotated[
        str | None, measured_option(help="Comma-separated rules; controls are added. By default those of the suite.")
    ] = None,
    metrics: Annotated[
        str | None, measured_option(help="Comma-separated metrics; by default those of the suite.")
    ] = None,
    fills: Annotated[
        str | None,
        measured_option(
            help="What removed pixels become, two at least: mean, blur, black, zero, rise_blur, inpaint, noisy_linear."
        ),
    ] = None,
    asked: Annotated[
        str, measured_option(metavar="predicted|label", help="Whether maps are of the predicted or annotated class.")
    ] = "predicted",
    baseline: Annotated[
        str | None, measured_option(help="The method that others are compared with; by default as the suite says.")
    ] = None,
    gammas: Annotated[str | None, measured_option(help="finer-cam: comma-separated gammas.")] = None,
    references: Annotated[
        str | None, measured_option(help="finer-cam: how references are chosen: logit, rank, weight.")
    ] = None,
    groups: Annotated[
        Path | None,
        measured_option(
            metavar="FILE", help="Metrics of groups: a class, a tab and its group in each line; by default kinds."
        ),
    ] = None,
    probe: Annotated[
        Path | None,
        measured_option(
            metavar="DIR", help="ce-fam: photos to label neurons on, for clip_dissect and www; or the train split."
        ),
    ] = None,
    randomised: Annotated[
        bool | None,
        measured_option(
            help="Grad-CAM of the model with random weights as a control; by default where faithfulness runs in full.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, measured_option("--quick", help="Eight photos, few metrics and methods, to try things out.")
    ] = False,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    pretrained: shared.Pretrained = True,
    layer: shared.LayerName = None,
    branch: shared.BranchFolder = None,
    bottleneck: Annotated[
        list[Path] | None,
        shared.model_option(
            "--bottleneck",
            "-b",
            metavar="DIR",
            help="loc-cbm: a folder made by `conceptlens fit loc-cbm`; repeat to compare several.",
        ),
    ] = None,
    crop_mode: shared.CropMode = None,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    retry_failed: shared.RetryFailed = False,
    engine: EngineName = LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    device: shared.Device = "cpu",
    cache: Annotated[
        Path | None,
        run_option(metavar="DIR", help="loc-cbm: keep the cells of train photos here; the fit's own saves time."),
    ] = None,
    seed: Annotated[int, run_option(min=0, help="Seed of all that is drawn.")] = 0,
) -> None:
    """Measure methods and controls on photos, with intervals, and say which differences are real."""
    from conceptlens.benchmark.suite_options import SuiteOptions, refuse_options
    from conceptlens.benchmark.suites import suite_kind

    run_on = chosen_engine(engine, ray_address, workers)
    start = time.perf_counter()
    check_folder(out_dir)
    whole = suite == ALL
    given = SuiteOptions(
        data=data,
        split=split,
        max_photos=max_photos,
        layer=layer,
        methods=_names(methods, "--methods"),
        metrics=_names(metrics, "--metrics"),
        fills=_names(fills, "--fills"),
        asked=asked,  # pyright: ignore[reportArgumentType]
        baseline=baseline,
        gammas=_numbers(gammas),
        references=_names(references, "--references"),
        groups=groups,
        probe=probe,
        randomised=randomised,
        quick=quick,
        branch=shared.load_branch(branch),
        bottleneck=_bottlenecks(bottleneck or [], device),
        cache=cache,
        seed=seed,
    )

    def ready(kind: SuiteKind) -> PreparedSuite:
        crop = crop_mode or kind.crop_mode
        options = given
        if not kind.takes_bottleneck:
            if not whole:
                refuse_options(options, kind.name, "bottleneck", "cache")
            options = replace(options, bottleneck={}, cache=None)
        if kind.needs_model:
            options = replace(options, model=load(model, weights, pretrained, device, class_names, crop_mode=crop))
        if whole and not kind.randomises:
            options = replace(options, randomised=None)
        return kind.build(options)

    suites = _every(ready, given) if whole else [ready(suite_kind(suite))]
    done = [
        _measured(one, out_dir / one.name if whole else out_dir, resume, retry_failed, run_on, as_json)
        for one in suites
    ]
    if as_json:
        documents = [document for document, _ in done]
        print_json(documents[0] if not whole else {"schema": documents[0]["schema"], "suites": documents})
    photos, failed = sum(last.photos for _, last in done), sum(last.failures for _, last in done)
    print_end(counted(photos - failed, "photo"), failed, start)
    if failed:
        raise typer.Exit(1)


def _every(ready: Callable[[SuiteKind], PreparedSuite], given: SuiteOptions) -> list[PreparedSuite]:
    """Make every suite ready that the data allows; say why the others are left out."""
    from conceptlens.benchmark.suite_options import refuse_options
    from conceptlens.benchmark.suites import SUITES

    refuse_options(
        given, ALL, "methods", "metrics", "fills", "baseline", "gammas", "references", "branch", "layer", "groups",
        "probe",
    )  # fmt: skip
    found = []
    for kind in SUITES.values():
        try:
            found.append(ready(kind))
        except InputError as error:
            print_failures([f"{kind.name} is left out: {error}"])
    if not found:
        raise InputError(f"no suite can measure {given.data}; give photos, a set with masks, or a store")
    return found


def _measured(
    suite: PreparedSuite, folder: Path, resume: bool, retry_failed: bool, engine: Engine, as_json: bool
) -> tuple[dict[str, Any], PhotoProgress]:
    """Run one suite, write its files and print its tables; return its numbers and how far it came."""
    from conceptlens.benchmark.benchmark_outputs import benchmark_json, write_benchmark
    from conceptlens.benchmark.benchmark_result import finished
    from conceptlens.benchmark.benchmark_run import run_benchmark
    from conceptlens.benchmark.comparison_table import plain_text

    compared = {one.name: one.against for one in suite.methods}
    steps = run_benchmark(suite.task, folder, resume or retry_failed, retry_failed, engine, compared)
    last = with_progress(steps, "measuring photos", go_on=f"they are kept in {folder}; continue with --resume")
    result = finished(suite, folder)
    files = write_benchmark(folder, result)
    if not as_json:
        typer.echo(plain_text(result.comparison, intervals=False, further=result.further_tables), nl=False)
    print_failures([*suite.remarks, *(failure.reason for failure in result.comparison.failures)])
    print_files(files)
    return benchmark_json(result), last


def _bottlenecks(folders: list[Path], device: str) -> dict[str, Bottleneck]:
    """Read bottlenecks, called as their folders, or by their paths where two folders are called alike."""
    from conceptlens.bottleneck.module import Bottleneck

    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError("--bottleneck names a folder twice; give each folder once")
    return {name: Bottleneck.from_pretrained(one).to(device) for name, one in zip(names, folders, strict=True)}


def _names(text: str | None, option: str) -> list[str]:
    return [] if text is None else shared.names_in(text, option)


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(one) for one in _names(text, "--gammas")]
    except ValueError:
        raise InputError(f"--gammas {text} holds no numbers; give them with commas between, as 0.3,0.6,1") from None
