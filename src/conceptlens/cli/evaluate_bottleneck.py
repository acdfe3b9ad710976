"""`conceptlens evaluate bottleneck`: metrics of a bottleneck and a report of the concepts behind its predictions."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, data_option, load, option_group, run_option
from conceptlens.cli.printing import print_end, print_excluded, print_failures, print_files, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet

measured_option = option_group("What is measured")
shown_option = option_group("What the page shows")


@partial(answering, interrupted="nothing is written but the features in --cache")
def bottleneck(
    folder: Annotated[
        Path,
        shared.model_option("--bottleneck", "-b", metavar="DIR", help="A folder made by `conceptlens fit loc-cbm`."),
    ],
    data: shared.ClassData,
    split: shared.Split = "test",
    train: Annotated[
        str | None,
        data_option(help="The split it was fitted on, for controls; by default train, where there is one."),
    ] = None,
    max_photos: Annotated[
        int | None, data_option(min=1, help="Measure at most this many photos, evenly spaced in the split.")
    ] = None,
    table: Annotated[
        str | None,
        measured_option(
            metavar="FILE",
            help="Which photos show which concepts: a table (.csv, .tsv) or detections (.json), as `fit loc-cbm "
            "--targets` takes them; by default what the data set knows.",
        ),
    ] = None,
    leakage: Annotated[
        bool, measured_option("--leakage", help="Measure leakage and impurity too; fits linear heads.")
    ] = False,
    interventions: Annotated[
        bool,
        measured_option(
            "--interventions", help="Measure accuracy with corrected concepts too; reads all train photos."
        ),
    ] = False,
    record: Annotated[
        bool,
        measured_option(
            "--record",
            help="Write into the bottleneck's folder which maps were checked against keypoints, so that its "
            "explanations say it.",
        ),
    ] = False,
    classes: Annotated[
        list[str] | None,
        shown_option("--class", help="This class; repeat for several. By default the best and the worst."),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        shown_option("--pair", metavar="A,B", help="What separates two classes; repeat. By default the most confused."),
    ] = None,
    photo: Annotated[
        list[str] | None,
        shown_option(help="This photo, by its name or the end of it; repeat for several."),
    ] = None,
    photos: Annotated[
        int | None, shown_option("--photos", min=0, help="How many photos, and how many errors; by default 6.")
    ] = None,
    top: Annotated[
        int | None, shown_option(min=1, help="How many concepts of each class and photo; by default 6.")
    ] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    pretrained: shared.Pretrained = True,
    out_dir: Annotated[Path | None, shared.out_dir("the page, the numbers and tables")] = None,
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 16,
    cache: shared.Cache = None,
    seed: Annotated[int, run_option(help="Seed of intervals, drawn concepts and random maps.")] = 0,
) -> None:
    """Measure accuracy, concepts and maps of a bottleneck beside controls, and report classes, photos and errors."""
    from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
    from conceptlens.bottleneck.evaluate.place_checks import record_checks
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.report.bottleneck_files import evaluation_json, print_result, write_bottleneck_report
    from conceptlens.data.labelled_sets import open_classes

    start = time.perf_counter()
    check_folder(out_dir)
    made, opened = Bottleneck.from_pretrained(folder), open_classes(data, split)
    print_excluded(opened.excluded)
    choice = _choice(made, opened, classes, pairs, photo, photos, top)
    if out_dir is None:
        of_page = {"--class": classes, "--pair": pairs, "--photo": photo, "--photos": photos, "--top": top}
        shared.refuse_unused(of_page, "without a page; add --out-dir DIR")
    if record:
        _check_keypoints(opened)
    backbone = load(model, weights, pretrained, device)
    result = evaluate_bottleneck(
        made.to(device), backbone, opened, _train(data, opened, train), _evenly(opened, max_photos), cache,
        leakage, interventions, seed=seed, batch_size=batch_size, table=table,
    )  # fmt: skip
    recorded = record_checks(folder, made, result) if record else 0
    print_failures(failure.reason for failure in result.failures)
    print_failures(_without_effect(result, leakage, interventions, record and not recorded))
    settings = {
        "split": split, "train": result.train, "weights": weights if pretrained else "random",
        "max_photos": max_photos, "table": table, "leakage": leakage, "interventions": interventions, "seed": seed,
    }  # fmt: skip
    kept = {name: value for name, value in settings.items() if value is not None}
    about = {"bottleneck": str(folder), "settings": kept}
    if as_json:
        print_json(evaluation_json(result, about))
    else:
        print_result(result)
    files = []
    if out_dir is not None:
        files = write_bottleneck_report(out_dir, made, backbone, opened, result, choice, about, cache)
    print_end(counted(result.photos, "photo"), len(result.failures), start)
    print_files(files)
    if result.failures:
        raise typer.Exit(1)


def _choice(
    made: Bottleneck,
    opened: LabelledSet,
    classes: list[str] | None,
    pairs: list[str] | None,
    photo: list[str] | None,
    photos: int | None,
    top: int | None,
) -> CaseSelection:
    """Return what the page shows; names are looked up before anything is computed."""
    from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, find_photo

    for name in photo or ():
        find_photo(opened.names, name)
    named = tuple(made.classes[made.class_index(name)] for name in classes or ())
    paired = tuple(_pair(made, one) for one in pairs or ())
    return CaseSelection(named, paired, tuple(photo or ()), 6 if photos is None else photos, top or 6)


def _check_keypoints(opened: LabelledSet) -> None:
    """Refuse to record checks of maps where there is nothing to check them by."""
    if opened.annotation is None or opened.annotation.keypoints is None:
        raise InputError(
            f"--record is given, and {opened.name} has no keypoints, by which maps are checked; give a set that has "
            "them, such as cub:FOLDER, or leave --record out"
        )


def _without_effect(result: BottleneckResult, leakage: bool, interventions: bool, unrecorded: bool) -> list[str]:
    """Say which options had no effect, and why."""
    found = [f"{option} measured nothing: {reason}" for option, reason in _unmeasured(result, leakage, interventions)]
    if unrecorded:
        reason = result.metric("keypoint_error").reason or "no keypoint is of a concept's part"
        found.append(f"--record recorded nothing: {reason}")
    return found


def _unmeasured(result: BottleneckResult, leakage: bool, interventions: bool) -> list[tuple[str, str]]:
    """Return the options that measured nothing, each with the reason."""
    found = []
    one = result.metric("leakage_task")
    if leakage and one.value is None:
        found.append(("--leakage", str(one.reason)))
    if interventions and not result.interventions.curves:
        found.append(("--interventions", result.interventions.reason))
    return found


def _pair(made: Bottleneck, text: str) -> tuple[str, str]:
    """Return the two classes of `A,B`."""
    if "," not in text:
        raise InputError(f"--pair {text} is given; expected two classes with a comma between, such as --pair wren,crow")
    first, second = shared.name_pair(text, made.class_index, made.class_index)
    return made.classes[first], made.classes[second]


def _train(data: str, opened: LabelledSet, split: str | None) -> LabelledSet | None:
    """Return the photos that the bottleneck was fitted on, where the set has them."""
    from conceptlens.data.labelled_sets import open_classes

    if split is None and ("train" not in opened.splits or opened.split == "train"):
        return opened if opened.split == "train" else None
    return open_classes(data, split or "train")


def _evenly(opened: LabelledSet, max_photos: int | None) -> list[int] | None:
    """Return the indices of evenly spaced photos: a set lists its classes one after the other."""
    total = len(opened)
    if max_photos is None or max_photos >= total:
        return None
    return [index * total // max_photos for index in range(max_photos)]
