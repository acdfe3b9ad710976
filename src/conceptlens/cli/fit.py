"""The commands that train: `conceptlens fit ce-fam`, `conceptlens fit loc-cbm`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.fit_bottleneck import loc_cbm
from conceptlens.cli.options import (
    OUTPUT,
    RUN,
    SETTINGS,
    ClassNames,
    Concepts,
    ConceptsFile,
    Device,
    Json,
    Model,
    Pretrained,
    Weights,
    answering,
    load,
    named_concepts,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.concept_regions.translator import Translator

DEFAULT_TEACHER = "timm:tf_efficientnet_lite2"

TRAIN, DATA = "Training", "Photos and teacher"

app = typer.Typer(help="Train what explains a model; the model itself stays as it is.", **SETTINGS)


app.command("loc-cbm")(loc_cbm)


@app.callback()
def fit() -> None:
    """Train what explains a model; the model itself stays as it is."""


@app.command("ce-fam")
@answering
def ce_fam(
    images: Annotated[
        list[str],
        typer.Option(
            "--images", "-i", help="A folder, file or glob pattern of photos; repeat for several.", rich_help_panel=DATA
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="A folder for the branch, its cache and its logs.",
            rich_help_panel=OUTPUT,
        ),
    ],
    vlm: Annotated[
        str,
        typer.Option(
            "--vlm",
            metavar="SOURCE:NAME",
            rich_help_panel=DATA,
            help="The teacher: open_clip:NAME/WEIGHTS, hf:OWNER/CLIP or a classifier.",
        ),
    ] = DEFAULT_TEACHER,
    crops: Annotated[int, typer.Option(min=1, help="Random crops of each photo.", rich_help_panel=DATA)] = 4,
    validation: Annotated[
        float, typer.Option(help="Share of validation photos, between 0 and 1.", rich_help_panel=DATA)
    ] = 0.1,
    concepts: Concepts = None,
    concepts_file: ConceptsFile = None,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="modern|paper|code",
            help="The training schedule; paper and code as published.",
            rich_help_panel=TRAIN,
        ),
    ] = "modern",
    similarity_weight: Annotated[
        float, typer.Option(help="Weight of the similarity loss; 0 uses no concepts.", rich_help_panel=TRAIN)
    ] = 0.001,
    hidden: Annotated[
        str | None,
        typer.Option(
            "--hidden",
            help="Widths of the hidden layers, such as 1024,1024; none: a linear branch.",
            rich_help_panel=TRAIN,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", help="Comma-separated layers to read; by default the model's stages.", rich_help_panel=TRAIN
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="By default those of the schedule.", rich_help_panel=TRAIN)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Crops per step; by default those of the schedule.", rich_help_panel=TRAIN),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of crops, validation photos, first weights and order.", rich_help_panel=TRAIN)
    ] = 0,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    class_names: ClassNames = None,
    pretrained: Pretrained = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted.", rich_help_panel=RUN)
    ] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a branch that reads a classifier's layers in the words of a vision-language model (CE-FAM)."""
    from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam
    from conceptlens.io.output_path import check_output
    from conceptlens.model.zoo import load_model

    check_output(out, folder=True)
    named, sizes = named_concepts(concepts, concepts_file), _sizes(hidden)
    start = time.perf_counter()
    made = fit_ce_fam(
        load(model, weights, class_names, pretrained), load_model(vlm), images, out,
        concepts=named, layers=_names(layers), schedule=schedule, similarity_weight=similarity_weight, hidden=sizes,
        n_crops=crops, validation=validation, batch_size=batch_size, epochs=epochs, seed=seed, device=device,
        resume=resume,
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")) == 0:
        _print(made, out, as_json, time.perf_counter() - start)


def _print(made: Translator, out: Path, as_json: bool, seconds: float) -> None:
    failures = json.loads((out / "failures.json").read_text("utf-8"))
    for failure in failures:
        typer.echo(f"conceptlens: {failure['reason']}", err=True)
    training = made.training
    if as_json:
        kept = ("photos", "pairs", "validation_pairs", "steps", "epochs", "best_epoch", "validation_loss")
        numbers = {
            "schema": "conceptlens.fit-ce-fam/2",
            "model": made.model,
            "vlm": made.teacher.name,
            "layers": list(made.layers),
            "sizes": [made.branch.width, *made.branch.hidden, made.branch.dimension],
            **{name: training[name] for name in kept},
            "failures": failures,
            "out": str(out),
        }
        typer.echo(json.dumps(numbers, allow_nan=False))
    else:
        typer.echo(f"layers: {', '.join(made.layers)}")
        typer.echo(f"validation loss {training['validation_loss']:.4g} after epoch {training['best_epoch']}")
        typer.echo(f"branch: {out}")
    done = f"{training['photos']} photos, {training['steps']} steps"
    bad = f", {len(failures)} failed" if failures else ""
    typer.echo(f"{done}{bad} in {seconds:.1f} s", err=True)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [] if text.strip() == "none" else text.split(",")
    if not all(word.strip().isdigit() for word in words):
        raise InputError(f"--hidden {text} is given; expected sizes such as 1024,1024, or none")
    return tuple(int(word) for word in words)
