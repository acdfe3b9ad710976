"""Training schedules as values: batches, optimiser, learning rates and early stopping, by steps or by epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from conceptlens.io.errors import InputError


@dataclass(frozen=True)
class StepSchedule:
    """A number of AdamW steps on random batches; the learning rate falls linearly to 0 over the second half.

    Args:
        steps: Number of optimiser steps.
        batch_size: Rows of a batch, drawn with replacement.
        learning_rate: Learning rate of the first half.
        weight_decay: Decoupled weight decay of AdamW.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0

    epochs: ClassVar[int] = 1  # all steps are one pass
    stop: ClassVar[int | None] = None  # no early stopping
    remedy: ClassVar[str] = "lower the rate"  # what to change where training diverges

    def steps_per_epoch(self, rows: int) -> int:
        """Return the number of steps, whatever the number of rows."""
        return self.steps

    def batches(self, rows: int, generator: torch.Generator) -> Iterable[Tensor]:
        """Yield row indices `[batch_size]`, drawn with replacement."""
        return (torch.randint(rows, (self.batch_size,), generator=generator) for _ in range(self.steps))

    def new_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def rate(self, step: int, steps_per_epoch: int) -> float | None:
        """Return the learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, 2 * (1 - step / self.steps))

    def plateau(self, optimiser: torch.optim.Optimizer) -> ReduceLROnPlateau | None:
        """Return nothing: the rate follows the steps alone."""
        return None


@dataclass(frozen=True)
class EpochSchedule:
    """Epochs over all rows, each in a new order, with a warm-up, a decay and early stopping.

    Args:
        optimiser: `sgd` or `adamw`.
        initial: Learning rate of the first step; it rises linearly to `peak` over `warmup` epochs.
        peak: Learning rate after the warm-up.
        warmup: Length of the warm-up, in epochs.
        decay: With `plateau`, `torch.optim.lr_scheduler.ReduceLROnPlateau` lowers the rate after the warm-up, by the
            validation loss; with `cosine` the rate falls to 0 at the last epoch.
        epochs: Largest number of epochs.
        patience: Epochs without a better validation loss before the plateau lowers the rate.
        factor: What the plateau multiplies the rate by.
        stop: Training ends after this many epochs without a better validation loss; `None`: never.
        batch_size: Rows of a batch; the last of an epoch may be smaller.
        weight_decay: Decoupled weight decay, with `adamw` only.
        standardise: Train on inputs and targets of mean 0 and standard deviation 1; both are folded into the first and
            last linear layer afterwards, so the saved network is the published one.
        mixed: Run the network in bfloat16 on CUDA.
    """

    optimiser: Literal["sgd", "adamw"]
    initial: float
    peak: float
    warmup: float
    decay: Literal["plateau", "cosine"]
    epochs: int
    patience: int = 0
    factor: float = 0.1
    stop: int | None = None
    batch_size: int = 128
    weight_decay: float = 0.0
    standardise: bool = False
    mixed: bool = False

    remedy: ClassVar[str] = "use schedule='modern' (--schedule modern), or a smaller similarity weight"

    def steps_per_epoch(self, rows: int) -> int:
        """Return the number of batches of an epoch.

        Args:
            rows: How many rows there are.

        Returns:
            How many batches an epoch has, the last one counted where it is smaller.
        """
        return -(-rows // self.batch_size)

    def batches(self, rows: int, generator: torch.Generator) -> Iterable[Tensor]:
        """Return row indices of one epoch's batches: every row once, in random order.

        Args:
            rows: How many rows there are.
            generator: Draws the order.

        Returns:
            Row indices of each batch; the last one may be smaller.
        """
        return torch.randperm(rows, generator=generator).split(self.batch_size)

    def new_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return SGD or AdamW over all parameters.

        Args:
            network: The module that is trained.

        Returns:
            The optimiser at the `initial` rate.
        """
        if self.optimiser == "sgd":
            return torch.optim.SGD(network.parameters(), lr=self.initial)
        return torch.optim.AdamW(network.parameters(), lr=self.initial, weight_decay=self.weight_decay)

    def rate(self, step: int, steps_per_epoch: int) -> float | None:
        """Return the learning rate of a step, counted from 0; `None` where the plateau scheduler decides it.

        Args:
            step: The step, from 0.
            steps_per_epoch: How many steps an epoch has.

        Returns:
            The learning rate, or `None`.
        """
        warm = self.warmup * steps_per_epoch
        if step < warm:
            return self.initial + (self.peak - self.initial) * step / warm
        if self.decay == "plateau":
            return self.peak if step < warm + 1 else None  # the first step after the warm-up
        done = (step - warm) / max(1.0, self.epochs * steps_per_epoch - warm)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def plateau(self, optimiser: torch.optim.Optimizer) -> ReduceLROnPlateau | None:
        """Return the scheduler that lowers the rate by the validation loss, with `decay="plateau"`.

        Args:
            optimiser: The optimiser whose rate is lowered.

        Returns:
            The scheduler, or `None` with another `decay`.
        """
        if self.decay != "plateau":
            return None
        return ReduceLROnPlateau(optimiser, factor=self.factor, patience=self.patience)


Schedule: TypeAlias = StepSchedule | EpochSchedule

# `paper`: as the article describes it; it does not say how long the warm-up is nor the batch, which are the code's.
# `code`: the defaults of the authors' program, which says other numbers.
SCHEDULES: dict[str, EpochSchedule] = {
    "paper": EpochSchedule("sgd", 0.1, 0.2, 1, "plateau", 150, patience=4),
    "code": EpochSchedule("sgd", 0.1, 0.2, 1, "plateau", 150, patience=6, stop=10),
    "modern": EpochSchedule(
        "adamw", 1e-5, 1e-3, 1, "cosine", 30, stop=10, weight_decay=0.05, standardise=True, mixed=True
    ),
}


def schedule_named(name: str, epochs: int | None = None, batch_size: int | None = None) -> EpochSchedule:
    """Return a schedule of `SCHEDULES`.

    Args:
        name: `paper`, `code` or `modern`.
        epochs: Another largest number of epochs, at least 1.
        batch_size: Another batch size, at least 1.

    Raises:
        InputError: For an unknown name, or a number below 1.
    """
    if name not in SCHEDULES:
        raise InputError(f"no schedule '{name}'; use one of {', '.join(SCHEDULES)}")
    changes = {"epochs": epochs, "batch_size": batch_size}
    wrong = {what: value for what, value in changes.items() if value is not None and value < 1}
    if wrong:
        raise InputError(f"{' and '.join(f'{k}={v}' for k, v in wrong.items())} was given; expected at least 1")
    return replace(SCHEDULES[name], **{what: value for what, value in changes.items() if value is not None})
