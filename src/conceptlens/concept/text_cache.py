"""Text vectors on disk, by model and text: no text is encoded twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def cache_folder() -> Path:
    """Return where ConceptLens keeps what it can make again: `CONCEPTLENS_CACHE`, else the user's cache folder."""
    named = os.environ.get("CONCEPTLENS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "conceptlens"


def cached(model: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Return `encode(texts)`, encoding only the texts that are not yet on disk for `model`.

    One safetensors file per model, replaced atomically; an unreadable file is written anew, for everything in it can
    be computed again.
    """
    file = cache_folder() / f"texts-{hashlib.sha256(model.encode()).hexdigest()[:16]}.safetensors"
    known = _read(file)
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    if missing:
        known = {**known, **dict(zip(missing, encode(missing), strict=True))}
        _write(file, known, model)
    return torch.stack([known[text] for text in texts])


def identity(module: nn.Module) -> str:
    """Return a short fingerprint of a module's weights: the same name with other weights is another model."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        sample = parameter.detach().flatten()[:8].float().cpu()
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(file), framework="pt") as stored:
            texts = json.loads((stored.metadata() or {})["texts"])
            return dict(zip(texts, stored.get_tensor("vectors"), strict=True))
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}


def _write(file: Path, vectors: dict[str, Tensor], model: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    metadata = {"model": model, "texts": json.dumps(list(vectors))}
    save_file({"vectors": torch.stack(list(vectors.values()))}, temporary, metadata)
    os.replace(temporary, file)
