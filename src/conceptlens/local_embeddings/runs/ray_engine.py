"""The engine that embeds on a Ray cluster: a pool of workers embeds, and this process alone writes."""

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
from conceptlens.io.torchvision_operators import mend_torchvision
from conceptlens.local_embeddings.runs.embed_batch import StoreRows
from conceptlens.local_embeddings.runs.embed_run import EmbedTask, Engine
from conceptlens.local_embeddings.runs.photo_reader import PhotoReader
from conceptlens.local_embeddings.runs.ray_connection import (
    check_address,
    check_resources,
    connected,
    first_line,
    load_ray,
)

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone

# Batches that a worker gets at once: it reads ahead within them, and they are embedded again where it dies.
BATCHES_PER_CHUNK = 4
# Chunks of one run; longer runs have more batches in a chunk, so that Ray's bookkeeping stays small.
MAX_CHUNKS = 16_384
# Attempts at a chunk at which workers die.
MAX_ATTEMPTS = 3


def ray_engine(address: str | None = None, workers: int = 1) -> Engine:
    """Return the engine that embeds on actors of a Ray cluster.

    Each worker takes one CPU, or one GPU where the model is on CUDA, and uses as many threads as torch has in this
    process. Rows are those of the local engine, in any order. Model and data set are sent once, through the cluster's
    object store; photos are read by the workers, so a folder must have the same path on every node. Workers pause
    while the object store is full of rows to write. A worker that dies is replaced and its photos are embedded again.

    Args:
        address: `HOST:PORT` or `auto`. None takes the cluster that this process is connected to, else the one that
            `RAY_ADDRESS` names, else a new one on this machine, which ends with the run.
        workers: Number of actors.

    Raises:
        InputError: Ray is missing, no cluster answers, or it lacks CPUs or GPUs for the workers.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")
    load_ray()
    if address is not None:
        check_address(address)
    return functools.partial(_embed_on_cluster, address, workers)


@dataclass(frozen=True, eq=False)
class WorkerSetup:
    """What every worker gets: the task, and torch's settings in the process that writes."""

    task: EmbedTask
    device: str
    threads: int
    precision: str
    folder: str

    def reader(self) -> PhotoReader:
        """Apply the settings to this process, and return a reader with the model on its device."""
        with suppress(OSError):
            os.chdir(self.folder)  # relative folders of photos start here
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        return PhotoReader(self.task.model.to(self.device), self.task.plan, self.task.data)


class AttemptCounter:
    """An actor that counts attempts at each chunk and outlives workers; Ray itself would retry for ever."""

    def __init__(self) -> None:
        self.attempts: Counter[int] = Counter()

    def add(self, start: int) -> int:
        """Count one more attempt at the chunk that starts at this photo, and return their number."""
        self.attempts[start] += 1
        return self.attempts[start]


class EmbedWorker:
    """An actor with one model: from chunks of photo indices to rows.

    An error is returned in place of rows, so that the user reads the same sentence as from the local engine.
    """

    def __init__(self, setup: Any, counter: Any, path: Sequence[str]) -> None:
        self.setup_reference, self.counter = setup, counter
        sys.path.extend(folder for folder in path if folder not in sys.path)  # imports as in the process that writes

    @cached_property
    def setup(self) -> WorkerSetup:
        """The setup, unpickled when first needed."""
        mend_torchvision()
        try:
            return load_ray().get(self.setup_reference)
        except Exception as error:  # unpickling runs the user's own modules, which may raise anything
            raise InputError(
                f"a worker cannot open the model or the data set ({first_line(error)}); "
                "every node needs the same packages"
            ) from None

    @cached_property
    def reader(self) -> PhotoReader:
        """The reader, with the model on this worker's device."""
        return self.setup.reader()

    def check_attempts(self, batches: Sequence[range]) -> None:
        """Raise `InputError` where `MAX_ATTEMPTS` workers died at these photos."""
        if load_ray().get(self.counter.add.remote(batches[0].start)) > MAX_ATTEMPTS:
            names = self.setup.task.data.names
            raise InputError(
                f"workers died {MAX_ATTEMPTS} times at the photos {names[batches[0].start]} to "
                f"{names[batches[-1].stop - 1]}, as they do where memory runs out; take a smaller batch or fewer "
                "workers, and resume the run"
            )

    def __call__(self, chunk: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of each batch `range(start, stop)` of a chunk, while the next one is read."""
        batches = [range(*ends) for ends in zip(chunk["start"].tolist(), chunk["stop"].tolist(), strict=True)]
        try:
            self.check_attempts(batches)
            for batch, photos in zip(batches, self.reader.ahead(batches), strict=True):
                yield _result(batch.start, self.setup.task.rows(self.reader, photos))
        except Exception as error:  # raised in the process that writes
            yield _result(-1, error)


def _result(start: int, value: StoreRows | Exception) -> dict[str, np.ndarray]:
    values = np.empty(1, object)
    values[0] = value
    return {"start": np.array([start]), "result": values}


def _embed_on_cluster(
    address: str | None, workers: int, task: EmbedTask, batches: Sequence[range]
) -> Iterator[StoreRows]:
    if not batches:
        return
    with connected(address) as ray:
        gpu = task.model.parameter.device.type == "cuda"
        check_resources(ray, workers, gpu)
        setup = _put_setup(ray, task, "cuda" if gpu else str(task.model.parameter.device))
        results = _run_workers(ray, setup, _chunks(batches, workers), workers, gpu)
        written: set[int] = set()
        try:
            for row in results:
                if isinstance(row["result"], Exception):
                    raise row["result"]
                if row["start"] not in written:  # rows of a dead worker may arrive twice
                    written.add(row["start"])
                    yield row["result"]
        except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
            raise InputError(
                f"the Ray cluster failed ({first_line(error)}); see `ray status`, and resume the run"
            ) from error
        finally:
            results.close()


def _run_workers(ray: Any, setup: Any, chunks: list[pa.Table], workers: int, gpu: bool) -> Generator[dict[str, Any]]:
    """Yield the results of the workers, one for each batch."""
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    with warnings.catch_warnings():  # Ray Data sets its own deprecated options when it is first used
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
        pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2)
        data = ray.data.from_arrow(chunks).map_batches(
            EmbedWorker, batch_size=len(chunks[0]), compute=pool, **({"num_gpus": 1} if gpu else {"num_cpus": 1}),
            fn_constructor_args=(setup, counter, sys.path),
        )  # fmt: skip
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
    yield from data.iter_rows()


def _chunks(batches: Sequence[range], workers: int) -> list[pa.Table]:
    """Return the batches in chunks of equal number: at most `MAX_CHUNKS`, and enough for every worker."""
    size = max(1, min(BATCHES_PER_CHUNK, len(batches) // (4 * workers)), -(-len(batches) // MAX_CHUNKS))
    return [
        pa.table({"start": [one.start for one in chunk], "stop": [one.stop for one in chunk]})
        for chunk in (batches[first : first + size] for first in range(0, len(batches), size))
    ]


def _put_setup(ray: Any, task: EmbedTask, device: str) -> Any:
    """Put the setup of the workers into the object store, with weights on the CPU."""
    model = replace(task.model, module=_on_cpu(task.model), text=None)
    precision = torch.get_float32_matmul_precision()
    try:
        return ray.put(WorkerSetup(replace(task, model=model), device, torch.get_num_threads(), precision, os.getcwd()))
    except Exception as error:  # pickling runs the user's own modules, which may raise anything
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"{model.name} or {task.data.name} cannot be sent to workers ({reason}); use the local engine"
        ) from None


def _on_cpu(model: Backbone) -> nn.Module:
    """Return the module with its weights on the CPU, a copy where they are elsewhere."""
    tensors = [*model.module.parameters(), *model.module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return model.module
    moved: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach().cpu(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter) else tensor.detach().cpu()
        for tensor in tensors
    }  # fmt: skip
    return copy.deepcopy(model.module, moved)
