"""`conceptlens convert`: safetensors of a checkpoint, so that it need never be unpickled again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, run_option
from conceptlens.cli.printing import print_json, print_note
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file

if TYPE_CHECKING:
    from conceptlens.model.zoo.converted import Converted

_RISK = """A pickle can run any program of whoever made it. It is opened in a process of its own without network, as far
as the system lets it, starts nothing, and writes nothing but the tensors. What the file names is not run: empty
stand-ins take its place. Go on only where you trust its source."""


@answering
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A checkpoint of PyTorch, an index of shards, or a folder that holds one.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, shared.out_file("The .safetensors file to write.")],
    entry: Annotated[
        str | None,
        run_option(metavar="NAME", help="Write only what lies under this name, such as state_dict_ema."),
    ] = None,
    yes: Annotated[bool, run_option("--yes", "-y", help="Unpickle without asking, where that is needed.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Write the weights of a checkpoint as safetensors, for --weights.

    Most checkpoints are read without unpickling. One that holds more than tensors is unpickled, in a process of its
    own, after you were asked.
    """
    from conceptlens.model.zoo.checkpoint_file import PickledFileError
    from conceptlens.model.zoo.converted import convert_checkpoint

    check_file(out, ".safetensors")
    try:
        found = convert_checkpoint(checkpoint, out, entry)
    except PickledFileError as error:
        if not yes:
            _ask(str(error).partition("; make safetensors")[0])
        found = convert_checkpoint(checkpoint, out, entry, unpickle=True)
    _print_result(found, checkpoint, out, as_json)


def _ask(reason: str) -> None:
    """Ask whether to unpickle; end where the answer is no, and refuse where nobody can answer."""
    if not _somebody_answers():
        raise InputError(
            f"{reason}; it must be unpickled, and nobody can be asked here: add --yes where you trust its source"
        )
    print_note(f"{reason}.\n{_RISK}\nUnpickle it? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):  # typer would write to standard output too
        print_note("conceptlens: nothing was read and nothing written")
        raise typer.Exit(1)


def _somebody_answers() -> bool:
    return sys.stdin.isatty()


def _print_result(found: Converted, checkpoint: Path, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({
            "schema": "conceptlens.convert/1",
            "checkpoint": str(checkpoint),
            "tensors": found.tensors,
            "left_out": list(found.left_out),
            "unpickled": found.unpickled,
            "replaced": list(found.replaced),
            "out": str(out),
        })  # fmt: skip
        return
    left_out = f"; left out: {', '.join(found.left_out)}" if found.left_out else ""
    how = ", unpickled in a process of its own" if found.unpickled else ", nothing unpickled"
    typer.echo(f"{found.tensors} tensor{'s' * (found.tensors != 1)}{how}{left_out}: {out}")
