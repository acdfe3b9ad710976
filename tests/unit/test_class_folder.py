"""Folders of photos with a folder for each class: split or not, ImageNet's numbers, what is left out or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from written_classes import as_listed, class_folders, grey
from written_sets import photo, refusal, write_text

from conceptlens.data.class_folder import ClassFolder, open_imagenet
from conceptlens.data.labelled_set import without_photos
from conceptlens.data.labelled_sets import open_classes

SPLIT = {"train/cat": 2, "train/red dog": 1, "val/cat": 1, "test/red dog": 2}


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"dog": 2, "cat": 1, ".git": 1, "dog/puppies": 1, "dog/.thumbnails": 1})
    grey(tmp_path / "cat" / "grey.JPEG")
    write_text(tmp_path / "cat" / "notes.txt", "not a photo")
    whole = open_classes(f"folder:{tmp_path}")
    assert (whole.split, whole.splits, whole.classes) == ("all", ("all",), ("cat", "dog"))
    assert whole.name == f"{tmp_path.name} all"
    assert as_listed(whole) == [
        ("cat/0.jpg", "cat"),
        ("cat/grey.JPEG", "cat"),
        ("dog/0.jpg", "dog"),
        ("dog/1.jpg", "dog"),
        ("dog/puppies/0.jpg", "dog"),
    ]
    assert whole.annotation is None
    assert open_classes(str(tmp_path)).names == whole.names


def test_splits_number_their_classes_alike(tmp_path: Path) -> None:
    class_folders(tmp_path, SPLIT)
    write_text(tmp_path / "README.md", "not a class")
    train, val, test, whole = (ClassFolder(tmp_path, split) for split in ("train", "val", "test", "all"))
    assert ClassFolder(tmp_path).names == train.names
    assert {one.classes for one in (train, val, test, whole)} == {("cat", "red dog")}
    assert train.splits == ("train", "val", "test", "all")
    assert as_listed(train) == [
        ("train/cat/0.jpg", "cat"),
        ("train/cat/1.jpg", "cat"),
        ("train/red dog/0.jpg", "red dog"),
    ]
    assert as_listed(test) == [("test/red dog/0.jpg", "red dog"), ("test/red dog/1.jpg", "red dog")]
    assert whole.names == [*train.names, *val.names, *test.names]
    assert (without_photos(train), without_photos(val), without_photos(test)) == ((), ("red dog",), ("cat",))


def test_a_class_without_photos_is_left_out_and_stated(tmp_path: Path) -> None:
    class_folders(tmp_path, {**SPLIT, "train/unicorn": 0, "val/unicorn": 0})
    train = ClassFolder(tmp_path)
    assert train.classes == ("cat", "red dog")
    assert train.excluded == {"unicorn": "no photo"}
    assert ClassFolder(class_folders(tmp_path / "train", {})).excluded == {"unicorn": "no photo"}


def test_a_class_that_train_lacks_is_refused_in_every_split(tmp_path: Path) -> None:
    class_folders(tmp_path, {**SPLIT, "train/images": 0, "val/images": 3})
    for split in ("train", "val", "all"):
        said = refusal(lambda split=split: ClassFolder(tmp_path, split))
        assert f"the class 'images' has photos in {str(tmp_path / 'val')!r} and none in" in said


def test_without_train_the_classes_are_those_of_the_other_splits(tmp_path: Path) -> None:
    class_folders(tmp_path, {"val/cat": 1, "test/dog": 1})
    whole = ClassFolder(tmp_path)
    assert (whole.split, whole.splits, whole.classes) == ("all", ("val", "test", "all"), ("cat", "dog"))
    assert whole.names == ["val/cat/0.jpg", "test/dog/0.jpg"]


def test_a_train_is_a_class_among_classes(tmp_path: Path) -> None:
    vehicles = ClassFolder(class_folders(tmp_path, {"bus": 1, "car": 1, "train": 1}))
    assert (vehicles.classes, vehicles.splits) == (("bus", "car", "train"), ("all",))


def test_a_test_without_classes_is_no_split(tmp_path: Path) -> None:
    class_folders(tmp_path, {"train/cat": 1, "train/dog": 1, "test": 2})
    assert "has no split 'test'; splits: train, all" in refusal(lambda: ClassFolder(tmp_path, "test"))


def test_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    assert "no folder" in refusal(lambda: ClassFolder(tmp_path / "none"))
    assert "has 0 class folders with photos; expected at least two" in refusal(lambda: ClassFolder(tmp_path))
    class_folders(tmp_path, {"images/cat": 1, "images/dog": 1})
    assert "has 1 class folders" in refusal(lambda: ClassFolder(tmp_path))
    photo(tmp_path / "images" / "astray.jpg")
    said = refusal(lambda: ClassFolder(tmp_path / "images"))
    assert "astray.jpg" in said
    assert "move it there" in said


def test_a_photo_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "0.jpg").write_bytes(b"no photo")
    both = ClassFolder(tmp_path)
    assert both[1].size == (20, 12)
    assert str(tmp_path / "cat" / "0.jpg") in refusal(lambda: both[0])


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 1, "dog": 1})
    photo(tmp_path / "cat" / "0.jpg", turn=6)
    assert [one.size for one in ClassFolder(tmp_path)] == [(12, 20), (20, 12)]


# ImageNet


def test_imagenet_has_its_names(tmp_path: Path) -> None:
    wnids = ("n01440764", "n02012849", "n03126707", "n03710637", "n03710721")
    class_folders(tmp_path, {f"{split}/{wnid}": 1 for wnid in wnids for split in ("train", "val")})
    train = open_classes(f"imagenet:{tmp_path}")
    assert train.split == "train"
    assert train.classes == ("tench", "crane bird", "construction crane", "maillot", "maillot, tank suit")
    assert as_listed(open_classes(f"imagenet:{tmp_path}", "val"))[0] == ("val/n01440764/0.jpg", "tench")
    assert ClassFolder(tmp_path).folders == wnids


@pytest.mark.parametrize("inner", [".", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_may_bring_its_names(tmp_path: Path, inner: str) -> None:
    class_folders(tmp_path / inner, {"train/n01440764": 1, "train/n99999999": 1})
    assert open_imagenet(tmp_path).classes == ("tench", "n99999999")
    write_text(tmp_path / "LOC_synset_mapping.txt", "n01440764 green fish, Tinca tinca", "n99999999 zebra crossing", "")
    assert open_imagenet(tmp_path).classes == ("green fish", "zebra crossing")


def test_names_that_would_be_the_same_stay_numbers(tmp_path: Path) -> None:
    class_folders(tmp_path, {"n00000001": 1, "n00000002": 1})
    write_text(tmp_path / "LOC_synset_mapping.txt", "n00000001 fish", "n00000002 fish")
    assert ClassFolder(tmp_path).classes == ("n00000001", "n00000002")


def test_other_folders_are_not_imagenet(tmp_path: Path) -> None:
    said = refusal(lambda: open_classes(f"imagenet:{class_folders(tmp_path, SPLIT)}"))
    assert "has the class folder 'cat', expected names such as 'n01440764'" in said


def test_photos_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, SPLIT)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a photo was read"))
    train = ClassFolder(tmp_path)
    assert (len(train), train.labels.tolist(), len(train.names)) == (3, [0, 0, 1], 3)
