"""The same run on a Ray cluster: a pool of workers embeds, and this process alone writes."""

from __future__ import annotations

import copy
import functools
import os
import sys
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.runs.embed_batch import Rows
from conceptlens.local_embeddings.runs.embed_run import Engine, Task
from conceptlens.local_embeddings.runs.ray_connection import check_answers, check_room, connected, first_line, load_ray
from conceptlens.local_embeddings.runs.reader import Reader
from conceptlens.model.torchvision_operators import mend_torchvision

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# Batches that a worker is handed at once: it reads the next ones while one is at work, and loses them where it dies.
HANDED = 4
# Hands of one run at the most: longer runs hand out more batches at once, and the cluster's books stay short.
HANDS = 16_384
# How often a hand is tried where workers die of it.
TRIES = 3


def on_ray(address: str | None = None, workers: int = 1) -> Engine:
    """Return the engine that embeds on `workers` actors of the Ray cluster at `address`, `HOST:PORT` or `auto`.

    Without an address, the cluster is the one that this process is connected to, the one that `RAY_ADDRESS` names, or
    a new one on this machine, which ends with the run. Each worker takes one CPU, or one GPU where the model is on
    CUDA, and uses as many threads as torch has here. Rows are those of the local engine, in any order.

    Model and data set travel once, through the cluster's object store. Photos are read by the workers, so a folder
    must be the same on every node. What waits to be written is bounded by Ray Data: workers pause where the object
    store is full. A worker that dies is replaced and its photos are embedded again.

    Raises `InputError` where Ray is missing, no cluster answers, or it has no room for the workers.
    """
    if workers < 1:
        raise InputError(f"{workers} workers were asked for; expected at least 1")
    load_ray()
    if address is not None:
        check_answers(address)
    return functools.partial(_embedded, address, workers)


@dataclass(frozen=True, eq=False)
class Job:
    """What every worker holds; the settings of torch are those of the process that writes."""

    task: Task
    device: str
    threads: int
    precision: str
    folder: str

    def begun(self) -> Reader:
        """Set this process up as the other one is, and return the reader with the model on its device."""
        with suppress(OSError):
            os.chdir(self.folder)  # where a relative folder of photos begins
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        return Reader(self.task.model.to(self.device), self.task.plan, self.task.data)


class Tally:
    """How often each hand was begun: the one thing that outlives a worker. Ray itself would try for ever."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, start: int) -> int:
        """Count one more beginning of the hand whose first place this is."""
        self.begun[start] += 1
        return self.begun[start]


class Worker:
    """One model at work in an actor: from batches of places to rows.

    An error comes out in place of rows, so that the user reads the same sentence as of the local engine.
    """

    def __init__(self, kept: Any, tally: Any, path: Sequence[str]) -> None:
        self.kept, self.tally = kept, tally
        sys.path.extend(place for place in path if place not in sys.path)  # what can be imported there can be here

    @cached_property
    def job(self) -> Job:
        """What was sent, opened when first needed."""
        mend_torchvision()
        try:
            return load_ray().get(self.kept)
        except Exception as error:  # opening what was sent runs the user's own modules, which raise what they like
            raise InputError(
                f"a worker cannot open the model or the data set ({first_line(error)}); "
                "every node needs the same packages"
            ) from None

    @cached_property
    def reader(self) -> Reader:
        """The reader, whose model is on this worker's device."""
        return self.job.begun()

    def check_alive(self, batches: Sequence[range]) -> None:
        """Raise `InputError` where those before this worker died at the same photos."""
        if load_ray().get(self.tally.begin.remote(batches[0].start)) > TRIES:
            names = self.job.task.data.names
            raise InputError(
                f"workers died {TRIES} times at the photos {names[batches[0].start]} to {names[batches[-1].stop - 1]}, "
                "as they do where memory runs out; take a smaller batch or fewer workers, and resume the run"
            )

    def __call__(self, hand: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of each batch `range(start, stop)` of a hand, the next one being read meanwhile."""
        batches = [range(*ends) for ends in zip(hand["start"].tolist(), hand["stop"].tolist(), strict=True)]
        try:
            self.check_alive(batches)
            for places, reads in zip(batches, self.reader.ahead(batches), strict=True):
                yield _found(places.start, self.job.task.rows(self.reader, reads))
        except Exception as error:  # handed on: it is raised in the process that writes
            yield _found(-1, error)


def _found(start: int, value: Rows | Exception) -> dict[str, np.ndarray]:
    values = np.empty(1, object)
    values[0] = value
    return {"start": np.array([start]), "found": values}


def _embedded(address: str | None, workers: int, task: Task, batches: Sequence[range]) -> Iterator[Rows]:
    if not batches:
        return
    with connected(address) as ray:
        graphics = 1 if task.model.parameter.device.type == "cuda" else 0
        check_room(ray, workers, graphics)
        kept = _sent(ray, task, "cuda" if graphics else str(task.model.parameter.device))
        found = _found_on(ray, kept, _hands(batches, workers), workers, graphics)
        written: set[int] = set()
        try:
            for row in found:
                if isinstance(row["found"], Exception):
                    raise row["found"]
                if row["start"] not in written:  # what a dead worker gave may come again
                    written.add(row["start"])
                    yield row["found"]
        except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
            raise InputError(
                f"the Ray cluster gave up ({first_line(error)}); see `ray status`, and resume the run"
            ) from error
        finally:
            found.close()


def _found_on(ray: Any, kept: Any, hands: list[pa.Table], workers: int, graphics: int) -> Generator[dict[str, Any]]:
    tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tally).remote()
    with warnings.catch_warnings():  # Ray Data sets its own deprecated options when it is first used
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
        pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2)
        data = ray.data.from_arrow(hands).map_batches(
            Worker, batch_size=len(hands[0]), compute=pool, **({"num_gpus": 1} if graphics else {"num_cpus": 1}),
            fn_constructor_args=(kept, tally, sys.path),
        )  # fmt: skip
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
    yield from data.iter_rows()


def _hands(batches: Sequence[range], workers: int) -> list[pa.Table]:
    """Return the batches in hands of equal number: few enough for the cluster's books, enough for every worker."""
    size = max(1, min(HANDED, len(batches) // (4 * workers)), -(-len(batches) // HANDS))
    return [
        pa.table({"start": [one.start for one in hand], "stop": [one.stop for one in hand]})
        for hand in (batches[first : first + size] for first in range(0, len(batches), size))
    ]


def _sent(ray: Any, task: Task, device: str) -> Any:
    """Put what every worker needs into the object store, once; weights travel as those of the CPU."""
    model = replace(task.model, module=_on_cpu(task.model), text=None)
    precision = torch.get_float32_matmul_precision()
    try:
        return ray.put(Job(replace(task, model=model), device, torch.get_num_threads(), precision, os.getcwd()))
    except Exception as error:  # packing runs the user's own modules, which raise what they like
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"{model.name} or {task.data.name} cannot be sent to workers ({reason}); use the local engine"
        ) from None


def _on_cpu(model: Backbone) -> nn.Module:
    """Return the module with its weights on the CPU, the user's own being left where it is."""
    held = [*model.module.parameters(), *model.module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in held):
        return model.module
    moved: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach().cpu(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter) else tensor.detach().cpu()
        for tensor in held
    }  # fmt: skip
    return copy.deepcopy(model.module, moved)
