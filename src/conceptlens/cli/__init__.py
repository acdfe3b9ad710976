"""The command line: it parses, calls and prints; everything heavy loads when a command runs."""

from __future__ import annotations

import typer

from conceptlens.cli.analyze import analyze, search
from conceptlens.cli.concepts import concepts
from conceptlens.cli.edit import edit
from conceptlens.cli.embed import embed
from conceptlens.cli.evaluate import app as evaluate
from conceptlens.cli.explain import contrast, explain
from conceptlens.cli.fit import app as fit
from conceptlens.cli.models import calibrate, models
from conceptlens.cli.options import SETTINGS

app = typer.Typer(
    help="Which concepts does a vision model use, where are they, and how much does each one count?", **SETTINGS
)
for command in (explain, contrast, embed, analyze, search, models, calibrate, concepts, edit):
    app.command()(command)
app.add_typer(fit, name="fit")
app.add_typer(evaluate, name="evaluate")


def main() -> None:
    """Run the command line."""
    app()
