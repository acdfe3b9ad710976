"""What layers hand on to each other: tensors are found and replaced in all that people wrap them in."""

from __future__ import annotations

import collections
import dataclasses
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import conceptlens as cl
from conceptlens.model.containers import first_tensor, map_tensors, with_tensor
from tolerance import assert_agree


class Strict(dict[Any, Any]):
    """Made from one dictionary alone, with something else that it carries."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.scale = 1.0


class ReadOnly(Mapping[Any, Any]):
    """A mapping that cannot be written to."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: Any) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Pair(NamedTuple):
    """A named tuple."""

    cells: Tensor
    other: Any = None


class Two(tuple[Any, ...]):
    """A tuple that is made of two arguments, and carries a third."""

    note: str

    def __new__(cls, first: Any, second: Any) -> Two:
        made = super().__new__(cls, (first, second))
        made.note = "kept"
        return made


class Stack(list[Any]):
    """A list that carries something."""

    note = "list"


@dataclasses.dataclass
class Record:
    """A data class."""

    cells: Tensor
    other: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """One that is frozen."""

    cells: Any


Pack = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]
HELD: dict[str, Pack] = {
    "a tensor": (lambda x: x, lambda held: held),
    "a dictionary": (lambda x: {"cells": x, "mask": None}, lambda held: held["cells"]),
    "no identifier": (lambda x: {"my cells!": x}, lambda held: held["my cells!"]),
    "an integer key": (lambda x: {0: x, "0": 3}, lambda held: held[0]),
    "a tuple as key": (lambda x: {(1, 2): x}, lambda held: held[1, 2]),
    "a strict dictionary": (lambda x: Strict({"cells": x}), lambda held: held["cells"] * held.scale),
    "a read-only mapping": (lambda x: ReadOnly({"cells": x, 1: 2}), lambda held: held["cells"]),
    "a proxy": (lambda x: MappingProxyType({"cells": x}), lambda held: held["cells"]),
    "an ordered dictionary": (lambda x: OrderedDict([("0", x), ("1", "pool")]), lambda held: held["0"]),
    "a default dictionary": (lambda x: collections.defaultdict(list, {"cells": x}), lambda held: held["cells"]),
    "a user's dictionary": (lambda x: UserDict({"cells": x}), lambda held: held["cells"]),
    "a model output": (lambda x: BaseModelOutput(last_hidden_state=x), lambda held: held.last_hidden_state),  # pyright: ignore[reportArgumentType]
    "the same twice": (
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x, x)),  # pyright: ignore[reportArgumentType]
        lambda held: held.hidden_states[1],
    ),
    "a tuple": (lambda x: (x, 3), lambda held: held[0]),
    "a tuple that begins with nothing": (lambda x: (None, x), lambda held: held[1]),
    "a tuple that begins with a number": (lambda x: (3, x), lambda held: held[1]),
    "a named tuple": (lambda x: Pair(x), lambda held: held.cells),
    "a tuple of two arguments": (lambda x: Two(x, None), lambda held: held[0]),
    "a list": (lambda x: [x], lambda held: held[0]),
    "a list with a note": (lambda x: Stack([x]), lambda held: held[0]),
    "nested": (lambda x: {"a": {"b": [x, 1]}}, lambda held: held["a"]["b"][0]),
    "a data class": (lambda x: Record(x, 3), lambda held: held.cells),
    "a frozen data class": (lambda x: Frozen({"of": x}), lambda held: held.cells["of"]),
}


@pytest.mark.parametrize(("pack", "unpack"), HELD.values(), ids=HELD)
def test_a_tensor_is_found_and_replaced(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
    old, new = torch.zeros(2), torch.ones(2)
    held = pack(old)
    assert first_tensor(held) is old
    changed = with_tensor(held, old, new)
    assert type(changed) is type(held)
    assert torch.equal(unpack(changed), new)
    assert torch.equal(unpack(held), old), "what was given is written into"
    assert getattr(changed, "note", None) == getattr(held, "note", None)


def test_what_holds_no_tensor_that_changes_stays_the_same_object() -> None:
    held: Any = ({"a": [1, 2]}, range(3), object(), Strict({}))
    assert map_tensors(held, Tensor.clone) is held


@pytest.mark.parametrize("held", [None, 3, "text", {}, (), [None], {"a": None}, object(), {1, 2}])
def test_where_there_is_no_tensor(held: Any) -> None:
    assert first_tensor(held) is None


def test_of_several_within_none_is_taken() -> None:
    """A pyramid of maps in a tuple within a mapping: which one is meant is not known."""
    assert first_tensor({"maps": (torch.zeros(1), torch.ones(1))}) is None


class Sealed(dict[Any, Any]):
    """Cannot be written to, nor copied."""

    def __copy__(self) -> Any:
        raise RuntimeError("sealed")


def test_what_cannot_be_made_again_is_passed_by() -> None:
    assert first_tensor(Sealed({"cells": torch.zeros(1)})) is None


class Trunk(nn.Module):
    """A convolution that wraps its cells."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.pack = pack

    def forward(self, images: Tensor) -> Any:
        return self.pack(self.convolution(images).relu())


class Wrapped(nn.Module):
    """A trunk that wraps its cells, and a head that unwraps them."""

    def __init__(self, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.trunk = Trunk(pack)
        self.unpack = unpack
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.unpack(self.trunk(images)).mean((2, 3)))


@pytest.mark.parametrize(("pack", "unpack"), HELD.values(), ids=HELD)
def test_maps_of_a_layer_that_wraps_its_cells_are_those_of_one_that_does_not(
    pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]
) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = Wrapped(*HELD["a tensor"])
    wrapped = Wrapped(pack, unpack)
    wrapped.load_state_dict(plain.state_dict())
    for rule in ("layer_cam", "ablation_cam"):
        expected, found = (
            cl.cam(cl.Backbone(module.eval(), input_size=(32, 32)).observe(images, "trunk"), 1, rule).maps
            for module in (plain, wrapped)
        )
        assert_agree(found, expected)


def test_a_layer_that_cannot_be_replaced_is_refused_where_it_is_named() -> None:
    module = Wrapped(lambda x: Sealed({"cells": x}), lambda held: held["cells"])
    model = cl.Backbone(module.eval(), input_size=(32, 32))
    assert model.default_layers == ("trunk.convolution",)
    with pytest.raises(cl.InputError, match="layer 'trunk' gave no tensor in this forward pass"):
        model.observe(torch.randn(1, 3, 32, 32), "trunk")
