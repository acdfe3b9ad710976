"""ImageNet-S as published, written small: the folder's class, 1000 ignored, merged classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from timm.data.imagenet_info import ImageNetInfo
from written_sets import colours, left_half, only, photo, red, refusal, write_text

from conceptlens.data.imagenet_s import MERGED, ImageNetS
from conceptlens.data.masked_sets import open_set

# The authors' list is not sorted; sorted, these are classes 1, 2, 3 ... of it.
LISTED = ("n02012849", "n01440764", "n04355933", "n03126707", "n02113186", "n01443537")
TENCH, GOLDFISH, CRANE, CORGI, MACHINE, SUNGLASS = range(1, 7)


def imagenet_s(folder: Path, wnid: str, codes: np.ndarray, turn: int = 1) -> Path:
    write_text(folder / "ImageNetS_categories_im6.txt", *LISTED)
    photo(folder / "validation" / wnid / "ILSVRC2012_val_00000293.JPEG", turn=turn)
    colours(folder / "validation-segmentation" / wnid / "ILSVRC2012_val_00000293.png", codes)
    return folder


def codes_with_ignored(own: int) -> np.ndarray:
    """The left half is the class, two columns are ignored and one is another class."""
    codes = left_half(code=own)
    codes[:, 12:14], codes[:, 18] = 1000, SUNGLASS
    return codes


def test_the_mask_is_the_folders_class_not_the_largest_number(tmp_path: Path) -> None:
    one = only(open_set(f"imagenet_s:{imagenet_s(tmp_path, 'n01443537', codes_with_ignored(GOLDFISH))}"))
    assert one.name == "n01443537/ILSVRC2012_val_00000293"
    assert [c.label for c in one.concepts] == ["goldfish"]
    np.testing.assert_array_equal(one.masks[0], codes_with_ignored(GOLDFISH) == GOLDFISH)
    assert one.ignored is not None
    np.testing.assert_array_equal(one.ignored, codes_with_ignored(GOLDFISH) == 1000)


def test_classes_are_numbered_in_sorted_order_and_named_apart(tmp_path: Path) -> None:
    labels = [c.label for c in ImageNetS(imagenet_s(tmp_path, LISTED[0], left_half(code=CRANE))).concepts]
    assert labels == ["tench", "goldfish", "crane bird", "Cardigan Welsh corgi", "construction crane", "sunglass"]


def test_a_merged_class_has_the_number_and_name_of_the_other(tmp_path: Path) -> None:
    one = only(ImageNetS(imagenet_s(tmp_path, "n04356056", codes_with_ignored(SUNGLASS))))
    assert [c.label for c in one.concepts] == ["sunglass"]
    assert one.masks[0][:, :10].all()


def test_photos_of_a_merged_class_may_lie_under_either_name(tmp_path: Path) -> None:
    imagenet_s(tmp_path, "n04355933", left_half(code=SUNGLASS))
    (tmp_path / "validation" / "n04355933").rename(tmp_path / "validation" / "n04356056")
    assert only(ImageNetS(tmp_path)).masks[0].any()


def test_five_classes_are_merged_into_classes_of_imagenet() -> None:
    known = set(ImageNetInfo().label_names())
    assert len(MERGED) == 5
    assert known >= {*MERGED, *MERGED.values()}
    assert not set(MERGED) & set(MERGED.values())


def test_numbers_above_255_need_green(tmp_path: Path) -> None:
    wnids = sorted(ImageNetInfo().label_names())[:919]
    folder = tmp_path / "ImageNetS919"
    write_text(tmp_path / "ImageNetS_categories_im919.txt", *wnids[::-1])
    photo(folder / "validation" / wnids[299] / "a.JPEG")
    colours(folder / "validation-segmentation" / wnids[299] / "a.png", left_half(code=300))
    for place in (tmp_path, folder):
        whole = ImageNetS(place)
        assert whole.name == "imagenet_s919 validation"
        assert only(whole).masks[0].sum() == 120
        assert only(whole).concepts[0] == whole.concepts[299]


def test_without_a_list_all_folders_are_counted(tmp_path: Path) -> None:
    wnids = sorted(ImageNetInfo().label_names())[:50]
    for wnid in wnids:
        (tmp_path / "validation-segmentation" / wnid).mkdir(parents=True)
    photo(tmp_path / "validation" / wnids[7] / "a.JPEG")
    colours(tmp_path / "validation-segmentation" / wnids[7] / "a.png", left_half(code=8))
    assert only(ImageNetS(tmp_path)).masks[0].sum() == 120
    (tmp_path / "validation-segmentation" / wnids[0]).rmdir()
    assert "ImageNetS_categories_im919.txt" in refusal(lambda: ImageNetS(tmp_path))


def test_the_list_of_the_folders_own_size_is_taken(tmp_path: Path) -> None:
    folder = imagenet_s(tmp_path / "ImageNetS6", LISTED[0], left_half(code=CRANE))
    write_text(folder / "ImageNetS_categories_im50.txt", *LISTED[:2])
    assert len(ImageNetS(folder).concepts) == 6
    renamed = folder.rename(tmp_path / "another")
    assert "several lists" in refusal(lambda: ImageNetS(renamed))


@pytest.mark.parametrize("turn", [1, 3, 5, 8])
def test_a_mask_turns_with_its_photo(tmp_path: Path, turn: int) -> None:
    one = only(ImageNetS(imagenet_s(tmp_path, "n01440764", left_half(code=TENCH), turn)))
    assert (one.masks[0] == red(one.photo)).mean() > 0.98


def test_a_photo_without_its_class_shows_no_concept(tmp_path: Path) -> None:
    one = only(ImageNetS(imagenet_s(tmp_path, "n01440764", left_half(code=1000))))
    assert one.concepts == ()
    assert one.ignored is not None
    assert one.n_excluded == 1


def test_a_resized_photo_keeps_its_mask_and_another_shape_does_not(tmp_path: Path) -> None:
    folder = imagenet_s(tmp_path, "n01440764", left_half(code=TENCH))
    photo(folder / "validation/n01440764/ILSVRC2012_val_00000293.JPEG", 40, 24)
    assert only(ImageNetS(folder)).masks.shape == (1, 12, 20)
    photo(folder / "validation/n01440764/ILSVRC2012_val_00000293.JPEG", 40, 40)
    assert "same shape" in refusal(lambda: ImageNetS(folder))


def test_a_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    assert "n01484850" in refusal(lambda: ImageNetS(imagenet_s(tmp_path, "n01484850", left_half())))


def test_a_number_that_is_no_class_is_refused(tmp_path: Path) -> None:
    assert "class 77" in refusal(lambda: ImageNetS(imagenet_s(tmp_path, "n01440764", left_half(code=77))))


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = imagenet_s(tmp_path, "n01440764", left_half(code=TENCH))
    assert "train-semi-segmentation" in refusal(lambda: ImageNetS(folder, "train-semi"))
    (folder / "validation/n01440764/ILSVRC2012_val_00000293.JPEG").unlink()
    assert "ILSVRC2012_val_00000293.JPEG" in refusal(lambda: ImageNetS(folder))
    (folder / "validation-segmentation/n01440764/ILSVRC2012_val_00000293.png").unlink()
    assert "WNID/*.png" in refusal(lambda: ImageNetS(folder))


def test_a_list_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = imagenet_s(tmp_path, "n01440764", left_half(code=TENCH))
    write_text(folder / "ImageNetS_categories_im6.txt", "n01440764", "n99999999")
    assert "n99999999" in refusal(lambda: ImageNetS(folder))
