"""What modules hand on to each other: tensors, alone or in tuples, mappings, data classes and model outputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a layer's output is about, where another one can take its place.

    It is the output itself, a model output's hidden state, the first value of a mapping or of a tuple, or the only
    tensor that is held somewhere within.

    Args:
        output: What a layer returned.
    """
    if isinstance(output, Tensor):
        return output
    found = _leading(output)
    if found is None:
        held: dict[int, Tensor] = {}
        _try_map(output, lambda tensor: held.setdefault(id(tensor), tensor))
        found = next(iter(held.values())) if len(held) == 1 else None
    if found is None or not _try_map(output, Tensor.detach):
        return None
    return found


def with_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return `output` with `new` wherever it holds `old`.

    Args:
        output: What a layer returned.
        old: One of its tensors.
        new: What takes its place.
    """
    return map_tensors(output, lambda tensor: new if tensor is old else tensor)


def map_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return `output` with each of its tensors changed, whatever tuples, mappings and data classes hold them.

    What holds no tensor that changes is handed on as it is; nothing is written into what was given.

    Args:
        output: A tensor, or tuples, lists, mappings, data classes and model outputs of them; other values stay.
        change: From a tensor to what takes its place.
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        parts = {key: map_tensors(value, change) for key, value in output.items()}
        return output if all(parts[key] is output[key] for key in parts) else _mapping_like(output, parts)
    if isinstance(output, (tuple, list)):
        values = [map_tensors(value, change) for value in output]
        same = all(new is old for new, old in zip(values, output, strict=True))
        return output if same else _sequence_like(output, values)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return _record_like(output, change)
    return output


def _leading(output: Any) -> Tensor | None:
    """Return the tensor that stands first in a mapping or a tuple, or that is called the hidden state."""
    if isinstance(output, Mapping):
        values = [output.get("last_hidden_state"), *output.values()]
        return next((value for value in values if isinstance(value, Tensor)), None)
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def _try_map(output: Any, change: Callable[[Tensor], Tensor]) -> bool:
    """Whether `output` can be made again with other tensors: anybody's class may refuse it with any error."""
    try:
        map_tensors(output, change)
    except Exception:  # of anybody's class: what cannot be made again is left as it is
        return False
    return True


def _mapping_like(output: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with other values: a copy that is written to, or else one made of them."""
    if not isinstance(output, MutableMapping):
        return type(output)(parts)  # pyright: ignore[reportCallIssue]
    changed = copy.copy(output)
    for key, value in parts.items():
        changed[key] = value
    return changed


def _sequence_like(output: tuple[Any, ...] | list[Any], values: list[Any]) -> Any:
    if type(output) in (tuple, list):
        return type(output)(values)
    if isinstance(output, list):
        changed = copy.copy(output)
        changed[:] = values
        return changed
    if hasattr(output, "_make"):  # a named tuple makes itself
        return output._make(values)  # pyright: ignore[reportAttributeAccessIssue]
    if type(output).__module__ == "torch.return_types":  # a named tuple of torch, which has no `_make`
        return type(output)(values)
    changed = tuple.__new__(type(output), values)
    vars(changed).update(vars(output))
    return changed


def _record_like(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a data class with its tensors changed; a frozen one too."""
    old = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    new = {name: map_tensors(value, change) for name, value in old.items()}
    if all(new[name] is old[name] for name in new):
        return output
    changed = copy.copy(output)
    for name, value in new.items():
        object.__setattr__(changed, name, value)
    return changed
