"""`conceptlens fit loc-cbm`: a concept bottleneck whose concepts have places."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import MODEL, RUN, Device, Json, Model, Pretrained, Weights, answering, load
from conceptlens.io.errors import InputError, near
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck

CONCEPTS, FITTING = "Concepts", "Fitting"
Data = Annotated[
    str,
    typer.Option(
        "--data", "-d", metavar="NAME:DIR", help="Labelled photos: cub:DIR, folder:DIR (a folder per class), ..."
    ),
]
OutFolder = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="A folder for the bottleneck and its logs.")
]
Vlm = Annotated[
    str | None,
    typer.Option(
        "--vlm",
        metavar="SOURCE:NAME",
        help="A vision-language model that scores concepts in photos: open_clip:NAME/WEIGHTS, hf:OWNER/CLIP.",
        rich_help_panel=CONCEPTS,
    ),
]
Concepts = Annotated[
    str,
    typer.Option(
        "--concepts",
        "-c",
        metavar="FILE|auto",
        help="A file (.txt with one concept per line, .tsv with parts); auto: class attributes or the vocabulary.",
        rich_help_panel=CONCEPTS,
    ),
]
Targets = Annotated[
    str,
    typer.Option(
        "--targets",
        metavar="SOURCE|FILE",
        help="How much each photo shows of each concept: labels, photos, vlm, both, or a file: a table (.csv, .tsv) or "
        "detections (.json).",
        rich_help_panel=CONCEPTS,
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="A set of settings: loc-cbm; poster, label-free, ridge, vlg; controls: random, probe.",
        rich_help_panel=FITTING,
    ),
]
Locator = Annotated[
    str | None,
    typer.Option(
        help="Where concepts may act: whole, softmax, peaks, parts; auto: parts where concepts name parts.",
        rich_help_panel=FITTING,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="Loss of the concept layer: ridge, cos3, cosine, mse, raw, bce; controls: random, channels.",
        rich_help_panel=FITTING,
    ),
]
Keypoints = Annotated[
    int,
    typer.Option(
        min=0,
        help="Learn parts from this many annotated photos per class, not from words.",
        rich_help_panel=FITTING,
    ),
]
Nec = Annotated[
    float | None,
    typer.Option(
        help="Number of effective concepts per class (a sparse head); by default all.", rich_help_panel=FITTING
    ),
]
Finetune = Annotated[
    int,
    typer.Option(min=0, help="Epochs in which the network's last stage is trained too.", rich_help_panel=FITTING),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting of the recipe, such as schedule=cosine; repeat for several.",
        rich_help_panel=FITTING,
    ),
]
LayerOfConcepts = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help="The layer whose cells carry concepts; by default the last with a grid.",
        rich_help_panel=MODEL,
    ),
]
LocatorLayers = Annotated[
    str | None,
    typer.Option(help="Comma-separated layers from which parts are found.", rich_help_panel=MODEL),
]
Size = Annotated[
    int | None,
    typer.Option(min=32, help="Rows and columns of the input in pixels, such as 448.", rich_help_panel=MODEL),
]
Crop = Annotated[
    str,
    typer.Option(
        "--crop-mode",
        metavar="center|squash",
        help="How a photo is brought to the input size: center: a central crop; squash: the whole photo, its sides "
        "scaled separately.",
        rich_help_panel=MODEL,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep the cells of all photos here; by default in --out until the end.",
        rich_help_panel=RUN,
    ),
]
CacheGb = Annotated[
    float,
    typer.Option(
        min=0,
        help="Keep no cells where they take more GB: each pass runs the network.",
        rich_help_panel=RUN,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Seed of initial weights, photo order and held-out photos.", rich_help_panel=RUN),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in --out.", rich_help_panel=RUN)]


@answering
def loc_cbm(
    data: Data,
    out: OutFolder,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    pretrained: Pretrained = True,
    vlm: Vlm = None,
    concepts: Concepts = "auto",
    targets: Targets = "auto",
    recipe: RecipeName = "loc-cbm",
    locator: Locator = None,
    loss: Loss = None,
    keypoints: Keypoints = 0,
    nec: Nec = None,
    finetune: Finetune = 0,
    settings: Set = None,
    layer: LayerOfConcepts = None,
    locator_layers: LocatorLayers = None,
    size: Size = None,
    crop_mode: Crop = "squash",
    cache: Cache = None,
    cache_gb: CacheGb = 8.0,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fit a concept bottleneck: class logits from named concepts, each with a map of its location (Loc-CBM)."""
    from conceptlens.bottleneck.fit.fit_loc_cbm import fit_loc_cbm
    from conceptlens.io.output_path import check_output
    from conceptlens.model.zoo import load_model

    check_output(out, folder=True)
    start = time.perf_counter()
    chosen = {"keypoints": keypoints, "nec": nec, "finetune": finetune, **_settings(settings)}
    chosen |= {name: value for name, value in (("locator", locator), ("loss", loss)) if value is not None}
    made = fit_loc_cbm(
        load(model, weights, None, pretrained, crop_mode=crop_mode, device=device), data, out,
        vlm=load_model(vlm) if vlm else None, concepts=concepts, targets=targets, recipe=recipe, layer=layer,
        locator_layers=[name.strip() for name in locator_layers.split(",")] if locator_layers else None,
        size=size, cache=cache, cache_gb=cache_gb, seed=seed, device=device, resume=resume, **chosen,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")) == 0:
        _print_result(made, out, as_json, time.perf_counter() - start)


def _settings(given: list[str] | None) -> dict[str, Any]:
    """Return `NAME=VALUE` as numbers, booleans, lists of numbers or texts; refuses unknown names."""
    from conceptlens.bottleneck.fit.recipe import Recipe

    known = [*(field.name for field in fields(Recipe)), "grid", "checkpoint_seconds"]
    found: dict[str, Any] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name.strip():
            raise InputError(f"--set {one} is given; expected NAME=VALUE, such as --set schedule=cosine")
        if name.strip() not in known:
            raise InputError(f"--set {one} is given, and there is no such setting; near: {near(name.strip(), known)}")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name.strip()] = tuple(read) if isinstance(read, list) else read
    return found


def _print_result(made: Bottleneck, out: Path, as_json: bool, seconds: float) -> None:
    record = made.training_record
    failures = json.loads((out / "failures.json").read_text("utf-8"))
    for failure in failures:
        typer.echo(f"conceptlens: {failure['reason']}", err=True)
    for name, reason in record["left_out"].items():
        typer.echo(f"conceptlens: {name} is left out: {reason}", err=True)
    if as_json:
        kept = (
            "photos_used", "locator", "grid", "concepts_from", "targets_by", "penalty", "strength",
            "concepts_per_class", "holdout_accuracy", "holdout_accuracy_of_linear_probe",
        )  # fmt: skip
        numbers = {
            "schema": "conceptlens.fit-loc-cbm/1",
            "model": made.backbone.name,
            "classes": len(made.classes),
            "concepts": len(made.concepts),
            "dropped": record["dropped"],
            **{name: record[name] for name in kept},
            "failures": failures,
            "out": str(out),
        }
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        grid = " x ".join(map(str, record["grid"]))
        typer.echo(f"{len(made.concepts)} concepts for {len(made.classes)} classes, from {record['concepts_from']}")
        if record["dropped"]:
            first = record["dropped"][0]
            typer.echo(f"{len(record['dropped'])} left out, such as {first['label']}: {first['reason']}")
        asked = record["nec"]
        fewer = asked is not None and record["concepts_per_class"] < asked - 1e-9
        why = f", where {asked:g} were asked for: fewer tell the train photos apart" if fewer else ""
        typer.echo(f"{record['concepts_per_class']:g} concepts count for each class{why}")
        typer.echo(f"maps of {grid} cells, locator {record['locator']}")
        typer.echo(
            f"accuracy on held-out train photos {record['holdout_accuracy']:.3f}; "
            f"of a linear probe {record['holdout_accuracy_of_linear_probe']:.3f}"
            + ("; both before the last stage was trained" if record["finetune"] else "")
        )
        typer.echo(f"bottleneck: {out}")
    bad = f", {len(failures)} failed" if failures else ""
    typer.echo(f"{record['photos_used']} photos{bad} in {seconds:.1f} s", err=True)
