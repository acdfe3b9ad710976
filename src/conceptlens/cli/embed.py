"""`conceptlens embed`: local concept embeddings of a data set, into a store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.engine import LOCAL, EngineName, RayAddress, Workers, chosen_engine
from conceptlens.cli.options import answering, data_option, load, model_option, option_group
from conceptlens.cli.printing import print_excluded, print_failures, print_json
from conceptlens.cli.run_progress import with_progress
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
    from conceptlens.local_embeddings.runs.embed_run import EmbedProgress

embedding_option = option_group("Embedding")


@answering
def embed(
    data: shared.MaskedData,
    out_dir: Annotated[Path, shared.out_dir("the store")],
    split: shared.EvaluationSplit = None,
    by: Annotated[str | None, data_option(help="One mask for each category (default) or instance.")] = None,
    ignore: shared.Ignore = None,
    crowds: Annotated[str | None, data_option(help="COCO's crowd masks: ignore, join or skip.")] = None,
    shape: Annotated[str | None, data_option(help="COCO's instances as outline, box or ellipse.")] = None,
    min_area: Annotated[
        float, data_option(min=0, max=0.99, help="Leave out masks that cover a smaller share of the photo.")
    ] = 0.0,
    max_photos: Annotated[int | None, data_option(min=1, help="Embed at most this many photos.")] = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    pretrained: shared.Pretrained = True,
    layers: Annotated[
        str | None, model_option(help="Comma-separated layers to embed at; by default the last with a grid.")
    ] = None,
    input_size: Annotated[
        int | None,
        model_option(metavar="N", help="Rows and columns of the input in pixels; by default the model's own."),
    ] = None,
    crop_mode: Annotated[
        str,
        model_option(
            metavar="MODE",
            help=f"{shared.CROP_HELP}; published: LoCE's 640 x 480 pixels, not normalised.",
        ),
    ] = "squash",
    mode: Annotated[
        str, embedding_option(help="How a vector is made: mean_difference, exact, mean or paper.")
    ] = "mean_difference",
    ridge: Annotated[
        float | None, embedding_option(help="Ridge penalty of mode exact; by default 0.03 for each channel.")
    ] = None,
    control: Annotated[
        bool, embedding_option(help="Fit each vector to another photo's mask too, to measure its selectivity.")
    ] = True,
    noise: Annotated[
        str, embedding_option(help="Noise on photos: none, gaussian:0.1 or salt_and_pepper:0.05.")
    ] = "none",
    seed: Annotated[int | None, embedding_option(min=0, help="With --noise: its seed; by default 0.")] = None,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    retry_failed: shared.RetryFailed = False,
    engine: EngineName = LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    device: shared.Device = "cpu",
    autocast: shared.Autocast = False,
    channels_last: shared.ChannelsLast = False,
    batch_size: shared.BatchSize = 8,
) -> None:
    """Embed every mask of a data set (LoCE): one vector for each photo, concept and layer."""
    from conceptlens.data.masked_sets import open_set
    from conceptlens.local_embeddings.modes import FitSettings
    from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan, Noise
    from conceptlens.local_embeddings.runs.embed_run import embed_batches
    from conceptlens.store import Store

    start = time.perf_counter()
    check_folder(out_dir)
    if seed is not None and noise == "none":
        raise InputError("--seed has no effect without --noise, which it draws; leave it out")
    opened = open_set(data, split, **shared.mask_choices(by=by, crowds=crowds, shape=shape, ignore=ignore))
    fit_settings, drawn_noise = FitSettings(mode, ridge), Noise.parse(noise)  # pyright: ignore[reportArgumentType]
    run_on = chosen_engine(engine, ray_address, workers)
    print_excluded(opened.excluded)
    backbone = load(
        model, weights, pretrained, device, crop_mode="squash", autocast=autocast, channels_last=channels_last
    )
    plan = EmbedPlan(
        layers=backbone.default_layers if layers is None else tuple(shared.names_in(layers, "--layers")),
        fit_settings=fit_settings,
        min_area=min_area,
        control=control,
        batch_size=batch_size,
        input_size=None if input_size is None else (input_size, input_size),
        crop_mode=crop_mode,  # pyright: ignore[reportArgumentType]
        noise=drawn_noise,
        seed=seed or 0,
        max_photos=max_photos,
    )
    for name in plan.layers:
        backbone.check_layer(name)
    store = Store(out_dir, create=True)  # made last, so that a refused run leaves no folder
    steps = embed_batches(opened, backbone, plan, store, resume or retry_failed, run_on, retry_failed)
    last = with_progress(steps, "embedding photos", go_on=f"they are kept in {out_dir}; continue with --resume")
    _print_result(store, opened.excluded, plan, last, time.perf_counter() - start, as_json)
    if last.failures:
        raise typer.Exit(1)


def _print_result(
    store: Any, excluded: Mapping[str, str], plan: EmbedPlan, last: EmbedProgress, seconds: float, as_json: bool
) -> None:
    failures = {row.name: row.failure for row in store.failures(last.run)}
    if as_json:
        print_json({
            "schema": "conceptlens.embed/1",
            "store": str(store.path),
            "photos": last.photos,
            "embeddings": last.embeddings,
            "layers": list(plan.layers),
            "mode": plan.fit_settings.mode,
            "failures": [{"name": name, "reason": reason} for name, reason in failures.items()],
            "left_out": [{"name": name, "reason": reason} for name, reason in excluded.items()],
            "seconds": round(seconds, 2),
        })  # fmt: skip
        return
    print_failures(f"{name} is left out: {reason}" for name, reason in list(failures.items())[:5])
    typer.echo(
        f"{counted(last.embeddings, 'embedding')} of {counted(last.photos - last.failures, 'photo')} at "
        f"{', '.join(plan.layers)} ({plan.fit_settings.mode}), {last.failures} failed, in {seconds:.1f} s: {store.path}"
    )
