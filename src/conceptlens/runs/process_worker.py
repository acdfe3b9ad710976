"""A worker process of a run on this machine: batches come in, results go out, the next batches are read meanwhile."""

from __future__ import annotations

import pickle
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from conceptlens.runs.run_task import RunTask
from conceptlens.runs.sent_task import sent_error


@dataclass(frozen=True)
class WorkerAnswer:
    """What a worker says: that it listens, then that it has opened the task; results of batches; or an error.

    Attributes:
        start: The first photo of the batch; `None` before the first one, or at an error.
        result: The batch's result.
        error: What ends the run.
    """

    start: int | None = None
    result: Any = None
    error: Exception | None = None


def main(file: int) -> None:
    """Work until the process that began the run closes the connection, or ends.

    Args:
        file: The file descriptor of the connection.
    """
    connection = Connection(file)
    with suppress(EOFError, OSError):  # nobody listens any more; errors of the task are answers
        _say(connection, WorkerAnswer())
        task = _opened(connection.recv_bytes())
        if isinstance(task, WorkerAnswer):
            _say(connection, task)
        else:
            _say(connection, WorkerAnswer())
            _work(connection, task)


def _opened(content: bytes) -> RunTask[Any, Any] | WorkerAnswer:
    """Return the task, on this worker's device, or what keeps it from being opened."""
    try:
        sent, device = pickle.loads(content)  # noqa: S301  # from the process that began the run
        return sent.open(device)
    except Exception as error:
        return WorkerAnswer(error=sent_error(error))


def _work(connection: Connection, task: RunTask[Any, Any]) -> None:
    """Read batches as they come, and answer each with its result, until one has an error."""
    waiting: deque[tuple[range, Future[Any]]] = deque()
    answer = WorkerAnswer()
    with ThreadPoolExecutor(1, "reader") as pool:
        while answer.error is None:
            while not waiting or connection.poll():
                batch = connection.recv()
                waiting.append((batch, pool.submit(task.read, batch)))
            answer = _computed(task, *waiting.popleft())
            _say(connection, answer)


def _computed(task: RunTask[Any, Any], batch: range, read: Future[Any]) -> WorkerAnswer:
    try:
        return WorkerAnswer(batch.start, task.compute(read.result()))
    except Exception as error:  # raised in the process that began the run
        return WorkerAnswer(error=sent_error(error))


def _say(connection: Connection, answer: WorkerAnswer) -> None:
    try:
        content = cloudpickle.dumps(answer)
    except Exception as error:  # a result of the user's own types
        content = cloudpickle.dumps(WorkerAnswer(error=sent_error(error)))
    connection.send_bytes(content)
