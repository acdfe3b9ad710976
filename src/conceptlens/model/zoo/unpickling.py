"""The process that opens a pickle: it hands back tensors, and runs nothing that the file names.

`python -m conceptlens.model.zoo.unpickling CHECKPOINT OUT ENTRY`. Classes and functions that are not known to make
tensors, numbers and containers become empty stand-ins. On top, the process may write nothing from Python, start
nothing and connect to nothing, and on Linux it has no network where users may leave it. The tensors go to OUT as
safetensors; on standard output stands, in JSON, which names were replaced and what was left out, or why there is
nothing.
"""

from __future__ import annotations

import collections
import ctypes
import importlib
import json
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of Linux, <sched.h>
_FORBIDDEN = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "ftplib.", "smtplib.", "urllib.", "webbrowser.", "pty.",
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "os.kill",
    "os.remove", "os.rename", "os.rmdir",
    "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.putenv",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PLAIN = ("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice", "str", "tuple")
_REBUILD = (
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
    "_rebuild_parameter_with_state", "_rebuild_sparse_tensor", "_rebuild_qtensor",
)  # fmt: skip


class StandIn:
    """What takes the place of an object of a class that is not known: it holds what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        """Take any arguments."""
        found = object.__new__(cls)
        found.state, found.entries, found.members = {}, {}, []
        return found

    state: Any
    entries: dict[Any, Any]
    members: list[Any]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        """Take the place of what calling the object would have made."""
        return StandIn()

    def append(self, value: Any) -> None:
        """Hold a member of a list."""
        self.members.append(value)

    def extend(self, values: Any) -> None:
        """Hold members of a list."""
        self.members.extend(values)


REPLACED: dict[str, type[StandIn]] = {}


class Unpickler(pickle.Unpickler):
    """An unpickler that knows tensors, numbers and containers, and makes stand-ins of everything else."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what a pickle names, or a stand-in for it."""
        known = _known(module.replace("__builtin__", "builtins"), name)
        if known is not None:
            return known
        called = f"{module}.{name}"
        return REPLACED.setdefault(called, type(name.rpartition(".")[2], (StandIn,), {}))


def _known(module: str, name: str) -> Any:
    import numpy as np
    import torch

    if module == "builtins" and name in _PLAIN:
        return __builtins__[name] if isinstance(__builtins__, dict) else getattr(__builtins__, name)
    if module == "collections" and name in ("OrderedDict", "defaultdict", "Counter"):
        return getattr(collections, name)
    if module == "torch._utils" and name in _REBUILD:
        return getattr(importlib.import_module(module), name)
    if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
        return lambda make, _kind, inputs, _state: make(*inputs)  # a plain tensor in place of one of another class
    if (module, name) == ("torch.nn.parameter", "Parameter"):
        return torch.nn.Parameter
    if (module, name) == ("torch.serialization", "_get_layout"):
        return torch.serialization._get_layout
    if module in ("torch", "torch.storage"):
        value = getattr(torch, name, None)
        known = isinstance(value, torch.dtype) or name in ("Size", "device", "Tensor") or name.endswith("Storage")
        return value if known else None
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("scalar", "_reconstruct"):
        return getattr(np._core.multiarray, name)  # pyright: ignore[reportAttributeAccessIssue]
    if module == "numpy" and name in ("dtype", "ndarray"):
        return getattr(np, name)
    return getattr(np.dtypes, name, None) if module == "numpy.dtypes" and name.endswith("DType") else None


def load(file: Any, **options: Any) -> Any:
    """Read one pickle; `torch.load` takes this and `Unpickler` from a module."""
    return Unpickler(file, **options).load()


def plain(value: Any, path: tuple[int, ...] = ()) -> Any:
    """Return what was read as mappings, lists and tensors: of a module its weights and buffers, of an object its state.

    Args:
        value: What was unpickled.
        path: The objects around it, which are not entered again.
    """
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else None
    if id(value) in path:
        return None
    inner = (*path, id(value))
    if isinstance(value, StandIn):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        state = state if isinstance(state, Mapping) else {}
        if "_parameters" in state and "_modules" in state:
            return _module_state(state, inner)
        return {key: plain(part, inner) for key, part in {**state, **value.entries}.items()} or [
            plain(part, inner) for part in value.members
        ]
    if isinstance(value, Mapping):
        return {key: plain(part, inner) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, inner) for part in value]
    return value


def _module_state(state: Mapping[str, Any], path: tuple[int, ...]) -> dict[str, Any]:
    """Return the `state_dict()` of a module that was pickled whole."""
    passing = state.get("_non_persistent_buffers_set") or ()
    buffers = {name: value for name, value in (state.get("_buffers") or {}).items() if name not in passing}
    own = {**state["_parameters"], **buffers}
    parts = {name: plain(part, path) for name, part in state["_modules"].items() if part is not None}
    return {**{name: value for name, value in own.items() if value is not None}, **parts}


def _leave_network() -> None:
    """Enter a network without any connection, where the system is a Linux that lets its users do so."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NETWORK)


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what reading weights does not need; once added, an audit hook cannot be taken away."""
    writes = event == "open" and (
        any(sign in str(arguments[1] or "") for sign in "wax+") or bool((arguments[2] or 0) & _WRITING)
    )
    if writes or event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not allowed while a checkpoint is read")


class ScriptUnpickler(Unpickler):
    """Reads the objects of a TorchScript archive and its tensors, and none of its programs."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self._archive, self._folder = archive, folder

    def persistent_load(self, pid: Any, /) -> Any:
        """Return the storage that a tensor lies in: `("storage", kind, key, device, length)`."""
        import torch

        _, kind, key, *_ = pid
        content = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
        bare = torch.frombuffer(content, dtype=torch.uint8).untyped_storage() if content else torch.UntypedStorage(0)
        return torch.TypedStorage(wrap_storage=bare, dtype=kind.dtype, _internal=True)


def _read(file: Path) -> Any:
    import torch

    from conceptlens.model.zoo.checkpoint_file import is_torchscript

    if is_torchscript(file):
        with zipfile.ZipFile(file) as archive:
            folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).partition("/")[0]
            return ScriptUnpickler(archive, folder).load()
    own: Any = types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__="unpickling")
    try:
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=own)
    except Exception:
        with file.open("rb") as opened:
            if opened.read(1) != b"\x80":
                raise
            opened.seek(0)  # a pickle that torch did not write, as Detectron2's
            return load(opened, encoding="latin1")


def main(file: str, out: str, entry: str) -> None:
    """Read a checkpoint and write its tensors; say on standard output what was done, or why nothing was."""
    _leave_network()
    from conceptlens.model.zoo.converted import write_tensors

    sys.addaudithook(_forbid)
    try:
        left_out, count = write_tensors(plain(_read(Path(file))), Path(out), entry, file)
        answer: dict[str, Any] = {"left_out": left_out, "count": count, "replaced": sorted(REPLACED)}
    except Exception as error:  # whatever a broken or hostile file raises
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400], "kind": type(error).__name__}
        if type(error).__name__ == "InputError":
            answer["error"] = str(error)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:4])
