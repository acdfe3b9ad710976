"""Reading a file of weights as it lies on disk: safetensors whole or in shards, checkpoints; nothing is unpickled."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import shlex
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.io.quiet_warnings import quiet_warnings

_LOCK = threading.Lock()  # what torch allows in checkpoints is allowed for the whole process
_MARK_LENGTH = 48
# How files begin that are taken for weights, and what to do about it.
_OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"\x89HDF": "an HDF5 file, as Keras writes it; give weights of PyTorch",
    b"GGUF": "a GGUF file; give weights of PyTorch",
    b"\x93NUMPY": "a numpy array; give a checkpoint with names",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
# What a folder holds its weights in, the first that is there.
_FOLDER_FILES = (
    "model.safetensors.index.json", "model.safetensors", "open_clip_model.safetensors", "adapter_model.safetensors",
    "pytorch_model.bin.index.json", "pytorch_model.bin", "open_clip_pytorch_model.bin", "adapter_model.bin",
)  # fmt: skip
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_LIGHTNING_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
)  # fmt: skip


class PickledFileError(InputError):
    """A file holds objects that only unpickling could read."""


def read_checkpoint(path: str | Path) -> Any:
    """Return what a file of weights holds, on the processor: mappings and lists of tensors, numbers and texts.

    Args:
        path: A safetensors file, an index of shards (`model.safetensors.index.json`), a checkpoint of PyTorch, or a
            folder that holds one of them.

    Raises:
        PickledFileError: It holds classes or functions that are not known to be harmless.
        InputError: There is no such file, or it cannot be read.
    """
    file = weights_file(path)
    start = _start(file)
    if not start:
        raise InputError(f"{file} is an empty file; copy or download it again")
    for mark, remedy in _OTHER_FILES.items():
        if start.startswith(mark):
            raise InputError(f"{file} is no checkpoint of tensors alone but {remedy}")
    if file.suffix == ".json":
        return _read_shards(file)
    if file.suffix == ".safetensors" or start[8:10] in (b'{"', b"{}"):
        return _read_safetensors(file)
    return _read_torch(file)


def weights_file(path: str | Path) -> Path:
    """Return a file of weights, or the one that a folder holds.

    Raises:
        InputError: There is no such file, or a folder holds none or several.
    """
    file = Path(path)
    if file.is_dir():
        return _file_of_folder(file)
    if not file.is_file():
        raise InputError(f"no weights file {file}; give a .safetensors file or a checkpoint of tensors")
    return file


def _file_of_folder(folder: Path) -> Path:
    """Return the one file of weights in a folder, or refuse."""
    known = next((folder / name for name in _FOLDER_FILES if (folder / name).is_file()), None)
    if known is not None:
        return known
    if any(folder.glob("*.distcp")):
        raise InputError(
            f"{folder} is a distributed checkpoint; make one file of it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if (folder / "zero_to_fp32.py").is_file():
        raise InputError(f"{folder} is a checkpoint of DeepSpeed; run its zero_to_fp32.py and give the file it makes")
    found = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(found) != 1:
        listed = ", ".join(file.name for file in found[:4]) + (", …" if len(found) > 4 else "")
        raise InputError(f"the folder {folder} holds {len(found)} files of weights ({listed or 'none'}); name one file")
    return found[0]


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no readable safetensors file: {error}") from None


def _read_shards(index: Path) -> dict[str, Any]:
    """Return the entries of all shards that an index names, each from the shard that it is said to lie in."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in places.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} is no index of shards: it has no weight_map; give a file of weights") from None
    content: dict[str, Any] = {}
    for shard in dict.fromkeys(shard for _, shard in pairs):
        wanted = [name for name, place in pairs if place == shard]
        if Path(shard).name != shard:
            raise InputError(f"{index} names a shard outside its folder, {shard}; put all shards beside the index")
        if not (index.parent / shard).is_file():
            raise InputError(f"{index} names {shard}, which is not beside it; copy or download all shards")
        read = read_checkpoint(index.parent / shard)
        missing = [name for name in wanted if name not in read]
        if missing:
            raise InputError(f"{index.parent / shard} lacks {missing[0]}, which {index.name} says is there")
        content.update({name: read[name] for name in wanted})
    return content


def _read_torch(file: Path) -> Any:
    if is_torchscript(file):
        raise _pickled(file, " but a TorchScript archive")
    quiet = quiet_warnings("Detected pickle protocol", UserWarning)  # it is said here in a sentence, where it matters
    with _LOCK, quiet, torch.serialization.safe_globals(_allowed()):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for files that are not checkpoints of tensors
            names, kind = unknown_names(file), type(error).__name__
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise _pickled(file, f": it names {names[0]}{more}, which only unpickling could make")
    if _start(file)[:1] == b"\x80" or zipfile.is_zipfile(file):
        raise _pickled(file, f" ({kind})")
    raise InputError(
        f"{file} is no checkpoint of tensors alone ({kind}): it is of no kind that torch writes; copy or download it "
        "again, or save module.state_dict() and give that file"
    )


def _pickled(file: Path, why: str) -> PickledFileError:
    """Return the refusal of a file that only unpickling could read."""
    return PickledFileError(
        f"{file} is no checkpoint of tensors alone{why}; make safetensors of it: {convert_command(file)}"
    )


def convert_command(file: str | Path, entry: str = "") -> str:
    """Return the command that makes safetensors of a file, of one entry where it is named."""
    words = ["conceptlens", "convert", str(file), *(["--entry", entry] if entry else [])]
    return shlex.join([*words, "--out", f"{entry or Path(file).stem}.safetensors"])


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_MARK_LENGTH)


def is_torchscript(file: Path) -> bool:
    """Whether a file is an archive of `torch.jit.save`."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def unknown_names(file: Path) -> list[str]:
    """Return the classes and functions that a checkpoint names and that are not allowed, without reading them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except Exception:  # a file of another or an older kind, or a broken one
        return []


def _allowed() -> list[Any]:
    """Return what may stand in checkpoints beside tensors: settings, paths, plain containers, numbers of numpy.

    timm's trainer keeps its `argparse.Namespace` there, Lightning its hyperparameters; none of these does anything but
    hold values. A dictionary takes the place of Lightning's own.
    """
    core = np._core.multiarray  # pyright: ignore[reportAttributeAccessIssue]
    numbers = [type(np.dtype(code)) for code in "?bhilqBHILQefdSU"]
    renamed: list[Any] = [(dict, name) for name in _LIGHTNING_DICTS]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        renamed += [(core.scalar, f"{module}.scalar"), (core._reconstruct, f"{module}._reconstruct")]
    plain = [argparse.Namespace, collections.defaultdict, list, dict, set, int, float, str, type(pathlib.Path())]
    return [*plain, np.dtype, np.ndarray, *numbers, *renamed]


def top_level(content: Any, most: int = 8) -> str:
    """Return what a checkpoint holds at its top, in words.

    Args:
        content: What `read_checkpoint` returned.
        most: How many names are listed.
    """
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(name) for name in content]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
