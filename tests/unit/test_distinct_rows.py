"""Equal rows are found, first ones first."""

from __future__ import annotations

import torch

from conceptlens.statistics.distinct_rows import distinct_rows


def test_first_rows_in_their_order_and_where_each_row_is_found() -> None:
    rows = torch.tensor([[3, 1], [0, 2], [3, 1], [0, 1], [0, 2]])
    firsts, column = distinct_rows(rows)
    assert firsts.tolist() == [0, 1, 3]
    assert column.tolist() == [0, 1, 0, 2, 1]


def test_any_rows_are_made_again() -> None:
    rows = torch.randint(0, 3, (200, 4), generator=torch.Generator().manual_seed(0)).float()
    firsts, column = distinct_rows(rows)
    assert torch.equal(rows[firsts][column], rows)
    assert len(firsts) == len({tuple(row) for row in rows.tolist()})
    assert firsts.tolist() == sorted(firsts.tolist())
    assert all(not any(torch.equal(rows[first], row) for row in rows[:first]) for first in firsts.tolist())


def test_no_row() -> None:
    firsts, column = distinct_rows(torch.zeros(0, 3))
    assert firsts.tolist() == column.tolist() == []
