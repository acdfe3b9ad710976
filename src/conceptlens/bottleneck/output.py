"""What a bottleneck computes for a batch of images, and the explanation of one class made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.map_evidence import MapEvidence
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

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


def bottleneck_explanation(
    output: BottleneckOutput,
    unmasked: Float[Tensor, "image concept height width"],
    contributions: Float[Tensor, "image concept"],
    classes: tuple[str, ...],
    weight: Float[Tensor, "concept channel"],
    labels: tuple[str, ...],
    evidence: Sequence[MapEvidence],
    source: Source,
    top: int | None,
) -> Explanation:
    """Return maps, activations and contributions of the `top` concepts of each image, or of all.

    Args:
        output: What the bottleneck reads in the images.
        unmasked: The maps before the locator.
        contributions: What each concept contributes to the logit of the image's class.
        classes: The names of these classes, one for each image.
        weight: The concepts' vectors over channels.
        labels: The concepts' labels.
        evidence: What is known of their maps.
        source: Where the explanation comes from; `rest`, what the other concepts contribute, and `map_evidence` are
            added to its settings.
        top: How many concepts; `None` for all.
    """
    count = contributions.shape[1]
    if top is None:
        chosen = torch.arange(count, device=contributions.device).expand(len(contributions), -1)
    else:
        chosen = contributions.abs().sort(dim=1, descending=True, stable=True).indices[:, : min(top, count)]
    kept = contributions.gather(1, chosen)
    origin = replace(source, settings={**source.settings, "rest": (contributions.sum(1) - kept.sum(1)).tolist()})
    told = {labels[i]: [evidence[i].place, evidence[i].learned] for i in sorted(set(chosen.flatten().tolist()))}
    pointing = torch.tensor([torch.nan if one.check is None else one.check.pointing for one in evidence])
    products = _take(unmasked, chosen)
    unmasked_part = Explanation(
        maps=products,
        weights=weight[chosen][..., None, None],
        scores=products.mean((2, 3)),
        labels=tuple(tuple(labels[i] for i in row) for row in chosen.tolist()),
        source=replace(origin, method="loc_cbm without its locator"),
        activation="identity",
        target_kinds=("concept",) * chosen.shape[1],
    )
    return replace(
        unmasked_part,
        maps=_take(output.maps, chosen),
        weights=None,
        scores=output.activations.gather(1, chosen),
        source=replace(origin, settings={**origin.settings, "map_evidence": told}),
        contributions=kept,
        explained_classes=classes,
        diagnostics={"pointing": pointing.to(kept)[chosen]},
        components=(unmasked_part,),
    )


def _take(maps: Tensor, chosen: Tensor) -> Tensor:
    return maps.gather(1, chosen[..., None, None].expand(-1, -1, *maps.shape[2:]))
