"""One's own photos and masks: labels, background, what is ignored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_sets import by_label, left_half, only, palette, photo, red, refusal, write_text

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.data.masked_sets import open_set


def folder_of(place: Path, indices: np.ndarray, turn: int = 1, split: str = ".") -> Path:
    photo(place / "images" / split / "cat.jpg", turn=turn)
    palette(place / "masks" / split / "cat.png", indices)
    return place


def indices() -> np.ndarray:
    codes = left_half(code=1)
    codes[0, 10:], codes[1, 10:] = 3, 255
    return codes


def test_lines_are_labels_from_one(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, indices()) / "labels.txt", "cat", "dog", "striped fur:texture")
    one = only(open_set(f"masks:{tmp_path}"))
    assert one.name == "cat"
    assert one.concepts == (ConceptName("cat"), ConceptName("striped fur", "texture"))
    assert one.groups == ("object", "texture")
    np.testing.assert_array_equal(by_label(one)["cat"], indices() == 1)
    assert one.ignored is not None
    np.testing.assert_array_equal(one.ignored, indices() == 255)


def test_a_table_gives_types_and_groups_and_may_list_0_and_255(tmp_path: Path) -> None:
    write_text(
        folder_of(tmp_path, indices()) / "labels.csv",
        "index,label,type,group",
        '255,"fur, wet",material,surface',
        "1,cat,,animal",
        "3,cat,,animal",
        "0,floor,,",
    )
    one = only(MaskFolder(tmp_path))
    assert [c.label for c in one.concepts] == ["fur, wet", "cat", "floor"]
    assert one.groups == ("surface", "animal", "object")
    np.testing.assert_array_equal(by_label(one)["cat"], np.isin(indices(), [1, 3]))
    assert one.ignored is None


def test_a_split_is_a_folder_within(tmp_path: Path) -> None:
    for split, code in (("train", 1), ("val", 2)):
        folder_of(tmp_path, left_half(code=code), split=split)
    write_text(tmp_path / "labels.txt", "cat", "dog")
    assert [one.name for one in MaskFolder(tmp_path)] == ["train/cat", "val/cat"]
    assert only(MaskFolder(tmp_path, "val")).concepts == (ConceptName("dog"),)
    assert str(tmp_path / "images" / "test") in refusal(lambda: MaskFolder(tmp_path, "test"))


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_grey_values_are_indices_too(tmp_path: Path, mode: str) -> None:
    write_text(folder_of(tmp_path, left_half()) / "labels.txt", *[f"label {n}" for n in range(1, 301)])
    code = 300 if mode == "I;16" else 200
    kind = np.uint16 if mode == "I;16" else np.uint8
    Image.fromarray(left_half(code=code).astype(kind)).save(tmp_path / "masks" / "cat.png")
    assert only(MaskFolder(tmp_path)).concepts == (ConceptName(f"label {code}"),)


@pytest.mark.parametrize("turn", [1, 4, 6])
def test_a_mask_of_another_size_turns_with_its_photo(tmp_path: Path, turn: int) -> None:
    write_text(folder_of(tmp_path, left_half(10, 6), turn) / "labels.txt", "cat")
    one = only(MaskFolder(tmp_path))
    seen = red(one.photo.resize(one.masks.shape[:0:-1], Image.Resampling.NEAREST))
    assert (one.masks[0] == seen).mean() > 0.98


def test_masks_of_whole_photos_are_kept(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, indices()) / "labels.txt", "cat", "dog", "fur")
    palette(tmp_path / "masks" / "cat.png", np.ones((12, 20), np.int32))
    whole = only(MaskFolder(tmp_path))
    assert whole.masks.all()
    assert whole.n_excluded == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "labels.csv" in refusal(lambda: MaskFolder(tmp_path))
    write_text(tmp_path / "labels.txt", "cat")
    assert str(tmp_path / "images") in refusal(lambda: MaskFolder(tmp_path))
    folder_of(tmp_path, left_half())
    (tmp_path / "masks" / "cat.png").rename(tmp_path / "masks" / "dog.png")
    assert str(tmp_path / "masks" / "cat.png") in refusal(lambda: MaskFolder(tmp_path))
    (tmp_path / "masks" / "dog.png").rename(tmp_path / "masks" / "cat.png")
    Image.new("RGB", (20, 12)).save(tmp_path / "images" / "cat.webp")
    assert "share one mask" in refusal(lambda: MaskFolder(tmp_path))


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("labels.txt", ("",), "no label"),
        ("labels.txt", ("cat:animal",), "'animal'"),
        ("labels.txt", ("", "dog"), "index 1"),
        ("labels.csv", ("label", "cat"), "'index'"),
        ("labels.csv", ("index,label", "one,cat"), "labels.csv"),
        ("labels.csv", ("index,label", "1,"), "label"),
        ("labels.csv", ("index,label,type", "1,cat,animal"), "'animal'"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, name: str, lines: tuple[str, ...], says: str) -> None:
    write_text(folder_of(tmp_path, left_half()) / name, *lines)
    assert says in refusal(lambda: MaskFolder(tmp_path))
