"""How fast a branch learns, and when it stops: three schedules as values in a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from conceptlens.io.errors import InputError

# By how much a loss must fall, relative to the best, to count as better: PyTorch's ReduceLROnPlateau by default.
LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class Schedule:
    """One way to train.

    The rate rises linearly from `initial` to `peak` over `warmup` epochs. With `decay="plateau"` it is multiplied by
    `factor` whenever the validation loss has been no better for more than `patience` epochs; with `"cosine"` it falls
    to zero at the last epoch. `stop` ends training after so many epochs without a better validation loss (`None`:
    never). `standardise` trains on inputs and targets of mean 0 and deviation 1; both are folded into the first and
    the last linear map at the end, so what is saved is the published network all the same. `mixed`: bfloat16 on CUDA.
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


# `paper`: as the article describes it; it does not say how long the warm-up is nor the batch, which are the code's.
# `code`: the defaults of the authors' program, which says other numbers.
SCHEDULES: dict[str, Schedule] = {
    "paper": Schedule("sgd", 0.1, 0.2, 1, "plateau", 150, patience=4),
    "code": Schedule("sgd", 0.1, 0.2, 1, "plateau", 150, patience=6, stop=10),
    "modern": Schedule("adamw", 1e-5, 1e-3, 1, "cosine", 30, stop=10, weight_decay=0.05, standardise=True, mixed=True),
}


def schedule_named(name: str, epochs: int | None = None, batch_size: int | None = None) -> Schedule:
    """Return a schedule of the table, with another length or batch where one is given."""
    if name not in SCHEDULES:
        raise InputError(f"no schedule '{name}'; use one of {', '.join(SCHEDULES)}")
    changes = {"epochs": epochs, "batch_size": batch_size}
    wrong = {what: value for what, value in changes.items() if value is not None and value < 1}
    if wrong:
        raise InputError(f"{' and '.join(f'{k}={v}' for k, v in wrong.items())} was given; expected at least 1")
    return replace(SCHEDULES[name], **{what: value for what, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Plateau:
    """What the validation loss has done so far: its best, epochs without a gain, rate drops, epochs since the best."""

    best: float = math.inf
    stalled: int = 0
    drops: int = 0
    lowest: float = math.inf
    waiting: int = 0

    def after(self, loss: float, schedule: Schedule) -> Plateau:
        """Return what follows one more epoch, as PyTorch's ReduceLROnPlateau counts."""
        gained = loss < self.best * (1 - LEAST_GAIN)
        stalled = 0 if gained else self.stalled + 1
        dropped = schedule.decay == "plateau" and stalled > schedule.patience
        return Plateau(
            best=loss if gained else self.best,
            stalled=0 if dropped else stalled,
            drops=self.drops + dropped,
            lowest=min(loss, self.lowest),
            waiting=0 if loss < self.lowest else self.waiting + 1,
        )


def rate(schedule: Schedule, step: int, steps_per_epoch: int, drops: int) -> float:
    """Return the learning rate of one step, counted from 0."""
    warm = schedule.warmup * steps_per_epoch
    if step < warm:
        return schedule.initial + (schedule.peak - schedule.initial) * step / warm
    if schedule.decay == "plateau":
        return schedule.peak * schedule.factor**drops
    done = (step - warm) / max(1.0, schedule.epochs * steps_per_epoch - warm)
    return schedule.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
