"""The tensors of a checkpoint by name, and the set among them that is a module's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.zoo.checkpoint_file import convert_command

# Parts of names that wrappers add: torch.compile, FSDP, activation checkpoints; then DataParallel and its kin.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_PARALLEL = "module"
# Names of averaged weights: timm's, torchvision's and DeiT's, and `torch.optim.swa_utils`.
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged)([._]|$)")
_ADAPTER = re.compile(r"(^|\.)(lora_|hada_|lokr_|oft_|boft_|vera_|ia3_|base_layer\.)")
_COUNTER = "num_batches_tracked"  # torch itself fills it in where old checkpoints lack it

Tensors = Mapping[str, Tensor]


def named_tensors(content: Any) -> dict[str, Tensor]:
    """Return every tensor that has a name, under its path, such as `state_dict.fc.weight`.

    Args:
        content: Mappings within mappings; what lies under other keys than texts, or in lists, has no name.
    """
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            found[key] = value.detach()
        elif isinstance(key, str):
            found.update({f"{key}.{name}": tensor for name, tensor in named_tensors(value).items()})
    return found


@dataclass(frozen=True)
class Misfit:
    """How the entries of a file under one prefix differ from those of a module.

    Args:
        prefix: What stands before the names in the file.
        matching: The names that are there with the same shape.
        lacking: Names that the module has alone.
        foreign: Names that the file has alone.
        other: Names whose shapes or kinds of number differ.
    """

    prefix: str
    matching: tuple[str, ...]
    lacking: tuple[str, ...]
    foreign: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing differs."""
        return not (self.lacking or self.foreign or self.other)


def own_tensors(own: Tensors, tensors: Tensors, file: str | Path) -> tuple[dict[str, Tensor], Misfit]:
    """Return the tensors that are a module's own, by its own names, or the nearest that there are and how they differ.

    The names of the file may stand after any prefix, and hold the parts that wrappers add. Where several sets fit and
    differ, the averaged one is taken, as timm's loader does, or none.

    Args:
        own: The module's `state_dict()`.
        tensors: What `named_tensors` found in the file.
        file: What file they are from, for the message.

    Raises:
        InputError: Several sets fit, and it is unclear which is meant.
    """
    best: tuple[dict[str, Tensor], Misfit] = (dict(tensors), _compared(own, tensors, ""))
    for names in _readings(tensors):
        found = [(part, _compared(own, part, prefix)) for prefix, part in _by_prefix(own, names).items()]
        fitting = [(part, misfit) for part, misfit in found if misfit.fits]
        if fitting:
            return _chosen(fitting, file)
        best = max([best, *found], key=lambda pair: (len(pair[1].matching), -len(pair[1].foreign)))
    return best


def adapter_entries(tensors: Tensors) -> list[str]:
    """Return the names that belong to an adapter (LoRA and its kin) which was not merged into the weights."""
    return [name for name in tensors if _ADAPTER.search(name)]


def _readings(tensors: Tensors) -> list[Tensors]:
    """Return the tensors by their names as they are, less wrappers, and less wrappers and `module`."""
    readings: list[Tensors] = [tensors]
    for dropped in (_WRAPPERS, (*_WRAPPERS, _PARALLEL)):
        shorter = {".".join(p for p in name.split(".") if p not in dropped): value for name, value in tensors.items()}
        if len(shorter) == len(tensors) and shorter.keys() != readings[-1].keys():
            readings.append(shorter)
    return readings


def _by_prefix(own: Tensors, tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Return the tensors under each prefix at which some entry of the module may stand."""
    prefixes = dict.fromkeys(
        name[: len(name) - len(wanted)]
        for wanted in sorted((name for name in own if not name.endswith(_COUNTER)), key=len)[-3:]
        for name in tensors
        if name == wanted or name.endswith("." + wanted)
    )
    return {p: {n.removeprefix(p): value for n, value in tensors.items() if n.startswith(p)} for p in prefixes}


def _compared(own: Tensors, found: Tensors, prefix: str) -> Misfit:
    both = [name for name in own if name in found]
    other = [name for name in both if not _alike(own[name], found[name])]
    return Misfit(
        prefix,
        tuple(name for name in both if name not in other),
        tuple(name for name in own if name not in found and not name.endswith(_COUNTER)),
        tuple(name for name in found if name not in own),
        tuple(other),
    )


def _alike(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.is_floating_point() == two.is_floating_point()


def _chosen(fitting: list[tuple[dict[str, Tensor], Misfit]], file: str | Path) -> tuple[dict[str, Tensor], Misfit]:
    first = fitting[0][0]
    if all(all(torch.equal(part[name], first[name]) for name in first) for part, _ in fitting[1:]):
        return fitting[0]
    averaged = [pair for pair in fitting if _AVERAGED.search(pair[1].prefix)]
    if len(averaged) == 1:
        return averaged[0]
    prefixes = [misfit.prefix.rstrip(".") for _, misfit in fitting]
    raise InputError(
        f"{file} holds {len(fitting)} sets of weights that fit this model and differ, under {' and '.join(prefixes)}; "
        f"keep one of them: {convert_command(file, prefixes[-1])}"
    )
