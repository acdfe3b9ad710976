"""The engine of a Ray cluster: a pool of workers computes, and this process alone writes."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from conceptlens.io.errors import InputError, first_line
from conceptlens.runs.local_engine import read_ahead
from conceptlens.runs.ray_connection import check_address, check_resources, connected, load_ray
from conceptlens.runs.run_task import Engine, Result, RunTask
from conceptlens.runs.sent_task import SentTask, sent_error, sent_task
from conceptlens.runs.worker_deaths import MAX_ATTEMPTS, too_many_deaths

# Batches that a worker gets at once: it reads ahead within them, and they are computed again where it dies.
BATCHES_PER_CHUNK = 4
# Chunks of one run; longer runs have more batches in a chunk, so that Ray's bookkeeping stays small.
MAX_CHUNKS = 16_384


def ray_engine(address: str | None = None, workers: int = 1) -> Engine:
    """Return the engine that computes on actors of a Ray cluster.

    Each worker takes one CPU, or one GPU where the model is on CUDA, and uses as many threads as torch has in this
    process. Results are those of the local engine, in any order. The task, with its model and data set, is sent once,
    through the cluster's object store; photos are read by the workers, so a folder must have the same path on every
    node. Workers pause while the object store is full of results. A worker that dies is replaced, and its batches are
    computed again.

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
    return functools.partial(_run_on_cluster, address, workers)


class AttemptCounter:
    """An actor that counts attempts at each chunk and outlives workers; Ray itself would retry for ever."""

    def __init__(self) -> None:
        self.attempts: Counter[int] = Counter()

    def add(self, start: int) -> int:
        """Count one more attempt at the chunk that starts at this photo, and return their number."""
        self.attempts[start] += 1
        return self.attempts[start]


class RayWorker:
    """An actor with one copy of the task: from chunks of batches to results.

    An error is returned in place of a result, so that the user reads the same sentence as from the local engine.
    """

    def __init__(self, sent: Any, counter: Any, device: str | None) -> None:
        self.sent, self.counter, self.device = sent, counter, device

    @cached_property
    def task(self) -> RunTask[Any, Any]:
        """The task on this worker's device, unpickled when first needed."""
        sent: SentTask = load_ray().get(self.sent)
        return sent.open(self.device or sent.device)

    def check_attempts(self, batches: Sequence[range]) -> None:
        """Raise `InputError` where `MAX_ATTEMPTS` workers died at these photos."""
        if load_ray().get(self.counter.add.remote(batches[0].start)) > MAX_ATTEMPTS:
            raise too_many_deaths(self.task.names, batches)

    def __call__(self, chunk: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the result of each batch `range(start, stop)` of a chunk, while the next one is read."""
        batches = [range(*ends) for ends in zip(chunk["start"].tolist(), chunk["stop"].tolist(), strict=True)]
        try:
            self.check_attempts(batches)
            for batch, read in zip(batches, read_ahead(self.task.read, batches), strict=True):
                yield _row(batch.start, self.task.compute(read))
        except Exception as error:  # raised in the process that began the run
            yield _row(-1, sent_error(error))


def _row(start: int, value: Any) -> dict[str, np.ndarray]:
    values = np.empty(1, object)
    values[0] = value
    return {"start": np.array([start]), "result": values}


def _run_on_cluster(
    address: str | None, workers: int, task: RunTask[Any, Result], batches: Sequence[range]
) -> Iterator[Result]:
    if not batches:
        return
    with connected(address) as ray:
        sent = sent_task(task, torch.get_num_threads())
        gpu = sent.device.startswith("cuda")
        check_resources(ray, workers, gpu)
        results = _run_workers(ray, ray.put(sent), _chunks(batches, workers), workers, gpu)
        seen: set[int] = set()
        try:
            for row in results:
                if row["start"] < 0:
                    raise row["result"]
                if row["start"] not in seen:  # results of a dead worker may arrive twice
                    seen.add(row["start"])
                    yield row["result"]
        except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
            raise InputError(
                f"the Ray cluster failed ({first_line(error)}); see `ray status`, and resume the run"
            ) from error
        finally:
            results.close()


def _run_workers(ray: Any, sent: Any, chunks: list[pa.Table], workers: int, gpu: bool) -> Generator[dict[str, Any]]:
    """Yield the results of the workers, one for each batch."""
    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    with warnings.catch_warnings():  # Ray Data sets its own deprecated options when it is first used
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
        pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2)
        data = ray.data.from_arrow(chunks).map_batches(
            RayWorker, batch_size=len(chunks[0]), compute=pool, **({"num_gpus": 1} if gpu else {"num_cpus": 1}),
            fn_constructor_args=(sent, counter, "cuda" if gpu else None),  # each worker sees its own GPU alone
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
