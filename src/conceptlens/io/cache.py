"""Text vectors on disk, by model and text: no text is encoded twice."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import texts_fingerprint

if TYPE_CHECKING:
    from jaxtyping import Float

_WRITING = threading.Lock()


def cache_folder() -> Path:
    """Return where ConceptLens keeps what it can make again: `CONCEPTLENS_CACHE`, else the user's cache folder."""
    named = os.environ.get("CONCEPTLENS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "conceptlens"


def cached(
    model: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], shipped: Path | None = None
) -> Float[Tensor, "text dimension"]:
    """Return `encode(texts)`, encoding only the texts that are not yet on disk for `model`.

    `shipped` is a file of vectors that came with the package. What is made here goes to one safetensors file per
    model, replaced whole; an unreadable one is written anew, and a folder that cannot be written is passed over, for
    everything in it can be computed again. Of two processes that write at once, the last one's file stays.

    Args:
        model: The name of the encoder, with the fingerprint of its weights.
        texts: At least one text.
        encode: From texts to vectors `(text, dimension)`.
        shipped: A file of vectors that came with the package.

    Raises:
        InputError: No text was given.
    """
    if isinstance(texts, str) or not texts:
        raise InputError(f"texts are {texts!r}; give a list of at least one text")
    file = cache_folder() / f"texts-{texts_fingerprint([model])}.safetensors"
    known = {**_read(file), **(_read(shipped) if shipped else {})}
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    if missing:
        made = dict(zip(missing, encode(missing), strict=True))
        known |= made
        with suppress(InputError), _WRITING:  # threads write one after the other
            _write(file, {**_read(file), **made}, model)  # read again: another one may have written meanwhile
    return torch.stack([known[text] for text in texts])


def _read(file: Path) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()  # at once: opened twice, it may be two files when another process replaces it
        vectors = load(content)["vectors"].float()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return dict(zip(json.loads(header["__metadata__"]["texts"]), vectors, strict=True))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return {}


def _write(file: Path, vectors: dict[str, Tensor], model: str) -> None:
    metadata = {"model": model, "texts": json.dumps(list(vectors))}
    with replacing(file) as temporary:
        save_file({"vectors": torch.stack(list(vectors.values()))}, temporary, metadata)
