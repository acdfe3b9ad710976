"""Training by steps on random batches: one process or many, broken off and resumed, with the same result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.io.progress import progress
from conceptlens.training.checkpoint import first_state, load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator
    from jaxtyping import Int

    Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steps:
    """How a network is trained: `count` steps of `batch` rows, AdamW, the rate falling to 0 over the second half."""

    count: int
    batch: int
    rate: float
    decay: float = 0.0


class Task(Protocol):
    """What is trained, on what, and for what."""

    @property
    def network(self) -> nn.Module:
        """What is trained, where it is."""
        ...

    @property
    def rows(self) -> int:
        """How many rows batches are drawn from."""
        ...

    def loss(
        self, network: nn.Module, mine: Int[Tensor, "row"], whole: Int[Tensor, "row"], gather: Gather, done: float
    ) -> Tensor:
        """Return the loss of a batch `whole`, of which this process computes `mine`, a share `done` into the training.

        `gather` brings together what all processes made, in the order of `whole`, and gradients go back through it.
        """
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """Where and with what a task is trained: `about` is its configuration, `every` the seconds between checkpoints."""

    accelerator: Accelerator
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    every: float = 30.0


def train_steps(
    task: Task, steps: Steps, run: Run, report: Callable[[int, float], None] = lambda step, loss: None
) -> None:
    """Train `task.network`, or go on from the checkpoint in the run's folder; it ends on the device where it was.

    `report` is called with the number of steps done and the last loss.
    """
    accelerator, network = run.accelerator, task.network
    if steps.batch % accelerator.num_processes:
        raise InputError(
            f"a batch of {steps.batch} rows cannot be shared by {accelerator.num_processes} processes; "
            f"give a multiple of {accelerator.num_processes}"
        )
    home = next(network.parameters()).device
    network.to(accelerator.device)
    optimiser: Any = torch.optim.AdamW(network.parameters(), lr=steps.rate, weight_decay=steps.decay)
    state = first_state(run.seed)
    found = load_state(run.folder, run.about)
    if found is not None:
        state, weights, kept = found
        network.load_state_dict(weights)
        optimiser.load_state_dict({"state": kept, "param_groups": optimiser.state_dict()["param_groups"]})
    prepared, optimiser = accelerator.prepare(network, optimiser)
    saved = time.monotonic()
    shuffler = torch.Generator()
    shuffler.set_state(state.order)
    left = range(state.step, steps.count)
    with _log(run, state.step) as log:
        for step in progress(left, len(left), run.folder.name, visible=accelerator.is_main_process):
            rows = _shares(task.rows, steps.batch, shuffler, accelerator)
            loss = task.loss(prepared, *rows, _gather(accelerator), step / steps.count)
            _move(loss, optimiser, steps, step, accelerator)
            state = replace(state, step=step + 1, order=shuffler.get_state())
            report(state.step, float(loss.detach()))
            log("loss", float(loss.detach()), state.step)
            due = (
                time.monotonic() - saved >= run.every or state.step == steps.count
            )  # a training that ended is not redone
            if due and accelerator.is_main_process:
                save_state(run.folder, state, network.state_dict(), optimiser.state_dict(), run.about)
                saved = time.monotonic()
    network.to(home)


def _move(loss: Tensor, optimiser: Any, steps: Steps, step: int, accelerator: Accelerator) -> None:
    """Take one step down the loss; the rate falls to 0 over the second half."""
    if not bool(loss.isfinite()):
        raise InputError(f"the loss is {float(loss.detach())} at step {step + 1}: training diverged; lower the rate")
    for group in optimiser.param_groups:
        group["lr"] = steps.rate * min(1.0, 2 * (1 - step / steps.count))
    optimiser.zero_grad()
    accelerator.backward(loss)
    optimiser.step()


def _shares(rows: int, batch: int, shuffler: torch.Generator, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Return this process's rows of the next batch, and the whole batch in the order in which it is gathered."""
    drawn = torch.randint(rows, (batch,), generator=shuffler)
    parts = [drawn[process :: accelerator.num_processes] for process in range(accelerator.num_processes)]
    return parts[accelerator.process_index], torch.cat(parts)


def _gather(accelerator: Accelerator) -> Gather:
    """Return a function that joins tensors of all processes; each process then has the loss of the whole batch.

    Its gradient sums over the processes, and theirs are averaged: together that is the gradient of the one loss.
    """
    if accelerator.num_processes == 1:
        return lambda mine: mine
    from torch.distributed.nn.functional import all_gather

    def gather(mine: Tensor) -> Tensor:
        whole = torch.cat(all_gather(mine.contiguous()))
        if whole.requires_grad:  # its gradient is sent as it lies in memory
            whole.register_hook(Tensor.contiguous)
        return whole

    return gather


@contextmanager
def _log(run: Run, step: int) -> Iterator[Callable[[str, float, int], None]]:
    """Yield what writes to TensorBoard on the main process, and nowhere else."""
    if not run.accelerator.is_main_process:
        yield lambda name, value, at: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.folder / "logs"), purge_step=step)
    try:
        yield lambda name, value, at: writer.add_scalar(name, value, at)
    finally:
        writer.close()
