"""The state of a training run in one file that is always whole: to go on after a crash as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.training.schedule import Plateau

FILE = "checkpoint.safetensors"


@dataclass
class State:
    """Where a run stands: epoch and batch to come, steps done, the losses so far, the best weights, random state.

    `order` is the state of the generator that shuffles, as it was when the epoch began; `summed` adds up the losses of
    the batches of this epoch. `history` has a row per epoch.
    """

    order: Tensor
    epoch: int = 0
    batch: int = 0
    step: int = 0
    summed: float = 0.0
    best_epoch: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


_NUMBERS = ("epoch", "batch", "step", "summed", "best_epoch", "history")


def save_state(
    folder: Path, state: State, weights: Mapping[str, Tensor], optimiser: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write weights, optimiser, random state and counts as one file; `about` is the configuration of the run."""
    tensors = {"order": state.order}
    tensors |= {f"weights {name}": value for name, value in weights.items()}
    tensors |= {f"best {name}": value for name, value in state.best.items()}
    for index, moments in optimiser["state"].items():
        tensors |= {f"optimiser {index} {name}": value for name, value in moments.items() if isinstance(value, Tensor)}
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    metadata = {
        "state": json.dumps({**numbers, "plateau": asdict(state.plateau)}),
        "configuration": json.dumps(about, sort_keys=True),
    }
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(folder / FILE) as temporary:
        save_file(whole, temporary, metadata)


def load_state(
    folder: Path, about: Mapping[str, Any]
) -> tuple[State, dict[str, Tensor], dict[int, dict[str, Tensor]]] | None:
    """Return state, weights and the optimiser's tensors of a run that was broken off; `None` where none was saved."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        numbers = json.loads(metadata["state"])
        plateau = Plateau(**numbers.pop("plateau"))
        same = json.loads(metadata["configuration"]) == json.loads(json.dumps(about))
        state = State(tensors["order"], plateau=plateau, best=_named(tensors, "best "), **numbers)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{file} is no whole checkpoint; remove it to begin again") from None
    if not same:
        raise InputError(f"{file} belongs to another run; choose another folder, or remove {file.parent} to begin anew")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _named(tensors, "optimiser ").items():
        index, _, what = name.partition(" ")
        moments.setdefault(int(index), {})[what] = value
    return state, _named(tensors, "weights "), moments


def first_state(seed: int) -> State:
    """Return the state of a run that begins."""
    return State(torch.Generator().manual_seed(seed).get_state())


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
