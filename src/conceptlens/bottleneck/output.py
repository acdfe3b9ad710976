"""What a bottleneck computes for a batch of images, and the explanation of one class made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.record import Source


@dataclass(frozen=True, eq=False)
class BottleneckOutput:
    """What a bottleneck reads in a batch.

    - `maps[image concept height width]`: the mean over the cells of each is the concept's activation.
    - `activations[image concept]`: as the maps give them, or as `intervene` set them; before edits.
    - `standardized[image concept]`: after edits for all classes, less the training mean, over the training deviation.
    - `logits[image class]`: `sum_concept weight standardized + bias`, edits for one class included.
    """

    logits: Float[Tensor, "image class"]
    activations: Float[Tensor, "image concept"]
    standardized: Float[Tensor, "image concept"]
    maps: Float[Tensor, "image concept height width"]


@dataclass(frozen=True, eq=False)
class ClassContributions:
    """What the concepts contribute to the logit of one class in each image.

    - `values[image concept]`: the contributions. With `bias[image]`, they add up to `logit[image]`.
    - `classes[image]`: the names of the classes.
    """

    values: Float[Tensor, "image concept"]
    bias: Float[Tensor, "image"]
    logit: Float[Tensor, "image"]
    classes: tuple[str, ...]


def bottleneck_explanation(
    output: BottleneckOutput,
    unmasked: Float[Tensor, "image concept height width"],
    contributions: ClassContributions,
    weight: Float[Tensor, "concept channel"],
    labels: tuple[str, ...],
    source: Source,
    top: int | None,
) -> Explanation:
    """Return maps, activations and contributions of the `top` concepts of each image, or of all.

    `unmasked`: the maps before the locator. `labels`, `weight`: the concepts' labels and their vectors over channels.
    """
    counts = contributions.values
    keep = counts.shape[1] if top is None else min(top, counts.shape[1])
    chosen = counts.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep] if top else _all(counts)
    kept = counts.gather(1, chosen)
    settings: dict[str, object] = {
        "target": list(contributions.classes),
        "bias": contributions.bias.tolist(),
        "logit": contributions.logit.tolist(),
        "rest": (counts.sum(1) - kept.sum(1)).tolist(),
    }
    origin = replace(source, settings={**settings, **source.settings})
    products = _take(unmasked, chosen)
    unmasked_part = Explanation(
        maps=products,
        weights=weight[chosen][..., None, None],
        scores=products.mean((2, 3)),
        labels=tuple(tuple(labels[i] for i in row) for row in chosen.tolist()),
        source=replace(origin, method="loc_cbm without its locator"),
        activation="identity",
        target_kinds=("concept",) * keep,
    )
    return replace(
        unmasked_part,
        maps=_take(output.maps, chosen),
        weights=None,
        scores=output.activations.gather(1, chosen),
        source=origin,
        contributions=kept,
        explained_classes=contributions.classes,
        components=(unmasked_part,),
    )


def _all(counts: Tensor) -> Int[Tensor, "image concept"]:
    return torch.arange(counts.shape[1], device=counts.device).expand(len(counts), -1)


def _take(maps: Tensor, chosen: Tensor) -> Tensor:
    return maps.gather(1, chosen[..., None, None].expand(-1, -1, *maps.shape[2:]))
