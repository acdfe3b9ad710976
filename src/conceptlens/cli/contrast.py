"""`conceptlens contrast`: where the evidence lies that a class has and similar classes lack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from conceptlens.cli import options as shared
from conceptlens.cli.explain_outputs import OutDir, RuleName, class_of, explain_and_write, map_option, wants_photos
from conceptlens.cli.options import answering, load, question_option
from conceptlens.io.errors import InputError

OutFile = Annotated[
    Path | None,
    shared.out_file(
        "FILE.html for a page, FILE.json for the numbers, FILE.csv, .parquet or .jsonl for a table with a row for each "
        "photo; a name without a suffix for a folder with a picture of the maps of each photo."
    ),
]


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
    autocast: shared.Autocast = False,
    channels_last: shared.ChannelsLast = False,
    batch_size: shared.BatchSize = 8,
) -> None:
    """Show where the evidence lies that a class has and similar classes lack (Finer-CAM)."""
    from conceptlens.cams.contrast import Contrast
    from conceptlens.explainer.explain_json import contrast_json
    from conceptlens.explainer.photo_run import ExplainOptions

    others = tuple(class_of(name) for name in against or ())
    if others and (nearest is not None or by is not None):
        raise InputError("--nearest and --by have no effect where classes are named by --against; leave them out")
    settings: Any = {"by": by or "logit", "references": references, "of": of}
    published = bool(others) or references != "uniform" or of != "logits"
    options = ExplainOptions(
        target=class_of(target),
        contrast=Contrast(class_of(target), others, nearest or 3, 0.6 if gamma is None else gamma, **settings),
        choose=not published and gamma is None and nearest is None and by is None,
        rule=rule or "grad_cam",
        with_concepts=False,
        for_page=wants_photos(out, out_dir),
    )
    backbone = load(
        model, weights, pretrained, device, class_names, layers=layer or (), crop_mode=crop_mode, task=task,
        autocast=autocast, channels_last=channels_last,
    )  # fmt: skip
    explain_and_write(backbone, photos, options, batch_size, out, out_dir, as_json, "contrast", contrast_json)
