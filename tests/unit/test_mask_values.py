"""Masks of one's own: values to leave out, and objects whose class a folder tells in three ways, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from written_sets import by_label, only, palette, photo, refusal, write_text

from conceptlens.data.mask_folder import MaskFolder
from conceptlens.data.masked_sets import open_set
from conceptlens.localization.mask_truth import truth_of
from conceptlens.metrics import pointing_energy
from conceptlens.record import WHOLE

ROWS, COLUMNS = 12, 20


def values(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return pixel values: `v7=(top, bottom, left, right)` paints 7 there."""
    painted = np.zeros((ROWS, COLUMNS), np.int32)
    for name, (top, bottom, left, right) in boxes.items():
        painted[top:bottom, left:right] = int(name[1:])
    return painted


def folder_of(place: Path, masks: dict[str, np.ndarray], photos: str = "a") -> Path:
    for name in photos:
        photo(place / "images" / f"{name}.jpg")
    for name, painted in masks.items():
        palette(place / f"{name}.png", painted)
    return place


def areas(made: MaskFolder, index: int = 0) -> list[tuple[str, int]]:
    one = made[index]
    return [(concept.label, int(mask.sum())) for concept, mask in zip(one.concepts, one.masks, strict=True)]


# Values to leave out

STREET = values(v1=(0, 6, 0, 10), v11=(6, 12, 0, 10), v12=(0, 2, 12, 20))


@pytest.mark.parametrize("given", [[11, 12], ["11", "12"], "11,12", ["11, 12"]])
def test_values_that_are_ignored_are_neither_class_nor_background(tmp_path: Path, given: object) -> None:
    write_text(folder_of(tmp_path, {"masks/a": STREET}) / "labels.txt", "road")
    made = open_set(f"masks:{tmp_path}", ignore=given)
    one = only(made)
    assert one.ignored is not None
    np.testing.assert_array_equal(one.ignored, np.isin(STREET, [11, 12]))
    assert by_label(one)["road"].sum() == 60
    assert made.choices == {"by": "category", "ignore": "11, 12"}  # pyright: ignore[reportAttributeAccessIssue]


def test_ignored_pixels_change_a_metric_as_void_does(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": STREET}) / "labels.txt", "road")
    even = torch.ones(1, 1, ROWS, COLUMNS)
    shares = {}
    for ignored in ((11, 12), (12,)):
        if ignored == (12,):
            write_text(tmp_path / "labels.csv", "index,label", "1,road", "11,rail")
        truth = truth_of(only(MaskFolder(tmp_path, ignore=ignored)).with_min_area(0), WHOLE, None)
        assert truth.ignored is not None
        shares[ignored] = pointing_energy(even, truth.masks[None, :1], truth.ignored[None]).of(0, 0)
    assert shares[11, 12] == pytest.approx(60 / (240 - 60 - 16))
    assert shares[12,] == pytest.approx(60 / (240 - 16))


def test_a_label_that_is_ignored_is_no_concept(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": STREET}) / "labels.csv", "index,label", "1,road", "11,void", "12,void")
    assert [concept.label for concept in MaskFolder(tmp_path).concepts] == ["road", "void"]
    made = MaskFolder(tmp_path, ignore=[11, 12])
    assert [concept.label for concept in made.concepts] == ["road"]
    assert only(made).ignored is not None
    assert "names no label" in refusal(lambda: MaskFolder(tmp_path, ignore=[1, 11, 12]))


def test_background_may_be_ignored(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": values(v1=(0, 6, 0, 10))}) / "labels.txt", "road")
    one = only(MaskFolder(tmp_path, ignore=0))
    assert one.ignored is not None
    assert one.ignored.sum() == 180


def test_a_value_that_nothing_explains_names_the_way_out(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": STREET}) / "labels.txt", "road")
    said = refusal(lambda: MaskFolder(tmp_path))
    assert "--ignore 11" in said
    assert "to 0" not in said


@pytest.mark.parametrize("given", ["void", -1, [1.5], "11;12", None])
def test_values_to_ignore_are_whole_numbers(tmp_path: Path, given: object) -> None:
    write_text(folder_of(tmp_path, {"masks/a": STREET}) / "labels.txt", "road")
    assert "such as 11" in refusal(lambda: MaskFolder(tmp_path, ignore=given))  # pyright: ignore[reportArgumentType]


def test_only_folders_of_masks_take_values_to_ignore() -> None:
    assert "ignore was chosen" in refusal(lambda: open_set("drawn:1", ignore=[11]))


# Objects

TWO = values(v3=(0, 4, 0, 5), v8=(6, 12, 10, 20))


def test_ids_with_a_table_of_their_classes(tmp_path: Path) -> None:
    write_text(
        folder_of(tmp_path, {"masks/a": TWO, "masks/b": TWO}, "ab") / "instances.csv", "id,label", "3,cup", "8,cup"
    )
    made = MaskFolder(tmp_path, by="instance")
    assert [areas(made, index) for index in (0, 1)] == 2 * [[("cup", 20), ("cup", 60)]]


def test_ids_that_begin_anew_in_each_photo(tmp_path: Path) -> None:
    folder_of(tmp_path, {"masks/a": TWO, "masks/b": TWO}, "ab")
    lines = ("a,3,cup,object,tableware", "a.jpg,8,tea,material,", "b,3,tea,material,", "b,8,cup,object,", "c,1,cup,,")
    write_text(tmp_path / "instances.csv", "image,id,label,type,group", *lines)
    made = MaskFolder(tmp_path, by="instance")
    assert [areas(made, index) for index in (0, 1)] == [[("cup", 20), ("tea", 60)], [("cup", 60), ("tea", 20)]]
    assert made.excluded == {"instances.csv, c": "no photo of this name"}


def test_classes_of_a_table_may_be_indices_of_labels(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": TWO}) / "labels.txt", "cup", "plate")
    write_text(tmp_path / "instances.csv", "id,class", "3,2", "8,1")
    assert areas(MaskFolder(tmp_path, by="instance")) == [("plate", 20), ("cup", 60)]


def test_ids_beside_class_indices(tmp_path: Path) -> None:
    classes = values(v1=(0, 12, 0, 10), v2=(0, 12, 10, 20), v255=(0, 1, 0, 20))
    objects = values(v5=(0, 6, 0, 10), v6=(6, 12, 0, 20))
    folder_of(tmp_path, {"masks/a": classes, "instances/a": objects})
    write_text(tmp_path / "labels.txt", "cow", "grass")
    made = MaskFolder(tmp_path, by="instance")
    assert areas(made) == [("cow", 50), ("cow", 60), ("grass", 50), ("grass", 60)]
    ignored = made[0].ignored
    assert ignored is not None
    assert ignored.sum() == 20
    assert areas(MaskFolder(tmp_path)) == [("cow", 110), ("grass", 110)]
    palette(tmp_path / "masks" / "a.png", values(v1=(0, 6, 0, 10)))
    one = MaskFolder(tmp_path, by="instance")[0]
    assert (one.n_excluded, one.excluded) == (1, ("object 6 has no class in a.png",))


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    masks = {"masks/cup/a": TWO, "masks/spoon/a": values(v1=(0, 12, 0, 2)), "masks/cup/b": values(v255=(0, 3, 0, 3))}
    folder_of(tmp_path, masks, "ab")
    made = MaskFolder(tmp_path, by="instance")
    assert areas(made, 0) == [("cup", 20), ("cup", 60), ("spoon", 24)]
    assert areas(made, 1) == [("cup", 9)]  # black and white: one object
    write_text(tmp_path / "labels.csv", "index,label,type", "7,cup,object", "2,spoon,part")
    assert [concept.type for concept in MaskFolder(tmp_path, by="instance").concepts] == ["object", "part"]
    palette(tmp_path / "masks" / "cup" / "b.png", values(v1=(0, 3, 0, 3), v255=(5, 9, 5, 9)))
    assert "255 beside the ids" in refusal(lambda: MaskFolder(tmp_path, by="instance"))
    one = MaskFolder(tmp_path, by="instance", ignore=255)[1]
    assert one.ignored is not None
    assert (one.ignored.sum(), int(one.masks.sum())) == (16, 9)


def test_what_is_not_told_is_refused(tmp_path: Path) -> None:
    write_text(folder_of(tmp_path, {"masks/a": TWO}) / "labels.txt", "cup")
    said = refusal(lambda: MaskFolder(tmp_path, by="instance"))
    assert "does not say of which class each object is" in said
    assert "instances.csv" in said
    write_text(tmp_path / "instances.csv", "id,label", "3,cup")
    assert "holds index 8, which instances.csv does not name" in refusal(lambda: MaskFolder(tmp_path, by="instance"))
    write_text(tmp_path / "instances.csv", "id,label", "3,cup", "3,tea")
    assert "the id 3" in refusal(lambda: MaskFolder(tmp_path, by="instance"))
    palette(tmp_path / "instances" / "a.png", TWO)
    assert "keep one" in refusal(lambda: MaskFolder(tmp_path, by="instance"))


def test_a_photo_without_a_mask_in_any_class_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"masks/cup/a": TWO}, "ab")
    assert "b.jpg' has no mask" in refusal(lambda: MaskFolder(tmp_path, by="instance"))
    write_text(tmp_path / "labels.txt", "mug")
    assert "is called as no label" in refusal(lambda: MaskFolder(tmp_path, by="instance"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_objects_of_a_split(tmp_path: Path, split: str) -> None:
    photo(tmp_path / "images" / split / "a.jpg")
    palette(tmp_path / "masks" / split / "a.png", TWO)
    write_text(tmp_path / "instances.csv", "image,id,label", f"{split}/a,3,cup", f"{split}/a.jpg,8,tea")
    assert areas(MaskFolder(tmp_path, split, by="instance")) == [("cup", 20), ("tea", 60)]
