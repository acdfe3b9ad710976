"""The commands that explain photos: `conceptlens explain` and `conceptlens contrast`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import (
    MODEL,
    QUESTION,
    BatchSize,
    BranchFolder,
    ClassNames,
    Concepts,
    ConceptsFile,
    CropMode,
    Device,
    Json,
    LayerName,
    Model,
    Out,
    Photos,
    Pretrained,
    TargetName,
    Weights,
    answering,
    load,
    load_branch,
    named_concepts,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

MAPS = "Maps"

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.io.failures import Failure
    from conceptlens.model.backbone import Backbone

RULE_HELP = "How channels are weighed in class maps and contrasts: grad_cam, layer_cam …"
RegionsName = Annotated[
    str,
    typer.Option(
        "--regions",
        metavar="official|competing",
        help="Maps of concepts as published, or of concepts that compete with everyday words (sharper, slower).",
        rich_help_panel=MAPS,
    ),
]
AgainstSeveral = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        "-a",
        help="A class to compare with; repeat for several. By default the most similar classes.",
        rich_help_panel=QUESTION,
    ),
]


@answering
def explain(
    photos: Photos,
    concepts: Concepts = None,
    concepts_file: ConceptsFile = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many concepts of the vocabulary to show, where none are named; by default 8.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    target: TargetName = None,
    against: Annotated[
        str | None,
        typer.Option("--against", "-a", help="Another class: explain the difference to it.", rich_help_panel=QUESTION),
    ] = None,
    regions: RegionsName = "official",
    rule: Annotated[
        str | None,
        typer.Option("--rule", help=f"{RULE_HELP}; by default grad_cam. Shown on the page.", rich_help_panel=MAPS),
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    class_names: ClassNames = None,
    pretrained: Pretrained = True,
    layer: LayerName = None,
    crop_mode: CropMode = None,
    branch: BranchFolder = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The spread of scores over usual photos, made by `conceptlens calibrate`, for z-scores.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    out: Out = None,
    as_json: Json = False,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
) -> None:
    """Show which concepts are in photos, where they are, and how much each one counts for the class."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.calibration import ScoreCalibration
    from conceptlens.explainer.explain_json import explain_json
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.explainer.run_outputs import wants_page

    named = named_concepts(concepts, concepts_file)
    if top is not None and named is not None:
        raise InputError("--top has no effect where concepts are named; leave it out")
    if rule is not None and not wants_page(out):
        raise InputError("--rule has no effect without a page, where class maps are shown; add --out FILE.html")
    if calibration is not None and branch is not None:
        raise InputError("--calibration has no effect with --branch, which has no z-scores; leave one of them out")
    other = _class(against)
    options = ExplainOptions(
        target=_class(target),
        against=other,
        concepts=named,
        top=top or 8,
        contrast=Contrast(_class(target), () if other is None else (other,)),
        rule=rule or "grad_cam",
        for_page=wants_page(out),
        calibration=None if calibration is None else ScoreCalibration.load(calibration),
        branch=load_branch(branch),
        regions=_regions(regions),
        layer=None if branch is None else layer,
    )
    backbone = load(model, weights, class_names, pretrained, layer if branch is None else None, crop_mode, device)
    _run(backbone, photos, options, batch_size, out, as_json, "explain", explain_json)


@answering
def contrast(
    photos: Photos,
    target: TargetName = None,
    against: AgainstSeveral = None,
    nearest: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many similar classes to compare with, where none are named; by default 3.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="logit|rank|weight",
            help="How similar classes are found, where none are named; by default by logit.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    gamma: Annotated[
        float,
        typer.Option(
            help="Strength of the comparison, 0 or more; 0 gives the map of the class alone.", rich_help_panel=MAPS
        ),
    ] = 0.6,
    references: Annotated[
        str,
        typer.Option(
            metavar="uniform|softmax|cosine",
            help="How the classes to compare with are weighted.",
            rich_help_panel=MAPS,
        ),
    ] = "uniform",
    of: Annotated[
        str,
        typer.Option(
            metavar="logits|probabilities", help="What is compared: logits as published.", rich_help_panel=MAPS
        ),
    ] = "logits",
    rule: Annotated[str, typer.Option("--rule", help=RULE_HELP, rich_help_panel=MAPS)] = "grad_cam",
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    class_names: ClassNames = None,
    pretrained: Pretrained = True,
    layer: LayerName = None,
    crop_mode: CropMode = None,
    out: Out = None,
    as_json: Json = False,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
) -> None:
    """Show where the evidence lies that a class has and similar classes lack (Finer-CAM)."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.explain_json import contrast_json
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.explainer.run_outputs import wants_page

    others = tuple(_class(name) for name in against or ())
    if others and (nearest is not None or by is not None):
        raise InputError("--nearest and --by have no effect where classes are named by --against; leave them out")
    settings: Any = {"by": by or "logit", "references": references, "of": of}
    finer = Contrast(_class(target), others, nearest or 3, gamma, **settings)
    options = ExplainOptions(
        target=_class(target), contrast=finer, rule=rule, with_concepts=False, for_page=wants_page(out)
    )
    backbone = load(model, weights, class_names, pretrained, layer, crop_mode, device)
    _run(backbone, photos, options, batch_size, out, as_json, "contrast", contrast_json)


def _run(
    backbone: Backbone,
    photos: Sequence[str],
    options: ExplainOptions,
    batch_size: int,
    out: Path | None,
    as_json: bool,
    command: str,
    document: Callable[[Sequence[PhotoResult], Sequence[Failure]], dict[str, Any]],
) -> None:
    """Find, print, write; end with 2 where nothing could be explained, with 1 where something could not."""
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import explain_photos
    from conceptlens.explainer.run_outputs import report_failures, summary, write
    from conceptlens.explainer.terminal import print_result
    from conceptlens.io.failures import Failure
    from conceptlens.io.images import find_images
    from conceptlens.io.output_path import check_output
    from conceptlens.io.progress import progress

    start = time.perf_counter()
    paths = find_images(*photos)
    check_output(out, ".html", ".json", folder=True)
    found = list(progress(explain_photos(backbone, paths, options, batch_size), len(paths), "photos"))
    results = [r for r in found if isinstance(r, PhotoResult)]
    failures = [f for f in found if isinstance(f, Failure)]
    if as_json:
        typer.echo(json.dumps(document(results, failures), allow_nan=False))
    else:
        for result in results:
            print_result(result)
    report_failures(failures)
    written = write(out, results, failures, document, command) if results else []
    summary(results, failures, written, time.perf_counter() - start)
    if failures:
        raise typer.Exit(1 if results else 2)


def _class(name: str | None) -> Any:
    return int(name) if name is not None and name.strip().isdigit() else name


def _regions(name: str) -> Any:
    if name not in ("official", "competing"):
        raise InputError(f"--regions {name} is given; expected official or competing")
    return name
