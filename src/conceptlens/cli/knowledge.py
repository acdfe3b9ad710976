"""`conceptlens knowledge`: what photos of each class show, asked of a language model, as a table for `--knowledge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, option_group
from conceptlens.cli.printing import print_failures, print_json
from conceptlens.io.output_path import check_file

if TYPE_CHECKING:
    from conceptlens.concepts.knowledge_writer import WrittenKnowledge

ask_option = option_group("Language model")


@answering
def knowledge(
    classes: Annotated[
        Path,
        typer.Argument(metavar="CLASSES", help="A text file with one class name per line.", show_default=False),
    ],
    ask: Annotated[
        str, ask_option(metavar="MODEL", help="The language model to ask, by the name that its server gives it.")
    ],
    out: Annotated[Path, shared.out_file("FILE.tsv, a table for --knowledge; classes that it holds are not asked.")],
    url: Annotated[str, ask_option(help="The server, any OpenAI-compatible address.")] = shared.API_URL,
    key_from: Annotated[
        str, ask_option(help="The environment variable that holds the API key; none: no key.")
    ] = shared.API_KEY,
    request: Annotated[
        str | None,
        ask_option(
            metavar="JSON",
            help="Fields of each request, as '{\"max_tokens\": 4096}'; by default temperature 0.3 and 2048 tokens.",
        ),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Ask a language model what photos of each class show, and write it as a table of class knowledge.

    Answers are checked one by one. A class whose answer is refused is named with the reason, and asked again by the
    next run.
    """
    from conceptlens.concepts.knowledge_writer import KNOWLEDGE_REQUEST, write_knowledge

    check_file(out, ".tsv")
    fields = KNOWLEDGE_REQUEST if request is None else shared.request_fields(request)
    key = None if key_from == "none" else key_from
    found = write_knowledge(shared.read_class_names(classes, "CLASSES"), url, ask, out, key, fields)
    print_failures(f"{name}: {reason}" for name, reason in found.failed.items())
    _print_result(found, ask, out, as_json)
    if found.failed:
        raise typer.Exit(1 if found.written or found.kept else 2)


def _print_result(found: WrittenKnowledge, model: str, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({
            "schema": "conceptlens.knowledge/1",
            "model": model,
            "kept": list(found.kept),
            "written": list(found.written),
            "failures": [{"class": name, "reason": reason} for name, reason in found.failed.items()],
            "out": str(out),
        })  # fmt: skip
        return
    refused = f", {len(found.failed)} refused (run it again to ask them again)" if found.failed else ""
    classes = "class" if len(found.written) == 1 else "classes"
    typer.echo(f"{len(found.written)} {classes} written, {len(found.kept)} kept{refused}: {out}")
