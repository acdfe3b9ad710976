"""`conceptlens fit head`: a linear head for one's own classes on a frozen network."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, data_option, load, option_group, run_option
from conceptlens.cli.printing import print_end, print_failures, print_json
from conceptlens.pages.number_format import counted

if TYPE_CHECKING:
    from conceptlens.heads.fit_head import FittedHead

fitting_option = option_group("Fitting")
N_CONFUSIONS = 3  # of the pairs that are confused, that many are printed


@partial(answering, interrupted="what is done is kept in --out-dir and --cache; start it again to go on")
def head(
    data: shared.ClassData,
    out_dir: Annotated[Path, shared.out_dir("the head; --model DIR opens it")],
    test: Annotated[
        str | None,
        data_option(
            metavar="SPLIT|SHARE",
            help="The photos that measure the head: a split, or the share of each class that is taken out for it. By "
            "default the split test (or val), where there is none 0.2.",
        ),
    ] = None,
    crop: Annotated[
        str, data_option(metavar="whole|box", help="Whole photos, or each cut to its annotated box.")
    ] = "whole",
    margin: Annotated[
        float, data_option(min=0, help="What is added to a box on each side, as a share of its width or height.")
    ] = 0.1,
    mirror: Annotated[bool, fitting_option("--mirror", help="Fit to mirrored train photos as well.")] = False,
    holdout: Annotated[
        float, fitting_option(help="Share of each train class that is held out to choose the ridge.")
    ] = 0.2,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    pretrained: shared.Pretrained = True,
    task: shared.TaskName = None,
    crop_mode: Annotated[str, shared.model_option(metavar="MODE", help=f"{shared.CROP_HELP}.")] = "squash",
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    cache: shared.Cache = None,
    seed: Annotated[int, run_option(min=0, help="Seed of held-out photos.")] = 0,
) -> None:
    """Fit a linear head for the classes of a data set to a model's embedding, for a model of your own classes.

    An interrupted fit goes on where it stopped when it is started again.
    """
    from conceptlens.heads.fit_head import fit_head

    start = time.perf_counter()
    made = fit_head(
        load(model, weights, pretrained, device, crop_mode=crop_mode, task=task),
        data,
        out_dir,
        test=_test(test),
        crop=crop,
        margin=margin,
        mirror=mirror,
        holdout=holdout,
        cache=cache,
        seed=seed,
        device=device,
    )
    print_failures(failure.reason for failure in made.failures)
    _print_result(made, out_dir, as_json)
    print_end(
        counted(made.head.training["photos_used"] + made.evaluation.accuracy.count, "photo"), len(made.failures), start
    )


def _test(text: str | None) -> str | float | None:
    """Return a share as a number, anything else as the name of a split."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _print_result(made: FittedHead, out: Path, as_json: bool) -> None:
    from conceptlens.heads.fit_head import evaluation_json

    training, found = made.head.training, made.evaluation
    if as_json:
        kept = ("crop", "margin", "mirror", "photos_used", "strength", "holdout_accuracy", "holdout_cross_entropy")
        print_json({
            "schema": "conceptlens.fit-head/1",
            "model": made.head.model,
            "data": training["data"],
            "dimension": made.head.weight.shape[1],
            **{name: training[name] for name in kept},
            "test": evaluation_json(found),
            "failures": [asdict(failure) for failure in made.failures],
            "out": str(out),
        })  # fmt: skip
        return
    size = made.head.weight.shape
    typer.echo(
        f"{size[0]} classes, {counted(training['photos_used'], 'photo')} of {training['data']}, embeddings of {size[1]}"
    )
    typer.echo(f"ridge {training['strength']:g}; accuracy on held-out train photos {training['holdout_accuracy']:.3f}")
    typer.echo(
        f"accuracy on {found.data} {found.accuracy} of {counted(found.accuracy.images, 'photo')}; always the "
        f"commonest class {found.commonest:.3f}"
    )
    for one in found.confusions[:N_CONFUSIONS]:
        typer.echo(f"{one.name} taken for {one.taken_for}: {counted(one.photos, 'photo')}, {one.share:.0%} of its own")
    typer.echo(f"model: {out}")
