"""`conceptlens embed`: local concept embeddings of a data set, into a store."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli.options import Device, Json, Labels, Model, Pretrained, Weights, answering, load
from conceptlens.io.errors import InputError
from conceptlens.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conceptlens.local_embeddings.runs.embed_run import Engine, Progress
    from conceptlens.local_embeddings.runs.plan import EmbedPlan

LOG_SECONDS = 30.0

Data = Annotated[str, typer.Option("--data", "-d", help="NAME or NAME:DIR, such as coco_panoptic:DIR or drawn:50.")]
StoreFolder = Annotated[Path, typer.Option("--out", "-o", help="The store: a folder, made where it is missing.")]
LayerNames = Annotated[
    str | None, typer.Option("--layers", help="Comma-separated; by default the last that reaches the answer.")
]
ModeName = Annotated[str, typer.Option("--mode", help="contrast, exact, mean or paper.")]


@answering
def embed(
    data: Data,
    out: StoreFolder,
    split: Annotated[str | None, typer.Option(help="By default the set's own for evaluation.")] = None,
    model: Model = DEFAULT_MODEL,
    weights: Weights = None,
    labels: Labels = None,
    pretrained: Pretrained = True,
    layers: LayerNames = None,
    mode: ModeName = "contrast",
    ridge: Annotated[float | None, typer.Option(help="Of mode exact; by default 0.03 for each channel.")] = None,
    size: Annotated[int | None, typer.Option(help="Rows and columns of the input; by default the model's own.")] = None,
    reading: Annotated[str, typer.Option(help="model: its own preparation; published: LoCE's 640 x 480.")] = "model",
    least_share: Annotated[
        float, typer.Option(min=0, max=0.99, help="Leave out masks that cover less of the photo.")
    ] = 0.0,
    by: Annotated[str | None, typer.Option(help="category: one mask for each; instance: one for each object.")] = None,
    crowds: Annotated[str | None, typer.Option(help="COCO's crowds: ignore, join or skip.")] = None,
    shape: Annotated[str | None, typer.Option(help="COCO's instances as outline, box or ellipse.")] = None,
    control: Annotated[bool, typer.Option(help="Fit each vector to another photo's mask too.")] = True,
    noise: Annotated[
        str, typer.Option(help="gaussian:0.1 or salt_and_pepper:0.05, to see how firm they are.")
    ] = "none",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Photos per forward pass.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Embed only so many photos.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the noise.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="The same, and try photos again that failed.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="An existing Ray cluster; by default one on this machine.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Of the engine ray: how many models are at work.")] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Embed every mask of a data set: one vector for each photo, concept and layer."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.local_embeddings.modes import Setting
    from conceptlens.local_embeddings.runs.embed_run import embed as run
    from conceptlens.local_embeddings.runs.noise import Noise
    from conceptlens.local_embeddings.runs.plan import EmbedPlan
    from conceptlens.store import Store

    start = time.perf_counter()
    choices = {name: value for name, value in (("by", by), ("crowds", crowds), ("shape", shape)) if value is not None}
    opened = open_set(data, split, **choices)
    backbone = load(model, weights, labels, pretrained, fit="squash", device=device)
    plan = EmbedPlan(
        layers=_names(layers) or backbone.default_layers, setting=Setting(mode, ridge), least_area=least_share,  # pyright: ignore[reportArgumentType]
        control=control, batch_size=batch_size, size=None if size is None else (size, size), reading=reading,  # pyright: ignore[reportArgumentType]
        noise=Noise.parse(noise), seed=seed, most=limit,
    )  # fmt: skip
    for name in plan.layers:
        backbone.check_layer(name)
    on = _engine(engine, ray_address, workers)
    store = Store(out, create=True)  # nothing is made for a run that cannot be
    last = _shown(run(opened, backbone, plan, store, resume or retry, on, retry))
    _tell(store, plan, last, time.perf_counter() - start, as_json)
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
    from conceptlens.local_embeddings.runs.embed_run import local

    if name == "local":
        return local
    if name != "ray":
        raise InputError(f"engine is '{name}'; expected local or ray")
    from conceptlens.local_embeddings.runs.ray_cluster import on_ray

    return on_ray(address, workers)


def _shown(found: Iterable[Progress]) -> Progress:
    """Show how far the run is, at what rate, and what is left of the time; return where it ended."""
    from conceptlens.io.progress import progress_bar

    last = None
    with _interrupted(lambda: last), progress_bar("embedding photos") as update:
        begun, first = time.perf_counter(), 0
        told = begun
        for last in found:
            first = first or last.photos
            rate = (last.photos - first) / max(1e-9, time.perf_counter() - begun)
            if update is not None:
                update(last.photos, last.total, f"embedding photos, {rate:.1f} a second")
            elif time.perf_counter() - told > LOG_SECONDS:  # a log has no bar
                told, left = time.perf_counter(), (last.total - last.photos) / max(1e-9, rate)
                typer.echo(f"{last.photos} of {last.total} photos, {rate:.1f} a second, {left:.0f} s left", err=True)
    if last is None:
        raise InputError("the data set has no photo; choose another one or another split")
    return last


@contextmanager
def _interrupted(reached: Callable[[], Progress | None]) -> Iterator[None]:
    """Say where a run was cut off, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        last = reached()
        at = "before the first photo" if last is None else f"after {last.photos} of {last.total} photos"
        typer.echo(f"interrupted {at}; go on with --resume", err=True)
        raise typer.Exit(130) from None


def _tell(store: Any, plan: EmbedPlan, last: Progress, seconds: float, as_json: bool) -> None:
    failures = {row.name: row.failure for row in store.failures(last.run)}
    if as_json:
        told = {
            "schema": "conceptlens.local_embeddings.runs/1", "store": str(store.path), "photos": last.photos,
            "embeddings": last.embeddings, "layers": list(plan.layers), "mode": plan.setting.mode,
            "failures": [{"name": name, "reason": reason} for name, reason in failures.items()],
            "seconds": round(seconds, 2),
        }  # fmt: skip
        typer.echo(json.dumps(told, indent=1))
        return
    for name, reason in list(failures.items())[:5]:
        typer.echo(f"left out {name}: {reason}", err=True)
    typer.echo(
        f"{last.embeddings} embeddings of {last.photos - last.failures} photos at {', '.join(plan.layers)} "
        f"({plan.setting.mode}), {last.failures} failed, in {seconds:.1f} s: {store.path}"
    )
