"""The commands about models: `conceptlens models` lists them, `conceptlens calibrate` prepares one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, load, model_option
from conceptlens.cli.printing import print_failures, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file
from conceptlens.io.progress import progress

if TYPE_CHECKING:
    from conceptlens.io.errors import Failure


@answering
def models(
    search: Annotated[
        str, typer.Argument(help="Part of a model's name; without it all models are listed.", show_default=False)
    ] = "",
    layers: Annotated[
        str | None,
        model_option(metavar="SOURCE:NAME", help="List the layers of this model that have a grid, not models."),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """List models by source, or the layers of one model that have a grid."""
    from conceptlens.model.zoo import find_models, list_layers

    if layers is not None and search:
        raise InputError(f"both a part of a name ('{search}') and --layers are given; give one of them")
    lines, numbers = find_models(search) if layers is None else list_layers(layers)
    if not lines:
        typer.echo(f"no model name contains '{search}'", err=True)
    if as_json:
        print_json(numbers)
        return
    for line in lines:
        typer.echo(line)


@answering
def calibrate(
    photos: shared.Photos,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    pretrained: shared.Pretrained = True,
    crop_mode: shared.CropMode = None,
    out: Annotated[
        Path | None, shared.out_file("A .safetensors file; by default in the cache, where `explain` finds it.")
    ] = None,
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 32,
) -> None:
    """Measure how concepts score on at least 30 usual photos, so that `explain` can give z-scores."""
    from conceptlens.explainer.calibration import fit_calibration
    from conceptlens.explainer.photo_run import observe_photos
    from conceptlens.io.cache import cache_folder
    from conceptlens.io.images import find_images

    check_file(out, ".safetensors")
    backbone = load(model, weights, pretrained, device, class_names, crop_mode=crop_mode)
    paths = find_images(*photos)
    failures: list[Failure] = []
    stream = observe_photos(backbone, paths, batch_size, failures)
    found = fit_calibration(backbone, progress(stream, -(-len(paths) // batch_size), "observing batches of photos"))
    file = found.save(out or cache_folder() / "reference" / f"{found.identity}.safetensors")
    print_failures(failure.reason for failure in failures)
    if as_json:
        print_json({
            "schema": "conceptlens.calibrate/1",
            "photos": found.count,
            "failures": len(failures),
            "out": str(file),
        })  # fmt: skip
    else:
        typer.echo(f"{found.count} photos, {len(failures)} failed; calibration: {file}")
