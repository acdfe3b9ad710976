"""The training of a branch on cached pairs: one process or many, broken off and resumed, with the same result."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptlens.cams.targets import similarity
from conceptlens.concept_regions.branch import Branch
from conceptlens.concept_regions.fit.pairs import Pairs, Table, moments
from conceptlens.io.errors import InputError
from conceptlens.training.checkpoint import State, first_state, load_state, save_state
from conceptlens.training.schedule import Schedule, rate

if TYPE_CHECKING:
    from accelerate import Accelerator
    from jaxtyping import Float

    from conceptlens.model.encoders import VisionLanguage

ROWS_AT_ONCE = 2048
Report = Callable[[State], None]


@dataclass(frozen=True, eq=False)
class Goal:
    """What a branch is trained for: `L = L_embedding + weight L_similarity`. (CE-FAM, ICCV 2025, section 3.3.)

    `L_embedding` is the mean squared error to the teacher's vectors, not normalised; `L_similarity` that of the
    scores `S = scale <h, t> + bias` of all `texts`. Without texts it is left out (the zero-shot variant).
    """

    language: VisionLanguage
    texts: Float[Tensor, "text dimension"] | None = None
    weight: float = 0.0

    @property
    def bias(self) -> float:
        """What the teacher adds to every score; only SigLIP does."""
        return getattr(self.language, "bias", 0.0)

    def losses(
        self, made: Float[Tensor, "row dimension"], wanted: Float[Tensor, "row dimension"]
    ) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
        """Return both losses of every row, before the weight."""
        embedding = (made - wanted).square().mean(1)
        if self.texts is None or self.weight == 0:
            return embedding, torch.zeros_like(embedding)
        texts = self.texts.to(made.device)
        ours, theirs = (similarity(side, texts, self.language) + self.bias for side in (made, wanted))
        return embedding, (ours - theirs).square().mean(1)


@dataclass(frozen=True, eq=False)
class Scaling:
    """Inputs and targets brought to mean 0 and deviation 1, and back."""

    input_mean: Tensor
    input_deviation: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Scaling:
        """Measure the training rows."""
        return cls(*moments(pairs.features), *moments(pairs.vectors))

    def folded(self, branch: Branch) -> Branch:
        """Return a branch that takes inputs as they are and gives vectors as they are, with the same network."""
        plain = copy.deepcopy(branch).double()
        linear = [part for part in plain.network if isinstance(part, nn.Linear)]
        parts = (self.input_mean, self.input_deviation, self.mean, self.deviation)
        shift, width, mean, deviation = (part.detach().cpu().double() for part in parts)
        with torch.no_grad():
            linear[0].weight.div_(width)
            linear[0].bias.sub_(linear[0].weight @ shift)
            linear[-1].weight.mul_(deviation[:, None])
            linear[-1].bias.mul_(deviation).add_(mean)
        return plain.float()

    def to(self, device: torch.device) -> Scaling:
        """Return the same on a device."""
        return Scaling(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Training:
    """Everything one run needs; `about` is its configuration, `every` the seconds between checkpoints."""

    pairs: Pairs
    goal: Goal
    schedule: Schedule
    accelerator: Accelerator
    device: torch.device
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    every: float = 30.0


@dataclass(frozen=True, eq=False)
class Trained:
    """The branch with the lowest validation loss, and how it went."""

    branch: Branch
    steps: int
    best_epoch: int
    validation_loss: float
    history: tuple[dict[str, float], ...]


def train(run: Training, branch: Branch, report: Report = lambda state: None) -> Trained:
    """Train `branch` from a copy of its weights, or go on from the checkpoint in the run's folder."""
    network = copy.deepcopy(branch).to(run.device)
    optimiser: Any = _optimiser(run.schedule, network)
    scaling = Scaling.of(run.pairs).to(run.device) if run.schedule.standardise else None
    found = load_state(run.folder, run.about)
    state = first_state(run.seed)
    if found is not None:
        state, weights, kept = found
        network.load_state_dict(weights)
        optimiser.load_state_dict({"state": kept, "param_groups": optimiser.state_dict()["param_groups"]})
    prepared, optimiser = run.accelerator.prepare(network, optimiser)
    with _Log(run, state.step) as log:
        loop = _Loop(run, prepared, network, optimiser, scaling, log)
        while state.epoch < run.schedule.epochs and not _is_over(run.schedule, state):
            state = loop.epoch(state, report)
        loop.save(state)
    best = copy.deepcopy(branch)
    best.load_state_dict(state.best)
    best = best if scaling is None else scaling.folded(best)
    return Trained(best, state.step, state.best_epoch, state.plateau.lowest, tuple(state.history))


@dataclass(frozen=True, eq=False)
class _Loop:
    """The networks of a run at work. `prepared` is `network`, wrapped where there are several processes."""

    run: Training
    prepared: nn.Module
    network: Branch
    optimiser: Any
    scaling: Scaling | None
    log: _Log
    saved: list[float] = field(default_factory=lambda: [time.monotonic()])

    def epoch(self, state: State, report: Report) -> State:
        """Train on every pair once, validate, and return the state at the next epoch's beginning."""
        shuffler = torch.Generator()
        shuffler.set_state(state.order)
        batches = torch.randperm(len(self.run.pairs.features), generator=shuffler).split(self.run.schedule.batch_size)
        for index in batches[state.batch :]:
            speed = rate(self.run.schedule, state.step, len(batches), state.plateau.drops)
            loss = self._step(index, speed)
            state = replace(state, batch=state.batch + 1, step=state.step + 1, summed=state.summed + loss * len(index))
            self.log.write(state.step, {"loss/train": loss, "rate": speed})
            report(state)
            if time.monotonic() - self.saved[0] >= self.run.every:
                self.save(state)
        return self._validated(state, shuffler.get_state())

    def save(self, state: State) -> None:
        """Write a checkpoint, on the main process."""
        if self.run.accelerator.is_main_process:
            save_state(self.run.folder, state, self.network.state_dict(), self.optimiser.state_dict(), self.run.about)
        self.saved[0] = time.monotonic()

    def _step(self, index: Tensor, speed: float) -> float:
        """Take one step on the pairs `index`, of which every process has its part; return the loss of all."""
        run = self.run
        mine = index[run.accelerator.process_index :: run.accelerator.num_processes]
        for group in self.optimiser.param_groups:
            group["lr"] = speed
        with torch.autocast(run.device.type, torch.bfloat16, run.schedule.mixed and run.device.type == "cuda"):
            made = self._made(self.prepared, run.pairs.features.take(mine))
        embedding, similar = run.goal.losses(made, run.pairs.vectors.take(mine).to(run.device))
        loss = (embedding + run.goal.weight * similar).sum() / len(index)
        self.optimiser.zero_grad()
        run.accelerator.backward(loss * run.accelerator.num_processes)  # gradients are averaged, the loss is a sum
        self.optimiser.step()
        return float(_sum(run.accelerator, loss.detach()))

    def _made(self, network: nn.Module, features: Tensor) -> Tensor:
        features = features.to(self.run.device)
        if self.scaling is None:
            return network(features).float()
        made = network((features - self.scaling.input_mean) / self.scaling.input_deviation)
        return made.float() * self.scaling.deviation + self.scaling.mean

    def _validated(self, state: State, order: Tensor) -> State:
        embedding, similar = self._losses(self.run.pairs.held_features, self.run.pairs.held_vectors)
        loss = embedding + self.run.goal.weight * similar
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss is {loss} after epoch {state.epoch + 1}: training diverged; "
                "use schedule='modern' (--schedule modern), or a smaller similarity weight"
            )
        better = loss < state.plateau.lowest
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train": state.summed / len(self.run.pairs.features),
            "validation": loss,
            "validation_embedding": embedding,
            "validation_similarity": similar,
        }
        self.log.write(state.step, {f"loss/{name}": row[name] for name in row if name.startswith("validation")})
        best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        return State(
            order,
            epoch=state.epoch + 1,
            step=state.step,
            best_epoch=state.epoch + 1 if better else state.best_epoch,
            plateau=state.plateau.after(loss, self.run.schedule),
            history=[*state.history, row],
            best=best if better else state.best,
        )

    @torch.no_grad()
    def _losses(self, features: Table, vectors: Table) -> tuple[float, float]:
        """Return both losses, each the mean over all rows, of which every process has its part."""
        accelerator = self.run.accelerator
        total = torch.zeros(2, device=self.run.device)
        rows = torch.arange(accelerator.process_index, len(features), accelerator.num_processes)
        for index in rows.split(ROWS_AT_ONCE):
            made = self._made(self.network, features.take(index))
            parts = self.run.goal.losses(made, vectors.take(index).to(self.run.device))
            total += torch.stack([part.sum() for part in parts])
        embedding, similar = (_sum(accelerator, total) / len(features)).tolist()
        return embedding, similar


class _Log:
    """TensorBoard scalars in the run's folder, written by the main process; `with` closes the file."""

    def __init__(self, run: Training, step: int) -> None:
        self.writer: Any = None
        if run.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run.folder / "logs"), purge_step=step)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of one step."""
        for name, value in values.items():
            if self.writer is not None:
                self.writer.add_scalar(name, value, step)


def _is_over(schedule: Schedule, state: State) -> bool:
    return schedule.stop is not None and state.plateau.waiting >= schedule.stop


def _sum(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Add up values over all processes."""
    return values if accelerator.num_processes == 1 else accelerator.reduce(values, "sum")  # pyright: ignore[reportReturnType]


def _optimiser(schedule: Schedule, network: nn.Module) -> torch.optim.Optimizer:
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=schedule.initial)
    return torch.optim.AdamW(network.parameters(), lr=schedule.initial, weight_decay=schedule.weight_decay)
