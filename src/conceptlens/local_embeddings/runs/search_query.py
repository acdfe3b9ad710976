"""The embedding of a photo and a mask, to search a store with."""

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
from conceptlens.local_embeddings.modes import FitSettings, embed_masks
from conceptlens.local_embeddings.runs.embed_batch import prepare_photo
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.model.layer_cells import layer_cells

if TYPE_CHECKING:
    from PIL import Image

    from conceptlens.model.backbone import Backbone
    from conceptlens.store.row import RunRow
    from conceptlens.store.store import Store


@dataclass(frozen=True, eq=False)
class QueryVector:
    """A vector `[channel]` with its model, layer and mode: only vectors of the same three can be compared."""

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
    """Embed what a mask covers in a photo, with the settings and channel scale of a run of the store.

    Args:
        store: The store to search.
        photo: An RGB photo.
        mask: bool `[rows columns]` over the whole photo, at any size.
        layer: A layer of the run; None takes its last.
        run: A run id; None takes the only one.
        model: The run's model; None loads it by name.
        weights: A file of weights for the model that is loaded.

    Raises:
        InputError: The store lacks the run or layer, has several runs and none is named, the model's weights are not
            those of the run, or the mask is empty or covers the whole photo.
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
    read = prepare_photo(prepared, plan, 0, one, None)
    cells = layer_cells(prepared, read.image[None], [name])[name]
    scale = torch.tensor(settings["scales"][name], device=cells.device)
    found = embed_masks(cells, torch.zeros(1, dtype=torch.long), read.truth.to(cells.device), plan.fit_settings, scale)
    return QueryVector(found.vectors[0].cpu().numpy(), str(settings["model"]), name, plan.fit_settings.mode)


def _run(store: Store, run: str | None) -> RunRow:
    rows = {row.id: row for row in store.runs()}
    if run is None and len(rows) == 1:
        return next(iter(rows.values()))
    if run is None or run not in rows:
        problem = "has several runs" if run is None and rows else f"has no run '{run}'" if run else "has no run"
        raise InputError(f"{store.path} {problem}; {near(run or '', list(rows), 'name one of', 5)}")
    return rows[run]


def _loaded(settings: Mapping[str, Any], weights: str | None) -> Backbone:
    from conceptlens.model.zoo import load_model

    return load_model(str(settings["model"]), weights=weights, crop_mode="squash")


def _plan(settings: Mapping[str, Any], layer: str) -> EmbedPlan:
    size = settings["input_size"]
    return EmbedPlan(
        (layer,),
        FitSettings(**settings["fit_settings"]),
        input_size=None if size is None else (int(size[0]), int(size[1])),
        crop_mode=settings["crop_mode"],
    )
