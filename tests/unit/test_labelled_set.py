"""What all labelled sets share: their fields, their annotation, and photos held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_classes import cub
from written_sets import refusal

from conceptlens.data.cifar import Cifar
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.cub import Cub
from conceptlens.data.labelled_set import ClassAttributes, ListedPhotos, hold_out, without_photos
from conceptlens.data.places365 import Places


@pytest.mark.parametrize("kind", [Cifar, ClassFolder, Cub, Places])
def test_every_set_says_only_how_one_photo_is_called_and_read(kind: type) -> None:
    assert issubclass(kind, ListedPhotos)
    assert not {"__len__", "__iter__", "__getitem__", "names"} & set(vars(kind))


def test_places_are_those_of_a_sequence(tmp_path: Path) -> None:
    photos = Cub(cub(tmp_path), "all")
    assert [one.size for one in photos] == [(20, 12)] * 5
    assert photos[-1].size == (20, 12)
    with pytest.raises(IndexError):
        photos[5]


def test_classes_that_a_split_does_not_show(tmp_path: Path) -> None:
    photos = Cub(cub(tmp_path))
    assert without_photos(photos) == ()
    photos.labels = np.ones(3, np.int64)
    assert without_photos(photos) == ("Laysan Albatross",)


# Photos held out


@given(
    counts=st.lists(st.integers(5, 30), min_size=1, max_size=6),
    per_class=st.one_of(st.integers(1, 4), st.floats(0.01, 0.8)),
    seed=st.integers(0, 3),
)
def test_every_class_gives_its_part_and_nothing_is_lost(counts: list[int], per_class: float, seed: int) -> None:
    labels = np.random.default_rng(9).permutation([7 * number for number, n in enumerate(counts) for _ in range(n)])
    kept, held = hold_out(labels, per_class, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (kept.tolist(), held.tolist()) == (sorted(kept), sorted(held))
    for number, count in enumerate(counts):
        expected = per_class if isinstance(per_class, int) else max(1, int(per_class * count + 0.5))
        assert sum(labels[place] == 7 * number for place in held) == expected
    again = hold_out(labels, per_class, seed)
    np.testing.assert_array_equal(again[1], held)


def test_another_class_does_not_change_what_is_held_of_one() -> None:
    alone, both = np.zeros(20, np.int64), np.repeat([0, 1], [20, 40])
    np.testing.assert_array_equal(hold_out(alone, 5)[1], hold_out(both, 5)[1][:5])
    assert hold_out(both, 5)[1].tolist() != hold_out(both, 5, seed=1)[1].tolist()


def test_classes_too_small_are_refused_together() -> None:
    labels = np.repeat([0, 3, 4], [9, 1, 2])
    said = refusal(lambda: hold_out(labels, 2))
    assert said.startswith("class 3 and 1 more would keep no photo: it has 1 and 2 of each class is held out")
    assert refusal(lambda: hold_out(labels[:10], 0.2)).startswith("class 3 would keep no photo")
    assert hold_out(labels[labels != 3], 1)[1].size == 2


@pytest.mark.parametrize("per_class", [0, 0.0, 1.0, -1, 2.5, float("nan")])
def test_a_part_that_is_none_is_refused(per_class: float) -> None:
    assert "a share between 0 and 1 such as 0.2" in refusal(lambda: hold_out(np.zeros(9, np.int64), per_class))


# Annotation


def test_shares_are_shares() -> None:
    for wrong in (75.0, -0.1, np.nan):
        assert "divide percentages by 100" in refusal(lambda wrong=wrong: ClassAttributes(("a",), np.array([[wrong]])))
