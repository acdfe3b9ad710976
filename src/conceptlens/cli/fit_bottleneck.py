"""`conceptlens fit loc-cbm`: a concept bottleneck whose concepts have maps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, load, model_option, option_group, run_option
from conceptlens.cli.printing import print_end, print_failures, print_json
from conceptlens.io.errors import InputError, near
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.bottleneck.module import Bottleneck

concept_option = option_group("Concepts")
fitting_option = option_group("Fitting")


@partial(answering, interrupted="what is done is kept in --out-dir and --cache; continue with --resume")
def loc_cbm(
    data: shared.ClassData,
    out_dir: Annotated[Path, shared.out_dir("the bottleneck and its logs")],
    concepts: Annotated[
        str,
        concept_option(
            "--concepts",
            "-c",
            metavar="FILE|auto",
            help="A file (.txt with one concept per line, .tsv with parts); auto: class attributes or the vocabulary.",
        ),
    ] = "auto",
    targets: Annotated[
        str,
        concept_option(
            metavar="SOURCE|FILE",
            help="How much each photo shows of each concept: labels, photos, vlm, both, or a file: a table (.csv, "
            ".tsv) or detections (.json); auto: labels where all concepts have them, else both.",
        ),
    ] = "auto",
    vlm: Annotated[
        str | None,
        concept_option(
            metavar="SOURCE:NAME",
            help="A vision-language model that scores concepts in photos: open_clip:NAME/WEIGHTS, hf:OWNER/CLIP.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        fitting_option(
            help="A set of settings: loc-cbm; as published: poster, label-free, ridge, vlg; controls: random, probe."
        ),
    ] = "loc-cbm",
    locator: Annotated[
        str | None,
        fitting_option(
            help="Where concepts may act: whole, softmax, peaks, parts; auto: parts where concepts name parts. "
            "By default as in the recipe."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        fitting_option(
            help="Loss of the concept layer: ridge, cos3, cosine, mse, raw, bce; controls: random, channels. "
            "By default as in the recipe."
        ),
    ] = None,
    keypoints: Annotated[
        int,
        fitting_option(min=0, help="Learn parts from this many annotated photos per class; 0: from words."),
    ] = 0,
    nec: Annotated[
        float | None,
        fitting_option(help="Number of effective concepts per class (a sparse head); by default all."),
    ] = None,
    finetune: Annotated[
        int, fitting_option(min=0, help="Epochs in which the network's last stage is trained too.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        fitting_option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the recipe, such as schedule=cosine; repeat for several.",
        ),
    ] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    pretrained: shared.Pretrained = True,
    layer: shared.LayerName = None,
    locator_layers: Annotated[
        str | None,
        model_option(help="Comma-separated layers from which parts are found; by default the two coarsest stages."),
    ] = None,
    input_size: Annotated[
        int | None,
        model_option(metavar="N", min=32, help="Rows and columns of the input in pixels; by default the model's own."),
    ] = None,
    crop_mode: Annotated[str, model_option(metavar="MODE", help=f"{shared.CROP_HELP}.")] = "squash",
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    device: shared.Device = "cpu",
    cache: shared.Cache = None,
    cache_gb: Annotated[
        float, run_option(min=0, help="Features that take more gigabytes are not kept: each pass runs the network.")
    ] = 8.0,
    seed: Annotated[int, run_option(help="Seed of initial weights, photo order and held-out photos.")] = 0,
) -> None:
    """Fit a concept bottleneck: class logits from named concepts, each with a map of its location (Loc-CBM)."""
    from conceptlens.bottleneck.fit.fit_loc_cbm import fit_loc_cbm
    from conceptlens.model.zoo import load_model

    check_folder(out_dir)
    start = time.perf_counter()
    chosen = {"keypoints": keypoints, "nec": nec, "finetune": finetune, **_settings(settings)}
    chosen |= {name: value for name, value in (("locator", locator), ("loss", loss)) if value is not None}
    made = fit_loc_cbm(
        load(model, weights, pretrained, device, crop_mode=crop_mode),
        data,
        out_dir,
        vlm=load_model(vlm) if vlm else None,
        concepts=concepts,
        targets=targets,
        recipe=recipe,
        layer=layer,
        locator_layers=None if locator_layers is None else shared.names_in(locator_layers, "--locator-layers"),
        size=input_size,
        cache=cache,
        cache_gb=cache_gb,
        seed=seed,
        device=device,
        resume=resume,
        **chosen,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        _print_result(made, out_dir, as_json, start)


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
            raise InputError(
                f"--set {one} is given, and there is no such setting; {near(name.strip(), known, 'settings', 5)}"
            )
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name.strip()] = tuple(read) if isinstance(read, list) else read
    return found


def _print_result(made: Bottleneck, out: Path, as_json: bool, start: float) -> None:
    from conceptlens.bottleneck.map_evidence import TARGETS_OF, evidence_lines

    record = made.training_record
    failures = json.loads((out / "failures.json").read_text("utf-8"))
    print_failures(failure["reason"] for failure in failures)
    print_failures(f"{name} is left out: {reason}" for name, reason in record["left_out"].items())
    if as_json:
        kept = (
            "photos_used", "locator", "grid", "concepts_from", "targets_by", "penalty", "strength",
            "concepts_per_class", "holdout_accuracy", "holdout_accuracy_of_linear_probe",
        )  # fmt: skip
        print_json({
            "schema": "conceptlens.fit-loc-cbm/1",
            "model": made.backbone.name,
            "classes": len(made.classes),
            "concepts": len(made.concepts),
            "dropped": record["dropped"],
            **{name: record[name] for name in kept},
            "targets_of": record.get(TARGETS_OF),
            "failures": failures,
            "out": str(out),
        })  # fmt: skip
    else:
        typer.echo(f"{len(made.concepts)} concepts for {len(made.classes)} classes, from {record['concepts_from']}")
        if record["dropped"]:
            first = record["dropped"][0]
            typer.echo(f"{len(record['dropped'])} left out, such as {first['label']}: {first['reason']}")
        wanted = record["nec"]
        fewer = wanted is not None and record["concepts_per_class"] < wanted - 1e-9
        why = f", not {wanted:g}: fewer tell the train photos apart" if fewer else ""
        typer.echo(f"{record['concepts_per_class']:g} concepts count for each class{why}")
        typer.echo(f"maps of {' x '.join(map(str, record['grid']))} cells, locator {record['locator']}")
        typer.echo(
            f"accuracy on held-out train photos {record['holdout_accuracy']:.3f}; "
            f"of a linear probe {record['holdout_accuracy_of_linear_probe']:.3f}"
            + ("; both before the last stage was trained" if record["finetune"] else "")
        )
        typer.echo("\n".join([*evidence_lines(made.labels, made.map_evidence), f"bottleneck: {out}"]))
    print_end(counted(record["photos_used"], "photo"), len(failures), start)
