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
from conceptlens.io.errors import Failure
from conceptlens.io.images import fingerprint
from conceptlens.local_embeddings.loce import visible_part
from conceptlens.local_embeddings.modes import embed_masks
from conceptlens.local_embeddings.problem import soft_masks
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.model.layer_cells import layer_cells
from conceptlens.store.row import EmbeddingRow, ImageRow, MaskRow, row_id

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """One photo of a set, prepared for the model.

    Attributes:
        one: The photo with its masks.
        image: The photo as the model reads it.
        truth: Its soft masks.
        control: A mask of another photo for each mask; None without controls.
    """

    one: MaskedPhoto
    image: Float[Tensor, "colour rows columns"]
    truth: Float[Tensor, "mask 100 100"]
    control: Float[Tensor, "mask 100 100"] | None

    @cached_property
    def concepts(self) -> list[tuple[int, str, str, str, float]]:
        """Number, name, type, group and share of the photo of each mask."""
        one = self.one
        return [
            (index, concept.label, concept.type, group, float(mask.mean()))
            for index, (concept, group, mask) in enumerate(zip(one.concepts, one.groups, one.masks, strict=True))
        ]

    @cached_property
    def mask_keys(self) -> list[tuple[str, ...]]:
        """The key of each mask, the same in every run: concept, hash of its pixels, number among equal ones."""
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
    return PreparedPhoto(one, image, truth, other)


def embed_photos(
    model: Backbone,
    plan: EmbedPlan,
    run: str,
    data: str,
    scales: Mapping[str, Tensor],
    reads: Sequence[PreparedPhoto | Failure],
) -> StoreRows:
    """Return the rows of one batch: one forward pass for all photos and layers, then one fit for each mask and layer.

    A photo with an activation that is not finite is a failure, since such an activation spreads to every cell.

    Args:
        model: The model, prepared as the plan says.
        plan: How the run embeds.
        run: Id of the run.
        data: Name of the data set.
        scales: Unit of each channel, by layer.
        reads: Photos of the batch, or why one could not be read.
    """
    rows = StoreRows()
    sound = [read for read in reads if isinstance(read, PreparedPhoto)]
    cells = layer_cells(model, torch.stack([read.image for read in sound]), plan.layers) if sound else {}
    broken = {
        index: name for name, values in cells.items()
        for index in (~values.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
    }  # fmt: skip
    for read in reads:
        if isinstance(read, Failure):
            rows.images.append(ImageRow(row_id(data, read.name), run, read.name, failure=read.reason))
            continue
        layer, one = broken.get(sound.index(read)), read.one
        failure = None if layer is None else f"layer '{layer}' gives values that are not finite for this photo"
        image = ImageRow(row_id(data, one.name), run, one.name, fingerprint(one.photo), *one.photo.size, failure)
        rows.images.append(image)
    photos = {index: read for index, read in enumerate(sound) if index not in broken}
    for name, values in cells.items():
        rows.embeddings.extend(
            _embeddings(model, plan, run, data, name, scales[name].to(values.device), values, photos)
        )
    for read in photos.values():
        rows.masks.extend(
            MaskRow.from_mask(_mask_id(data, read, index), row_id(data, read.one.name), concept.label, mask)
            for index, (concept, mask) in enumerate(zip(read.one.concepts, read.one.masks, strict=True))
        )
    return rows


def _embeddings(
    model: Backbone,
    plan: EmbedPlan,
    run: str,
    data: str,
    layer: str,
    scale: Tensor,
    cells: Tensor,
    photos: Mapping[int, PreparedPhoto],
) -> list[EmbeddingRow]:
    """Return a row for each mask of these photos, by their index among the cells."""
    of = [index for index, read in photos.items() for _ in read.concepts]
    if not of:
        return []
    truth = torch.cat([read.truth for read in photos.values()])
    found = embed_masks(cells, torch.tensor(of), truth.to(cells.device), plan.fit_settings, scale)
    controls = _controls(cells, plan, scale, photos)
    vectors = found.vectors.cpu().numpy()
    masks = [(index, read, *concept) for index, read in photos.items() for concept in read.concepts]
    return [
        EmbeddingRow(
            id=row_id(run, _mask_id(data, read, number), layer),
            run=run,
            image=row_id(data, read.one.name),
            concept=label,
            model=model.name,
            layer=layer,
            mode=plan.fit_settings.mode,
            vector=vectors[row],
            type=type_,
            group=group,
            iou=float(found.iou[row]),
            loss=float(found.loss[row]),
            control_iou=controls.get((index, number), float("nan")),
            converged=bool(found.converged[row]),
            area=area,
            mask=_mask_id(data, read, number),
        )
        for row, (index, read, number, label, type_, group, area) in enumerate(masks)
    ]


def _controls(
    cells: Tensor, plan: EmbedPlan, scale: Tensor, photos: Mapping[int, PreparedPhoto]
) -> dict[tuple[int, int], float]:
    """Return how well the same fit draws another photo's mask, for each photo and mask that has a control."""
    controls = {index: read.control for index, read in photos.items() if read.control is not None}
    wanted = [(index, mask) for index in controls for mask, *_ in photos[index].concepts]
    if not wanted:
        return {}
    truth = torch.cat(list(controls.values()))
    of = torch.tensor([index for index, _ in wanted])
    found = embed_masks(cells, of, truth.to(cells.device), plan.fit_settings, scale)
    return dict(zip(wanted, found.iou.tolist(), strict=True))


def _mask_id(data: str, read: PreparedPhoto, index: int) -> str:
    """Return the id of a mask, the same in every run."""
    return row_id(data, read.one.name, *read.mask_keys[index])
