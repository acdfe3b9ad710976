"""`conceptlens embed`: local concept embeddings of a data set, into a store."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import (
    MODEL,
    OUTPUT,
    RUN,
    Device,
    Json,
    Model,
    Pretrained,
    Weights,
    answering,
    load,
)
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
    from conceptlens.local_embeddings.runs.embed_run import EmbedProgress, Engine

LOG_SECONDS = 30.0
DATA, EMBEDDING = "Data and masks", "Embedding"


@answering
def embed(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data set: NAME or NAME:DIR, such as coco_panoptic:DIR or drawn:50.",
            rich_help_panel=DATA,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="The store: a folder, made where it is missing.",
            rich_help_panel=OUTPUT,
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Split of the data set; by default its own for evaluation.", rich_help_panel=DATA)
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="One mask for each: category (default) or instance.", rich_help_panel=DATA),
    ] = None,
    crowds: Annotated[
        str | None, typer.Option(help="COCO's crowd masks: ignore, join or skip.", rich_help_panel=DATA)
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="COCO's instances as outline, box or ellipse.", rich_help_panel=DATA)
    ] = None,
    min_area: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Leave out masks with a smaller share of the photo.", rich_help_panel=DATA),
    ] = 0.0,
    max_photos: Annotated[
        int | None, typer.Option(min=1, help="Embed at most so many photos.", rich_help_panel=DATA)
    ] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    pretrained: Pretrained = True,
    layers: Annotated[
        str | None,
        typer.Option(help="Comma-separated names of layers; by default the model's own.", rich_help_panel=MODEL),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(help="How a vector is made: mean_difference, exact, mean or paper.", rich_help_panel=EMBEDDING),
    ] = "mean_difference",
    ridge: Annotated[
        float | None, typer.Option(help="Of mode exact; by default 0.03 for each channel.", rich_help_panel=EMBEDDING)
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            help="Rows and columns of the input in pixels; by default the model's own.", rich_help_panel=MODEL
        ),
    ] = None,
    crop_mode: Annotated[
        str,
        typer.Option(
            help="squash: the whole photo; center: a central crop; published: LoCE's 640 x 480, not normalised.",
            rich_help_panel=MODEL,
        ),
    ] = "squash",
    control: Annotated[
        bool,
        typer.Option(
            help="Fit each vector to another photo's mask too, for its selectivity.", rich_help_panel=EMBEDDING
        ),
    ] = True,
    noise: Annotated[
        str,
        typer.Option(help="Noise on photos: none, gaussian:0.1 or salt_and_pepper:0.05.", rich_help_panel=EMBEDDING),
    ] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.", rich_help_panel=EMBEDDING)] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Photos per forward pass.", rich_help_panel=RUN)
    ] = 8,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted.", rich_help_panel=RUN)
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Resume, and try photos that failed again.", rich_help_panel=RUN)
    ] = False,
    engine: Annotated[str, typer.Option(help="Where to embed: local or ray.", rich_help_panel=RUN)] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster, or auto; by default a new one here.", rich_help_panel=RUN),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of Ray workers, each with its own model.", rich_help_panel=RUN)
    ] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Embed every mask of a data set (LoCE): one vector for each photo, concept and layer."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.local_embeddings.modes import FitSettings
    from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan, Noise
    from conceptlens.local_embeddings.runs.embed_run import embed_batches
    from conceptlens.store import Store

    start = time.perf_counter()
    choices = {name: value for name, value in (("by", by), ("crowds", crowds), ("shape", shape)) if value is not None}
    opened = open_set(data, split, **choices)
    backbone = load(model, weights, None, pretrained, crop_mode="squash", device=device)
    plan = EmbedPlan(
        layers=_names(layers) or backbone.default_layers, fit_settings=FitSettings(mode, ridge), min_area=min_area,  # pyright: ignore[reportArgumentType]
        control=control, batch_size=batch_size, input_size=None if input_size is None else (input_size, input_size),
        crop_mode=crop_mode, noise=Noise.parse(noise), seed=seed, max_photos=max_photos,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    for name in plan.layers:
        backbone.check_layer(name)
    run_on = _engine(engine, ray_address, workers)
    store = Store(out, create=True)  # made last, so that a refused run leaves no folder
    last = _with_progress(embed_batches(opened, backbone, plan, store, resume or retry_failed, run_on, retry_failed))
    _print_result(store, plan, last, time.perf_counter() - start, as_json)
    if last.failures:
        raise typer.Exit(1)


def _names(layers: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (layers or "").split(",") if name.strip()))
    if layers is not None and not names:
        raise InputError(
            f"--layers is {layers!r}, which names no layer; give names with commas between, or leave it out"
        )
    return names


def _engine(name: str, address: str | None, workers: int) -> Engine:
    from conceptlens.local_embeddings.runs.embed_run import local_engine

    if name == "local":
        return local_engine
    if name != "ray":
        raise InputError(f"engine is '{name}'; expected local or ray")
    from conceptlens.local_embeddings.runs.ray_engine import ray_engine

    return ray_engine(address, workers)


def _with_progress(batches: Iterable[EmbedProgress]) -> EmbedProgress:
    """Show photos done, their rate and the time left; return the last progress."""
    from conceptlens.io.progress import progress_bar

    last = None
    with _interrupted(lambda: last), progress_bar("embedding photos") as update:
        start, first = time.perf_counter(), 0
        logged = start
        for last in batches:
            first = first or last.photos
            rate = (last.photos - first) / max(1e-9, time.perf_counter() - start)
            if update is not None:
                update(last.photos, last.total, f"embedding photos, {rate:.1f} a second")
            elif time.perf_counter() - logged > LOG_SECONDS:  # a log has no bar
                logged, left = time.perf_counter(), (last.total - last.photos) / max(1e-9, rate)
                typer.echo(f"{last.photos} of {last.total} photos, {rate:.1f} a second, {left:.0f} s left", err=True)
    if last is None:
        raise InputError("the data set has no photo; choose another one or another split")
    return last


@contextmanager
def _interrupted(reached: Callable[[], EmbedProgress | None]) -> Iterator[None]:
    """On Ctrl-C, print how far the run is and how to continue it."""
    try:
        yield
    except KeyboardInterrupt:
        last = reached()
        at = "before the first photo" if last is None else f"after {last.photos} of {last.total} photos"
        typer.echo(f"interrupted {at}; continue with --resume", err=True)
        raise typer.Exit(130) from None


def _print_result(store: Any, plan: EmbedPlan, last: EmbedProgress, seconds: float, as_json: bool) -> None:
    failures = {row.name: row.failure for row in store.failures(last.run)}
    if as_json:
        result = {
            "schema": "conceptlens.embed/1", "store": str(store.path), "photos": last.photos,
            "embeddings": last.embeddings, "layers": list(plan.layers), "mode": plan.fit_settings.mode,
            "failures": [{"name": name, "reason": reason} for name, reason in failures.items()],
            "seconds": round(seconds, 2),
        }  # fmt: skip
        typer.echo(json.dumps(result, indent=1))
        return
    for name, reason in list(failures.items())[:5]:
        typer.echo(f"left out {name}: {reason}", err=True)
    typer.echo(
        f"{last.embeddings} embeddings of {last.photos - last.failures} photos at {', '.join(plan.layers)} "
        f"({plan.fit_settings.mode}), {last.failures} failed, in {seconds:.1f} s: {store.path}"
    )
