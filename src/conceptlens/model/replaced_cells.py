"""One image run again with the cells of a layer replaced, a variant a row, and a control that proves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.model.containers import map_tensors
from conceptlens.model.gradients import close
from conceptlens.model.model_output import LayerOutput, ModelOutput, Places
from conceptlens.model.pixel_scores import PixelScores

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.forward import Watch
    from conceptlens.model.model_input import ModelInput

# How far the control may be from what was observed, relative to it.
CONTROL_TOLERANCE = 1e-3


def run_with_cells(
    run: Callable[[ModelInput, Mapping[str, Watch]], ModelOutput],
    given: ModelInput,
    observed: ModelOutput,
    image: int,
    layer: str,
    output: LayerOutput,
    cells: Float[Tensor, "variant channel height width"],
) -> ModelOutput:
    """Return the model's output for one image with the cells of a layer replaced (`Observation.rerun`).

    Args:
        run: Runs the model once, with functions that replace what layers give.
        given: What the model was called with.
        observed: What it gave for that.
        image: The index of the image.
        layer: The name of the layer.
        output: What the layer gave.
        cells: The cells of each variant.

    Returns:
        The output, with one row per variant.
    """
    grid = output.grid
    control = output.cells.detach()[image : image + 1]
    variants = torch.cat([control, cells.to(control)])
    one = given.images[image : image + 1]

    def replace(raw: Tensor) -> Tensor:
        images = raw.shape[1 if grid.order == "token image channel" else 0]
        return grid.write(grid.repeat(raw, len(variants)) if images == 1 else raw, variants)

    try:
        found = run(given.of_one(image, one), {layer: replace})
        if _control_holds(found, observed, image, len(variants)):
            return _without_control(found, len(variants))
    # A shape taken from the batch before the layer: the batch cannot grow there, as torch or the module says.
    except (RuntimeError, ValueError, AssertionError, IndexError):
        pass
    whole = given.of_one(image, one.expand(len(variants), -1, -1, -1))
    return _without_control(run(whole, {layer: replace}), len(variants))


def _control_holds(found: ModelOutput, observed: ModelOutput, image: int, variants: int) -> bool:
    pairs = [(found.class_scores, observed.class_scores), (found.vector, observed.vector)]
    if isinstance(found.places, PixelScores):
        pairs.append((found.pixel_scores, observed.pixel_scores))
    return all(
        new is not None and new.shape[0] == variants and close(new[0], old[image].detach(), CONTROL_TOLERANCE)
        for new, old in pairs
        if old is not None
    )


def _without_control(found: ModelOutput, rows: int) -> ModelOutput:
    """Return an output less its first row, in its raw output too."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[1:] if tensor.ndim and len(tensor) == rows else tensor

    def cut_all(part: Any) -> Any:
        return part.of_images(slice(1, None)) if isinstance(part, Places) else map_tensors(part, cut)

    parts = (found.output, found.class_scores, found.vector, found.places)
    output, scores, vector, places = (cut_all(part) for part in parts)
    return ModelOutput(found.model_name, output, scores, vector, found.meaning, places=places)
