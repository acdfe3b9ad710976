"""Stores that a run fills, and all that they hold, to compare what engines make of the same photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embed_process import small_model, small_plan

from conceptlens.data.masked_set import MaskedSet
from conceptlens.local_embeddings.runs.embed_run import embed_batches
from conceptlens.runs.run_task import Engine
from conceptlens.store import Store


def filled(data: MaskedSet, folder: Path, engine: Engine, **settings: Any) -> Store:
    store = Store(folder, create=True)
    resume, model = settings.pop("resume", False), settings.pop("model", None)
    *_, last = embed_batches(data, model or small_model(), small_plan(**settings), store, resume, engine)
    assert last.photos == last.total == len(data)
    assert store.runs()[0].counts == {"photos": last.photos, "embeddings": last.embeddings, "failures": last.failures}
    return store


def told(store: Store) -> dict[str, Any]:
    """All that a store holds of its runs but times, numbers as the bytes they are."""
    found: dict[str, Any] = {"images": store.images(), "masks": [repr(mask) for mask in store.masks()]}
    for layer in store.layers():
        rows = store.embeddings(layer.layer, layer.model, layer.mode)
        for name in rows.__dataclass_fields__:
            values = getattr(rows, name)
            found[f"{layer.layer} {name}"] = values.tolist() if values.dtype == object else values.tobytes()
    return found
