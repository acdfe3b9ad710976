"""What a bottleneck says of a photo: concepts with their maps, and contributions that add up to a class score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.bottleneck.module import Bottleneck, Reading
from conceptlens.cams.class_activation import source
from conceptlens.io.errors import InputError
from conceptlens.model.forward import full_precision
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Int

    from conceptlens.model.observation import Observation


@torch.no_grad()
def explain_bottleneck(
    bottleneck: Bottleneck,
    observation: Observation,
    target: str | int | Sequence[str | int] | None = None,
    top: int | None = None,
) -> Explanation:
    """Return each concept's map, activation (`scores`) and contribution to the logit of a class.

    - `target`: a class of the bottleneck, or one for each photo; left out, the highest.
    - `top`: keep the concepts with the largest contributions by size, for each photo; left out, all of them.
    - `maps`: `cells m_i A_i`; their mean over the cells is the activation. `components` holds the maps before the
      locator, `A_i = <w_i, F>`, where the equation holds with `weights`.
    - `contributions` and the class's `bias` add up to its `logit`; with `top`, so does `rest`. All three stand in
      `source.settings`, one for each photo.

    Raises `InputError` where the layers were not observed, or on another model.
    """
    if top is not None and top < 1:
        raise InputError(f"the top {top} concepts were asked for; give at least 1, or leave it out for all")
    reading = read(bottleneck, observation)
    index = _targets(bottleneck, reading, target)
    counts = bottleneck.contributions(reading, index)
    keep = counts.shape[1] if top is None else min(top, counts.shape[1])
    chosen = counts.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep] if top else _all(counts)
    kept = counts.gather(1, chosen)
    logits = reading.logits.gather(1, index[:, None])[:, 0]
    settings: dict[str, object] = {
        "target": [bottleneck.classes[k] for k in index.tolist()],
        "bias": bottleneck.head.bias[index].tolist(),
        "logit": logits.tolist(),
        "rest": (counts.sum(1) - kept.sum(1)).tolist(),
        "locator": type(bottleneck.locator).__name__.lower(),
    }
    origin = source(observation, bottleneck.values, "loc_cbm", settings)
    with full_precision(bottleneck.weight):
        plain = bottleneck.plain_maps(_cells(bottleneck, observation))
    labels = tuple(tuple(bottleneck.labels[i] for i in row) for row in chosen.tolist())
    scores = reading.activations.gather(1, chosen)
    parts = Explanation(
        maps=_take(plain, chosen),
        weights=bottleneck.weight.detach()[chosen][..., None, None],
        scores=_take(plain, chosen).mean((2, 3)),
        labels=labels,
        source=replace(origin, method="loc_cbm without its locator"),
        activation="identity",
        target_kinds=("concept",) * keep,
    )
    return replace(
        parts,
        maps=_take(reading.maps, chosen),
        weights=None,
        scores=scores,
        source=origin,
        contributions=kept,
        explained_classes=tuple(bottleneck.classes[k] for k in index.tolist()),
        components=(parts,),
    )


def read(bottleneck: Bottleneck, observation: Observation) -> Reading:
    """Return what the bottleneck reads in an observation of its layers by its own model."""
    cells = _cells(bottleneck, observation)
    bottleneck.base.check(observation.model)
    return bottleneck(cells)


def _cells(bottleneck: Bottleneck, observation: Observation) -> dict[str, Tensor]:
    missing = [name for name in bottleneck.layers if name not in observation.layer_outputs]
    if missing:
        raise InputError(
            f"the bottleneck reads {', '.join(bottleneck.layers)}, and {', '.join(missing)} was not observed; "
            "use bottleneck.observe(model, photo)"
        )
    if observation.images.device != bottleneck.weight.device:
        raise InputError(
            f"the bottleneck is on {bottleneck.weight.device} and the photos on {observation.images.device}; "
            f"move it there with bottleneck.to('{observation.images.device}')"
        )
    return {name: observation.feature(name) for name in bottleneck.layers}


def _targets(bottleneck: Bottleneck, reading: Reading, target: object) -> Int[Tensor, "image"]:
    images = len(reading.logits)
    if target is None:
        return reading.logits.argmax(1)
    several = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else [target] * images
    if len(several) != images:
        raise InputError(f"{len(several)} classes are given for {images} photos; give one, or one for each")
    return torch.tensor([bottleneck.class_index(one) for one in several], device=reading.logits.device)  # pyright: ignore[reportArgumentType]


def _all(counts: Tensor) -> Tensor:
    return torch.arange(counts.shape[1], device=counts.device).expand(len(counts), -1)


def _take(maps: Tensor, chosen: Tensor) -> Tensor:
    return maps.gather(1, chosen[..., None, None].expand(-1, -1, *maps.shape[2:]))
