"""Discover concepts that have no name: factorise the cells of a set of photos, and show where each is strongest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlens.discovery.concept_count import CANDIDATES, Fit, choose, fits
from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
from conceptlens.discovery.photo_cells import CellSample, photo_cells, sample_cells
from conceptlens.discovery.strongest_places import find_strongest
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.io.images import find_images
from conceptlens.io.progress import progress
from conceptlens.model.backbone import Backbone, check_backbone

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MIN_PHOTOS, MAX_PHOTOS = 8, 1000
HELD_OUT = 0.2


def discover(
    model: Backbone,
    photos: str | Path | Sequence[str | Path],
    count: int | None = None,
    layer: str | None = None,
    seed: int = 0,
    max_photos: int = MAX_PHOTOS,
    batch_size: int = 8,
) -> DiscoveredConcepts:
    """Return directions that the cells of a set of photos share: concepts that no word was asked for.

    Every cell `x` of the layer is a sum of few directions with coefficients `h >= 0`, and a rest: `x = h D + rest`.
    Layers without negative values are factorised by NMF, others by semi-NMF, whose directions take either sign (see
    `factorise`). At most 16 cells of a photo and 8192 of all photos are factorised; then all photos are run once more,
    and all of their cells are searched for the strongest places.

    A fifth of the photos is held out. Each number of concepts is fitted on the others three times, from different
    starts and on different parts of them. Only directions are kept that are found again (a mean cosine of 0.8 or more)
    and that at least five photos share: a factorisation spends the others on single photos, or finds them by accident.
    The largest number is taken at which those kept still explain the photos held out better (see `choose`).

    Args:
        model: The model.
        photos: Files, folders or glob patterns, one or several.
        count: The number of concepts, all of which are kept; by default those of 5, 10, 15, 20 or 30 that are found
            again and shared.
        layer: The layer; by default the last that the model observes.
        seed: Of the sample of photos and cells, the photos held out, and the starts.
        max_photos: How many photos to take at most; of more, as many are drawn.
        batch_size: Photos per forward pass.

    Returns:
        The concepts, the most active first. `diagnostics` has the number of `photos`, of `held_out` ones, of
        `cells` and of cells of each photo (`cells_of_photo`); `signed`, whether the layer has negative values;
        `explained`, the share of the held-out variance that the concepts explain; `accounted`, the mean share of a
        cell's activation that they account for; `residual`, the mean of `|x - h D| / |x|`; and the `seed`.

    Raises:
        InputError: There are too few photos, the number of concepts is larger than the layer allows, or there is no
            such layer.
        InputTypeError: `model` is no `Backbone`.
    """
    check_backbone(model)
    if count is not None and count < 1:
        raise InputError(f"{count} concepts are asked for; give a number of at least 1")
    name = layer or model.default_layers[-1]
    model.check_layer(name)
    files = _drawn(find_images(*([photos] if isinstance(photos, (str, Path)) else photos)), max_photos, seed)
    sample = _enough_cells(model, files, name, batch_size, seed)
    kept, held_out = _split(sample.cells, seed)
    counts = _counts(count, kept, name)
    found = list(progress(fits(kept, held_out, counts, seed, count is not None), len(counts), "factorising"))
    index = choose([one.candidate for one in found])
    batches = progress(
        photo_cells(model, sample.files, name, batch_size, []),
        len(sample.files), "finding the strongest places of photos", batch_size,
    )  # fmt: skip
    strongest = find_strongest(batches, found[index].directions)
    order = np.argsort(-np.array(strongest.activity), kind="stable").tolist()
    about = _diagnostics(sample, held_out, found[index], seed) | {
        "accounted": sum(strongest.activity),
        "residual": strongest.length,
    }
    return DiscoveredConcepts(
        directions=found[index].directions[order],
        names=("",) * len(order),
        suggestions=((),) * len(order),
        places=tuple(strongest.places[i] for i in order),
        activity=tuple(strongest.activity[i] for i in order),
        stability=tuple(found[index].stability[order].tolist()),
        shared=tuple(found[index].shared[order].tolist()),
        model=model.name,
        model_identity=weights_fingerprint(model.module),
        layer=name,
        candidates=tuple(one.candidate for one in found),
        chosen=index,
        diagnostics=about,
        failures=tuple((one.name, one.reason) for one in sample.failures),
    )


def _drawn(files: Sequence[Path], most: int, seed: int) -> tuple[Path, ...]:
    """Return at most so many of the files, drawn without replacement, in their order."""
    if len(files) <= most:
        return tuple(files)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:most])
    return tuple(files[i] for i in chosen.tolist())


def _enough_cells(model: Backbone, files: Sequence[Path], layer: str, batch_size: int, seed: int) -> CellSample:
    """Return a sample of cells; refused where too few photos are given or can be read."""
    if len(files) < MIN_PHOTOS:
        raise InputError(f"{len(files)} photos were given; concepts are discovered in at least {MIN_PHOTOS}")
    sample = sample_cells(model, files, layer, batch_size, seed)
    if len(sample.files) < MIN_PHOTOS:
        raise InputError(
            f"only {len(sample.files)} photos could be read, and at least {MIN_PHOTOS} are needed; the first that "
            f"failed: {sample.failures[0].reason}"
        )
    return sample


def _split(
    cells: Float[Tensor, "photo cell channel"], seed: int
) -> tuple[Float[Tensor, "photo cell channel"], Float[Tensor, "held_out cell channel"]]:
    """Return the cells of the photos to fit on, and of those held out."""
    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(cells)))
    held_out = max(1, round(HELD_OUT * len(cells)))
    return cells[order[held_out:]], cells[order[:held_out]]


def _counts(count: int | None, cells: Float[Tensor, "photo cell channel"], layer: str) -> tuple[int, ...]:
    """Return the numbers of concepts to try: not more than channels, nor than half of the cells."""
    most = min(cells.shape[2], cells[..., 0].numel() // 2)
    if count is None:
        return tuple(one for one in CANDIDATES if one <= most) or (max(1, most),)
    if count > most:
        raise InputError(
            f"{count} concepts are asked for; layer '{layer}' has {cells.shape[2]} channels, and the {len(cells)} "
            f"photos to fit on give {cells[..., 0].numel()} cells, so give at most {most}"
        )
    return (count,)


def _diagnostics(
    sample: CellSample, held_out: Float[Tensor, "photo cell channel"], fit: Fit, seed: int
) -> dict[str, Any]:
    return {
        "photos": len(sample.files),
        "held_out": len(held_out),
        "cells": sample.cells[..., 0].numel(),
        "cells_of_photo": sample.cells.shape[1],
        "signed": bool((sample.cells < 0).any()),
        "explained": fit.candidate.explained,
        "seed": seed,
    }
