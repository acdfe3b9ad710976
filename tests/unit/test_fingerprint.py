"""The fingerprint of a network: every value of every weight counts, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.io.fingerprint import weights_fingerprint


class Holder(nn.Module):
    """A module that holds tensors under names."""

    def __init__(self, **values: Tensor) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, value)


def drawn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(300, 40), nn.BatchNorm1d(40))


def test_it_is_that_of_the_weights() -> None:
    first, second = drawn(0), drawn(1)
    assert weights_fingerprint(first) != weights_fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert weights_fingerprint(first) == weights_fingerprint(second)
    assert len(weights_fingerprint(first)) == 32
    first.train()
    for parameter in first.parameters():
        parameter.requires_grad_(False)
    assert weights_fingerprint(first) == weights_fingerprint(second)


@pytest.mark.parametrize("index", [1, 7, 5999, 11999])
def test_one_changed_value_is_seen(index: int) -> None:
    module = drawn()
    before = weights_fingerprint(module)
    weight = module[0].weight.data.view(-1)  # pyright: ignore[reportIndexIssue]
    weight[index] = torch.nextafter(weight[index], torch.tensor(9.0))
    assert weights_fingerprint(module) != before


VALUES = torch.arange(12.0).reshape(3, 4)
CHANGES: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "another name": lambda: (Holder(a=VALUES), Holder(b=VALUES)),
    "another shape": lambda: (Holder(a=VALUES), Holder(a=VALUES.reshape(4, 3))),
    "another type of the same bytes": lambda: (Holder(a=VALUES), Holder(a=VALUES.view(torch.int32))),
    "another order": lambda: (Holder(a=VALUES), Holder(a=VALUES.T.contiguous().reshape(3, 4))),
    "names that run together": lambda: (Holder(a=VALUES, ab=VALUES), Holder(aa=VALUES, b=VALUES)),
    "exchanged values": lambda: (Holder(a=VALUES, b=VALUES + 1), Holder(a=VALUES + 1, b=VALUES)),
    "an empty one more": lambda: (Holder(a=VALUES), Holder(a=VALUES, b=torch.empty(0))),
    "a conjugate": lambda: (Holder(a=VALUES * 1j), Holder(a=(VALUES * 1j).conj())),
}


@pytest.mark.parametrize("pair", CHANGES.values(), ids=CHANGES)
def test_what_makes_another_fingerprint(pair: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    first, second = pair()
    assert weights_fingerprint(first) != weights_fingerprint(second)


TYPES = (
    torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128, torch.bool, torch.int8,
    torch.float8_e4m3fn,
)  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read(dtype: torch.dtype) -> None:
    values = torch.ones(5, 3).to(dtype)
    changed = values.clone()
    changed.view(torch.uint8).view(-1)[-1] ^= 1
    found = [weights_fingerprint(Holder(a=one)) for one in (values, values.clone(), changed)]
    assert found[0] == found[1] != found[2]


def test_where_values_lie_does_not_count() -> None:
    """Views, strides and shared storage are read as what they show."""
    plain = Holder(a=VALUES, b=VALUES.clone(), c=VALUES[1:2].clone())
    views = Holder(a=VALUES, b=VALUES, c=VALUES[1:2])
    strided = Holder(a=VALUES.T.contiguous().T, b=VALUES, c=torch.cat([VALUES, VALUES])[4:5])
    assert weights_fingerprint(plain) == weights_fingerprint(views) == weights_fingerprint(strided)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert weights_fingerprint(tied) == weights_fingerprint(copy.deepcopy(tied))


def test_views_of_one_address_are_told_apart() -> None:
    square = torch.arange(9.0).reshape(3, 3)
    once = weights_fingerprint(Holder(a=square, b=square.T))
    assert once == weights_fingerprint(Holder(a=square.clone(), b=square.T.clone()))
    assert once != weights_fingerprint(Holder(a=square, b=square))


def test_a_sparse_weight_and_a_state_of_ones_own() -> None:
    assert weights_fingerprint(Holder(a=VALUES.to_sparse())) == weights_fingerprint(Holder(a=VALUES))

    class Own(nn.Module):
        def __init__(self, about: Any) -> None:
            super().__init__()
            self.about = about

        def get_extra_state(self) -> Any:
            return self.about

    assert weights_fingerprint(Own({"scale": 2})) == weights_fingerprint(Own({"scale": 2}))
    assert weights_fingerprint(Own({"scale": 2})) != weights_fingerprint(Own({"scale": 3}))


def test_a_module_without_values_is_refused() -> None:
    with pytest.raises(cl.InputError, match=r"weight '0\.weight' lies on the meta device"):
        weights_fingerprint(nn.Sequential(nn.Linear(3, 3, device="meta")))


def test_a_module_without_weights_has_one() -> None:
    assert weights_fingerprint(nn.ReLU()) == weights_fingerprint(nn.Identity())
