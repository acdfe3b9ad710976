"""One small lasso for each class, all of them at once: which weights may move, their curvature, coordinate descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.bottleneck.sparse.standardized_rows import StandardizedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Doubles of curvature held at once: with 200 classes, 400 concepts of each may move in one step.
HELD = 2**25
# Concepts that may join a class in one step, beside half of those it has.
JOIN = 8
SWEEPS = 30
# A sweep that gains less than this share of what all gained before it is the last.
ENOUGH = 1e-2


@dataclass(frozen=True, eq=False)
class Blocks:
    """For each class the bias (slot 0), the concepts whose weights may move, and the second derivatives by them.

    `columns[class slot]` counts concepts from 1, `filled[class slot]` tells slots from padding, `members[class
    concept]` is the same the other way round. `curvature[slot slot class]` is 0 in the padding.
    """

    columns: Int[Tensor, "class slot"]
    filled: Bool[Tensor, "class slot"]
    members: Bool[Tensor, "class concept"]
    curvature: Float[Tensor, "slot slot class"]

    def gather(self, weights: Tensor, bias: Tensor) -> Float[Tensor, "slot class"]:
        """Return the values of the slots, 0 in the padding."""
        values = torch.cat([bias[:, None], weights], 1).gather(1, self.columns)
        return torch.where(self.filled, values, 0.0).T.contiguous()

    def scatter(
        self, slots: Float[Tensor, "slot class"], weights: Tensor, bias: Tensor
    ) -> tuple[Float[Tensor, "class concept"], Float[Tensor, "class"]]:
        """Return weights and bias with the values of the slots."""
        found = torch.cat([bias[:, None], weights], 1)
        rows, indices = self.filled.nonzero().unbind(1)
        found[rows, self.columns[rows, indices]] = slots.T[rows, indices]
        return found[:, 1:].contiguous(), found[:, 0].contiguous()


def no_blocks(rows: StandardizedRows) -> Blocks:
    """Return blocks without members."""
    weights = rows.null.weights
    nothing = torch.zeros(rows.classes, 1, dtype=torch.long, device=weights.device)
    members = torch.zeros_like(weights, dtype=torch.bool)
    return Blocks(nothing, nothing == 0, members, weights.new_zeros(1, 1, rows.classes))


def movable(weights: Tensor, wrong: Float[Tensor, "class concept"]) -> Bool[Tensor, "class concept"]:
    """Return which weights may move: those that are not 0, and the zeros that violate optimality most.

    So many of these join a class that its block grows by half at most, or by `JOIN`. Where `HELD` does not allow that,
    the weights that violate it most, be they 0 or not.
    """
    classes, concepts = weights.shape
    max_size = max(1, int((HELD / classes) ** 0.5) - 1)
    on = weights != 0
    count = on.sum(1, keepdim=True)
    room = (count + (count // 2).clamp_min(JOIN)).clamp_max(max_size)
    order = torch.where(on & (count < max_size), torch.inf, wrong).argsort(dim=1, descending=True, stable=True)
    indices = torch.arange(concepts, device=weights.device).expand(classes, concepts)
    rank = torch.empty_like(order).scatter_(1, order, indices)
    return (on | (wrong > 0)) & (rank < room)


def refreshed(
    blocks: Blocks, rows: StandardizedRows, weights: Tensor, bias: Tensor, members: Tensor, stale: Bool[Tensor, "class"]
) -> Blocks:
    """Return the blocks with new members and curvature for the classes in `stale`."""
    classes = stale.nonzero()[:, 0].tolist()
    columns = [F.pad(members[c].nonzero()[:, 0] + 1, (1, 0)) for c in classes]
    found = rows.curvature(weights, bias, classes, columns)
    old = 1 if len(classes) == rows.classes else blocks.columns.shape[1]
    pad = max(0, max(len(column) for column in columns) - old)
    all_columns, filled = F.pad(blocks.columns[:, :old], (0, pad)), F.pad(blocks.filled[:, :old], (0, pad))
    curvature = F.pad(blocks.curvature[:old, :old], (0, 0, 0, pad, 0, pad))
    for c, column, block in zip(classes, columns, found, strict=True):
        size = len(column)
        all_columns[c], filled[c], curvature[:, :, c] = 0, False, 0.0
        all_columns[c, :size], filled[c, :size], curvature[:size, :size, c] = column, True, block
    return Blocks(all_columns, filled, torch.where(stale[:, None], members, blocks.members), curvature)


def descend(
    curvature: Float[Tensor, "slot slot class"],
    stiffness: float,
    slope: Float[Tensor, "slot class"],
    start: Float[Tensor, "slot class"],
    lasso: float,
    ridge: float,
) -> tuple[Float[Tensor, "slot class"], Float[Tensor, "slot class"]]:
    """Return, for each class, nearly the minimum u of a quadratic with a penalty, and `M (u - start)`.

    `slope (u - start) + (u - start)' M (u - start) / 2 + lasso |u|_1 + ridge / 2 |u|^2` with M the curvature times
    `stiffness`, slot 0 not penalised: one slot of all classes after another, until a sweep gains little.
    """
    point, bent = start.clone(), torch.zeros_like(start)
    own = stiffness * curvature.diagonal(dim1=0, dim2=1).T
    own = torch.where(own > 0, own, 1.0).contiguous()
    damped = own + ridge
    damped[0] = own[0]
    gained = 0.0
    for _ in range(SWEEPS):
        gain = torch.zeros_like(start[0])
        for slot in range(len(start)):
            limit = lasso if slot else 0.0
            wanted = own[slot] * point[slot] - bent[slot] - slope[slot]
            step = (wanted - wanted.clamp(-limit, limit)).div_(damped[slot]).sub_(point[slot])
            point[slot] += step
            bent.addcmul_(curvature[slot], step, value=stiffness)
            gain.addcmul_(step * step, damped[slot])
        last = float(gain.sum())
        gained += last
        if last <= ENOUGH * gained:
            break
    return point, bent
