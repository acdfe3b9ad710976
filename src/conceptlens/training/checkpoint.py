"""The state of a training run in one safetensors file, replaced as a whole, from which the run resumes exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError

FILE = "checkpoint.safetensors"


@dataclass
class TrainingState:
    """Where a training run stands.

    Args:
        generator: State of the shuffling generator when the epoch began.
        epoch: Finished epochs.
        batch: Finished batches of this epoch.
        step: Finished optimiser steps.
        loss_sum: Sum over this epoch's batches of loss times rows.
        rate: Learning rate of the last step.
        best_epoch: Epoch of the lowest validation loss, counted from 1; 0 where none was measured.
        best_loss: Lowest validation loss.
        since_best: Epochs since it was reached.
        plateau: State of `ReduceLROnPlateau`, empty where the schedule has none.
        history: Losses of every finished epoch.
        best: Weights at the lowest validation loss.
    """

    generator: Tensor
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rate: float = 0.0
    best_epoch: int = 0
    best_loss: float = math.inf
    since_best: int = 0
    plateau: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


_TENSORS = ("generator", "best")


def first_state(seed: int) -> TrainingState:
    """Return the state of a run that begins."""
    return TrainingState(torch.Generator().manual_seed(seed).get_state())


def save_state(
    folder: Path,
    state: TrainingState,
    weights: Mapping[str, Tensor],
    optimiser: Mapping[str, Any],
    configuration: Mapping[str, Any],
) -> None:
    """Write `checkpoint.safetensors`, replacing an older one in one step.

    Args:
        folder: Folder of the run.
        state: Counters, losses and best weights.
        weights: `state_dict` of the network.
        optimiser: `state_dict` of the optimiser.
        configuration: What identifies the run; a checkpoint of another configuration is refused by `load_state`.
    """
    tensors = {"generator": state.generator}
    tensors |= {f"weights {name}": value for name, value in weights.items()}
    tensors |= {f"best {name}": value for name, value in state.best.items()}
    for index, moments in optimiser["state"].items():
        tensors |= {f"optimiser {index} {name}": value for name, value in moments.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in vars(state).items() if name not in _TENSORS}
    metadata = {"state": json.dumps(numbers), "configuration": json.dumps(configuration, sort_keys=True)}
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(folder / FILE) as temporary:
        save_file(whole, temporary, metadata)


def load_state(
    folder: Path, configuration: Mapping[str, Any]
) -> tuple[TrainingState, dict[str, Tensor], dict[int, dict[str, Tensor]]] | None:
    """Read the checkpoint of an interrupted run.

    Returns:
        State, weights by name, and the optimiser's tensors by parameter index; `None` where there is no checkpoint.

    Raises:
        InputError: Where the file is damaged, or belongs to another configuration.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        same = json.loads(metadata["configuration"]) == json.loads(json.dumps(configuration))
        numbers = json.loads(metadata["state"])
        state = TrainingState(tensors["generator"], best=_named(tensors, "best "), **numbers)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{file} is no whole checkpoint; remove it to begin again") from None
    if not same:
        raise InputError(f"{file} belongs to another run; choose another folder, or remove {file.parent} to begin anew")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _named(tensors, "optimiser ").items():
        index, _, what = name.partition(" ")
        moments.setdefault(int(index), {})[what] = value
    return state, _named(tensors, "weights "), moments


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
