"""The engine of several processes on this machine: workers compute, and this process alone writes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pickle import loads
from typing import Any

import cloudpickle
import torch

from conceptlens.io.errors import InputError
from conceptlens.runs.local_engine import N_READ_AHEAD
from conceptlens.runs.process_worker import WorkerAnswer
from conceptlens.runs.run_task import Engine, Result, RunTask
from conceptlens.runs.sent_task import SentTask, sent_task
from conceptlens.runs.worker_deaths import MAX_ATTEMPTS, too_many_deaths

# Batches that a worker has at once: one at work, and those that are read ahead.
N_WAITING = 1 + N_READ_AHEAD
# In which a worker ends by itself once its connection is closed.
END_SECONDS = 5.0
# Numpy's libraries read their threads from these when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
START = "from conceptlens.runs.process_worker import main; main({})"


def process_engine(workers: int = 2) -> Engine:
    """Return the engine that computes in several processes of this machine.

    Each worker has its own copy of the task, reads ahead, and takes a fair share of the threads that torch has in this
    process; where weights are on CUDA, workers take one GPU after the other. Results are those of the local engine, in
    any order, to the last bit where torch has as many threads. A worker that dies is replaced, and its batches are
    computed again. Linux and macOS.

    Args:
        workers: Number of processes.

    Raises:
        InputError: There are fewer than one, or this is Windows.
    """
    if sys.platform == "win32":
        raise InputError(
            "several processes need Linux or macOS, which lend a worker their end of a pipe; use the local engine"
        )
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")
    return functools.partial(_run_in_processes, workers)


@dataclass(eq=False)
class LocalWorker:
    """A worker process, and the batches that it has.

    Attributes:
        process: The process.
        connection: This side of the pipe to it.
        place: Its number among the workers, which says its GPU.
        listens: Whether it has loaded the package, and was sent the task.
        ready: Whether it has opened the task.
        waiting: The batches that it was given and has not answered.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    place: int
    listens: bool = False
    ready: bool = False
    waiting: list[range] = field(default_factory=list)

    def go_on(self, sent: SentTask) -> None:
        """Send the task to a worker that listens; take one that has it for ready."""
        if self.listens:
            self.ready = True
            return
        self.listens = True
        with suppress(OSError):  # it died, which is seen when it is listened to
            self.connection.send_bytes(cloudpickle.dumps((sent, _device(sent.device, self.place))))

    def give(self, batch: range) -> None:
        """Send a batch."""
        self.waiting.append(batch)
        with suppress(OSError):
            self.connection.send(batch)

    def hear(self) -> WorkerAnswer | None:
        """Return what the worker says; `None` where it died."""
        try:
            content = self.connection.recv_bytes()
        except (EOFError, OSError):
            return None
        answer: WorkerAnswer = loads(content)  # noqa: S301  # from a process of this run
        self.waiting = [batch for batch in self.waiting if batch.start != answer.start]
        return answer

    def end(self) -> None:
        """End the process: at once where it is at work."""
        if self.waiting or not self.ready:
            self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _run_in_processes(workers: int, task: RunTask[Any, Result], batches: Sequence[range]) -> Iterator[Result]:
    """Yield results as they come; batches of a worker that dies go to the next one."""
    if not batches:
        return
    left, deaths = deque(batches), Counter[int | None]()
    count = min(workers, len(batches))
    sent = sent_task(task, max(1, torch.get_num_threads() // count))
    crew: list[LocalWorker] = []
    try:
        crew.extend(_start(sent, place) for place in range(count))
        while left or any(one.waiting for one in crew):
            _share_out(crew, left)
            for one in _heard(crew):
                answer = one.hear()
                if answer is None:
                    _count_death(deaths, one, task)
                    left.extendleft(reversed(one.waiting))
                    crew[crew.index(one)] = _start(sent, one.place)
                elif answer.error is not None:
                    raise answer.error
                elif answer.start is None:
                    one.go_on(sent)
                else:
                    yield answer.result
    finally:
        for one in crew:
            one.connection.close()
        for one in crew:
            one.end()


def _start(sent: SentTask, place: int) -> LocalWorker:
    """Start a worker in a process group of its own, which Ctrl-C in a terminal does not reach."""
    here, there = Pipe()
    threads = dict.fromkeys(THREAD_VARIABLES, str(sent.threads))
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with there:
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(there.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a module prints must not mix with the command's result
            env={**os.environ, **threads, "PYTHONPATH": path},
            pass_fds=(there.fileno(),),
            process_group=0,
        )
    return LocalWorker(process, here, place)


def _device(device: str, place: int) -> str:
    """Return the device of a worker: the task's own for the first, the next GPUs for the others."""
    kind, _, index = device.partition(":")
    return f"cuda:{(int(index or 0) + place) % torch.cuda.device_count()}" if kind == "cuda" else device


def _share_out(crew: Sequence[LocalWorker], left: deque[range]) -> None:
    """Give batches to the workers that have fewest: several to read ahead, one each at the end of the run."""
    ready = [one for one in crew if one.ready]
    while ready and left:
        one = min(ready, key=lambda worker: len(worker.waiting))
        if len(one.waiting) >= (N_WAITING if len(left) > N_WAITING * len(crew) else 1):
            return
        one.give(left.popleft())


def _heard(crew: Sequence[LocalWorker]) -> list[LocalWorker]:
    """Wait until workers say something or die, and return them."""
    said = wait([one.connection for one in crew])
    return [one for one in crew if one.connection in said]


def _count_death(deaths: Counter[int | None], worker: LocalWorker, task: RunTask[Any, Any]) -> None:
    """Count a death for each batch that the worker had, or for the start of workers, and refuse too many."""
    worker.connection.close()
    code = worker.process.wait()
    starts = [batch.start for batch in worker.waiting] or [None]
    deaths.update(starts)
    if max(deaths[start] for start in starts) < MAX_ATTEMPTS:
        return
    if worker.waiting:
        raise too_many_deaths(task.names, worker.waiting)
    ended = f"by signal {-code}" if code < 0 else f"with code {code}"
    raise InputError(
        f"{MAX_ATTEMPTS} worker processes ended {ended} before they were at work, as they do where memory runs out; "
        "take fewer workers, or use the local engine"
    )
