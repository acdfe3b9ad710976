"""Pascal VOC's layout, written small: indices, not colours; 255 ignored; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_sets import by_label, left_half, only, palette, photo, red, refusal, write_text

from conceptlens.data.masked_sets import open_set
from conceptlens.data.voc import Voc


def voc(folder: Path, indices: np.ndarray, turn: int = 1) -> Path:
    write_text(folder / "ImageSets" / "Segmentation" / "val.txt", "2007_000033", "")
    write_text(folder / "ImageSets" / "Segmentation" / "train.txt", "2007_000032")
    photo(folder / "JPEGImages" / "2007_000033.jpg", turn=turn)
    palette(folder / "SegmentationClass" / "2007_000033.png", indices)
    return folder


def indices() -> np.ndarray:
    codes = left_half(code=15)
    codes[:, 10], codes[0, 12:] = 255, 1
    return codes


@pytest.mark.parametrize("inner", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_indices_are_classes_and_the_border_is_ignored(tmp_path: Path, inner: str) -> None:
    voc(tmp_path / inner, indices())
    one = only(open_set(f"voc:{tmp_path}"))
    assert one.name == "2007_000033"
    assert [c.label for c in one.concepts] == ["aeroplane", "person"]
    np.testing.assert_array_equal(by_label(one)["person"], indices() == 15)
    assert one.ignored is not None
    np.testing.assert_array_equal(one.ignored, indices() == 255)


def test_twenty_classes_in_order(tmp_path: Path) -> None:
    labels = [c.label for c in Voc(voc(tmp_path, indices())).concepts]
    assert len(labels) == 20
    assert (labels[0], labels[10], labels[14], labels[19]) == ("aeroplane", "dining table", "person", "tv monitor")


@pytest.mark.parametrize("turn", [2, 6, 7])
def test_a_mask_turns_with_its_photo(tmp_path: Path, turn: int) -> None:
    one = only(Voc(voc(tmp_path, left_half(code=15), turn)))
    assert (one.masks[0] == red(one.photo)).mean() > 0.98


def test_an_index_that_is_no_class_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: Voc(voc(tmp_path, left_half(code=21))))
    assert "index 21" in said
    assert "2007_000033.png" in said


def test_colours_instead_of_indices_are_refused(tmp_path: Path) -> None:
    folder = voc(tmp_path, indices())
    Image.new("RGB", (20, 12)).save(folder / "SegmentationClass" / "2007_000033.png")
    assert "palette" in refusal(lambda: Voc(folder))


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    folder = voc(tmp_path, indices())
    Image.new("L", (20, 12)).save(folder / "SegmentationClass" / "2007_000033.png", format="JPEG")
    assert "2007_000033.png" in refusal(lambda: Voc(folder))


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = voc(tmp_path, indices())
    assert "splits there: train, val" in refusal(lambda: Voc(folder, "test"))
    assert "2007_000032.png" in refusal(lambda: Voc(folder, "train"))


def test_each_object_may_be_a_mask_of_its_own(tmp_path: Path) -> None:
    objects = left_half(code=1)
    objects[:, :4], objects[:, 10], objects[0, 12:] = 3, 255, 2
    palette(voc(tmp_path, indices()) / "SegmentationObject" / "2007_000033.png", objects)
    one = only(Voc(tmp_path, by="instance"))
    assert [c.label for c in one.concepts] == ["aeroplane", "person", "person"]
    assert [int(mask.sum()) for mask in one.masks] == [8, 72, 48]
    assert one.ignored is not None
    np.testing.assert_array_equal(one.ignored, indices() == 255)


def test_objects_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = voc(tmp_path, indices())
    assert "SegmentationObject" in refusal(lambda: Voc(folder, by="instance"))
    palette(folder / "SegmentationObject" / "2007_000033.png", left_half(10, 6))
    assert "SegmentationObject" in refusal(lambda: Voc(folder, by="instance"))
