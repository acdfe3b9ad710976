"""What the commands share: options and their groups, one sentence for wrong input, and loading a model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from conceptlens.cli.run_progress import interruptible
from conceptlens.concepts.vocabulary import parse_concepts, read_concepts
from conceptlens.io.errors import InputError
from conceptlens.io.text_file import read_text
from conceptlens.model.zoo import DEFAULT_MODEL as DEFAULT_MODEL

if TYPE_CHECKING:
    from conceptlens.concept_regions.translator import Translator
    from conceptlens.model.backbone import Backbone


API_URL, API_KEY = "https://api.openai.com/v1", "OPENAI_API_KEY"


class Command(TyperCommand):
    """A command whose help shows no type beside flags."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options and arguments, flags with nothing to fill in."""
        return without_flag_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no type beside flags."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options and arguments, flags with nothing to fill in."""
        return without_flag_types(super().get_params(ctx))


def without_flag_types(parameters: list[Any]) -> list[Any]:
    """Return parameters with an empty metavar for flags, which typer shows as `<bool>`."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


SETTINGS: dict[str, Any] = {
    "cls": Group,
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def option_group(heading: str) -> Callable[..., Any]:
    """Return `typer.Option` for options that `--help` lists under a heading."""
    return functools.partial(typer.Option, rich_help_panel=heading)


question_option = option_group("What to explain")
data_option = option_group("Data")
model_option = option_group("Model")
output_option = option_group("Output")
run_option = option_group("Run")

Photos = Annotated[
    list[str], typer.Argument(metavar="PHOTO", help="Photos, folders or glob patterns.", show_default=False)
]
TargetName = Annotated[
    str | None,
    question_option(
        "--target", "-t", metavar="CLASS", help="The class to explain, by name or index; by default the predicted one."
    ),
]
Concepts = Annotated[
    str | None,
    question_option(
        "--concepts",
        "-c",
        metavar="A,B",
        help="Comma-separated concepts, such as 'whiskers, striped fur:texture'; by default the vocabulary.",
    ),
]
ConceptsFile = Annotated[
    Path | None, question_option(metavar="FILE", help="A text file with one concept per line, for --concepts.")
]

MaskedData = Annotated[
    str,
    data_option(
        "--data", "-d", metavar="NAME[:DIR]", help="The data set with masks, such as coco_panoptic:DIR or drawn:50."
    ),
]
ClassData = Annotated[
    str,
    data_option(
        "--data",
        "-d",
        metavar="NAME:DIR",
        help="The data set with classes: cub:DIR, or folder:DIR with a folder of photos for each class, ...",
    ),
]
Ignore = Annotated[
    list[str] | None,
    data_option(
        "--ignore",
        metavar="N",
        help="A value of mask pixels that count as nothing, neither as a class nor as background, in masks:DIR; repeat "
        "for several, or write 11,12.",
    ),
]
Split = Annotated[str, data_option(metavar="NAME", help="The split of the data set.")]
EvaluationSplit = Annotated[
    str | None, data_option(metavar="NAME", help="The split of the data set; by default the one for evaluation.")
]

Model = Annotated[
    str,
    model_option(
        "--model",
        "-m",
        metavar="SOURCE:NAME",
        help="The model, one of `conceptlens models`; by default {1} of {0}.".format(*DEFAULT_MODEL.split(":")),
        show_default=False,  # in one word it is cut in a terminal of 80 columns
    ),
]
Weights = Annotated[
    str | None,
    model_option(metavar="FILE", help="Your own weights, as training left them: safetensors, or a checkpoint."),
]
Pretrained = Annotated[bool, model_option(help="--no-pretrained takes random weights, to try things out.")]
ClassNames = Annotated[
    Path | None,
    model_option(metavar="FILE", help="A text file with one class name per line, in the order of the logits."),
]
TaskName = Annotated[
    str | None,
    model_option(
        "--task",
        metavar="NAME",
        help="What the model was trained for, where it does not say so itself: single_label, multi_label, binary, "
        "regression, ordinal, conditional_ordinal, ...",
    ),
]
KnowledgeFile = Annotated[
    Path | None,
    model_option(
        metavar="FILE",
        help="A table (.tsv, .csv) of what photos of your classes show: class, kinds, always, often, sometimes.",
    ),
]
LayerName = Annotated[
    str | None,
    model_option(
        "--layer",
        metavar="NAME",
        help="The layer to take maps from; by default the last with a grid that the output depends on.",
    ),
]
CROP_HELP = (
    "How a photo is brought to the input size: center: a central crop; squash: the whole photo, its sides scaled "
    "separately"
)
CropMode = Annotated[
    str | None, model_option(metavar="MODE", help=f"{CROP_HELP}. By default as the model was trained.")
]
BranchFolder = Annotated[
    Path | None,
    model_option(
        "--branch",
        metavar="DIR",
        help="A branch trained by `conceptlens fit ce-fam`, which scores concepts as its teacher does.",
    ),
]

Json = Annotated[
    bool, output_option("--json", help="Print one JSON document on standard output and nothing else there.")
]

Device = Annotated[str, run_option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1, mps.")]
Autocast = Annotated[
    bool, run_option("--autocast", help="Run the network in bfloat16: faster on GPUs, numbers of three digits.")
]
ChannelsLast = Annotated[
    bool, run_option("--channels-last", help="Keep the network's maps with channels last: faster on some processors.")
]
BatchSize = Annotated[int, run_option("--batch-size", min=1, help="Photos per forward pass.")]
Resume = Annotated[bool, run_option("--resume", help="Continue a run that was interrupted.")]
RetryFailed = Annotated[bool, run_option("--retry-failed", help="Resume, and try photos that failed again.")]
Cache = Annotated[
    Path | None, run_option(metavar="DIR", help="Keep the network's features of all photos here, for the next run.")
]


def _path(text: str) -> Path:
    """Return the path of an output; refuses an empty one, which would be the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("the path is empty; give the name of a file or folder, such as result")
    return Path(text)


def out_file(help: str) -> Any:
    """Return the option `--out FILE`."""
    return output_option("--out", "-o", metavar="FILE", parser=_path, help=help)


def out_dir(contents: str, name: str = "--out-dir") -> Any:
    """Return the option `--out-dir DIR`, or one of another name, for what a command writes into a folder."""
    help = f"A folder for {contents}; made where it is missing."
    return output_option(name, metavar="DIR", parser=_path, help=help)


def answering(command: Callable[..., None], interrupted: str = "nothing more is written") -> Callable[..., None]:
    """Turn an `InputError` into one sentence on standard error and exit code 2; Ctrl-C and SIGTERM into 130 and 143.

    Args:
        command: The command.
        interrupted: What is kept of a command that is interrupted, and how it goes on.
    """

    @functools.wraps(command)
    def answered(*arguments: Any, **options: Any) -> None:
        with interruptible() as interruption:
            try:
                command(*arguments, **options)
            except InputError as error:
                typer.echo(f"conceptlens: {error}", err=True)
                raise typer.Exit(2) from None
        if interruption.came:
            typer.echo(f"interrupted; {interrupted}", err=True)
            raise typer.Exit(interruption.exit_code)

    return answered


def load(
    name: str,
    weights: str | None,
    pretrained: bool,
    device: str = "cpu",
    class_names: Path | None = None,
    knowledge: Path | None = None,
    **options: Any,
) -> Backbone:
    """Load a model as the options say; `class_names` is a file with one name per line, `knowledge` a table."""
    from conceptlens.concepts.class_knowledge import read_knowledge
    from conceptlens.model.zoo import load_model

    names = None if class_names is None else read_class_names(class_names, "--class-names")
    table = None if knowledge is None else read_knowledge(knowledge)
    model = load_model(name, pretrained=pretrained, weights=weights, class_names=names, device=device, **options)
    return model if table is None else replace(model, knowledge=table)


def read_class_names(file: Path, option: str) -> list[str]:
    """Return the class names of a text file, one per line; `option` is what the file was given as."""
    text = read_text(file, f"give {option} a text file with one class name per line")
    return [line.strip() for line in text.splitlines() if line.strip()]


def request_fields(text: str) -> dict[str, object]:
    """Return the JSON object of `--request`."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"--request {text} is given; expected a JSON object, such as '{{\"temperature\": 0}}'")
    return found


def load_branch(folder: Path | None) -> Translator | None:
    """Load a trained branch, where one is named."""
    from conceptlens.concept_regions.translator import Translator

    return None if folder is None else Translator.load(folder)


def mask_choices(**given: Any) -> dict[str, Any]:
    """Return the choices of masks that were given, for `open_set`."""
    return {name: value for name, value in given.items() if value}


def refuse_unused(options: dict[str, Any], why: str) -> None:
    """Raise `InputError` where options are given that have no effect.

    Args:
        options: What each option was given as, by its name; `None` or an empty list where it was not given.
        why: The end of the sentence: why it has none, and what to do.
    """
    given = [name for name, value in options.items() if value is not None and value != []]
    if given:
        raise InputError(f"{' and '.join(given)} {'have' if len(given) > 1 else 'has'} no effect {why}")


def named_concepts(concepts: str | None, concepts_file: Path | None) -> Any:
    """Return the concepts that were named on the command line or in a file; `None` where neither was given."""
    if concepts is not None and concepts_file is not None:
        raise InputError("both --concepts and --concepts-file are given; give one of them")
    if concepts_file is not None:
        return read_concepts(concepts_file)
    return None if concepts is None else parse_concepts(concepts)


def names_in(text: str, option: str) -> list[str]:
    """Return the comma-separated names of an option, each once, without blanks around them; refuses none."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InputError(f"{option} is {text!r}, which names nothing; give names with commas between, or leave it out")
    return names


def name_pair(text: str, first: Callable[[str], int], second: Callable[[str], int]) -> tuple[int, int]:
    """Return the indices of the two names of `A,B`, of which each may hold commas.

    Args:
        text: The two names, with at least one comma.
        first: Returns the index of the first name; raises `InputError` for an unknown one.
        second: The same of the second name.
    """
    parts = text.split(",")
    errors = []
    for cut in range(1, len(parts)):
        try:
            return first(",".join(parts[:cut])), second(",".join(parts[cut:]))
        except InputError as error:
            errors.append(error)
    raise errors[0]
