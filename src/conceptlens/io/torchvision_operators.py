"""Let torchvision load beside a torch that lacks its compiled operators.

The wheels of torchvision on PyPI are built for CUDA. Beside a CPU build of torch their compiled operators cannot
load, and `import torchvision` (and so timm, open_clip, transformers) stops with `operator torchvision::nms does not
exist`. Declaring the two schemas first mends it; nothing in ConceptLens calls them.
"""

from __future__ import annotations

import importlib.util
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

_LOCK = threading.Lock()
_ALIVE: list[object] = []
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def mend_torchvision() -> object:
    """Declare torchvision's operators where its compiled ones cannot load; return what must stay alive.

    Call it before importing torchvision or anything built on it. A no-op where torchvision works as it is, or where
    somebody else has declared them.
    """
    with _LOCK:  # of two threads, the second finds them declared
        return _declared()


def _declared() -> object:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or not _missing():
        return None
    import torch

    for extension in Path(spec.origin).parent.glob("_C.*"):
        with suppress(OSError):  # built for another torch
            torch.ops.load_library(str(extension))
    missing = _missing()
    if not missing:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in missing:
        library.define(schema)
    _ALIVE.append(library)
    return library


def _missing() -> list[str]:
    """Return the operators that nobody has declared."""
    import torch

    return [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
