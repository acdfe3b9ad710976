"""`conceptlens fit loc-cbm`: a concept bottleneck whose concepts have places."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import Device, Json, Model, Pretrained, Weights, answering, load
from conceptlens.io.errors import InputError, near
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck

Data = Annotated[
    str, typer.Option("--data", "-d", help="cub:DIR, folder:DIR (a folder for each class), cifar10:DIR, ...")
]
Concepts = Annotated[
    str,
    typer.Option("--concepts", "-c", help="A file (.txt a concept a line, .tsv with parts); auto: labels or words."),
]
Targets = Annotated[
    str,
    typer.Option("--targets", help="labels, photos, vlm, both, or a file: a table (.csv, .tsv) or detections (.json)."),
]
Locator = Annotated[str | None, typer.Option(help="whole, softmax, peaks, parts; auto: parts where concepts name any.")]
Loss = Annotated[str | None, typer.Option(help="ridge, cos3, cosine, mse, raw, bce; controls: random, channels.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other choice of a recipe, such as schedule=cosine; repeat for several."),
]
Vlm = Annotated[str | None, typer.Option("--vlm", help="open_clip:NAME/WEIGHTS, hf:OWNER/CLIP or a classifier.")]
Nec = Annotated[float | None, typer.Option(help="Concepts for each class (a sparse head); by default all.")]
View = Annotated[str, typer.Option(help="squash: the whole photo; center: what the model was trained to see.")]
CacheGb = Annotated[float, typer.Option(min=0, help="Above so many GB nothing is kept: each pass runs the network.")]


@answering
def loc_cbm(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the bottleneck and its logs.")],
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    pretrained: Pretrained = True,
    vlm: Vlm = None,
    concepts: Concepts = "auto",
    targets: Targets = "auto",
    recipe: Annotated[str, typer.Option(help="loc-cbm; poster, label-free, ridge, vlg; random, probe.")] = "loc-cbm",
    locator: Locator = None,
    loss: Loss = None,
    keypoints: Annotated[int, typer.Option(min=0, help="Learn parts from so many annotated photos of a class.")] = 0,
    nec: Nec = None,
    finetune: Annotated[int, typer.Option(min=0, help="Epochs in which the last stage is trained too.")] = 0,
    choices: Set = None,
    layer: Annotated[str | None, typer.Option(help="Whose cells carry the concepts.")] = None,
    locator_layers: Annotated[str | None, typer.Option(help="Comma-separated: what finding parts looks at.")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Rows and columns of the input, such as 448.")] = None,
    view: View = "squash",
    cache: Annotated[Path | None, typer.Option(help="A folder for what the network sees, kept afterwards.")] = None,
    cache_gb: CacheGb = 8.0,
    seed: Annotated[int, typer.Option(help="Decides first weights, order, held-out photos.")] = 0,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a concept bottleneck: class scores from concepts, each with a map of where it is (Loc-CBM)."""
    from conceptlens.bottleneck.fit.fit_loc_cbm import fit_loc_cbm
    from conceptlens.io.output_path import check_output
    from conceptlens.model.zoo import load_model

    check_output(out, folder=True)
    start = time.perf_counter()
    chosen = {"keypoints": keypoints, "nec": nec, "finetune": finetune, **_choices(choices)}
    chosen |= {name: value for name, value in (("locator", locator), ("loss", loss)) if value is not None}
    made = fit_loc_cbm(
        load(model, weights, None, pretrained, fit=view, device=device), data, out,
        vlm=load_model(vlm) if vlm else None, concepts=concepts, targets=targets, recipe=recipe, layer=layer,
        locator_layers=[name.strip() for name in locator_layers.split(",")] if locator_layers else None,
        size=size, cache=cache, cache_gb=cache_gb, seed=seed, device=device, resume=resume, **chosen,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")) == 0:
        _say(made, out, as_json, time.perf_counter() - start)


def _choices(given: list[str] | None) -> dict[str, Any]:
    """Return `NAME=VALUE` as numbers, truth values, lists of numbers or texts; refused for what is no such choice."""
    from conceptlens.bottleneck.fit.recipe import Recipe

    known = [*(field.name for field in fields(Recipe)), "grid", "checkpoint_seconds"]
    found: dict[str, Any] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name.strip():
            raise InputError(f"--set {one} is given; expected NAME=VALUE, such as --set schedule=cosine")
        if name.strip() not in known:
            raise InputError(f"--set {one} is given, and there is no such choice; near: {near(name.strip(), known)}")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name.strip()] = tuple(read) if isinstance(read, list) else read
    return found


def _say(made: Bottleneck, out: Path, as_json: bool, seconds: float) -> None:
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
