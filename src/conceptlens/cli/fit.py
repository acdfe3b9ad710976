"""The commands that train: `conceptlens fit ce-fam`, `conceptlens fit loc-cbm`, `conceptlens fit head`."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.fit_bottleneck import loc_cbm
from conceptlens.cli.fit_head import head
from conceptlens.cli.options import answering, data_option, load, option_group, run_option
from conceptlens.cli.printing import print_end, print_failures, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.concept_regions.translator import Translator

DEFAULT_TEACHER = "timm:tf_efficientnet_lite2"

training_option = option_group("Training")

app = typer.Typer(**shared.SETTINGS)
app.command("loc-cbm", cls=shared.Command)(loc_cbm)
app.command("head", cls=shared.Command)(head)


@app.callback()
def fit() -> None:
    """Train what explains a model, or a head for your own classes; the model itself stays as it is."""


@app.command("ce-fam", cls=shared.Command)
@partial(answering, interrupted="what is done is kept in --out-dir; continue with --resume")
def ce_fam(
    images: Annotated[
        list[str],
        data_option("--images", "-i", help="A folder, file or glob pattern of photos; repeat for several."),
    ],
    out_dir: Annotated[Path, shared.out_dir("the branch, its cache and its logs")],
    crops: Annotated[int, data_option(min=1, help="Random crops of each photo.")] = 4,
    validation: Annotated[float, data_option(help="Share of the photos that is kept for validation, 0 to 1.")] = 0.1,
    vlm: Annotated[
        str,
        training_option(
            metavar="SOURCE:NAME",
            help="The teacher, a vision-language model: open_clip:NAME/WEIGHTS, hf:OWNER/CLIP; or a classifier.",
        ),
    ] = DEFAULT_TEACHER,
    concepts: shared.Concepts = None,
    concepts_file: shared.ConceptsFile = None,
    similarity_weight: Annotated[
        float, training_option(help="Weight of the similarity loss; 0 uses no concepts.")
    ] = 0.001,
    layers: Annotated[
        str | None, training_option(help="Comma-separated layers to read; by default the model's stages.")
    ] = None,
    hidden: Annotated[
        str | None,
        training_option(help="Widths of the hidden layers, such as 1024,1024; none: a linear branch."),
    ] = None,
    schedule: Annotated[
        str,
        training_option(metavar="modern|paper|code", help="The training schedule; paper and code as published."),
    ] = "modern",
    epochs: Annotated[int | None, training_option(min=1, help="Most epochs; by default those of the schedule.")] = None,
    batch_size: Annotated[
        int | None, training_option(min=1, help="Crops per step; by default those of the schedule.")
    ] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    device: shared.Device = "cpu",
    seed: Annotated[int, run_option(help="Seed of crops, validation photos, first weights and order.")] = 0,
) -> None:
    """Train a branch that reads a classifier's layers in the words of a vision-language model (CE-FAM)."""
    from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam
    from conceptlens.model.zoo import load_model

    check_folder(out_dir)
    start = time.perf_counter()
    made = fit_ce_fam(
        load(model, weights, pretrained, class_names=class_names, task=task),
        load_model(vlm),
        images,
        out_dir,
        concepts=shared.named_concepts(concepts, concepts_file),
        layers=None if layers is None else shared.names_in(layers, "--layers"),
        schedule=schedule,
        similarity_weight=similarity_weight,
        hidden=_widths(hidden),
        n_crops=crops,
        validation=validation,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        device=device,
        resume=resume,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        _print_result(made, out_dir, as_json, start)


def _print_result(made: Translator, out: Path, as_json: bool, start: float) -> None:
    failures = json.loads((out / "failures.json").read_text("utf-8"))
    print_failures(failure["reason"] for failure in failures)
    training = made.training
    if as_json:
        kept = ("photos", "pairs", "validation_pairs", "steps", "epochs", "best_epoch", "validation_loss")
        print_json({
            "schema": "conceptlens.fit-ce-fam/2",
            "model": made.model,
            "vlm": made.teacher.name,
            "layers": list(made.layers),
            "layer_widths": [made.branch.width, *made.branch.hidden, made.branch.dimension],
            **{name: training[name] for name in kept},
            "failures": failures,
            "out": str(out),
        })  # fmt: skip
    else:
        typer.echo(f"layers: {', '.join(made.layers)}")
        typer.echo(f"validation loss {training['validation_loss']:.4g} after epoch {training['best_epoch']}")
        typer.echo(f"branch: {out}")
    print_end(f"{counted(training['photos'], 'photo')}, {counted(training['steps'], 'step')}", len(failures), start)


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [] if text.strip() == "none" else text.split(",")
    if not all(word.strip().isdigit() for word in words):
        raise InputError(f"--hidden {text} is given; expected widths such as 1024,1024, or none")
    return tuple(int(word) for word in words)
