"""`conceptlens explain --store`: photos are explained into a store, in a run that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptlens.cli.printing import print_failures, print_json
from conceptlens.cli.run_progress import with_progress
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder
from conceptlens.io.progress import speed_text

if TYPE_CHECKING:
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.explainer.runs.explain_run import ExplainProgress
    from conceptlens.model.backbone import Backbone
    from conceptlens.runs.run_task import Engine
    from conceptlens.store import ExplanationStore

SCHEMA = "conceptlens.explain-run/1"
N_FAILURES, N_JSON_FAILURES = 5, 100  # of those that failed, that many are named; the store names all


def check_store(store: Path, out: Path | None, out_dir: Path | None) -> None:
    """Refuse a store beside a page, and a path that no store can lie at; nothing is made.

    Args:
        store: What `--store` was given as.
        out: What `--out` was given as.
        out_dir: What `--out-dir` was given as.

    Raises:
        InputError: It is one of these.
    """
    if out is not None or out_dir is not None:
        raise InputError(
            "--store keeps numbers of any number of photos, and --out and --out-dir write a page of few; give one of "
            "them, and conceptlens export for a table of the store"
        )
    check_folder(store, "--store")


def explain_to_store(
    backbone: Backbone,
    photos: Sequence[str],
    options: ExplainOptions,
    folder: Path,
    engine: Engine,
    as_json: bool,
    labels: str | None = None,
    **run: Any,
) -> None:
    """Explain into a store and print a summary; end with 2 where no photo could be explained, with 1 where some not.

    Args:
        backbone: The model.
        photos: Files, folders and patterns.
        options: What to compute for every photo.
        folder: The folder of the store.
        engine: Where to compute.
        as_json: Whether the summary is a JSON document.
        labels: What the true classes of the photos are taken from, as `true_classes` takes it.
        **run: What `explain_into` takes besides.
    """
    from conceptlens.explainer.runs.explain_run import explain_into
    from conceptlens.explainer.runs.explain_settings import run_options
    from conceptlens.explainer.runs.true_classes import true_classes
    from conceptlens.io.images import find_images
    from conceptlens.store import ExplanationStore

    start = time.perf_counter()
    paths = find_images(*photos)
    run_options(backbone, options, run["with_maps"])
    known = None if labels is None else true_classes(labels, paths, backbone)
    store = ExplanationStore(folder, create=True)  # made last, so that a refused run leaves no folder
    steps = explain_into(store, backbone, paths, options, engine=engine, true_classes=known, **run)
    last = with_progress(steps, "explaining photos", go_on=f"they are kept in {folder}; continue with --resume")
    _print_summary(store, last, time.perf_counter() - start, as_json)
    if last.failures:
        raise typer.Exit(1 if last.failures < last.photos else 2)


def _print_summary(store: ExplanationStore, last: ExplainProgress, seconds: float, as_json: bool) -> None:
    failures = store.failures(last.run)
    size = round(sum(store.bytes().values()) / max(1, store.count("images")))
    if as_json:
        print_json({
            "schema": SCHEMA,
            "store": str(store.path),
            "run": last.run,
            "photos": last.photos,
            "explained": last.photos - last.failures,
            "failed": last.failures,
            "failures": [{"image": row.name, "error": row.failure} for row in failures[:N_JSON_FAILURES]],
            "bytes_per_photo": size,
            "seconds": round(seconds, 2),
        })  # fmt: skip
        return
    print_failures(row.failure or "" for row in islice(failures, N_FAILURES))
    pace = speed_text(last.photos - last.before, seconds)
    resumed = f" ({last.before} of them before)" if last.before else ""
    typer.echo(
        f"{last.photos - last.failures} photos explained{resumed}, {last.failures} failed, in {seconds:.1f} s{pace}: "
        f"{store.path}, {size} bytes a photo"
    )
