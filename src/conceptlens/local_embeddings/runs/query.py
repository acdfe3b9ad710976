"""A photo and a mask as a vector to search a store with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.io.images import upright
from conceptlens.local_embeddings.mask_fits import embed_masks
from conceptlens.local_embeddings.modes import Setting
from conceptlens.local_embeddings.runs.embed_batch import prepare
from conceptlens.local_embeddings.runs.noise import Noise
from conceptlens.local_embeddings.runs.plan import EmbedPlan
from conceptlens.model.layer_cells import layer_cells

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.model.backbone import Backbone
    from conceptlens.store.row import RunRow
    from conceptlens.store.store import Store


@dataclass(frozen=True, eq=False)
class QueryVector:
    """A vector, and where it lives: only vectors of the same model, layer and mode can be compared."""

    vector: np.ndarray
    model: str
    layer: str
    mode: str


def embed_query(
    store: Store,
    photo: Image.Image,
    mask: np.ndarray,
    layer: str | None = None,
    run: str | None = None,
    model: Backbone | None = None,
    weights: str | None = None,
) -> QueryVector:
    """Return the embedding of what `mask[rows columns]` covers in a photo, as a run of the store made its own.

    The run's model is loaded by name, with the file of `weights`, where none is given. Raises `InputError` where the
    store has no such run or layer, several runs and none named, a model with other weights than the run's, or a mask
    that is empty or covers the whole photo.
    """
    chosen = _run(store, run)
    settings = chosen.settings
    layers = list(settings["layers"])
    name = layer or layers[-1]
    if name not in layers:
        raise InputError(f"the run has no layer '{name}'; it has {', '.join(layers)}")
    if not mask.any() or mask.all():
        raise InputError(
            f"the mask {'covers the whole photo' if mask.any() else 'is empty'}; draw what to search for, and no more"
        )
    loaded = model or _loaded(settings, weights)
    if weights_fingerprint(loaded.module) != settings["weights"]:
        raise InputError(f"{loaded.name} has other weights than the run's; give those that it was embedded with")
    plan = _plan(settings, name)
    prepared = plan.prepared(loaded)
    one = MaskedPhoto("query", upright(photo), (ConceptName("query"),), ("",), mask[None])
    read = prepare(prepared, plan, 0, one, None)
    if read.image is None or read.truth is None:
        raise InputError("the photo could not be prepared; give a photo that opens")
    like = prepared.parameter
    cells = layer_cells(prepared, read.image[None].to(like.device, like.dtype), [name])[name]
    scale = torch.tensor(settings["scales"][name], device=cells.device)
    found = embed_masks(cells, torch.zeros(1, dtype=torch.long), read.truth.to(cells.device), plan.setting, scale)
    return QueryVector(found.vectors[0].cpu().numpy(), str(settings["model"]), name, plan.setting.mode)


def _run(store: Store, run: str | None) -> RunRow:
    rows = {row.id: row for row in store.runs()}
    if run is None and len(rows) == 1:
        return next(iter(rows.values()))
    if run is None or run not in rows:
        asked = "has several runs" if run is None and rows else f"has no run '{run}'" if run else "has no run"
        raise InputError(f"{store.path} {asked}; name one of: {near(run or '', list(rows)) or 'none'}")
    return rows[run]


def _loaded(settings: Mapping[str, Any], weights: str | None) -> Backbone:
    from conceptlens.model.zoo import load_model

    return load_model(str(settings["model"]), weights=weights, crop_mode="squash")


def _plan(settings: Mapping[str, Any], layer: str) -> EmbedPlan:
    size = settings["size"]
    return EmbedPlan(
        (layer,),
        setting=Setting(**settings["setting"]),
        size=None if size is None else (int(size[0]), int(size[1])),
        reading=settings["reading"],
        noise=Noise(),
    )
