"""Where a long run is computed: the options of all commands that run on engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from conceptlens.cli.options import refuse_unused, run_option
from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from conceptlens.runs.run_task import Engine

LOCAL, PROCESS, RAY = "local", "process", "ray"
# Of `process` and of `ray`, where none are named.
N_WORKERS = {PROCESS: 2, RAY: 1}

EngineName = Annotated[
    str,
    run_option(
        "--engine",
        metavar=f"{LOCAL}|{PROCESS}|{RAY}",
        help="Where to compute: in this process, in several processes here, or on a Ray cluster.",
    ),
]
RayAddress = Annotated[str | None, run_option(help="HOST:PORT of a Ray cluster, or auto; by default a new one here.")]
Workers = Annotated[
    int | None,
    run_option(
        min=1,
        metavar="N",
        help="Number of workers, each with its own model; by default {process} processes, or {ray} on Ray.".format(
            **N_WORKERS
        ),
    ),
]


def chosen_engine(name: str, ray_address: str | None, workers: int | None) -> Engine:
    """Return the engine that the options name.

    Args:
        name: What `--engine` was given as.
        ray_address: What `--ray-address` was given as; `None` where it was not given.
        workers: What `--workers` was given as; `None` where it was not given.

    Raises:
        InputError: There is no such engine, an option has no effect on it, or it cannot be reached.
    """
    if name not in (LOCAL, PROCESS, RAY):
        raise InputError(f"--engine {name} is given; expected {LOCAL}, {PROCESS} or {RAY}")
    if name != RAY:
        refuse_unused({"--ray-address": ray_address}, "without --engine ray; leave it out")
    if name == LOCAL:
        refuse_unused({"--workers": workers}, "without --engine ray or --engine process; leave it out")
        from conceptlens.runs.local_engine import local_engine

        return local_engine
    count = N_WORKERS[name] if workers is None else workers
    if name == PROCESS:
        from conceptlens.runs.process_engine import process_engine

        return process_engine(count)
    from conceptlens.runs.ray_engine import ray_engine

    return ray_engine(ray_address, count)
