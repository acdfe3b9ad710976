"""The commands that look at photos: `conceptlens explain` and `conceptlens contrast`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import (
    BatchSize,
    BranchFolder,
    Concepts,
    ConceptsFile,
    Device,
    Fit,
    Json,
    Labels,
    LayerName,
    Model,
    Out,
    Photos,
    Pretrained,
    RuleName,
    TargetName,
    Weights,
    answering,
    load,
    load_branch,
    named_concepts,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.io.failures import Failure
    from conceptlens.model.backbone import Backbone

RegionsName = Annotated[
    str,
    typer.Option("--regions", help="official: as published; competing: each concept against everyday words, slower."),
]
AgainstSeveral = Annotated[
    list[str] | None,
    typer.Option("--against", "-a", help="A class to tell it from; repeat for several. By default the nearest ones."),
]


@answering
def explain(
    photos: Photos,
    concepts: Concepts = None,
    concepts_file: ConceptsFile = None,
    target: TargetName = None,
    against: Annotated[str | None, typer.Option(help="Another class: what tells the target from it?")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many concepts of the vocabulary to show.")] = 8,
    rule: RuleName = "grad_cam",
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    layer: LayerName = None,
    fit: Fit = None,
    reference: Annotated[Path | None, typer.Option(help="A file made by `conceptlens calibrate`.")] = None,
    branch: BranchFolder = None,
    regions: RegionsName = "official",
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say what is in photos, where it is, and how much it counts for the class."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.calibration import Reference
    from conceptlens.explainer.explain_json import explain_json
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.explainer.run_outputs import wants_page

    other = _class(against)
    options = ExplainOptions(
        target=_class(target),
        against=other,
        concepts=named_concepts(concepts, concepts_file),
        top=top,
        contrast=Contrast(_class(target), () if other is None else (other,)),
        rule=rule,
        for_page=wants_page(out),
        reference=None if reference is None else Reference.load(reference),
        branch=load_branch(branch),
        regions=_regions(regions),
        layer=None if branch is None else layer,
    )
    backbone = load(model, weights, labels, pretrained, layer if branch is None else None, fit, device)
    _run(backbone, photos, options, batch_size, out, as_json, "explain", explain_json)


@answering
def contrast(
    photos: Photos,
    target: TargetName = None,
    against: AgainstSeveral = None,
    gamma: Annotated[float, typer.Option(help="Strength of the comparison; 0 is the plain map.")] = 0.6,
    nearest: Annotated[int, typer.Option(help="How many look-alikes, where none are named.")] = 3,
    by: Annotated[str, typer.Option(help="Look-alikes by logit, rank or weight.")] = "logit",
    references: Annotated[str, typer.Option(help="Weights of the references: uniform, softmax or cosine.")] = "uniform",
    of: Annotated[str, typer.Option(help="Contrast logits (the paper) or probabilities.")] = "logits",
    rule: RuleName = "grad_cam",
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    layer: LayerName = None,
    fit: Fit = None,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Show what tells a class from its look-alikes (Finer-CAM)."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.explain_json import contrast_json
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.explainer.run_outputs import wants_page

    others = tuple(_class(name) for name in against or ())
    asked: Any = {"by": by, "references": references, "of": of}
    finer = Contrast(_class(target), others, nearest, gamma, **asked)
    options = ExplainOptions(
        target=_class(target), contrast=finer, rule=rule, with_concepts=False, for_page=wants_page(out)
    )
    backbone = load(model, weights, labels, pretrained, layer, fit, device)
    _run(backbone, photos, options, batch_size, out, as_json, "contrast", contrast_json)


def _run(
    backbone: Backbone,
    photos: Sequence[str],
    options: ExplainOptions,
    batch_size: int,
    out: Path | None,
    as_json: bool,
    command: str,
    numbers: Callable[[Sequence[PhotoResult], Sequence[Failure]], dict[str, Any]],
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
        typer.echo(json.dumps(numbers(results, failures), allow_nan=False))
    else:
        for result in results:
            print_result(result)
    report_failures(failures)
    written = write(out, results, failures, numbers, command) if results else []
    summary(results, failures, written, time.perf_counter() - start)
    if failures:
        raise typer.Exit(1 if results else 2)


def _class(name: str | None) -> Any:
    return int(name) if name is not None and name.strip().isdigit() else name


def _regions(name: str) -> Any:
    if name not in ("official", "competing"):
        raise InputError(f"--regions {name} is given; expected official or competing")
    return name
