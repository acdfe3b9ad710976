"""Embedding of a batch of photos with masks: one forward pass, then one fit for each mask and layer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.io.images import fingerprint
from conceptlens.local_embeddings.loce import visible_part
from conceptlens.local_embeddings.mask_fits import embed_masks
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.soft_masks import soft_masks
from conceptlens.model.layer_cells import layer_cells
from conceptlens.store.row import EmbeddingRow, ImageRow, MaskRow, row_id

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """One photo of a set, prepared for the model, or why it could not be read.

    `truth` are its soft masks, `control` those of another photo, one for each; None where there is none.
    """

    name: str
    one: MaskedPhoto | None = None
    image: Float[Tensor, "colour rows columns"] | None = None
    truth: Float[Tensor, "mask 100 100"] | None = None
    control: Float[Tensor, "mask 100 100"] | None = None
    failure: str | None = None

    @cached_property
    def concepts(self) -> list[tuple[int, str, str, str, float]]:
        """Number, name, type, group and share of the photo of each mask."""
        one = self.one
        if one is None or not len(one.masks):
            return []
        shares = np.count_nonzero(one.masks, (1, 2)) / one.masks[0].size
        return [
            (index, concept.label, concept.type, group, share)
            for index, (concept, group, share) in enumerate(zip(one.concepts, one.groups, shares.tolist(), strict=True))
        ]

    @cached_property
    def mask_keys(self) -> list[tuple[str, ...]]:
        """The key of each mask, the same in every run: concept, hash of its pixels, number among equal ones."""
        if self.one is None:
            return []
        found: list[tuple[str, ...]] = []
        counts: Counter[tuple[str, ...]] = Counter()
        for concept, mask in zip(self.one.concepts, self.one.masks, strict=True):
            pixels = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=8).hexdigest()
            key = (concept.label, concept.type, pixels)
            found.append((*key, *([str(counts[key])] if counts[key] else [])))  # two boxes may be equal
            counts[key] += 1
        return found


@dataclass(frozen=True)
class StoreRows:
    """The rows that one batch adds to a store."""

    images: list[ImageRow] = field(default_factory=list)
    embeddings: list[EmbeddingRow] = field(default_factory=list)
    masks: list[MaskRow] = field(default_factory=list)


def model_input(
    model: Backbone, plan: EmbedPlan, index: int, photo: Image.Image
) -> Float[Tensor, "colour rows columns"]:
    """Return a photo as the model reads it, with the plan's noise."""
    return model.read_photo(plan.noise.apply(photo, (plan.seed, index)))


def prepare_photo(
    model: Backbone, plan: EmbedPlan, index: int, one: MaskedPhoto, control: Sequence[np.ndarray] | None
) -> PreparedPhoto:
    """Return one photo as the model reads it, with its masks, and a mask of another photo for each, for control."""
    image, info = model_input(model, plan, index, one.photo), model.image_info(one.name, one.photo.size)
    truth = soft_masks(visible_part(one.masks, info)) if len(one.masks) else torch.zeros(0, 100, 100)
    soft = {id(mask): soft_masks(visible_part(mask[None], info)) for mask in {id(m): m for m in control or ()}.values()}
    other = torch.cat([soft[id(mask)] for mask in control]) if control else None  # one may serve several masks
    return PreparedPhoto(one.name, one, image, truth, other)


def embed_photos(
    model: Backbone, plan: EmbedPlan, run: str, data: str, scales: Mapping[str, Tensor], reads: Sequence[PreparedPhoto]
) -> StoreRows:
    """Return the rows of one batch: one forward pass for all photos and layers, then one fit for each mask and layer.

    A photo whose cells are not finite at some layer has a failure and no vectors.
    """
    rows = StoreRows()
    sound = [read for read in reads if read.one is not None]
    cells = _cells(model, plan, sound)
    broken = {
        index: name for name, values in cells.items()
        for index in (~values.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
    }  # fmt: skip
    for read in reads:
        index = sound.index(read) if read in sound else None
        failure = read.failure
        if index in broken:
            failure = f"layer '{broken[index]}' gives values that are not finite for this photo"
        rows.images.append(_image_row(run, data, read, failure))
    good = [index for index in range(len(sound)) if index not in broken]
    for name, values in cells.items():
        rows.embeddings.extend(_embeddings(model, plan, run, data, name, scales[name], values, sound, good))
    for index in good:
        rows.masks.extend(_mask_rows(data, sound[index]))
    return rows


def _cells(model: Backbone, plan: EmbedPlan, reads: Sequence[PreparedPhoto]) -> dict[str, Tensor]:
    images = [read.image for read in reads if read.image is not None]
    if not images:
        return {}
    return layer_cells(model, torch.stack(images), plan.layers)


def _embeddings(
    model: Backbone,
    plan: EmbedPlan,
    run: str,
    data: str,
    layer: str,
    scale: Tensor,
    cells: Tensor,
    reads: Sequence[PreparedPhoto],
    good: Sequence[int],
) -> list[EmbeddingRow]:
    of = [index for index in good for _ in reads[index].concepts]
    if not of:
        return []
    truth = torch.cat([_given(reads[index].truth) for index in good])
    found = embed_masks(cells, torch.tensor(of), truth.to(cells.device), plan.fit_settings, scale.to(cells.device))
    controls = _controls(cells, plan, scale, reads, good)
    vectors = found.vectors.cpu().numpy()
    rows, number = [], 0
    for index in good:
        read = reads[index]
        for number_, label, type_, group, area in read.concepts:
            mask = _mask_id(data, read, number_)
            rows.append(
                EmbeddingRow(
                    id=row_id(run, mask, layer),
                    run=run,
                    image=row_id(data, read.name),
                    concept=label,
                    model=model.name,
                    layer=layer,
                    mode=plan.fit_settings.mode,
                    vector=vectors[number],
                    type=type_,
                    group=group,
                    iou=float(found.iou[number]),
                    loss=float(found.loss[number]),
                    control_iou=controls.get((index, number_), float("nan")),
                    converged=bool(found.converged[number]),
                    area=area,
                    mask=mask,
                )
            )
            number += 1
    return rows


def _controls(
    cells: Tensor, plan: EmbedPlan, scale: Tensor, reads: Sequence[PreparedPhoto], good: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Return how well the same fit draws another photo's mask, for each photo and mask that has a control."""
    wanted = [(index, mask) for index in good if reads[index].control is not None for mask, *_ in reads[index].concepts]
    if not wanted:
        return {}
    truth = torch.cat([_given(reads[index].control) for index in good if reads[index].control is not None])
    of = torch.tensor([index for index, _ in wanted])
    found = embed_masks(cells, of, truth.to(cells.device), plan.fit_settings, scale.to(cells.device))
    return dict(zip(wanted, found.iou.tolist(), strict=True))


def _image_row(run: str, data: str, read: PreparedPhoto, failure: str | None) -> ImageRow:
    image = row_id(data, read.name)
    if read.one is None:
        return ImageRow(image, run, read.name, failure=failure)
    width, height = read.one.photo.size
    return ImageRow(image, run, read.name, fingerprint(read.one.photo), width, height, failure)


def _mask_rows(data: str, read: PreparedPhoto) -> list[MaskRow]:
    one = read.one
    if one is None:
        return []
    image = row_id(data, read.name)
    return [
        MaskRow.from_mask(_mask_id(data, read, index), image, concept.label, mask)
        for index, (concept, mask) in enumerate(zip(one.concepts, one.masks, strict=True))
    ]


def _mask_id(data: str, read: PreparedPhoto, index: int) -> str:
    """Return the id of a mask, the same in every run."""
    return row_id(data, read.name, *read.mask_keys[index])


def _given(masks: Tensor | None) -> Tensor:
    return torch.zeros(0, 100, 100) if masks is None else masks
