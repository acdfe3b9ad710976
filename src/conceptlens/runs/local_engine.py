"""The engine of this process: one batch after the other, the next ones being read meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from conceptlens.runs.run_task import Read, Result, RunTask

Batch = TypeVar("Batch")

# Batches that are read ahead of the one at work.
N_READ_AHEAD = 2


def local_engine(task: RunTask[Any, Result], batches: Sequence[range]) -> Iterator[Result]:
    """Compute in this process, while a thread reads the next batches.

    Args:
        task: What is done with a batch.
        batches: Ranges of photos.

    Yields:
        The result of each batch, in their order.
    """
    for read in read_ahead(task.read, batches):
        yield task.compute(read)


def batches_of(count: int, size: int) -> list[range]:
    """Return batches of `size` photos, in their order; the last one may have fewer.

    Args:
        count: How many photos there are.
        size: Photos of a batch.
    """
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def read_ahead(read: Callable[[Batch], Read], batches: Iterable[Batch]) -> Iterator[Read]:
    """Yield what was read of each batch, a thread reading the next `N_READ_AHEAD` meanwhile.

    Args:
        read: Reads one batch.
        batches: The batches, in their order.

    Yields:
        What `read` returned, in their order.
    """
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(1, "reader") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(read, batch))
                if len(waiting) > N_READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # a run that is left reads no more
            for later in waiting:
                later.cancel()
