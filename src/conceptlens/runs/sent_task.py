"""A task on its way to other processes: weights on the CPU, and torch's settings in the process that sends it."""

from __future__ import annotations

import io
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError, first_line
from conceptlens.io.torchvision_operators import mend_torchvision
from conceptlens.runs.run_task import Result, RunTask


@dataclass(frozen=True, eq=False)
class SentTensor:
    """A tensor that was not on the CPU, brought there; a parameter stays one."""

    values: Tensor
    is_parameter: bool
    requires_grad: bool

    def on(self, device: str) -> Tensor:
        """Return the tensor on a device.

        Args:
            device: Such as `cuda:1`.
        """
        moved = self.values.to(device)
        return (
            nn.Parameter(moved, self.requires_grad) if self.is_parameter else moved.requires_grad_(self.requires_grad)
        )


@dataclass(frozen=True, eq=False)
class SentTask:
    """A task as bytes, and the settings under which it computes what it would compute here.

    Attributes:
        content: The task by pickle, without the tensors that are not on the CPU.
        tensors: Those tensors.
        device: Where they were, such as `cuda:0`; `cpu` where there are none.
        threads: Threads of torch in each worker.
        precision: Torch's precision of matrix products.
        folder: The current folder, where relative paths of photos start.
        path: Where modules are imported from.
    """

    content: bytes = field(repr=False)
    tensors: tuple[SentTensor, ...] = field(repr=False)
    device: str
    threads: int
    precision: str
    folder: str
    path: tuple[str, ...]

    def open(self, device: str) -> RunTask[Any, Any]:
        """Apply the settings to this process, and return the task with its tensors on a device.

        Args:
            device: Where the tensors are put that were not on the CPU.

        Raises:
            InputError: It cannot be unpickled here.
        """
        sys.path.extend(folder for folder in self.path if folder not in sys.path)
        with suppress(OSError):
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        mend_torchvision()
        try:
            there = [one.on(device) for one in self.tensors]
            unpickler = pickle.Unpickler(io.BytesIO(self.content))  # noqa: S301  # from the process that began the run
            unpickler.persistent_load = there.__getitem__  # pyright: ignore[reportAttributeAccessIssue]
            return unpickler.load()
        except Exception as error:  # unpickling runs the user's own modules, which may raise anything
            raise InputError(
                f"a worker cannot open the model or the data set ({first_line(error)}); "
                "every worker needs the same packages"
            ) from None


def sent_task(task: RunTask[Any, Result], threads: int) -> SentTask:
    """Return a task as it is sent to workers; the task itself stays as it is.

    Args:
        task: The task.
        threads: Threads of torch in each worker.

    Raises:
        InputError: It cannot be pickled.
    """
    places: dict[int, int] = {}
    found: list[Tensor] = []
    tensors: list[SentTensor] = []

    def place(value: Any) -> int | None:
        if not _away(value):
            return None
        if id(value) not in places:
            places[id(value)] = len(found)
            found.append(value)  # kept until the end, so that no other object gets its id
            tensors.append(SentTensor(value.detach().cpu(), isinstance(value, nn.Parameter), value.requires_grad))
        return places[id(value)]

    content = io.BytesIO()
    pickler = cloudpickle.Pickler(content)  # unlike pickle, it sends what a script or notebook defines
    pickler.persistent_id = place
    try:
        pickler.dump(task)
    except Exception as error:  # pickling runs the user's own modules, which may raise anything
        reason = first_line(error.__cause__ or error)
        raise InputError(f"{task.about} cannot be sent to workers ({reason}); use the local engine") from None
    device = str(found[0].device) if found else "cpu"
    precision = torch.get_float32_matmul_precision()
    return SentTask(content.getvalue(), tuple(tensors), device, threads, precision, os.getcwd(), tuple(sys.path))


def _away(value: Any) -> bool:
    """Say whether a value is a tensor that is not on the CPU."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


def sent_error(error: Exception) -> Exception:
    """Return an error as it is sent to the process that began the run, which raises it.

    Args:
        error: What a worker raised.

    Returns:
        The error itself, or a `RuntimeError` that says the same where it does not survive pickling.
    """
    try:
        pickle.loads(cloudpickle.dumps(error))  # noqa: S301  # of this very process
    except Exception:  # an error's own `__init__` may ask for more than its message
        return RuntimeError(first_line(error))
    return error
