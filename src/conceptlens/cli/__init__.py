"""The command line: each command parses its options, calls the package and prints; torch loads only then."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from conceptlens import __version__
from conceptlens.cli.analyze import analyze, search
from conceptlens.cli.benchmark import benchmark
from conceptlens.cli.concepts import concepts
from conceptlens.cli.contrast import contrast
from conceptlens.cli.convert import convert
from conceptlens.cli.discover import discover
from conceptlens.cli.edit import edit
from conceptlens.cli.embed import embed
from conceptlens.cli.evaluate import app as evaluate
from conceptlens.cli.explain import explain
from conceptlens.cli.export import export
from conceptlens.cli.fit import app as fit
from conceptlens.cli.knowledge import knowledge
from conceptlens.cli.models import calibrate, models
from conceptlens.cli.options import SETTINGS, Command
from conceptlens.cli.summarize import summarize
from conceptlens.io.text_file import READABLE

app = typer.Typer(**SETTINGS)


def _print_version(wanted: bool) -> None:
    """Print the version and end, where `--version` is given."""
    if wanted:
        typer.echo(f"conceptlens {__version__}")
        raise typer.Exit


for command in (
    explain, contrast, summarize, export, discover, embed, analyze, search, benchmark, models, convert, calibrate,
    concepts, knowledge, edit,
):  # fmt: skip
    app.command(cls=Command)(command)


@app.callback()
def conceptlens(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version of ConceptLens."),
    ] = False,
) -> None:
    """Show which concepts a vision model uses, where they are, and how much each one counts."""


app.add_typer(fit, name="fit")
app.add_typer(evaluate, name="evaluate")


def main() -> None:
    """Run the command line; what the encoding of a stream lacks is replaced, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    app(prog_name="conceptlens")
