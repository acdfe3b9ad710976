"""Rows that are equal, so that what is made of them is made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from torch import Tensor


def distinct_rows(
    rows: Shaped[Tensor, "row number"],
) -> tuple[Int[Tensor, "distinct"], Int[Tensor, "row"]]:
    """Return the first of all equal rows, in their order, and for each row which of those it equals.

    Args:
        rows: Rows of numbers, compared by value.

    Returns:
        Indices of rows, rising; and, for every row, an index into them: `rows[firsts][column]` equals `rows`.
    """
    groups, column = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    firsts = torch.full((len(groups),), len(rows), device=rows.device).scatter_reduce_(0, column, places, "amin")
    order = firsts.argsort()
    return firsts[order], order.argsort()[column]
