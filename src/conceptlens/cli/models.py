"""The commands about models: `conceptlens models` lists them, `conceptlens calibrate` prepares one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.options import (
    OUTPUT,
    BatchSize,
    ClassNames,
    CropMode,
    Device,
    Json,
    Model,
    Photos,
    Pretrained,
    Weights,
    answering,
    load,
)
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.io.failures import Failure


@answering
def models(
    search: Annotated[str, typer.Argument(help="Part of a model's name; without it all models are listed.")] = "",
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="SOURCE:NAME", help="List the layers of this model that have a grid."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="A .json file for the list.", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Json = False,
) -> None:
    """List models by source, or the layers of one model that have a grid."""
    from conceptlens.io.output_path import check_output
    from conceptlens.model.zoo.listing import layered, named

    check_output(out, ".json")
    if layers is not None and search:
        raise InputError(f"both a part of a name ('{search}') and --layers are given; give one of them")
    lines, numbers = named(search) if layers is None else layered(layers)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1), "utf-8")
    if not lines:
        typer.echo(f"no model name contains '{search}'", err=True)
    for line in [json.dumps(numbers)] if as_json else lines:
        typer.echo(line)


@answering
def calibrate(
    photos: Photos,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    class_names: ClassNames = None,
    pretrained: Pretrained = True,
    crop_mode: CropMode = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .safetensors file; by default the cache, where `explain` finds it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
    device: Device = "cpu",
    batch_size: BatchSize = 32,
) -> None:
    """Measure how concepts score on at least 30 usual photos, so that `explain` can give z-scores."""
    from conceptlens.explainer.calibration import fit_calibration
    from conceptlens.explainer.photo_run import observe_photos
    from conceptlens.explainer.run_outputs import report_failures
    from conceptlens.io.cache import cache_folder
    from conceptlens.io.images import find_images
    from conceptlens.io.output_path import check_output
    from conceptlens.io.progress import progress

    check_output(out, ".safetensors")
    backbone = load(model, weights, class_names, pretrained, None, crop_mode, device)
    paths = find_images(*photos)
    failures: list[Failure] = []
    stream = observe_photos(backbone, paths, batch_size, failures)
    found = fit_calibration(backbone, progress(stream, -(-len(paths) // batch_size), "photos"))
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
