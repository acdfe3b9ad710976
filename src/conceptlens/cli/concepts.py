"""`conceptlens concepts`: the concepts of a bottleneck, from a file, class attributes or a language model, filtered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli.options import OUTPUT, Json, answering
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from conceptlens.bottleneck.concept_writing.concept_filter import FilterLimits
    from conceptlens.bottleneck.concept_writing.published_filters import ImageConceptScores
    from conceptlens.concepts.concept_set import ConceptSet
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

SOURCES, FILTERS = "Where concepts come from", "Filters"

Data = Annotated[
    str,
    typer.Option(
        "--data", "-d", metavar="NAME:DIR", help="The data set whose classes are described: cub:DIR, folder:DIR, ...; "
        "only its train photos are read.", rich_help_panel=SOURCES,
    ),
]  # fmt: skip
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Start with the concepts of a .txt or .tsv file.", rich_help_panel=SOURCES
    ),
]
Ask = Annotated[
    str | None,
    typer.Option(
        "--ask", metavar="MODEL", help="Ask this language model, as its server calls it.", rich_help_panel=SOURCES
    ),
]
Url = Annotated[str, typer.Option(help="The server: any OpenAI-compatible endpoint.", rich_help_panel=SOURCES)]
KeyFrom = Annotated[
    str,
    typer.Option(help="The environment variable that holds the API key; none: no key.", rich_help_panel=SOURCES),
]
Record = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A file that keeps the model's replies and is read first.", rich_help_panel=SOURCES
    ),
]
Replay = Annotated[
    bool,
    typer.Option("--replay", help="Take all replies from --record; send no request.", rich_help_panel=SOURCES),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="FILE.txt, or FILE.tsv with parts; dropped concepts are comments.",
        rich_help_panel=OUTPUT,
    ),
]
Limited = Annotated[
    str,
    typer.Option(
        "--limits",
        metavar="published|minilm",
        rich_help_panel=FILTERS,
        help="Thresholds as published, or as strict for the built-in sentence encoder.",
    ),
]
Pair = Annotated[
    str | None,
    typer.Option(
        "--vlm",
        metavar="SOURCE:NAME",
        help="A vision-language model that scores concepts on the train photos.",
        rich_help_panel=FILTERS,
    ),
]
Presence = Annotated[
    float | None,
    typer.Option(
        help="With --vlm: drop concepts that no photo shows above this score; .26 for CLIP ViT-B/16 on birds.",
        rich_help_panel=FILTERS,
    ),
]


@answering
def concepts(
    data: Data,
    out: Out,
    start: From = None,
    ask: Ask = None,
    url: Url = "https://api.openai.com/v1",
    key_from: KeyFrom = "OPENAI_API_KEY",
    record: Record = None,
    replay: Replay = False,
    limits: Limited = "published",
    vlm: Pair = None,
    presence: Presence = None,
    as_json: Json = False,
) -> None:
    """Collect concepts for a bottleneck and filter them as published, with a reason for each dropped one."""
    from dataclasses import replace

    from conceptlens.bottleneck.concept_writing.concept_filter import FILTER_LIMITS, filter_concepts
    from conceptlens.concepts.concept_set import write_concept_set
    from conceptlens.data.labelled_sets import open_classes
    from conceptlens.io.output_path import check_output

    if limits not in FILTER_LIMITS:
        raise InputError(f"--limits {limits} is given; expected one of {', '.join(FILTER_LIMITS)}")
    if (vlm is None) != (presence is None):
        raise InputError("--vlm and --presence go together: the pair scores photos, and the number is its threshold")
    if start is not None and start.resolve() == out.resolve():
        raise InputError(f"--from and --out are both {out}; give another --out, for dropped concepts would be lost")
    check_output(out, ".txt", ".tsv")
    photos = open_classes(data)
    found = _found(photos, start, ask, url, key_from, record, replay)
    chosen = replace(FILTER_LIMITS[limits], presence=presence, interpretability=None)
    left = filter_concepts(found, photos.classes, chosen, shown=_shown(photos, found, vlm))
    write_concept_set(left, out)
    _say(left, chosen, out, as_json)


def _found(
    photos: LabelledSet, start: Path | None, ask: str | None, url: str, key_from: str, record: Path | None, replay: bool
) -> ConceptSet:
    from conceptlens.bottleneck.concept_writing.concept_writer import write_concepts
    from conceptlens.concepts.concept_set import attribute_concepts, read_concept_set

    if start is not None and ask is not None:
        raise InputError("--from and --ask are both given; concepts come from a file or from a language model")
    if start is not None:
        return read_concept_set(start)
    if ask is not None:
        if record is None:
            raise InputError("--ask needs --record FILE.jsonl, where answers are kept, so that nothing is asked twice")
        key = None if key_from == "none" else key_from
        return write_concepts(photos.classes, url, ask, record, key, replay=replay).concepts
    known = photos.annotation.attributes if photos.annotation else None
    if known is None:
        raise InputError(f"{photos.name} has no class attributes; give --from FILE, or --ask MODEL with --record FILE")
    return attribute_concepts(known.concepts, known.shares, f"the class attributes of {photos.name}", min_share=0.1)


def _shown(photos: LabelledSet, found: ConceptSet, vlm: str | None) -> ImageConceptScores | None:
    if vlm is None:
        return None
    from conceptlens.bottleneck.concept_writing.published_filters import ImageConceptScores
    from conceptlens.bottleneck.fit.concept_targets import encode_photos, photo_cosines
    from conceptlens.model.zoo import load_model

    pair: Backbone = load_model(vlm)
    vectors = encode_photos(pair, photos, range(len(photos)))
    readable = ~vectors.isnan().any(1)
    return ImageConceptScores(photo_cosines(found.concepts, pair, vectors[readable]), "train")


def _say(left: ConceptSet, limits: FilterLimits, out: Path, as_json: bool) -> None:
    if as_json:
        dropped = [vars(one) for one in left.dropped]
        numbers = {
            "schema": "conceptlens.concepts/1", "source": left.source, "concepts": list(left.labels),
            "limits": vars(limits), "dropped": dropped, "out": str(out),
        }  # fmt: skip
        typer.echo(json.dumps(numbers, allow_nan=False))
        return
    counts = Counter(one.filter for one in left.dropped)
    for name, count in counts.items():
        first = next(one for one in left.dropped if one.filter == name)
        typer.echo(f"{name} dropped {count}, such as '{first.label}': {first.reason}")
    typer.echo(f"{len(left)} concepts from {left.source}: {out}")
