"""What every command shares: its options, its way of answering mistakes, and loading a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from conceptlens.concept_regions.translator import Translator
    from conceptlens.model.backbone import Backbone

SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}

Photos = Annotated[list[str], typer.Argument(help="Photos, folders or glob patterns.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="SOURCE:NAME; see `conceptlens models`.")]
Weights = Annotated[str | None, typer.Option(help="A file of your own weights: safetensors or tensors alone.")]
Labels = Annotated[
    Path | None, typer.Option(help="A text file with one class name a line, in the order of the logits.")
]
LayerName = Annotated[
    str | None, typer.Option("--layer", help="The layer to look at; by default the last that reaches the answer.")
]
Fit = Annotated[str | None, typer.Option(help="center: what the model was trained to see; squash: the whole photo.")]
Concepts = Annotated[
    str | None,
    typer.Option(
        "--concepts", "-c", help="Comma-separated, such as 'whiskers, striped fur:texture'; by default the vocabulary."
    ),
]
ConceptsFile = Annotated[Path | None, typer.Option(help="A text file with one concept a line.")]
BranchFolder = Annotated[
    Path | None,
    typer.Option("--branch", help="A folder made by `conceptlens fit ce-fam`: another model's words for this one."),
]
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


def answering(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an `InputError` into one sentence on standard error and exit code 2."""

    @functools.wraps(command)
    def answered(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except InputError as error:
            typer.echo(f"conceptlens: {error}", err=True)
            raise typer.Exit(2) from None

    return answered


def load(
    name: str,
    weights: str | None,
    labels: Path | None,
    pretrained: bool,
    layer: str | None = None,
    fit: str | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a model as the options say."""
    from conceptlens.model.zoo import load_model

    names = None if labels is None else _class_names(labels)
    return load_model(
        name,
        pretrained=pretrained,
        weights=weights,
        class_names=names,
        layers=layer or (),
        crop_mode=fit,
        device=device,
    )


def _class_names(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"no file {file} for --labels; give a text file with one class name a line")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def load_branch(folder: Path | None) -> Translator | None:
    """Load a trained branch, where one is named."""
    from conceptlens.concept_regions.translator import Translator

    return None if folder is None else Translator.load(folder)


def named_concepts(concepts: str | None, concepts_file: Path | None) -> Any:
    """Return the concepts that were named on the command line or in a file; `None` where neither was given."""
    from conceptlens.concepts.vocabulary import parse_concepts, read_concepts

    if concepts is not None and concepts_file is not None:
        raise InputError("both --concepts and --concepts-file are given; give one of them")
    if concepts_file is not None:
        return read_concepts(concepts_file)
    return None if concepts is None else parse_concepts(concepts)
