"""The command line: it parses, calls and prints; everything heavy loads when a command runs."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.atomic import replacing
from conceptlens.error import InputError
from conceptlens.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.backbone import Backbone
    from conceptlens.run import Failure, Finding, Plan

app = typer.Typer(
    help="Which concepts does a vision model use, where are they, and how much does each one count?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Photos = Annotated[list[str], typer.Argument(help="Photos, folders or glob patterns.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="SOURCE:NAME; see `conceptlens models`.")]
Weights = Annotated[str | None, typer.Option(help="A file of your own weights: safetensors or tensors alone.")]
Labels = Annotated[
    Path | None, typer.Option(help="A text file with one class name a line, in the order of the logits.")
]
LayerName = Annotated[
    str | None, typer.Option("--layer", help="The layer to look at; by default the last that reaches the answer.")
]
Fit = Annotated[str | None, typer.Option(help="crop: what the model was trained to see; squash: the whole photo.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Photos per forward pass.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="FILE.html for a report, FILE.json for numbers, or a folder for both."),
]
Json = Annotated[bool, typer.Option("--json", help="Print numbers as JSON on standard output, and nothing else there.")]
TargetName = Annotated[
    str | None, typer.Option("--target", "-t", help="A class by name or index; by default the predicted one.")
]
RuleName = Annotated[
    str, typer.Option("--rule", help="How channels are weighed in class and contrast maps: grad_cam, layer_cam …")
]
Pretrained = Annotated[bool, typer.Option(help="--no-pretrained takes random weights, to try things out.")]


def _answering(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an `InputError` into one sentence on standard error and exit code 2."""

    @functools.wraps(command)
    def answered(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except InputError as error:
            typer.echo(f"conceptlens: {error}", err=True)
            raise typer.Exit(2) from None

    return answered


@app.command()
@_answering
def explain(
    photos: Photos,
    concepts: Annotated[
        str | None,
        typer.Option(
            "--concepts",
            "-c",
            help="Comma-separated, such as 'whiskers, striped fur:texture'; by default the best of the vocabulary.",
        ),
    ] = None,
    concepts_file: Annotated[Path | None, typer.Option(help="A text file with one concept a line.")] = None,
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
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say what is in photos, where it is, and how much it counts for the class."""
    from conceptlens.concept.reference import Reference
    from conceptlens.contrast import Contrast
    from conceptlens.reporting.numbers import explain_numbers
    from conceptlens.reporting.outcome import wants_page
    from conceptlens.run import Plan
    from conceptlens.text.vocabulary import parse_concepts, read_concepts

    if concepts is not None and concepts_file is not None:
        raise InputError("both --concepts and --concepts-file are given; give one of them")
    named = parse_concepts(concepts) if concepts is not None else None
    named = read_concepts(concepts_file) if concepts_file is not None else named
    others = () if against is None else (_class(against),)
    plan = Plan(
        target=_class(target),
        against=others,
        concepts=named,
        top=top,
        contrast=Contrast(_class(target), others),
        rule=rule,
        with_photos=wants_page(out),
        calibration=None if reference is None else Reference.load(reference),
    )
    backbone = _load(model, weights, labels, pretrained, layer, fit, device)
    _run(backbone, photos, plan, batch_size, out, as_json, "explain", explain_numbers)


@app.command()
@_answering
def contrast(
    photos: Photos,
    target: TargetName = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", "-a", help="A class to tell it from; repeat for several. By default the nearest ones."
        ),
    ] = None,
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
    from conceptlens.contrast import Contrast
    from conceptlens.reporting.numbers import contrast_numbers
    from conceptlens.reporting.outcome import wants_page
    from conceptlens.run import Plan

    others = tuple(_class(name) for name in against or ())
    asked: Any = {"by": by, "references": references, "of": of}
    finer = Contrast(_class(target), others, nearest, gamma, **asked)
    plan = Plan(target=_class(target), contrast=finer, rule=rule, with_concepts=False, with_photos=wants_page(out))
    backbone = _load(model, weights, labels, pretrained, layer, fit, device)
    _run(backbone, photos, plan, batch_size, out, as_json, "contrast", contrast_numbers)


@app.command()
@_answering
def models(
    search: Annotated[str, typer.Argument(help="Part of a model's name.")] = "",
    layers: Annotated[
        str | None, typer.Option("--layers", "--model", help="List the layers with a grid of this SOURCE:NAME.")
    ] = None,
    pretrained: Pretrained = False,
    device: Device = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Has no effect here; every command takes it.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .json file for what --json prints.")] = None,
    as_json: Json = False,
) -> None:
    """List models by source, or the layers of one that have a grid."""
    from conceptlens.zoo.listing import layered, named

    lines, numbers = named(search) if layers is None else layered(layers, pretrained, device)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1), "utf-8")
    if not lines:
        typer.echo(f"no model name contains '{search}'", err=True)
    for line in [json.dumps(numbers)] if as_json else lines:
        typer.echo(line)


@app.command()
@_answering
def calibrate(
    photos: Photos,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    fit: Fit = None,
    device: Device = "cpu",
    batch_size: BatchSize = 32,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .safetensors file; by default the cache, where `explain` finds it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn from everyday photos how high each concept usually scores, so that `explain` can say what is unusual."""
    from conceptlens.concept.reference import fit_reference
    from conceptlens.data.folder import find_images
    from conceptlens.reporting.outcome import progress, report_failures
    from conceptlens.run import observations
    from conceptlens.text.cache import cache_folder

    backbone = _load(model, weights, labels, pretrained, None, fit, device)
    paths = find_images(*photos)
    failures: list[Failure] = []
    stream = observations(backbone, paths, batch_size, failures)
    found = fit_reference(backbone, progress(stream, -(-len(paths) // batch_size), "photos"))
    file = found.save(out or cache_folder() / "reference" / f"{found.identity}.safetensors")
    report_failures(failures)
    if as_json:
        numbers = {
            "schema": "conceptlens.calibrate/1",
            "photos": found.count,
            "failures": len(failures),
            "out": str(file),
        }
        typer.echo(json.dumps(numbers))
    else:
        typer.echo(f"{found.count} photos, {len(failures)} failed; reference: {file}")


def main() -> None:
    """Run the command line."""
    app()


def _load(
    name: str,
    weights: str | None,
    labels: Path | None,
    pretrained: bool,
    layer: str | None,
    fit: str | None,
    device: str,
) -> Backbone:
    from conceptlens.zoo import load_model

    names = None
    if labels is not None:
        if not labels.is_file():
            raise InputError(f"no file {labels} for --labels; give a text file with one class name a line")
        names = [line.strip() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    return load_model(
        name, pretrained=pretrained, weights=weights, labels=names, layers=layer or (), fit=fit, device=device
    )


def _run(
    backbone: Backbone,
    photos: Sequence[str],
    plan: Plan,
    batch_size: int,
    out: Path | None,
    as_json: bool,
    command: str,
    numbers: Callable[[Sequence[Finding], Sequence[Failure]], dict[str, Any]],
) -> None:
    """Find, print, write; end with 2 where nothing could be explained, with 1 where something could not."""
    from conceptlens.data.folder import find_images
    from conceptlens.reporting.outcome import check_out, progress, report_failures, summary, write
    from conceptlens.reporting.terminal import print_finding
    from conceptlens.run import Failure, Finding, find

    start = time.perf_counter()
    paths = find_images(*photos)
    check_out(out)
    found = list(progress(find(backbone, paths, plan, batch_size), len(paths), "photos"))
    findings = [f for f in found if isinstance(f, Finding)]
    failures = [f for f in found if isinstance(f, Failure)]
    if as_json:
        typer.echo(json.dumps(numbers(findings, failures), allow_nan=False))
    else:
        for finding in findings:
            print_finding(finding)
    report_failures(failures)
    written = write(out, findings, failures, numbers, command) if findings else []
    summary(findings, failures, written, time.perf_counter() - start)
    if failures:
        raise typer.Exit(1 if findings else 2)


def _class(name: str | None) -> Any:
    return int(name) if name is not None and name.strip().isdigit() else name
