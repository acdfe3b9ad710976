"""How much each cell of a layer speaks for a class against its rivals; the cells add up to the margin of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.cams.asked_classes import Classes, class_indices
from conceptlens.io.errors import InputError
from conceptlens.model.answer import wide
from conceptlens.model.forward import full_precision
from conceptlens.model.layer_cells import empty_cells
from conceptlens.model.observation import Observation, check_observation

if TYPE_CHECKING:
    from jaxtyping import Float

# Points of the path from an empty photo to the photo: more are taken where fewer leave more than `MAX_RESIDUAL`.
PATH_POINTS = (2, 8, 32)
# The largest part of the change along the path that the points may miss before more of them are taken.
MAX_RESIDUAL = 0.01


@dataclass(frozen=True, eq=False)
class CellEvidence:
    """The margin of a class over its rivals, cell by cell: `margin = sum_u cells(u) + unplaced + residual`.

    Args:
        cells: The evidence of each cell, in units of the logits (`Answer.unit`); negative where it speaks for
            the rivals.
        margins: The margin of each image, `y_c - sum_d q_d y_d`.
        unplaced: The margin that is left where every cell of the layer is as in an empty photo: biases, the class
            token. It is 0 where the layer feeds a mean and a linear classifier.
        residuals: What the sum misses; 0 where it is exact.
    """

    cells: Float[Tensor, "image height width"]
    margins: Float[Tensor, "image"]
    unplaced: Float[Tensor, "image"]
    residuals: Float[Tensor, "image"]


def cell_evidence(
    observation: Observation, target: Classes = None, against: Classes = None, layer: str | None = None
) -> CellEvidence | None:
    """Return how much each cell of a layer speaks for a class against its rivals.

    The margin is `m = y_c - sum_d q_d y_d`, with the softmax `q` over all classes but `c`, held constant; its gradient
    is that of the log-odds of the class. Against one class it is `m = y_c - y_d`. Of two classes from one logit it is
    the log-odds of the class, of labels that do not exclude one another the label's own, `m = y_c`, and of quantities
    (`Backbone(task="regression")`) the quantity itself.

    - Where the logits are linear in the mean cell, `e(u) = m(cell u) / cells`: what the classifier says of that cell
      alone. The sum is the margin exactly.
    - Elsewhere `e(u) = (F(u) - B(u)) . integral of dm/dF(u) along the line from B to F` (integrated gradients, ICML
      2017, equation 1, with the cells of the layer in place of pixels), where `B` are the cells of an
      empty input (zeros: the mean colour). The sum is the margin less `unplaced`, up to `residuals`.

    Args:
        observation: Photos observed at `layer`.
        target: The class, one for all images or one for each; by default the predicted one.
        against: The class that it is compared with; by default all others.
        layer: The layer whose cells are weighed; by default the observation's.

    Returns:
        The evidence `[image height width]` at the layer's grid, with the margin; `None` where the layer's cells do not
        reach the logits, such as the patches of a ViT's last block.

    Raises:
        InputError: A class is unknown or stands against itself, or the layer was not observed.
        InputTypeError: `observation` is no `Observation`.

    Examples:
        >>> evidence = cell_evidence(model.observe("cat.png"), "tabby", "tiger cat")
        >>> evidence.cells.sum((1, 2)) + evidence.unplaced + evidence.residuals - evidence.margins
    """
    check_observation(observation)
    if not observation.reaches(observation.logits, layer):
        return None
    signs = _signs(observation, target, against)
    logits = wide(observation.logits.detach())
    margins = (signs * logits).sum(1)
    feature = wide(observation.feature(layer))
    matrix = observation.readout(observation.logits, layer)
    if matrix is None:
        return _along_the_path(observation, signs, margins, layer)
    with full_precision(feature):
        cells = torch.einsum("ic,ichw->ihw", signs @ matrix.to(signs), feature) / feature[0, 0].numel()
    bias = margins - cells.sum((1, 2))
    cells = cells + bias[:, None, None] / feature[0, 0].numel()
    nothing = torch.zeros_like(margins)
    return CellEvidence(cells, margins, nothing, nothing)


def _signs(observation: Observation, target: Classes, against: Classes) -> Float[Tensor, "image class"]:
    """Return the constants `s` of the margin `s . logits`: 1 for the class, `-q` for its rivals where it has any."""
    answer = observation.answer
    logits = answer.competing(observation.logits.detach())
    own = class_indices(observation, target)[:, None]
    if against is None:
        if not answer.rivals:
            return torch.zeros_like(logits).scatter(1, own, 1.0)
        shares = logits.scatter(1, own, -torch.inf).softmax(1)
        return answer.softmax_scale * (-shares).scatter(1, own, 1.0)
    other = class_indices(observation, against)[:, None]
    if bool((own == other).any()):
        raise InputError("a class cannot stand against itself, so name two classes")
    return answer.softmax_scale * torch.zeros_like(logits).scatter(1, own, 1.0).scatter(1, other, -1.0)


def _along_the_path(observation: Observation, signs: Tensor, margins: Tensor, layer: str | None) -> CellEvidence:
    """Integrate the gradient of the margin from the cells of an empty input to those of the photo."""
    name = layer or observation.layer
    feature = observation.feature(name)
    empty = empty_cells(observation.model, observation.given, name).to(feature)
    each = [_one_path(observation, i, empty[i], signs[i], margins[i], name) for i in range(len(feature))]
    cells, unplaced = [found for found, _ in each], [start for _, start in each]
    total, start = torch.stack(cells), torch.stack(unplaced)
    return CellEvidence(total, margins, start, margins - start - total.sum((1, 2)))


def _one_path(
    observation: Observation, image: int, empty: Tensor, signs: Tensor, margin: Tensor, layer: str
) -> tuple[Float[Tensor, "height width"], Float[Tensor, ""]]:
    """Return the evidence of one image's cells and the margin where the path starts, by as few points as suffice."""
    for points in PATH_POINTS[:-1]:
        found, start = _integral(observation, image, empty, signs, layer, points)
        change = margin - start
        if (change - found.sum()).abs() <= MAX_RESIDUAL * torch.maximum(change.abs(), margin.abs()):
            return found, start
    return _integral(observation, image, empty, signs, layer, PATH_POINTS[-1])


def _integral(
    observation: Observation, image: int, empty: Tensor, signs: Tensor, layer: str, points: int
) -> tuple[Float[Tensor, "height width"], Float[Tensor, ""]]:
    """Return the evidence of each cell of one image, and the margin where the path starts."""
    places, weights = (torch.tensor(values, device="cpu").to(empty) for values in _gauss_legendre(points))
    change = observation.feature(layer)[image] - empty
    with torch.inference_mode(False), torch.enable_grad():
        variants = torch.cat([empty[None], empty + places[:, None, None, None] * change]).clone().requires_grad_()
        margins = wide(observation.rerun(variants, image, layer).logits) @ signs
        (gradient,) = torch.autograd.grad(margins.sum(), variants)
    mean = torch.einsum("p,pchw->chw", wide(weights), wide(gradient[1:]))
    return (mean * wide(change)).sum(0), margins[0].detach()


@cache
def _gauss_legendre(points: int) -> tuple[list[float], list[float]]:
    """Return the places and weights of Gauss-Legendre quadrature on 0 to 1."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()
