"""What the commands share: options, one sentence for wrong input, and loading a model."""

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
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

# The headings that `--help` groups options under.
QUESTION, MODEL, OUTPUT, RUN = "What to explain", "Model", "Output", "Run"

Photos = Annotated[list[str], typer.Argument(help="Photos, folders or glob patterns.", show_default=False)]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="SOURCE:NAME", help="The model; see `conceptlens models`.", rich_help_panel=MODEL
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Your own weights: a safetensors file, or a PyTorch file of tensors alone.",
        rich_help_panel=MODEL,
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="A text file with one class name per line, in the order of the logits.",
        rich_help_panel=MODEL,
    ),
]
LayerName = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help="The layer to take maps from; by default the last with a grid that the output depends on.",
        rich_help_panel=MODEL,
    ),
]
CropMode = Annotated[
    str | None,
    typer.Option(
        "--crop-mode",
        metavar="center|squash",
        help="How a photo is brought to the input size: center: a central crop; squash: the whole photo, its sides "
        "scaled separately. By default as the model was trained.",
        rich_help_panel=MODEL,
    ),
]
Pretrained = Annotated[
    bool, typer.Option(help="--no-pretrained takes random weights, to try things out.", rich_help_panel=MODEL)
]
Concepts = Annotated[
    str | None,
    typer.Option(
        "--concepts",
        "-c",
        help="Comma-separated concepts, such as 'whiskers, striped fur:texture'; by default the vocabulary.",
        rich_help_panel=QUESTION,
    ),
]
ConceptsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A text file with one concept per line.", rich_help_panel=QUESTION),
]
BranchFolder = Annotated[
    Path | None,
    typer.Option(
        "--branch",
        metavar="FOLDER",
        help="A branch trained by `conceptlens fit ce-fam`, which scores concepts as its teacher does.",
        rich_help_panel=MODEL,
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="The class to explain, by name or index; by default the predicted one.",
        rich_help_panel=QUESTION,
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.", rich_help_panel=RUN)]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Photos per forward pass.", rich_help_panel=RUN)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE|FOLDER",
        help="FILE.html for a report page, FILE.json for the numbers, or a folder for both.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on standard output and nothing else.", rich_help_panel=OUTPUT),
]


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
    class_names: Path | None,
    pretrained: bool,
    layer: str | None = None,
    crop_mode: str | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a model as the options say."""
    from conceptlens.model.zoo import load_model

    names = None if class_names is None else _read_class_names(class_names)
    return load_model(
        name,
        pretrained=pretrained,
        weights=weights,
        class_names=names,
        layers=layer or (),
        crop_mode=crop_mode,
        device=device,
    )


def _read_class_names(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"no file {file} for --class-names; give a text file with one class name per line")
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
