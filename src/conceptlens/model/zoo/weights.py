"""Reading weights: never unpickled, and checked against the module they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError

# Training scripts wrap a state under one of these names, and DataParallel puts `module.` before every entry.
_WRAPPERS = ("state_dict", "model")
_PREFIX = "module."


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a module, every entry and no other; nothing is unpickled.

    Args:
        module: The module, changed in place.
        path: A safetensors file or a `weights_only` checkpoint.

    Raises:
        InputError: The file cannot be read, or its entries are not the module's by name and shape.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no weights file {file}; give a .safetensors file or a checkpoint of tensors")
    state = _state(_read(file), file)
    problem = _misfit(module, state)
    if problem:
        raise InputError(f"{file} does not fit this model: {problem}; give class_names= for classes of your own")
    module.load_state_dict(state, strict=True)


def load_by_position(module: nn.Module, path: Path) -> None:
    """Load a checkpoint whose entries stand in the module's own order under other names; shapes must agree."""
    values = _state(_read(path), path).values()
    module.load_state_dict(dict(zip(module.state_dict(), values, strict=True)), strict=True)


def _misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return the first way in which `state` is not the module's own, or nothing."""
    own = module.state_dict()
    for what, names in (("it lacks", own.keys() - state.keys()), ("it also holds", state.keys() - own.keys())):
        if names:
            return f"{what} {min(names)}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, value in state.items():
        if value.shape != own[name].shape:
            return f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} here"
    return ""


def _state(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the named tensors in a checkpoint, out of the wrappings of training scripts."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    named = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not named or not content:
        raise InputError(f"{file} holds no named tensors; save module.state_dict() and give that file")
    if all(name.startswith(_PREFIX) for name in content):
        return {name.removeprefix(_PREFIX): value for name, value in content.items()}
    return dict(content)


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(str(file))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is no readable safetensors file: {error}") from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not checkpoints of tensors
        raise InputError(
            f"{file} is no checkpoint of tensors alone ({type(error).__name__}); convert it to safetensors"
        ) from None
