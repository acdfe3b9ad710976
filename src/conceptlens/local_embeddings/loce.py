"""Local concept embeddings (LoCE, IJCV 2025): one vector for one concept in one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.class_activation import project, source
from conceptlens.data.masked_set import crop_masks
from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.modes import (
    FitSettings,
    FittedVectors,
    Mode,
    channel_scale,
    channel_weights,
    embed_masks,
)
from conceptlens.local_embeddings.problem import soft_masks
from conceptlens.model.forward import full_precision
from conceptlens.model.observation import Observation, check_observation, layer_names
from conceptlens.record import WHOLE, Explanation, ImageInfo

if TYPE_CHECKING:
    from jaxtyping import Float

Masks: TypeAlias = "np.ndarray | Tensor"


def loce(
    observation: Observation,
    masks: Masks,
    layer: str | Sequence[str] | None = None,
    mode: Mode = "paper",
    labels: Sequence[str] | None = None,
    ridge: float | None = None,
    bias: bool = True,
    scale: Mapping[str, Float[Tensor, "channel"]] | None = None,
    control: Masks | None = None,
) -> Explanation:
    """Return the local concept embedding (LoCE, IJCV 2025) of each masked concept in each image.

    An embedding is a vector of channel weights whose map `sum_c weights_c A_c` draws the mask, as nearly as the layer
    can. Where there is no embedding, vector, `converged` and `iou` are 0: cells that are not finite or all 0, a mask in
    a part of the photo that the model does not see, or one that covers all of that part.

    Args:
        observation: One forward pass of a batch of images.
        masks: bool masks over the whole photo, at any size: `[rows columns]` or `[question rows columns]` of one image,
            `[image question rows columns]` of several.
        layer: A layer, or several: their vectors at unit length are concatenated. None takes the observed one.
        mode: How a vector is made; the equations are those of `modes.fit`.
        labels: A name for each mask of an image.
        ridge: Ridge penalty of mode `exact`; None takes 0.03 for each channel.
        bias: Whether the map has a constant: fitted in `exact`, the threshold of highest IoU in `mean_difference` and
            `mean`, none in `paper`.
        scale: Unit of each layer's channels `[channel]`; None takes their root mean square over these images. Give
            the same scale to compare vectors of several observations.
        control: Masks of other images, shaped as `masks`; None takes the next image's.

    Returns:
        An explanation with `vectors[image question channel]`, to be compared by cosine: in units of `scale`, or as
        published, for raw cells, in mode `paper`; `maps` and `weights` for raw cells, where a mask is drawn by
        `map > -bias`; and `diagnostics[image question]`: `iou` with the own mask on 100 x 100 pixels (also `scores`),
        `loss` (lower is better), `converged`, `bias`, and for several images or a given control `control_iou`, the
        IoU of the same fit with the control mask, and `selectivity`, `iou` less `control_iou`.

    Raises:
        InputError: Masks have another shape, type or number, one is empty, or the mode or a layer is unknown.
        InputTypeError: `observation` is no `Observation`, or `layer` neither a name nor several.

    Examples:
        >>> found = loce(model.observe("cat.png"), mask, "blocks.6", mode="exact")
        >>> found.vectors.shape, found.diagnostics["iou"]
    """
    check_observation(observation)
    settings = FitSettings(mode, ridge, bias)
    names = layer_names(observation.layer if layer is None or layer == [] else layer)
    units = {name: _unit(observation, name, scale) for name in names}
    given = _four_axes(masks, len(observation.images), "masks")
    truth = _visible_soft_masks(given, observation.image_info)
    other = _controls(truth, control, observation)
    rows = _labels(labels, truth.shape[:2])
    with full_precision(observation.feature(names[0])):
        parts = [_one_layer(observation, name, truth, other, settings, rows, *units[name]) for name in names]
    return parts[0] if len(parts) == 1 else _several(parts)


def _one_layer(
    observation: Observation,
    layer: str,
    truth: Float[Tensor, "image question 100 100"],
    control: Tensor | None,
    fit_settings: FitSettings,
    labels: tuple[tuple[str, ...], ...],
    unit: Float[Tensor, "channel"],
    scale_source: str,
) -> Explanation:
    cells = observation.feature(layer)
    images, questions = truth.shape[:2]
    of = torch.arange(images, device=cells.device).repeat_interleave(questions)
    found = embed_masks(cells, of, truth.flatten(0, 1).to(cells.device), fit_settings, unit)
    other = (
        None if control is None else embed_masks(cells, of, control.flatten(0, 1).to(cells.device), fit_settings, unit)
    )
    weights = channel_weights(found.vectors, fit_settings, unit).unflatten(0, (images, questions))[..., None, None]
    settings: dict[str, object] = {"mode": fit_settings.mode, "scale": scale_source}
    settings |= {"ridge": fit_settings.ridge} if fit_settings.mode == "exact" else {}
    settings |= {"bias": fit_settings.bias} if fit_settings.mode != "paper" else {}
    measures = _measures(found, other, (images, questions))
    return Explanation(
        maps=project(weights, cells.float()),
        weights=weights,
        scores=measures["iou"],
        labels=labels,
        source=source(observation, layer, "loce", settings),
        activation="identity",
        vectors=found.vectors.unflatten(0, (images, questions)),
        diagnostics=measures,
    )


def _unit(
    observation: Observation, layer: str, scale: Mapping[str, Tensor] | None
) -> tuple[Float[Tensor, "channel"], str]:
    """Return the scale of a layer's channels, and its source: by default the images with finite cells, "own"."""
    cells = observation.feature(layer)
    if scale is None:
        finite = cells[cells.flatten(1).isfinite().all(1)]
        return channel_scale(finite if len(finite) else torch.zeros_like(cells)), "own"
    if layer not in scale:
        raise InputError(f"no scale was given for layer '{layer}', only for {', '.join(scale)}; give one for each")
    unit = scale[layer].to(cells.device)
    if unit.shape != cells.shape[1:2] or not bool((unit.isfinite() & (unit >= 0)).all()):
        raise InputError(
            f"the scale of layer '{layer}' has shape {tuple(unit.shape)}; expected {tuple(cells.shape[1:2])}, all "
            "finite and none below 0"
        )
    return unit, "given"


def _measures(found: FittedVectors, other: FittedVectors | None, shape: tuple[int, int]) -> dict[str, Tensor]:
    measures = {name: getattr(found, name).float() for name in ("iou", "loss", "converged", "bias")}
    if other is not None:
        measures |= {"control_iou": other.iou, "selectivity": found.iou - other.iou}
    return {name: value.unflatten(0, shape) for name, value in measures.items()}


def _several(parts: list[Explanation]) -> Explanation:
    """Return the explanation of several layers: unit vectors one after the other, maps added on the finest grid."""
    first = parts[0]
    size = max((tuple(part.maps.shape[2:]) for part in parts), key=lambda s: s[0] * s[1])
    lengths = [part.vectors.norm(dim=2, keepdim=True).clamp_min(1e-12) for part in parts if part.vectors is not None]
    maps = [
        F.interpolate(part.maps / length[..., None], size=size, mode="bilinear", align_corners=False)
        for part, length in zip(parts, lengths, strict=True)
    ]
    shared = [name for name in first.diagnostics if name not in ("bias", "loss")]
    biases = [part.diagnostics["bias"] / length[..., 0] for part, length in zip(parts, lengths, strict=True)]
    return Explanation(
        maps=torch.stack(maps).sum(0),
        weights=None,
        scores=torch.stack([part.scores for part in parts]).mean(0),
        labels=first.labels,
        source=replace(first.source, layer=" + ".join(part.source.layer for part in parts)),
        activation="identity",
        vectors=torch.cat([part.vectors / length for part, length in zip(parts, lengths, strict=True)], dim=2),  # pyright: ignore[reportOptionalOperand]
        diagnostics={name: torch.stack([part.diagnostics[name] for part in parts]).mean(0) for name in shared}
        | {"bias": torch.stack(biases).sum(0)},
        components=tuple(parts),
    )


def _four_axes(masks: Masks, images: int, what: str) -> np.ndarray:
    try:
        values = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    except ValueError:
        raise InputError(
            f"{what} differ in size; bring them to one size (conceptlens.data.masked_set.resize_mask)"
        ) from None
    if values.dtype != np.bool_:
        raise InputError(f"{what} are of type {values.dtype}; expected bool, such as mask > 0.5")
    axes = {2: (None, None), 3: (None,), 4: ()}.get(values.ndim)
    if axes is None or (values.ndim < 4 and images != 1) or (values.ndim == 4 and len(values) != images):
        raise InputError(
            f"{what} have shape {values.shape} for {images} observed images; expected image question rows columns, or "
            "for one image question rows columns or rows columns"
        )
    four = values[axes] if axes else values
    empty = np.argwhere(~four.any((2, 3)))
    if len(empty):
        raise InputError(f"{what[:-1]} {empty[0][1]} of image {empty[0][0]} is empty; leave that concept out")
    return four


def _visible_soft_masks(masks: np.ndarray, image_info: Sequence[ImageInfo]) -> Float[Tensor, "image question 100 100"]:
    """Return soft masks of the part of each photo that the model sees."""
    return torch.stack([soft_masks(visible_part(rows, info)) for rows, info in zip(masks, image_info, strict=True)])


def visible_part(masks: np.ndarray, info: ImageInfo) -> np.ndarray:
    """Crop `masks[mask rows columns]` of a whole photo to the part that the model sees, about as finely."""
    if info.box == WHOLE:
        return masks
    left, top, right, bottom = info.box
    size = (max(1, round(masks.shape[1] * (bottom - top))), max(1, round(masks.shape[2] * (right - left))))
    return crop_masks(masks, info.box, size)


def _controls(truth: Tensor, control: Masks | None, observation: Observation) -> Tensor | None:
    if control is not None:
        given = _visible_soft_masks(
            _four_axes(control, len(observation.images), "control masks"), observation.image_info
        )
        if given.shape != truth.shape:
            shapes = f"{tuple(given.shape[:2])} images and questions; expected {tuple(truth.shape[:2])}"
            raise InputError(f"control masks are for {shapes}")
        return given
    return truth.roll(-1, dims=0) if len(truth) > 1 else None


def _labels(labels: Sequence[str] | None, shape: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    names = tuple(labels) if labels is not None else tuple(f"mask {index}" for index in range(shape[1]))
    if len(names) != shape[1]:
        raise InputError(f"{len(names)} labels were given for {shape[1]} masks of each image; give one for each")
    return (names,) * shape[0]
