"""An explanation that was put into a store comes back equal, with its parts and settings, and without pickle."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.record import Explanation, ImageInfo, Source
from conceptlens.store import Store, stored_explanations


def made(seed: int = 0, **about: Any) -> Explanation:
    random = torch.Generator().manual_seed(seed)
    pictures = (ImageInfo("a.jpg", "ab12", 640, 480, (0.1, 0.0, 0.9, 1.0)), ImageInfo("фото 'b'.jpg"))
    settings = {"sizes": (224, (1, 2)), "least": 0.02, "none": None, "texts": ["a", {"x": True}], "far": float("inf")}
    return Explanation(
        **{
            "maps": torch.randn(2, 3, 7, 5, generator=random),
            "weights": torch.randn(2, 3, 8, 1, 1, generator=random),
            "scores": torch.randn(2, 3, generator=random).double(),
            "labels": (("cat", "dog", "l'œil"), ("a", "b", "c")),
            "source": Source("lite", "layer4", "ce_fam", pictures, settings, {"torch": "2"}),
            **about,
        }
    )


def same(first: Any, second: Any) -> bool:
    """Whether two records are equal, tensors by type and value."""
    if isinstance(first, Explanation):
        return isinstance(second, Explanation) and all(
            same(getattr(first, one.name), getattr(second, one.name)) for one in fields(first)
        )
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first.cpu(), second)
    if isinstance(first, tuple) and first and isinstance(first[0], Explanation):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


@pytest.mark.parametrize("kind", ["plain", "parts", "views", "all"])
def test_an_explanation_comes_back_equal(tmp_path: Path, kind: str) -> None:
    whole = made()
    given = {
        "plain": whole,
        "parts": made(1, weights=None, components=(made(2), made(3, weights=None, components=(made(4),)))),
        "views": made(5, maps=whole.maps.transpose(2, 3), contributions=whole.scores, scores=whole.scores),
        "all": made(
            6, activation="identity", z_scores=whole.scores.half(), explained_classes=("x", "y"),
            target_kinds=("class",) * 3, concept_types=(("object",) * 3,) * 2, layers=(("a", "b", "c"),) * 2,
            maps=whole.maps.bfloat16().requires_grad_(),
        ),
    }[kind]  # fmt: skip
    store = Store(tmp_path / "store", create=True)
    name = store.put(given)
    back = Store(store.path).explanation(name)
    assert same(given, back)
    assert not back.maps.requires_grad
    assert store.put(back) == name
    row = store.explanations()
    assert [(one.id, one.method, one.pictures) for one in row] == [(name, "ce_fam", ("a.jpg", "фото 'b'.jpg"))]


def test_ids_of_explanations(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    names = {store.put(made(seed)) for seed in (0, 1, 0)}
    assert len(names) == len(store.explanations()) == 2
    assert store.put(made(2), id="it's mine") == "it's mine"
    store.put(made(3), id="it's mine")
    assert same(store.explanation("it's mine"), made(3))
    with pytest.raises(InputError, match=r"no explanation 'mine' in .*; it has: it's mine"):
        store.explanation("mine")


def test_settings_that_cannot_be_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    for value in (torch.ones(1), Path("x"), {1: 2}, {"(tuple)": 1}, {1, 2}):
        one = made()
        with pytest.raises(InputError, match=r"settings of an explanation have .* a store cannot keep; give texts"):
            store.put(replace(one, source=replace(one.source, settings={"x": value})))
    assert store.explanations() == ()
    with pytest.raises(InputError, match=r"it has: none"):
        store.explanation("x")


def test_damaged_bytes_are_said_to_be_so() -> None:
    tensors, record = stored_explanations.write(made())
    lacking = json.dumps({**json.loads(record), "tensors": {"maps": "nowhere"}})
    for bad in ((tensors[:-4], record), (tensors, record[:-1]), (tensors, lacking), (b"", record), (tensors, "{}")):
        with pytest.raises(InputError, match=r"damaged .*make it again"):
            stored_explanations.read(*bad)
