"""Safetensors made of a checkpoint, whatever the checkpoint is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_file
from conceptlens.model.zoo.checkpoint_file import read_checkpoint, top_level, weights_file
from conceptlens.model.zoo.named_tensors import named_tensors

# Of the environment, what a process of Python needs to start.
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        tensors: How many tensors.
        left_out: What the checkpoint held besides, by its top-level names: `optimizer (24 tensors)`, `epoch`.
        unpickled: Whether the checkpoint had to be unpickled, in a process of its own.
        replaced: Classes and functions that became empty stand-ins there.
    """

    tensors: int
    left_out: tuple[str, ...]
    unpickled: bool = False
    replaced: tuple[str, ...] = ()


def convert_checkpoint(
    file: str | Path, out: str | Path, entry: str | None = None, unpickle: bool = False
) -> Converted:
    """Write the named tensors of a checkpoint as one safetensors file; the checkpoint stays as it is.

    Names are kept. Where several entries hold tensors (`state_dict` and `state_dict_ema`), the entry's name comes
    first, and `load_model(weights=)` finds the set that fits.

    Args:
        file: A checkpoint, an index of shards, or a folder that holds one.
        out: The file to write, `.safetensors`; it is replaced when all went well.
        entry: Only what lies under this name, such as `state_dict_ema`; its name is dropped.
        unpickle: Whether a file that holds more than tensors may be unpickled: in a process of its own, where no class
            or function that it names is run.

    Raises:
        PickledFileError: It must be unpickled, and `unpickle` is false.
        InputError: The file cannot be read, holds no named tensors, or `out` cannot be written.
    """
    check_file(out, ".safetensors")
    if Path(out).exists() and Path(file).exists() and os.path.samefile(file, out):
        raise InputError(f"{out} is the checkpoint itself; give another file for --out")
    with replacing(out) as temporary:
        if unpickle:
            return _in_a_process(weights_file(file), temporary, entry)
        left_out, count = write_tensors(read_checkpoint(file), temporary, entry or "", file)
        return Converted(count, tuple(left_out))


def write_tensors(content: Any, out: Path, entry: str, file: str | Path) -> tuple[list[str], int]:
    """Write what has a name in a checkpoint; return what was left out and how many tensors were written.

    Args:
        content: What the checkpoint holds.
        out: The file to write.
        entry: The prefix of what is wanted; empty for all.
        file: The checkpoint, for messages.
    """
    from safetensors.torch import save_file

    tensors = named_tensors(content)
    if entry:
        wanted = {n.removeprefix(f"{entry}."): v for n, v in tensors.items() if n.startswith(f"{entry}.")}
        if not wanted:
            raise InputError(f"{file} holds no tensors under {entry}; it holds {top_level(content)}")
        left_out, tensors = [], wanted
    else:
        left_out, tensors = _left_out(content), _without_container(content, tensors)
    if not tensors:
        raise InputError(f"{file} holds no named tensors but {top_level(content)}")
    save_file(_writable(tensors, file), out, {"format": "pt"})
    return left_out, len(tensors)


def _without_container(content: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors less the names of the entries around them, where all lie in one entry."""
    while isinstance(content, Mapping):
        holding = [key for key, value in content.items() if isinstance(value, Tensor) or named_tensors(value)]
        if len(holding) != 1 or isinstance(content[holding[0]], Tensor):
            break
        tensors = {name.removeprefix(f"{holding[0]}."): value for name, value in tensors.items()}
        content = content[holding[0]]
    return dict(tensors)


def _left_out(content: Any) -> list[str]:
    """Return the top-level names of what is not written, with the number of tensors among it."""
    if not isinstance(content, Mapping):
        return []
    found = []
    for key, value in content.items():
        nameless = _tensor_count(value) - (1 if isinstance(value, Tensor) else len(named_tensors(value)))
        nothing = not isinstance(value, Tensor) and not named_tensors(value)
        if nameless or nothing:
            found.append(f"{key} ({nameless} tensor{'s' * (nameless != 1)})" if nameless else str(key))
    return found


def _tensor_count(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_tensor_count, value.values()))
    return sum(map(_tensor_count, value)) if isinstance(value, (list, tuple)) else int(isinstance(value, Tensor))


def _writable(tensors: Mapping[str, Tensor], file: str | Path) -> dict[str, Tensor]:
    """Return tensors as safetensors takes them: whole, and none in the memory of another."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "quantised" if value.is_quantized else "on the meta device" if value.is_meta else "sparse"
            raise InputError(f"{name} in {file} is {kind}, which safetensors cannot hold; save it as a plain tensor")
        whole = value.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        found[name] = whole.clone() if place in seen else whole
        seen.add(place)
    return found


def _in_a_process(file: Path, out: Path, entry: str | None) -> Converted:
    """Have another process unpickle `file` and write its tensors to `out`; nothing but JSON and tensors comes back."""
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".json":
        raise InputError(f"{file} is an index of shards that hold more than tensors; convert each shard by itself")
    paths = os.pathsep.join(path for path in sys.path if path)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-P", "-B", "-m", "conceptlens.model.zoo.unpickling", str(file.absolute()),
             str(out.absolute()), entry or ""],
            cwd=empty, env={**kept, "PYTHONPATH": paths, "HOME": empty, "TMPDIR": empty}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
        failed = answer.get("error")
    except (ValueError, AttributeError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        answer, failed = {}, f"the process that read it ended with code {done.returncode}: {last[:200]}"
    if failed:
        known = answer.get("kind") == "InputError"
        raise InputError(str(failed) if known else f"{file} cannot be read, even by unpickling it ({failed})")
    try:
        with safe_open(str(out), "pt") as opened:
            count = len(opened.keys())
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read: what came of it is no safetensors file ({error})") from None
    return Converted(count, tuple(map(str, answer["left_out"])), True, tuple(map(str, answer["replaced"])))
