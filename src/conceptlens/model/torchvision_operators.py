"""Let torchvision load beside a torch that lacks its compiled operators.

The wheels of torchvision on PyPI are built for CUDA. Beside a CPU build of torch their compiled operators cannot
load, and `import torchvision` (and so timm, open_clip, transformers) stops with `operator torchvision::nms does not
exist`. Declaring the two schemas first mends it; nothing in ConceptLens calls them.
"""

from __future__ import annotations

import importlib.util
from functools import cache

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
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared("nms") or _compiled_operators_load(spec.origin):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not _declared(name):
            library.define(schema)
    return library


def _declared(name: str) -> bool:
    import torch

    return hasattr(torch.ops.torchvision, name)


def _compiled_operators_load(origin: str) -> bool:
    """Whether torchvision's compiled extension, beside its `__init__` at `origin`, loads into this torch."""
    from pathlib import Path

    import torch

    extensions = [p for p in Path(origin).parent.glob("_C*") if p.suffix in {".so", ".pyd", ".dylib"}]
    if not extensions:
        return False
    try:
        torch.ops.load_library(str(extensions[0]))
    except OSError:
        return False
    return _declared("nms")
