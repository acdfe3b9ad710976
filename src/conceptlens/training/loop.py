"""The training loop: by steps or epochs, in one process or many, and resumed from a checkpoint with the same result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.io.progress import progress_bar
from conceptlens.training.checkpoint import TrainingState, first_state, load_state, save_state
from conceptlens.training.schedule import Schedule, StepSchedule

if TYPE_CHECKING:
    from accelerate import Accelerator
    from jaxtyping import Int
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    Gather = Callable[[Tensor], Tensor]


class TrainingTask(Protocol):
    """A network, the rows that it is trained on, and its loss."""

    @property
    def network(self) -> nn.Module:
        """The network, trained in place."""
        ...

    @property
    def rows(self) -> int:
        """The number of rows that batches are drawn from."""
        ...

    def loss(
        self, network: nn.Module, own: Int[Tensor, "own"], batch: Int[Tensor, "row"], gather: Gather, done: float, /
    ) -> Tensor:
        """Return the loss of one batch; the mean over processes is the loss of the whole batch.

        Args:
            network: `self.network`, wrapped where there are several processes.
            own: The rows of this process.
            batch: The rows of all processes, in the order in which `gather` joins them.
            gather: Joins tensors of equal shape of all processes along axis 0; gradients go back through it.
            done: Share of the training that is done, from 0 to 1.
        """
        ...


# The losses of the validation rows by name, after an epoch; "validation" is the one that counts.
Validate = Callable[[], dict[str, float]]


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """Where and with what a task is trained.

    Args:
        accelerator: The processes.
        folder: Folder of the checkpoint and of the TensorBoard logs.
        configuration: What identifies the run; a checkpoint of another configuration is refused.
        seed: Seed of the order of rows.
        checkpoint_seconds: Seconds between checkpoints.
        device: Where the network is trained; by default the accelerator's.
    """

    accelerator: Accelerator
    folder: Path
    configuration: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    checkpoint_seconds: float = 30.0
    device: torch.device | None = None


def train_network(
    task: TrainingTask, schedule: Schedule, run: TrainingRun, validate: Validate | None = None
) -> TrainingState:
    """Train `task.network` in place, or resume from the checkpoint in the run's folder.

    An interrupted and resumed run ends with the same bits as one that was not interrupted. The network returns to the
    device where it was.

    Args:
        task: Network, rows and loss.
        schedule: Batches, learning rates and number of steps.
        run: Processes, folder and seed.
        validate: Returns the validation losses after each epoch; without it nothing is validated.

    Returns:
        The state at the end: steps, history and, with `validate`, the weights of the lowest validation loss.

    Raises:
        InputError: Where a loss is not finite, a batch cannot be shared by the processes, or the folder holds the
            checkpoint of another run.
    """
    accelerator, network = run.accelerator, task.network
    if isinstance(schedule, StepSchedule) and schedule.batch_size % accelerator.num_processes:
        raise InputError(
            f"a batch of {schedule.batch_size} rows cannot be shared by {accelerator.num_processes} processes; "
            f"give a multiple of {accelerator.num_processes}"
        )
    home = next(network.parameters()).device
    network.to(run.device or accelerator.device)
    optimiser = schedule.new_optimiser(network)
    plateau = schedule.plateau(optimiser)
    state = _restored(run, network, optimiser, plateau) or first_state(run.seed)
    prepared, prepared_optimiser = accelerator.prepare(network, optimiser)
    shuffler, main = torch.Generator(), accelerator.is_main_process
    total = schedule.epochs * schedule.steps_per_epoch(task.rows)
    with _log(run, state.step) as log, progress_bar(run.folder.name, total, visible=main) as update:
        loop = _Loop(task, schedule, run, prepared, prepared_optimiser, plateau, log, [time.monotonic()])
        while state.epoch < schedule.epochs and (schedule.stop is None or state.since_best < schedule.stop):
            shuffler.set_state(state.generator)
            for rows in islice(schedule.batches(task.rows, shuffler), state.batch, None):
                state = loop.step(state, rows, total)
                update(state.step, None, _progress_text(state, schedule, run))
            losses = {} if validate is None else validate()
            state = loop.epoch(replace(state, generator=shuffler.get_state()), losses)
        loop.save(state)
    network.to(home)
    return state


@dataclass(frozen=True, eq=False)
class _Loop:
    """A run at work; `prepared` is the task's network, wrapped where there are several processes."""

    task: TrainingTask
    schedule: Schedule
    run: TrainingRun
    prepared: nn.Module
    optimiser: Any
    plateau: ReduceLROnPlateau | None
    log: Callable[[int, Mapping[str, float]], None]
    saved: list[float]

    def step(self, state: TrainingState, rows: Int[Tensor, "row"], total: int) -> TrainingState:
        """Take one optimiser step on a batch of all processes."""
        accelerator = self.run.accelerator
        rate = self.schedule.rate(state.step, self.schedule.steps_per_epoch(self.task.rows))
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"] if rate is None else rate
        own, batch = _shares(rows, accelerator)
        loss = self.task.loss(self.prepared, own, batch, _gather(accelerator), state.step / total)
        value = _mean(accelerator, loss.detach())
        if not math.isfinite(value):
            raise InputError(f"the loss is {value} at step {state.step + 1}: training diverged; {self.schedule.remedy}")
        self.optimiser.zero_grad()
        accelerator.backward(loss)
        self.optimiser.step()
        state = replace(
            state,
            batch=state.batch + 1,
            step=state.step + 1,
            loss_sum=state.loss_sum + value * len(rows),
            rate=self.optimiser.param_groups[0]["lr"],
        )
        self.log(state.step, {"loss/train": value, "learning_rate": state.rate})
        if time.monotonic() - self.saved[0] >= self.run.checkpoint_seconds:
            self.save(state)
        return state

    def epoch(self, state: TrainingState, losses: Mapping[str, float]) -> TrainingState:
        """Return the state at the beginning of the next epoch; without losses nothing is compared."""
        ended = replace(state, epoch=state.epoch + 1, batch=0, loss_sum=0.0)
        if not losses:
            return ended
        loss = losses["validation"]
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss is {loss} after epoch {ended.epoch}: training diverged; {self.schedule.remedy}"
            )
        if self.plateau is not None:
            self.plateau.step(loss)
            ended = replace(ended, plateau=dict(self.plateau.state_dict()), rate=self.optimiser.param_groups[0]["lr"])
        self.log(state.step, {f"loss/{name}": value for name, value in losses.items()})
        row = {"epoch": ended.epoch, "step": state.step, "train": state.loss_sum / self.task.rows, **losses}
        ended = replace(ended, history=[*state.history, row], since_best=state.since_best + 1)
        if loss >= state.best_loss:
            return ended
        best = {name: value.detach().cpu().clone() for name, value in self.task.network.state_dict().items()}
        return replace(ended, best_epoch=ended.epoch, best_loss=loss, since_best=0, best=best)

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, on the main process."""
        if self.run.accelerator.is_main_process:
            weights, moments = self.task.network.state_dict(), self.optimiser.state_dict()
            save_state(self.run.folder, state, weights, moments, self.run.configuration)
        self.saved[0] = time.monotonic()


def _restored(
    run: TrainingRun, network: nn.Module, optimiser: torch.optim.Optimizer, plateau: ReduceLROnPlateau | None
) -> TrainingState | None:
    """Load the run's checkpoint into network, optimiser and scheduler; `None` where there is none."""
    found = load_state(run.folder, run.configuration)
    if found is None:
        return None
    state, weights, moments = found
    network.load_state_dict(weights)
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    for group in optimiser.param_groups:
        group["lr"] = state.rate
    if plateau is not None:
        plateau.load_state_dict(state.plateau)
    return state


def _progress_text(state: TrainingState, schedule: Schedule, run: TrainingRun) -> str:
    """Return the text beside the progress bar."""
    if not state.history:
        return run.folder.name
    best = f"validation {state.best_loss:.4g} (epoch {state.best_epoch})"
    return f"epoch {state.epoch + 1}/{schedule.epochs}, {best}"


def _shares(rows: Int[Tensor, "row"], accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Return this process's rows of a batch, and all rows in the order in which they are gathered."""
    parts = [rows[process :: accelerator.num_processes] for process in range(accelerator.num_processes)]
    return parts[accelerator.process_index], torch.cat(parts)


def _gather(accelerator: Accelerator) -> Gather:
    """Return a function that joins tensors of all processes; each process then has the loss of the whole batch.

    Its gradient sums over the processes, and theirs are averaged: together that is the gradient of the one loss.
    """
    if accelerator.num_processes == 1:
        return lambda own: own
    from torch.distributed.nn.functional import all_gather

    def gather(own: Tensor) -> Tensor:
        whole = torch.cat(all_gather(own.contiguous()))
        if whole.requires_grad:  # its gradient is sent as it lies in memory
            whole.register_hook(Tensor.contiguous)
        return whole

    return gather


def _mean(accelerator: Accelerator, value: Tensor) -> float:
    """Return the mean of a number over all processes."""
    return float(value if accelerator.num_processes == 1 else accelerator.reduce(value, "mean"))  # pyright: ignore[reportArgumentType]


@contextmanager
def _log(run: TrainingRun, step: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield a function that writes numbers of a step to TensorBoard, on the main process alone."""
    if not run.accelerator.is_main_process:
        yield lambda step, values: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.folder / "logs"), purge_step=step)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()
