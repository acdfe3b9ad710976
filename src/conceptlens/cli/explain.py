"""The commands that explain photos: `conceptlens explain` and `conceptlens contrast`."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.engine import LOCAL, EngineName, RayAddress, Workers, chosen_engine
from conceptlens.cli.explain_store import check_store, explain_to_store
from conceptlens.cli.options import answering, load, model_option, option_group, question_option
from conceptlens.cli.printing import print_end, print_failures, print_files, print_json, print_note
from conceptlens.io.atomic import write_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file, check_folder
from conceptlens.io.progress import progress
from conceptlens.io.text_file import readable_text
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.io.errors import Failure
    from conceptlens.model.backbone import Backbone

map_option = option_group("Maps")

RuleName = Annotated[
    str | None,
    map_option(
        "--rule",
        metavar="NAME",
        help="How channels are weighted in maps of classes: grad_cam (default), layer_cam, ...",
    ),
]
OutFile = Annotated[Path | None, shared.out_file("FILE.html for a page, or FILE.json for the numbers.")]
OutDir = Annotated[Path | None, shared.out_dir("the page and the numbers")]
StoreFolder = Annotated[
    Path | None,
    shared.out_dir("a store of the numbers of any number of photos, in a run that can be resumed", "--store"),
]


@answering
def explain(
    photos: shared.Photos,
    concepts: shared.Concepts = None,
    concepts_file: shared.ConceptsFile = None,
    top: Annotated[
        int | None,
        question_option(min=1, help="How many concepts of the vocabulary to show, where none are named; by default 8."),
    ] = None,
    target: shared.TargetName = None,
    against: Annotated[
        str | None,
        question_option("--against", "-a", metavar="CLASS", help="Another class: explain the difference to it."),
    ] = None,
    threshold: Annotated[
        float | None,
        question_option(
            metavar="SCORE",
            help="With a detector, the lowest score of a detection that is explained, 0 to 1; by default 0.5.",
        ),
    ] = None,
    regions: Annotated[
        str | None,
        map_option(
            metavar="competing|coarse|fine|official",
            help="Maps of concepts that compete with everyday words, the same from the model's own input size alone "
            "(half the time) or from more sizes (15 times slower), or as CE-FAM published them; by default competing "
            "where that is quick, else official.",
        ),
    ] = None,
    contribution: Annotated[
        str,
        map_option(
            metavar="evidence|masking",
            help="How contributions are measured: by the evidence where a concept is, which adds up to the margin of "
            "the class; or by masking channels, as CE-FAM published it.",
        ),
    ] = "evidence",
    intervals: Annotated[
        bool,
        map_option(
            "--intervals",
            help="Also give the range of each contribution among six small changes of the photo (about six times as "
            "long).",
        ),
    ] = False,
    random_level: Annotated[
        bool | None,
        map_option(
            "--random-level/--no-random-level",
            help="Say how much a word drawn at random would get; by default where that takes hardly any time.",
        ),
    ] = None,
    concepts_from: Annotated[
        Path | None,
        question_option(metavar="DIR", help="Also show concepts without a word that `conceptlens discover` found."),
    ] = None,
    rule: RuleName = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    layer: shared.LayerName = None,
    crop_mode: shared.CropMode = None,
    branch: shared.BranchFolder = None,
    calibration: Annotated[
        Path | None,
        model_option(metavar="FILE", help="A file made by `conceptlens calibrate`, for z-scores of your own model."),
    ] = None,
    knowledge: shared.KnowledgeFile = None,
    out: OutFile = None,
    out_dir: OutDir = None,
    store: StoreFolder = None,
    maps: Annotated[
        bool, shared.output_option("--maps", help="With --store: also keep the maps of class and concepts.")
    ] = False,
    labels: Annotated[
        str | None,
        shared.data_option(
            metavar="folders|FILE",
            help="With --store: also keep the true class of each photo: the folder that it lies in, or a row of a "
            "table (.csv, .tsv) with the columns photo and class.",
        ),
    ] = None,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    retry_failed: shared.RetryFailed = False,
    engine: EngineName = LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 8,
) -> None:
    """Show which concepts are in photos, where they are, and how much each one counts for the class.

    With a detector: which objects are in photos, and what each detection rests on.
    """
    from conceptlens.cams.class_activation import find_rule
    from conceptlens.cams.contrast import Contrast
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
    from conceptlens.explainer.calibration import ScoreCalibration
    from conceptlens.explainer.explain_json import explain_json
    from conceptlens.explainer.photo_run import ExplainOptions

    named = shared.named_concepts(concepts, concepts_file)
    for_page = _wants_page(out, out_dir)
    if store is None:
        of_runs = {
            "--maps": maps or None, "--labels": labels, "--resume": resume or None,
            "--retry-failed": retry_failed or None, "--engine": None if engine == LOCAL else engine,
            "--ray-address": ray_address, "--workers": workers,
        }  # fmt: skip
        shared.refuse_unused(of_runs, "without --store DIR; add it, or leave it out")
    else:
        check_store(store, out, out_dir)
    run_on = chosen_engine(engine, ray_address, workers)
    if top is not None and named is not None:
        raise InputError("--top has no effect where concepts are named; leave it out")
    if rule is not None:
        find_rule(rule)
    if calibration is not None and branch is not None:
        raise InputError("--calibration has no effect with --branch, which has no z-scores; leave one of them out")
    if knowledge is not None and branch is not None:
        raise InputError("--knowledge has no effect with --branch, which knows no classes; leave one of them out")
    layers = layer if branch is None and layer else ()
    backbone = load(
        model, weights, pretrained, device, class_names, knowledge, layers=layers, crop_mode=crop_mode, task=task
    )
    detector = backbone.known_task == "detection"
    if detector:
        unused = {
            "--concepts": named, "--top": top, "--regions": regions, "--concepts-from": concepts_from,
            "--branch": branch, "--calibration": calibration, "--knowledge": knowledge,
            "--intervals": intervals or None, "--contribution": None if contribution == "evidence" else contribution,
        }  # fmt: skip
        shared.refuse_unused(unused, "on a detector, whose detections are explained; leave it out")
    elif backbone.known_task == "dense":
        raise InputError(
            f"{backbone.name} gives class scores of every pixel and no concepts, which this command explains; ask in "
            "Python: cl.cam(observation, cl.Region('car')), and cl.report for the page"
        )
    elif threshold is not None:
        raise InputError(f"--threshold has no effect on {backbone.name}, which is no detector; leave it out")
    if rule is not None and not (for_page or detector or maps):
        raise InputError("--rule has no effect without a page, where class maps are shown; add --out FILE.html")
    other = _class(against)
    options = ExplainOptions(
        target=_class(target),
        against=other,
        concepts=named,
        top=top or 8,
        contrast=Contrast(_class(target), () if other is None else (other,)),
        choose=other is None,
        rule=rule or ("hires_cam" if detector else "grad_cam"),
        for_page=for_page,
        calibration=None if calibration is None else ScoreCalibration.load(calibration),
        branch=shared.load_branch(branch),
        regions=regions,  # pyright: ignore[reportArgumentType]
        contribution=contribution,  # pyright: ignore[reportArgumentType]
        intervals=intervals,
        concepts_from=None if concepts_from is None else DiscoveredConcepts.load(concepts_from),
        random_level=random_level,
        layer=None if branch is None else layer,
        threshold=0.5 if threshold is None else threshold,
    )
    if store is None:
        _run(backbone, photos, options, batch_size, out, out_dir, as_json, "explain", explain_json)
        return
    explain_to_store(
        backbone, photos, options, store, run_on, as_json, batch_size=batch_size, with_maps=maps, labels=labels,
        resume=resume or retry_failed, retry_failed=retry_failed,
    )  # fmt: skip


@answering
def contrast(
    photos: shared.Photos,
    target: shared.TargetName = None,
    against: Annotated[
        list[str] | None,
        question_option(
            "--against",
            "-a",
            metavar="CLASS",
            help="A class to compare with; repeat for several. By default the most similar classes.",
        ),
    ] = None,
    nearest: Annotated[
        int | None,
        question_option(min=1, help="How many similar classes to compare with, where none are named; by default 3."),
    ] = None,
    by: Annotated[
        str | None,
        question_option(
            metavar="logit|rank|weight",
            help="How similar classes are found, where none are named; by default by logit.",
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        map_option(
            help="Strength of the comparison, 0 or more; 0 gives the map of the class alone. By default strength and "
            "class are chosen for each photo, and 0.6 where a class, --nearest, --by, --references or --of is given."
        ),
    ] = None,
    references: Annotated[
        str,
        map_option(metavar="uniform|softmax|cosine", help="How the classes to compare with are weighted."),
    ] = "uniform",
    of: Annotated[
        str, map_option(metavar="logits|probabilities", help="What is compared: logits as published.")
    ] = "logits",
    rule: RuleName = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    layer: shared.LayerName = None,
    crop_mode: shared.CropMode = None,
    out: OutFile = None,
    out_dir: OutDir = None,
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 8,
) -> None:
    """Show where the evidence lies that a class has and similar classes lack (Finer-CAM)."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.explain_json import contrast_json
    from conceptlens.explainer.photo_run import ExplainOptions

    others = tuple(_class(name) for name in against or ())
    if others and (nearest is not None or by is not None):
        raise InputError("--nearest and --by have no effect where classes are named by --against; leave them out")
    settings: Any = {"by": by or "logit", "references": references, "of": of}
    published = bool(others) or references != "uniform" or of != "logits"
    options = ExplainOptions(
        target=_class(target),
        contrast=Contrast(_class(target), others, nearest or 3, 0.6 if gamma is None else gamma, **settings),
        choose=not published and gamma is None and nearest is None and by is None,
        rule=rule or "grad_cam",
        with_concepts=False,
        for_page=_wants_page(out, out_dir),
    )
    backbone = load(model, weights, pretrained, device, class_names, layers=layer or (), crop_mode=crop_mode, task=task)
    _run(backbone, photos, options, batch_size, out, out_dir, as_json, "contrast", contrast_json)


def _run(
    backbone: Backbone,
    photos: Sequence[str],
    options: ExplainOptions,
    batch_size: int,
    out: Path | None,
    out_dir: Path | None,
    as_json: bool,
    command: str,
    document: Callable[[Sequence[PhotoResult], Sequence[Failure]], dict[str, Any]],
) -> None:
    """Explain, print, write; end with 2 where no photo could be explained, with 1 where some could not."""
    from conceptlens.explainer.answer_words import answered_otherwise
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import explain_photos
    from conceptlens.explainer.terminal import print_result
    from conceptlens.io.errors import Failure
    from conceptlens.io.images import find_images

    start = time.perf_counter()
    paths = find_images(*photos)
    check_file(out, ".html", ".json")
    check_folder(out_dir)
    found = list(progress(explain_photos(backbone, paths, options, batch_size), len(paths), "explaining photos"))
    results = [r for r in found if isinstance(r, PhotoResult)]
    failures = [f for f in found if isinstance(f, Failure)]
    numbers = document(results, failures)
    if as_json:
        print_json(numbers)
    else:
        for result in results:
            print_result(result)
    print_failures(f.reason for f in failures)
    files = [] if out is None else [out]
    files += [] if out_dir is None else [out_dir / "report.html", out_dir / f"{command}.json"]
    for file in files if results else ():
        _write(file, results, numbers)
    if len(results) > 1 and (note := answered_otherwise(results)):
        print_note(note)
    if assumed := next((r.answer.note for r in results if r.answer is not None and r.answer.assumed), ""):
        print_note(f"of {backbone.name}, {assumed}")
    print_end(f"{counted(len(results), 'photo')} explained", len(failures), start)
    print_files(files if results else ())
    if failures:
        raise typer.Exit(1 if results else 2)


def _write(file: Path, results: Sequence[PhotoResult], numbers: dict[str, Any]) -> None:
    """Write the page or the numbers, as the suffix of the file says."""
    from conceptlens.explainer.page_content import page_content
    from conceptlens.explainer.report_page import write_page

    if file.suffix.lower() == ".json":
        write_json(file, numbers)
    else:
        command = shlex.join(["conceptlens", *sys.argv[1:]])
        write_page(page_content([replace(result, command=command) for result in results]), file)


def _wants_page(out: Path | None, out_dir: Path | None) -> bool:
    """Whether an HTML page is written, so that photos must be kept."""
    return out_dir is not None or (out is not None and out.suffix.lower() == ".html")


def _class(name: str | None) -> Any:
    if name is None:
        return None
    return int(name) if re.fullmatch(r"\s*[+-]?\d+\s*", name) else readable_text(name)
