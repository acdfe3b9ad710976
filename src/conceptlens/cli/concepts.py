"""`conceptlens concepts`: the concepts of a bottleneck, from a file, class attributes or a language model, filtered."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, option_group
from conceptlens.cli.printing import print_excluded, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.bottleneck.concept_writing.concept_filter import FilterLimits
    from conceptlens.concepts.concept_set import ConceptSet
    from conceptlens.data.labelled_set import LabelledSet

source_option = option_group("Where concepts come from")
filter_option = option_group("Filters")


@answering
def concepts(
    data: shared.ClassData,
    out: Annotated[Path, shared.out_file("FILE.txt, or FILE.tsv with parts; dropped concepts are comments in it.")],
    start: Annotated[
        Path | None,
        source_option("--from", metavar="FILE", help="Start with the concepts of a .txt or .tsv file."),
    ] = None,
    ask: Annotated[
        str | None,
        source_option(metavar="MODEL", help="Ask a language model, by the name that its server gives it."),
    ] = None,
    url: Annotated[
        str | None,
        source_option(
            help="With --ask: the server, any OpenAI-compatible address; by default https://api.openai.com/v1."
        ),
    ] = None,
    key_from: Annotated[
        str | None,
        source_option(
            help="With --ask: the environment variable that holds the API key, by default OPENAI_API_KEY; none: no key."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        source_option(
            metavar="FILE", help="With --ask: a .jsonl file of the replies; what it holds is not asked again."
        ),
    ] = None,
    request: Annotated[
        str | None,
        source_option(
            metavar="JSON",
            help="With --ask: fields of each request, such as '{\"max_tokens\": 4096}'; by default temperature 0.7 and "
            "256 tokens.",
        ),
    ] = None,
    replay: Annotated[
        bool, source_option("--replay", help="With --ask: take all replies from --record; send no request.")
    ] = False,
    limits: Annotated[
        str,
        filter_option(
            metavar="published|minilm",
            help="Thresholds of the filters: as published, or as strict for the built-in sentence encoder.",
        ),
    ] = "published",
    vlm: Annotated[
        str | None,
        filter_option(metavar="SOURCE:NAME", help="A vision-language model that scores concepts on the train photos."),
    ] = None,
    presence: Annotated[
        float | None,
        filter_option(
            help="With --vlm: drop concepts that no photo shows above this score; .26 for CLIP ViT-B/16 on birds."
        ),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Collect concepts for a bottleneck and filter them as published, with a reason for each dropped one.

    Concepts come from a file (--from), a language model (--ask), or else the class attributes of the data set.
    """
    from conceptlens.bottleneck.concept_writing.concept_filter import FILTER_LIMITS, filter_concepts
    from conceptlens.concepts.concept_set import write_concept_set
    from conceptlens.data.labelled_sets import open_classes

    if limits not in FILTER_LIMITS:
        raise InputError(f"--limits {limits} is given; expected one of {', '.join(FILTER_LIMITS)}")
    if (vlm is None) != (presence is None):
        raise InputError("--vlm and --presence go together: the model scores photos, and the number is its threshold")
    if start is not None and start.resolve() == out.resolve():
        raise InputError(f"--from and --out are both {out}; give another --out, for dropped concepts would be lost")
    check_file(out, ".txt", ".tsv")
    photos = open_classes(data)
    print_excluded(photos.excluded)
    found = _found(photos, start, ask, url, key_from, record, request, replay)
    chosen = replace(FILTER_LIMITS[limits], presence=presence)
    left = filter_concepts(found, photos.classes, chosen, _scores(photos, found, vlm))
    write_concept_set(left, out)
    _print_result(left, chosen, out, as_json)


def _found(
    photos: LabelledSet,
    start: Path | None,
    ask: str | None,
    url: str | None,
    key_from: str | None,
    record: Path | None,
    request: str | None,
    replay: bool,
) -> ConceptSet:
    """Return the concepts before the filters: of a file, of a language model, or the class attributes."""
    from conceptlens.bottleneck.concept_writing.concept_writer import REQUEST, write_concepts
    from conceptlens.concepts.concept_set import attribute_concepts, read_concept_set

    if start is not None and ask is not None:
        raise InputError("--from and --ask are both given; concepts come from a file or from a language model")
    if ask is None:
        shared.refuse_unused(
            {"--url": url, "--key-from": key_from, "--record": record, "--request": request,
             "--replay": replay or None},
            "without --ask; add --ask MODEL, or leave out what belongs to it",
        )  # fmt: skip
    if start is not None:
        return read_concept_set(start)
    if ask is not None:
        if record is None:
            raise InputError("--ask needs --record FILE.jsonl, where replies are kept, so that nothing is asked twice")
        key = None if key_from == "none" else key_from or shared.API_KEY
        fields = REQUEST if request is None else shared.request_fields(request)
        return write_concepts(photos.classes, url or shared.API_URL, ask, record, key, fields, replay)
    known = photos.annotation.attributes if photos.annotation else None
    if known is None:
        raise InputError(f"{photos.name} has no class attributes; give --from FILE, or --ask MODEL with --record FILE")
    return attribute_concepts(known.concepts, known.shares, f"the class attributes of {photos.name}", min_share=0.1)


def _scores(photos: LabelledSet, found: ConceptSet, vlm: str | None) -> Tensor | None:
    """Return the cosines of train photos and concepts by a vision-language model, `[photo concept]`."""
    if vlm is None:
        return None
    from conceptlens.bottleneck.fit.concept_targets import encode_photos, photo_cosines
    from conceptlens.model.zoo import load_model

    pair = load_model(vlm)
    vectors = encode_photos(pair, photos, range(len(photos)))
    return photo_cosines(found.concepts, pair, vectors[~vectors.isnan().any(1)])


def _print_result(left: ConceptSet, limits: FilterLimits, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({
            "schema": "conceptlens.concepts/1",
            "source": left.source,
            "concepts": list(left.labels),
            "limits": vars(limits),
            "dropped": [vars(one) for one in left.dropped],
            "out": str(out),
        })  # fmt: skip
        return
    for name, count in Counter(one.filter for one in left.dropped).items():
        first = next(one for one in left.dropped if one.filter == name)
        typer.echo(f"{name} dropped {count}, such as '{first.label}': {first.reason}")
    typer.echo(f"{len(left)} concepts from {left.source}: {out}")
