"""Labelled sets by name, and the layouts of CIFAR and Places365, written small."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from written_classes import as_listed, cifar, class_folders, cub, places
from written_sets import photo, refusal, write_text

from conceptlens.data.cifar import Cifar
from conceptlens.data.labelled_sets import LABELLED_SETS, open_classes
from conceptlens.data.masked_sets import FOLDER
from conceptlens.data.places365 import Places

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# By name


def test_the_table_of_labelled_sets() -> None:
    assert {"cub", "folder", "cifar10", "cifar100", "places", "imagenet"} == set(LABELLED_SETS)


def test_a_folder_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert "set CONCEPTLENS_DATA" in refusal(lambda: open_classes("cub"))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert str(tmp_path / "cub") in refusal(lambda: open_classes("cub"))
    cub(tmp_path / "cub")
    assert open_classes("cub", "test").name == "cub test"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cup", "no data set 'cup'; near names: cub"),
        ("", "write NAME or NAME:FOLDER"),
        ("voc:somewhere", "no data set 'voc'"),
        ("cub:/nowhere/at/all", "/nowhere/at/all"),
        ("folder:/nowhere/at/all", "/nowhere/at/all"),
        ("places:/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(text: str, says: str) -> None:
    assert says in refusal(lambda: open_classes(text))


# CIFAR


def ten(folder: Path) -> list[np.ndarray]:
    """Write the files of CIFAR-10 with two photos each."""
    write_text(folder / "batches.meta.txt", *CIFAR_10, "")
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return [cifar(folder / file, [(i,), (9 - i,)], seed=i) for i, file in enumerate(files)]


@pytest.mark.parametrize("inner", [".", "cifar-10-batches-bin"])
def test_cifar10_byte_by_byte(tmp_path: Path, inner: str) -> None:
    pixels = ten(tmp_path / inner)
    train, test, whole = (open_classes(f"cifar10:{tmp_path}", split) for split in ("train", "test", "all"))
    assert (train.name, train.classes) == ("cifar10 train", CIFAR_10)
    assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert as_listed(test) == [("test_batch/00000", "dog"), ("test_batch/00001", "deer")]
    assert whole.names == [*train.names, *test.names]
    assert len(set(whole.names)) == 12
    for place, expected in enumerate(np.concatenate(pixels)):
        np.testing.assert_array_equal(np.asarray(whole[place]), expected)


def hundred(folder: Path) -> np.ndarray:
    write_text(folder / "fine_label_names.txt", "aquarium_fish", *(f"fine_{i}" for i in range(1, 100)))
    write_text(folder / "coarse_label_names.txt", *(f"coarse_{i}" for i in range(20)))
    cifar(folder / "test.bin", [(0, 5)])
    return cifar(folder / "train.bin", [(3, 99), (19, 0), (4, 1)])


def test_cifar100_has_its_fine_classes(tmp_path: Path) -> None:
    pixels = hundred(tmp_path / "cifar-100-binary")
    train = open_classes(f"cifar100:{tmp_path}")
    assert as_listed(train) == [("train/00000", "fine 99"), ("train/00001", "aquarium fish"), ("train/00002", "fine 1")]
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in map(train.__getitem__, range(3))]), pixels)
    assert len(open_classes(f"cifar100:{tmp_path}", "all")) == 4


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "cifar-10-batches-py/data_batch_1"), ("cifar100", "cifar-100-python/train")]
)
def test_pickled_files_are_refused_unopened(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_bytes(pickle.dumps(_Trap()))
    for folder in (tmp_path, (tmp_path / file).parent):
        said = refusal(lambda folder=folder: open_classes(f"{name}:{folder}"))
        assert "nothing is unpickled here" in said
        assert f"{name[:5]}-{name[5:]}-binary.tar.gz" in said


def test_cifar_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    assert "download cifar-10-binary.tar.gz" in refusal(lambda: Cifar(tmp_path))
    ten(tmp_path)
    assert "no split 'val'; splits: train, test, all" in refusal(lambda: Cifar(tmp_path, "val"))
    assert "versions: 10, 100" in refusal(lambda: Cifar(tmp_path, version=20))
    train = Cifar(tmp_path)
    cut = tmp_path / "data_batch_3.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert "has become shorter" in refusal(lambda: train[5])
    assert "data_batch_3.bin' has 6145 bytes, expected 3073 for each photo" in refusal(lambda: Cifar(tmp_path))
    cut.write_bytes(b"")
    assert "has 0 bytes" in refusal(lambda: Cifar(tmp_path))
    cut.unlink()
    assert "cannot read" in refusal(lambda: Cifar(tmp_path))
    assert "open the set again" in refusal(lambda: train[5])
    cifar(cut, [(10,)])
    assert "has label 10, expected 0 to 9" in refusal(lambda: Cifar(tmp_path))
    write_text(tmp_path / "batches.meta.txt", *CIFAR_10[:9])
    assert "names 9 classes, expected 10" in refusal(lambda: Cifar(tmp_path))


# Places365


@pytest.mark.parametrize("size", ["256", "large"])
def test_places_by_its_lists(tmp_path: Path, size: str) -> None:
    places(tmp_path, size)
    train, val = open_classes(f"places:{tmp_path}"), open_classes(f"places:{tmp_path}", "val")
    assert train.classes == val.classes == ("airfield", "apartment building, outdoor", "zen garden")
    assert (train.name, train.splits) == ("places train", ("train", "val"))
    assert as_listed(train) == [("a/airfield/00000001.jpg", "airfield"), ("z/zen_garden/00000001.jpg", "zen garden")]
    assert as_listed(val) == [
        ("Places365_val_00000001.jpg", "apartment building, outdoor"),
        ("Places365_val_00000002.jpg", "airfield"),
    ]


def test_of_two_sizes_the_small_is_read(tmp_path: Path) -> None:
    places(places(tmp_path, "large"))
    photo(tmp_path / "val_large" / "Places365_val_00000001.jpg", width=40, height=24)
    assert Places(tmp_path, "val")[0].size == (20, 12)


def test_places_in_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, {"train/airfield": 1, "train/zen_garden": 1, "val/airfield": 1})
    assert open_classes(f"places:{tmp_path}").classes == ("airfield", "zen_garden")
    assert len(open_classes(f"places:{tmp_path}", "val")) == 1


@pytest.mark.parametrize(
    ("file", "lines", "says"),
    [
        ("categories_places365.txt", ["/a/airfield 0", "/z/zen_garden 2"], "does not number its 2 categories"),
        ("categories_places365.txt", ["/a/airfield"], "expected lines of a name and a number"),
        ("categories_places365.txt", [""], "is empty"),
        ("places365_train_standard.txt", ["/a/airfield/1.jpg 3"], "has a class from 3 to 3, expected 0 to 2"),
        ("places365_train_standard.txt", ["/a/airfield/1.jpg zero"], "expected lines of a name and a number"),
    ],
)
def test_lists_that_do_not_fit_are_named(tmp_path: Path, file: str, lines: list[str], says: str) -> None:
    write_text(places(tmp_path) / file, *lines)
    said = refusal(lambda: Places(tmp_path))
    assert says in said
    assert file in said


def test_what_is_missing_of_places_is_named(tmp_path: Path) -> None:
    places(tmp_path)
    assert "Places365 has no split 'test'; splits: train, val" in refusal(lambda: Places(tmp_path, "test"))
    for path in (tmp_path / "val_256").iterdir():
        path.unlink()
    val = Places(tmp_path, "val")
    assert "Places365_val_00000001.jpg" in refusal(lambda: val[0])
    (tmp_path / "val_256").rmdir()
    assert "has no folder 'val_256' nor 'val_large'" in refusal(lambda: Places(tmp_path, "val"))
    (tmp_path / "places365_val.txt").unlink()
    assert "places365_val.txt" in refusal(lambda: Places(tmp_path, "val"))
