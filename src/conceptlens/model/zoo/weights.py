"""Weights for a module, from a file as training left it: checked against the module, and never unpickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.model.zoo.checkpoint_file import read_checkpoint, top_level
from conceptlens.model.zoo.named_tensors import Misfit, adapter_entries, named_tensors, own_tensors

# Numbers that OpenAI's files of CLIP hold beside the weights, which open_clip's own reader leaves out as well.
_SIZES_OF_CLIP = ("input_resolution", "context_length", "vocab_size")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a module, every entry of it; nothing is unpickled.

    The names may stand under entries of a training script (`state_dict`, `model`, ...), after a prefix (Lightning's
    `model.`, `net.`) and hold what DataParallel, `torch.compile`, FSDP and averaging add. Of several sets that fit,
    averaged weights are taken.

    Args:
        module: The module, changed in place.
        path: A safetensors file, an index of shards, a `weights_only` checkpoint, or a folder that holds one.

    Raises:
        InputError: The file cannot be read, or its entries are not the module's by name and shape; the message says
            what was found.

    Example:
        >>> cl.load_weights(net, "lightning_logs/version_0/checkpoints/epoch=9.ckpt")
        >>> model = cl.Backbone(net, transform=cl.Preprocess((224, 224)))
    """
    content = read_checkpoint(path)
    tensors = named_tensors(content)
    if not tensors:
        raise InputError(
            f"{path} holds no named tensors but {top_level(content)}; save module.state_dict() and give that file"
        )
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    _check_dense(tensors, own, path)
    tensors = {name: value for name, value in tensors.items() if not _is_size_of_clip(name, value, own)}
    state, misfit = own_tensors(own, tensors, path)
    if not misfit.fits:
        raise InputError(f"{path} does not fit this model: {_difference(own, state, misfit, content, path)}")
    module.load_state_dict(state, strict=True)


def _check_dense(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that are not stored as plain values: sparse ones, and those without any (meta)."""
    for name, tensor in tensors.items():
        if (tensor.layout == torch.strided and not tensor.is_meta) or not _is_of(name, own):
            continue
        if tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise InputError(
                f"{path} holds weights of layout {kind} ({name}); expected dense ones: save "
                "{name: value.to_dense() for name, value in module.state_dict().items()}"
            )
        raise InputError(f"{path} holds weights without values ({name} is on the meta device); save the model anew")


def _is_size_of_clip(name: str, value: Tensor, own: Mapping[str, Tensor]) -> bool:
    last = name.rpartition(".")[2]
    return last in _SIZES_OF_CLIP and value.ndim == 0 and last not in own


def _is_of(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether a name of a file ends in one of the module's."""
    parts = name.split(".")
    return any(".".join(parts[first:]) in own for first in range(len(parts)))


def load_by_position(module: nn.Module, path: Path) -> None:
    """Load a checkpoint whose entries stand in the module's own order under other names; shapes must agree."""
    values = named_tensors(read_checkpoint(path)).values()
    module.load_state_dict(dict(zip(module.state_dict(), values, strict=True)), strict=True)


def _difference(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: Misfit, content: Any, path: str | Path
) -> str:
    """Say how a file differs from a module, and what to do."""
    tensors = named_tensors(content)
    adapter = adapter_entries(tensors)
    if adapter:
        return (
            f"it holds an adapter that is not merged ({len(adapter)} entries such as {adapter[0]}); merge it into the "
            "weights first (peft: model.merge_and_unload()), then save model.state_dict()"
        )
    head = _other_head(own, state, misfit)
    if head:
        return head
    there = f" under {misfit.prefix.rstrip('.')}" if misfit.prefix else ""
    parts = [f"{len(misfit.matching)} of the {len(own)} entries of the model are there with their shapes{there}"]
    if not misfit.matching or tensors.keys() != content.keys():
        parts.append(f"the file holds {top_level(content)}; its first entry is {next(iter(tensors))}")
    for what, names in (("it lacks", misfit.lacking), ("it also holds", misfit.foreign)):
        if names:
            parts.append(f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    parts += [_shapes(own, state, name) for name in misfit.other[:1]]
    shard = _SHARD.search(Path(path).name)
    remedy = f"it is one of {int(shard[1])} shards: give their index" if shard else "name the model of these weights"
    return "; ".join([*parts, remedy])


def _other_head(own: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: Misfit) -> str:
    """Say that a file differs in the number of classes alone, where that is so."""
    if misfit.lacking or misfit.foreign or not misfit.other:
        return ""
    sizes = {(tuple(state[name].shape[:1]), tuple(own[name].shape[:1])) for name in misfit.other}
    rest = all(state[name].shape[1:] == own[name].shape[1:] for name in misfit.other)
    if not rest or len(sizes) != 1 or not misfit.matching:
        return ""
    (((classes,), _),) = sizes
    return (
        f"{_shapes(own, state, misfit.other[0])}, and all else fits: its head has {classes} classes; give class_names= "
        f"with {classes} names, in the order of training"
    )


def _shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    there, here = state[name], own[name]
    if there.shape == here.shape:
        return f"{name} holds numbers of type {there.dtype} there and {here.dtype} here"
    return f"{name} is {tuple(there.shape)} there and {tuple(here.shape)} here"
