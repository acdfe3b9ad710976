"""From a batch of photos with masks to rows of a store."""

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
from conceptlens.io.errors import InputError
from conceptlens.io.images import fingerprint
from conceptlens.local_embeddings.loce import seen_part
from conceptlens.local_embeddings.mask_fits import embed_masks
from conceptlens.local_embeddings.runs.plan import EmbedPlan
from conceptlens.local_embeddings.soft_masks import soft_masks
from conceptlens.model.layer_cells import layer_cells
from conceptlens.model.preprocess import Preprocess
from conceptlens.record import WHOLE, ImageInfo
from conceptlens.store.row import EmbeddingRow, ImageRow, MaskRow, row_id

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Read:
    """One photo of a set, ready for the model, or why it could not be read.

    `control[mask rows columns]` are masks of another photo; `None` where there is none.
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
    def marks(self) -> list[tuple[str, ...]]:
        """What tells each mask from the others in every run: its concept, its pixels, and which of equal ones it is."""
        if self.one is None:
            return []
        found: list[tuple[str, ...]] = []
        counts: Counter[tuple[str, ...]] = Counter()
        for concept, mask in zip(self.one.concepts, self.one.masks, strict=True):
            pixels = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=8).hexdigest()
            mark = (concept.label, concept.type, pixels)
            found.append((*mark, *([str(counts[mark])] if counts[mark] else [])))  # two boxes may be equal
            counts[mark] += 1
        return found


@dataclass(frozen=True)
class Rows:
    """What one batch adds to a store."""

    images: list[ImageRow] = field(default_factory=list)
    embeddings: list[EmbeddingRow] = field(default_factory=list)
    masks: list[MaskRow] = field(default_factory=list)


def image_of(model: Backbone, plan: EmbedPlan, place: int, photo: Image.Image) -> Float[Tensor, "colour rows columns"]:
    """Return a photo as the model reads it, with the plan's noise."""
    if model.transform is None:
        raise InputError(f"{model.name} has no transform, so it cannot read photos; give Backbone(..., transform=...)")
    return model.transform(plan.noise.on(photo, (plan.seed, place)))


def prepare(
    model: Backbone, plan: EmbedPlan, place: int, one: MaskedPhoto, control: Sequence[np.ndarray] | None
) -> Read:
    """Return one photo as the model reads it, with its masks, and a mask of another photo for each, for control."""
    image, transform, size = image_of(model, plan, place, one.photo), model.transform, one.photo.size
    picture = ImageInfo(one.name, "", *size, transform.box(size) if isinstance(transform, Preprocess) else WHOLE)
    truth = soft_masks(seen_part(one.masks, picture)) if len(one.masks) else torch.zeros(0, 100, 100)
    soft = {id(mask): soft_masks(seen_part(mask[None], picture)) for mask in {id(m): m for m in control or ()}.values()}
    other = torch.cat([soft[id(mask)] for mask in control]) if control else None  # one may be held against several
    return Read(one.name, one, image, truth, other)


def rows_of(
    model: Backbone, plan: EmbedPlan, run: str, data: str, scales: Mapping[str, Tensor], reads: Sequence[Read]
) -> Rows:
    """Return the rows of one batch: one forward pass for all photos and layers, then one fit for each mask and layer.

    A photo whose cells are not finite at some layer has a failure and no vectors.
    """
    rows = Rows()
    sound = [read for read in reads if read.one is not None]
    cells = _cells(model, plan, sound)
    broken = {
        place: name for name, values in cells.items()
        for place in (~values.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
    }  # fmt: skip
    for read in reads:
        place = sound.index(read) if read in sound else None
        failure = read.failure
        if place in broken:
            failure = f"layer '{broken[place]}' gives values that are not finite for this photo"
        rows.images.append(_image_row(run, data, read, failure))
    good = [place for place in range(len(sound)) if place not in broken]
    for name, values in cells.items():
        rows.embeddings.extend(_embeddings(model, plan, run, data, name, scales[name], values, sound, good))
    for place in good:
        rows.masks.extend(_mask_rows(data, sound[place]))
    return rows


def _cells(model: Backbone, plan: EmbedPlan, reads: Sequence[Read]) -> dict[str, Tensor]:
    images = [read.image for read in reads if read.image is not None]
    if not images:
        return {}
    like = model.parameter
    return layer_cells(model, torch.stack(images).to(like.device, like.dtype), plan.layers)


def _embeddings(
    model: Backbone,
    plan: EmbedPlan,
    run: str,
    data: str,
    layer: str,
    scale: Tensor,
    cells: Tensor,
    reads: Sequence[Read],
    good: Sequence[int],
) -> list[EmbeddingRow]:
    of = [place for place in good for _ in reads[place].concepts]
    if not of:
        return []
    truth = torch.cat([_given(reads[place].truth) for place in good])
    found = embed_masks(cells, torch.tensor(of), truth.to(cells.device), plan.setting, scale.to(cells.device))
    controls = _controls(cells, plan, scale, reads, good)
    vectors = found.vectors.cpu().numpy()
    rows, number = [], 0
    for place in good:
        read = reads[place]
        for index, label, type_, group, area in read.concepts:
            mask = _mask_id(data, read, index)
            rows.append(
                EmbeddingRow(
                    id=row_id(run, mask, layer),
                    run=run,
                    image=row_id(data, read.name),
                    concept=label,
                    model=model.name,
                    layer=layer,
                    mode=plan.setting.mode,
                    vector=vectors[number],
                    type=type_,
                    group=group,
                    iou=float(found.iou[number]),
                    loss=float(found.loss[number]),
                    control_iou=controls.get((place, index), float("nan")),
                    converged=bool(found.converged[number]),
                    area=area,
                    mask=mask,
                )
            )
            number += 1
    return rows


def _controls(
    cells: Tensor, plan: EmbedPlan, scale: Tensor, reads: Sequence[Read], good: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Return how well the same fit draws another photo's mask, for each photo and mask that has a control."""
    asked = [
        (place, index) for place in good if reads[place].control is not None for index, *_ in reads[place].concepts
    ]
    if not asked:
        return {}
    truth = torch.cat([_given(reads[place].control) for place in good if reads[place].control is not None])
    of = torch.tensor([place for place, _ in asked])
    found = embed_masks(cells, of, truth.to(cells.device), plan.setting, scale.to(cells.device))
    return dict(zip(asked, found.iou.tolist(), strict=True))


def _image_row(run: str, data: str, read: Read, failure: str | None) -> ImageRow:
    image = row_id(data, read.name)
    if read.one is None:
        return ImageRow(image, run, read.name, failure=failure)
    width, height = read.one.photo.size
    return ImageRow(image, run, read.name, fingerprint(read.one.photo), width, height, failure)


def _mask_rows(data: str, read: Read) -> list[MaskRow]:
    one = read.one
    if one is None:
        return []
    image = row_id(data, read.name)
    return [
        MaskRow.from_mask(_mask_id(data, read, index), image, concept.label, mask)
        for index, (concept, mask) in enumerate(zip(one.concepts, one.masks, strict=True))
    ]


def _mask_id(data: str, read: Read, index: int) -> str:
    """Return what one mask is known by in every run."""
    return row_id(data, read.name, *read.marks[index])


def _given(masks: Tensor | None) -> Tensor:
    return torch.zeros(0, 100, 100) if masks is None else masks
