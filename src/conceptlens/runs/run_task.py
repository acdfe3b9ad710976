"""What a run does with each batch of photos, and what an engine is: neither knows what the run is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

Read = TypeVar("Read")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class RunTask(Protocol[Read, Result_co]):
    """What a run does with each batch; every worker gets a copy of it, by pickle.

    A batch is a range of indices of photos, such as `range(16, 24)`. What fails in one photo belongs into the result
    of its batch: an error that `read` or `compute` raises ends the run.
    """

    @property
    def about(self) -> str:
        """What is sent to workers, for sentences: the names of model and data."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """What the photos are called, by index."""
        ...

    def read(self, batch: range) -> Read:
        """Read a batch; called in a thread while `compute` is at work on the one before.

        Args:
            batch: Indices of photos.
        """
        ...

    def compute(self, read: Read) -> Result_co:
        """Return the result of a batch.

        Args:
            read: What `read` returned.
        """
        ...


class Engine(Protocol):
    """Where batches are computed: `local_engine`, `process_engine(...)` or `ray_engine(...)`."""

    def __call__(self, task: RunTask[Any, Result], batches: Sequence[range], /) -> Iterator[Result]:
        """Yield one result for each batch, in any order.

        Args:
            task: What is done with a batch.
            batches: Ranges of photos that do not overlap.
        """
        ...
