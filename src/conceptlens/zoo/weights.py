"""Reading weights: never unpickled, and checked against the module they are for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from conceptlens.error import InputError


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a safetensors file or a `weights_only` checkpoint into `module`, every entry and no other."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no weights file {file}; give a .safetensors file or a checkpoint of tensors")
    state = _read(file)
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(f"{file} does not fit this model: {str(error).splitlines()[1].strip()}") from None


def load_by_position(module: nn.Module, path: str | Path) -> None:
    """Load a checkpoint whose entries stand in the module's own order under other names; shapes must agree."""
    values = list(_read(Path(path)).values())
    names = list(module.state_dict())
    if len(values) != len(names):
        raise InputError(f"{path} holds {len(values)} entries; this model has {len(names)}")
    module.load_state_dict(dict(zip(names, values, strict=True)), strict=True)


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(str(file))
        except SafetensorError as error:
            raise InputError(f"{file} is no readable safetensors file: {error}") from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not checkpoints of tensors
        raise InputError(
            f"{file} is no checkpoint of tensors alone ({type(error).__name__}); convert it to safetensors"
        ) from None
