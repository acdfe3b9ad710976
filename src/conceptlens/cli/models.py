"""The commands about models: `conceptlens models` lists them, `conceptlens calibrate` prepares one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, data_option, load, model_option
from conceptlens.cli.printing import print_excluded, print_failures, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file
from conceptlens.io.progress import progress
from conceptlens.pages.number_format import counted

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


@partial(answering, interrupted="nothing is written")
def calibrate(
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PHOTO]...", help="Photos, folders or glob patterns.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        data_option(
            "--data",
            "-d",
            metavar="NAME[:DIR]",
            help="A data set with masks, such as coco_panoptic:DIR, that says which concepts are in each photo: "
            "presence is fitted to it. Its photos are the usual ones where no others are given.",
        ),
    ] = None,
    split: shared.EvaluationSplit = None,
    ignore: shared.Ignore = None,
    min_area: Annotated[float, data_option(help="The smallest share of a photo at which a concept is in it.")] = 0.01,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    crop_mode: shared.CropMode = None,
    knowledge: shared.KnowledgeFile = None,
    out: Annotated[
        Path | None, shared.out_file("A .safetensors file; by default in the cache, where `explain` finds it.")
    ] = None,
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 32,
) -> None:
    """Measure how concepts score on at least 30 usual photos, for z-scores, and fit presence where labels are given."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.explainer.calibration import calibrate_presence, fit_calibration
    from conceptlens.explainer.photo_observations import observe_labelled, observe_photos
    from conceptlens.io.cache import cache_folder
    from conceptlens.io.images import find_images

    check_file(out, ".safetensors")
    if not photos and data is None:
        raise InputError("no photos are given; name photos or folders, or a data set with masks: --data NAME:DIR")
    opened = None if data is None else open_set(data, split, **shared.mask_choices(ignore=ignore))
    backbone = load(model, weights, pretrained, device, class_names, knowledge, crop_mode=crop_mode, task=task)
    failures: list[Failure] = []
    if opened is not None:
        print_excluded(opened.excluded)

    def labelled(label: str) -> Any:
        assert opened is not None
        stream = observe_labelled(backbone, opened, min_area, batch_size, failures, keep=False)
        return progress(stream, len(opened), label, batch_size)

    if photos:
        paths = find_images(*photos)
        stream = observe_photos(backbone, paths, batch_size, failures, keep=False)
        usual = progress(stream, len(paths), "observing photos", batch_size)
    else:
        usual = (observation for observation, _ in labelled("observing photos"))
    found = fit_calibration(backbone, usual)
    if opened is not None:
        source = f"{counted(len(opened), 'photo')} of {data}" + (f", {split}" if split else "")
        found = calibrate_presence(backbone, found, labelled("observing labelled photos"), opened.concepts, source)
    file = found.save(out or cache_folder() / "reference" / f"{found.identity}.safetensors")
    failures = list(dict.fromkeys(failures))  # photos with masks may be read twice
    print_failures(failure.reason for failure in failures)
    if as_json:
        print_json({
            "schema": "conceptlens.calibrate/1",
            "photos": found.count,
            "failures": len(failures),
            "failed": [{"image": one.name, "error": one.reason} for one in failures],
            "presence": None if found.presence is None else found.presence.fitted_on,
            "out": str(file),
        })  # fmt: skip
    else:
        fitted = "" if found.presence is None else f"; presence fitted on {found.presence.fitted_on}"
        typer.echo(f"{counted(found.count, 'photo')}, {len(failures)} failed{fitted}; calibration: {file}")
