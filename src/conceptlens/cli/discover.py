"""`conceptlens discover`: concepts that have no name, shown as walls of their strongest places, and named by you."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, data_option, load, model_option, option_group, output_option, run_option
from conceptlens.cli.printing import print_end, print_failures, print_files, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder, check_new_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
    from conceptlens.model.backbone import Backbone

SCHEMA = "conceptlens.discover/1"
discovery_option = option_group("Concepts")


@partial(answering, interrupted="nothing is written")
def discover(
    out_dir: Annotated[Path, shared.out_dir("the concepts, their names and the page")],
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO]...",
            help="Photos, folders or glob patterns; none to name the concepts of a folder made before.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        discovery_option(
            "--concepts", min=1, metavar="K", help="How many; by default 5 to 30, as many as are found again."
        ),
    ] = None,
    names: Annotated[
        str | None,
        discovery_option(
            metavar="N=NAME,...",
            help="What concepts are called, such as '3=water, 5=grass', or a table (.tsv) of numbers and names. "
            "Without photos, the concepts in --out-dir are named and nothing is computed.",
        ),
    ] = None,
    max_photos: Annotated[
        int | None, data_option(min=1, help="Take at most this many of the photos, drawn at random; by default 1000.")
    ] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    layer: Annotated[
        str | None,
        model_option(
            "--layer", metavar="NAME", help="The layer whose cells are factorised; by default the one of `explain`."
        ),
    ] = None,
    crop_mode: shared.CropMode = None,
    knowledge: shared.KnowledgeFile = None,
    overwrite: Annotated[
        bool, output_option("--overwrite", help="Let --out-dir replace the concepts in it, and their names.")
    ] = False,
    as_json: shared.Json = False,
    seed: Annotated[int | None, run_option(min=0, help="Of everything that is drawn; by default 0.")] = None,
    device: shared.Device = "cpu",
    batch_size: shared.BatchSize = 8,
) -> None:
    """Find concepts that have no name in photos, show where each is strongest, and let you name them."""
    start = time.perf_counter()
    if not photos:
        run_options = {
            "--concepts": count, "--max-photos": max_photos, "--weights": weights, "--class-names": class_names,
            "--task": task, "--layer": layer, "--crop-mode": crop_mode, "--knowledge": knowledge, "--seed": seed,
        }  # fmt: skip
        _check_naming(names, run_options)
        found = _named_again(out_dir, str(names))
    else:
        check_folder(out_dir)
        if not overwrite:
            check_new_folder(out_dir, hint=", add --overwrite, or leave the photos out to name its concepts")
        given = None if names is None else _names(names, count)
        how = {"layers": layer or (), "crop_mode": crop_mode, "task": task}
        backbone = load(model, weights, pretrained, device, class_names, knowledge, **how)
        settings = {"count": count, "seed": seed or 0, "max_photos": max_photos, "batch_size": batch_size}
        found = _discovered(backbone, photos, out_dir, given, settings)
    if as_json:
        print_json(discover_json(found, out_dir))
    else:
        _print_concepts(found)
    if photos:
        print_failures(reason for _, reason in found.failures)
        print_end(
            f"{counted(len(found), 'concept')} of {counted(found.diagnostics['photos'], 'photo')}",
            len(found.failures),
            start,
        )
    print_files([out_dir / "report.html", out_dir / "names.tsv", out_dir])
    if photos and found.failures:
        raise typer.Exit(1)


def discover_json(found: DiscoveredConcepts, folder: Path) -> dict[str, Any]:
    """Return the JSON document of discovered concepts."""
    from dataclasses import asdict

    from conceptlens.io.versions import versions

    return {
        "schema": SCHEMA,
        "versions": versions(),
        "out_dir": str(folder),
        "model": found.model,
        "layer": found.layer,
        "concepts": [
            {
                "id": number,
                "name": found.names[number],
                "activity": found.activity[number],
                "stability": found.stability[number],
                "shared": found.shared[number],
                "suggestions": [asdict(one) for one in found.suggestions[number]],
                "places": [
                    {name: getattr(place, name) for name in ("photo", "row", "column", "activation")}
                    for place in found.places[number]
                ],
            }
            for number in range(len(found))
        ],
        "candidates": [{**asdict(one), "chosen": i == found.chosen} for i, one in enumerate(found.candidates)],
        "diagnostics": dict(found.diagnostics),
        "failures": [{"image": name, "error": reason} for name, reason in found.failures],
    }


def _check_naming(names: str | None, run_options: dict[str, Any]) -> None:
    """Refuse a call without photos that names nothing, or has options of a run."""
    if names is None:
        raise InputError(
            "no photos are given; name photos or folders to discover concepts in, or name the concepts of --out-dir: "
            "--names '3=water, 5=grass'"
        )
    shared.refuse_unused(run_options, "without photos, where concepts are only named; give photos, or leave it out")


def _names(names: str, count: int | None) -> dict[int, str]:
    """Return names by number, refused where the number of concepts is known and too small."""
    from conceptlens.discovery.concept_names import parse_names, with_names

    given = parse_names(names)
    if count is not None:
        with_names(("",) * count, given, "--names")
    return given


def _named_again(folder: Path, names: str) -> DiscoveredConcepts:
    """Name the concepts of a folder, and make its page again."""
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
    from conceptlens.discovery.discovery_page import write_discovery_page

    found = DiscoveredConcepts.load(folder).named(names, "--names")
    found.save(folder)
    write_discovery_page(found, folder)
    return found


def _discovered(
    backbone: Backbone, photos: list[str], folder: Path, names: dict[int, str] | None, settings: dict[str, Any]
) -> DiscoveredConcepts:
    """Discover concepts, suggest names, write the folder and the page; then name them as the call says."""
    from conceptlens.discovery.discover import discover
    from conceptlens.discovery.discovery_page import write_discovery_page
    from conceptlens.explainer.name_suggestions import suggest_names

    found = discover(backbone, photos, **{name: value for name, value in settings.items() if value is not None})
    found = suggest_names(backbone, found, batch_size=settings["batch_size"])
    found.save(folder)
    write_discovery_page(found, folder)
    if names:
        try:
            found = found.named(names, "--names")
        except InputError as error:
            raise InputError(
                f"{error}; the concepts are in {folder}, so name them there: conceptlens discover --names ... "
                f"--out-dir {folder}"
            ) from None
        found.save(folder)
        write_discovery_page(found, folder)
    return found


def _print_concepts(found: DiscoveredConcepts) -> None:
    """Print how many concepts there are and why, and a line for each."""
    from rich.console import Console
    from rich.table import Table

    about, taken = found.diagnostics, found.candidates[found.chosen]
    typer.echo(
        f"{len(found)} concepts of {found.model} at {found.layer}: {about['accounted']:.1%} of the activation, "
        f"{taken.explained:.1%} of the variance of photos held out, stability {taken.stability:.2f}"
    )
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for title in ("concept", "activation", "found again", "perhaps"):
        table.add_column(title, justify="right" if title in ("activation", "found again") else "left")
    for number, label in enumerate(found.labels):
        words = ", ".join(f"{one.name} ({one.presence:.2f})" for one in found.suggestions[number])
        shown = f"{number} {label}" if found.names[number] else label
        table.add_row(shown, f"{found.activity[number]:.1%}", f"{found.stability[number]:.2f}", words or "-")
    Console().print(table)
