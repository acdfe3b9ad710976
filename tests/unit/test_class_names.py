"""Short class names: one word for a page, never the same for two classes."""

from __future__ import annotations

import pytest
from timm.data.imagenet_info import ImageNetInfo

from conceptlens.concepts.short_names import short_name, short_names


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca", "giant panda"),
        ("cat", "cat"),
        (", cat", "cat"),
        ("", ""),
        (",", ","),
    ],
)
def test_short_name(full: str, short: str) -> None:
    assert short_name(full) == short


def test_short_names_of_imagenet_are_each_class_s_own() -> None:
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(i) for i in range(1000)]
    found = short_names(names)
    assert found[388] == "giant panda"
    assert len(set(found)) >= len({name.lower() for name in names}) - 2, "crane and maillot each name two classes"
    assert all(short in full for short, full in zip(found, names, strict=True))


def test_a_shared_first_word_gives_the_next_one() -> None:
    assert short_names(["maillot", "maillot, tank suit", "crane", "crane"]) == (
        "maillot",
        "tank suit",
        "crane",
        "crane",
    )
