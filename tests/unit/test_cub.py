"""CUB's layout, written small: splits, grey photos, points and boxes on the upright photo, attributes; the real one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_classes import CUB_ATTRIBUTES, CUB_PHOTOS, as_listed, cub
from written_sets import photo, red, refusal, write_text

from conceptlens.data.cub import Cub
from conceptlens.data.labelled_set import Annotation, hold_out, without_photos
from conceptlens.data.labelled_sets import open_classes

DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cub50"
needs_cub = pytest.mark.skipif(not DATA.is_dir(), reason="no folder cub50 in CONCEPTLENS_DATA")


def known(folder: Path, split: str = "train") -> Annotation:
    """What a set knows beyond classes."""
    annotation = Cub(folder, split).annotation
    assert annotation is not None
    return annotation


@pytest.mark.parametrize("inner", [".", "CUB_200_2011"])
def test_classes_and_splits(tmp_path: Path, inner: str) -> None:
    cub(tmp_path / inner)
    train, test, whole = (open_classes(f"cub:{tmp_path}", split) for split in ("train", "test", "all"))
    assert (train.name, train.split, train.splits) == ("cub train", "train", ("train", "test", "all"))
    assert train.classes == test.classes == whole.classes == ("Laysan Albatross", "Crested Auklet")
    files = [file for file, _, _ in CUB_PHOTOS.values()]
    assert as_listed(train) == [(file, train.classes[file.startswith("005")]) for file in (files[0], *files[2:4])]
    assert as_listed(test) == [(files[1], "Laysan Albatross"), (files[4], "Crested Auklet")]
    assert whole.names == files
    assert open_classes(f"cub:{tmp_path}").split == "train"


def test_grey_photos_are_kept(tmp_path: Path) -> None:
    test = Cub(cub(tmp_path), "test")
    with Image.open(tmp_path / "images" / test.names[0]) as stored:
        assert stored.mode == "L"
    pixels = np.asarray(test[0])
    assert pixels.shape == (12, 20, 3)
    assert np.ptp(pixels, axis=2).max() == 0


@pytest.mark.parametrize("turn", range(1, 9))
def test_points_and_boxes_turn_with_their_photo(tmp_path: Path, turn: int) -> None:
    train = Cub(cub(tmp_path, turn))
    annotation = train.annotation
    assert annotation is not None
    assert annotation.keypoints is not None
    assert annotation.boxes is not None
    where = red(train[0])
    rows, columns = where.shape
    x, y = annotation.keypoints.xy[0, 0]
    assert where[int(y * rows), int(x * columns)]
    inside = np.zeros_like(where)
    left, top, right, bottom = annotation.boxes[0] * (columns, rows, columns, rows)
    inside[round(top) : round(bottom), round(left) : round(right)] = True
    assert (inside == where).mean() > 0.98
    stored = {1: (0.25, 0.25), 2: (0.75, 0.25), 6: (0.75, 0.25), 7: (0.75, 0.75), 8: (0.25, 0.75)}
    if turn in stored:
        np.testing.assert_allclose((x, y), stored[turn])


def test_points_are_shares_and_what_is_not_seen_has_no_place(tmp_path: Path) -> None:
    keypoints = known(cub(tmp_path), "test").keypoints
    assert keypoints is not None
    assert keypoints.names == ("beak", "left eye", "right eye")
    assert keypoints.visible.tolist() == [[True, False, True]] * 2
    np.testing.assert_allclose(keypoints.xy[1], [(0.25, 0.25), (np.nan, np.nan), (0.4, 0.5)])


def test_a_box_ends_where_its_photo_does(tmp_path: Path) -> None:
    write_text(cub(tmp_path) / "bounding_boxes.txt", *(f"{number} 5.0 -1.0 16.0 7.0" for number in CUB_PHOTOS))
    boxes = known(tmp_path).boxes
    assert boxes is not None
    np.testing.assert_allclose(boxes, [[0.25, 0, 1, 0.5]] * 3)


def test_a_part_without_a_line_is_not_seen(tmp_path: Path) -> None:
    write_text(cub(tmp_path) / "parts" / "part_locs.txt", "4 2 5.0 3.0 1", "6 11 5.0 3.0 1", "999 11 5.0 3.0 1")
    keypoints = known(tmp_path).keypoints
    assert keypoints is not None
    assert keypoints.visible.tolist() == [[True, False, False], [False, False, True], [False] * 3]


def test_a_point_or_two_beyond_the_photo_are_not_seen(tmp_path: Path) -> None:
    cub(tmp_path)
    write_text(tmp_path / "parts" / "parts.txt", *(f"{part} part {part}" for part in range(1, 201)))
    points = [f"{number} {part} 20.0 12.0 1" for number in CUB_PHOTOS for part in range(1, 200)]
    write_text(tmp_path / "parts" / "part_locs.txt", *points, "4 200 20.1 3.0 1")
    keypoints = known(tmp_path).keypoints
    assert keypoints is not None
    assert keypoints.visible.sum(1).tolist() == [199] * 3
    assert np.isnan(keypoints.xy[0, 199]).all()


@pytest.mark.parametrize("place", ["attributes", ".", ".."])
def test_attributes_are_found_where_they_are_published(tmp_path: Path, place: str) -> None:
    attributes = known(cub(tmp_path / "CUB_200_2011", attributes=place)).attributes
    assert attributes is not None
    assert attributes.names == CUB_ATTRIBUTES
    np.testing.assert_allclose(attributes.shares, [(0, 0.755, 1), (0.5, 0.025, 0)])


def test_a_part_of_cub_may_keep_the_table_of_all_classes(tmp_path: Path) -> None:
    rows = [f"{number} 0 0" for number in range(1, 8)]
    write_text(cub(tmp_path) / "attributes" / "class_attribute_labels_continuous.txt", *rows)
    attributes = known(tmp_path).attributes
    assert attributes is not None
    np.testing.assert_allclose(attributes.shares[:, 0], [0.02, 0.05])
    write_text(tmp_path / "attributes" / "class_attribute_labels_continuous.txt", *rows[:3])
    assert "has 3 lines for the 2 classes" in refusal(lambda: known(tmp_path))


def test_a_class_without_photos_is_left_out_with_its_attributes(tmp_path: Path) -> None:
    cub(tmp_path)
    write_text(tmp_path / "classes.txt", "2 002.Laysan_Albatross", "3 003.Sooty_Albatross", "5 005.Crested_Auklet")
    write_text(tmp_path / "attributes" / "class_attribute_labels_continuous.txt", "10 0 0", "20 0 0", "30 0 0")
    train = Cub(tmp_path)
    assert train.excluded == {"003.Sooty_Albatross": "no photo"}
    assert train.classes == ("Laysan Albatross", "Crested Auklet")
    assert train.labels.tolist() == [0, 1, 1]
    attributes = known(tmp_path).attributes
    assert attributes is not None
    np.testing.assert_allclose(attributes.shares[:, 0], [0.1, 0.3])


def test_lines_about_photos_may_have_stray_columns(tmp_path: Path) -> None:
    lines = [
        "4 1 1 4 1.509",
        "4 2 0 1 0  1.509",
        "4 3 1 1 2.2",
        "7 2 1 2 0 0 3.1",
        "7 3 0 3 1",
        "9 1 1 4 5",
        "888 1 1 4 5",
    ]
    write_text(cub(tmp_path) / "attributes" / "image_attribute_labels.txt", *lines)
    photos = known(tmp_path).photos
    assert photos is not None
    assert photos.names == CUB_ATTRIBUTES
    assert photos.present.tolist() == [[True, False, False], [False] * 3, [False, True, False]]
    assert photos.visible.tolist() == [[True, False, False], [False] * 3, [False, True, True]]
    write_text(tmp_path / "attributes" / "image_attribute_labels.txt", "4 1 1 4 1.5", "4 2 1")
    assert "image_attribute_labels.txt" in refusal(lambda: known(tmp_path))
    write_text(tmp_path / "attributes" / "image_attribute_labels.txt", "4 77 1 4 1.5")
    assert "has id 77 in its second column, expected one of 3 from 1 to 3" in refusal(lambda: known(tmp_path))


def test_only_what_is_there_is_known(tmp_path: Path) -> None:
    cub(tmp_path)
    (tmp_path / "attributes" / "attributes.txt").unlink()
    (tmp_path / "parts" / "part_locs.txt").unlink()
    annotation = known(tmp_path)
    assert (annotation.attributes, annotation.photos, annotation.keypoints) == (None, None, None)
    (tmp_path / "bounding_boxes.txt").unlink()
    assert Cub(tmp_path).annotation is None


@pytest.mark.parametrize(
    ("file", "lines", "says"),
    [
        ("images.txt", ["4 a/b.jpg", "9 a/b.jpg"], "lists 'a/b.jpg' twice"),
        ("images.txt", ["4 a/b.jpg", "4 a/c.jpg"], "2 lines and 1 ids"),
        ("images.txt", ["four a/b.jpg"], "expected lines of an id and a name"),
        ("images.txt", ["4"], "expected lines of an id and a name"),
        ("images.txt", [""], "0 lines"),
        ("classes.txt", ["2 002.Laysan_Albatross"], "has class 5, which classes.txt does not list"),
        ("image_class_labels.txt", ["4 2", "9 2"], "has no line for photo 6"),
        ("image_class_labels.txt", ["4 two"], "expected 2 numbers a line"),
        ("train_test_split.txt", [""], "train_test_split.txt' is empty"),
        ("train_test_split.txt", [f"{number} 0" for number in CUB_PHOTOS], "lists no photo of the split 'train'"),
        ("bounding_boxes.txt", ["4 0 0 10 12"], "has no box for '005.Crested_Auklet/Crested_Auklet_0001_794941.jpg'"),
        (
            "parts/part_locs.txt",
            ["4 2 45.0 3.0 1", "6 2 4.0 3.0 1"],
            "has 50% of its visible points beyond their photos",
        ),
        ("parts/part_locs.txt", ["4 5 5.0 3.0 1"], "has id 5 in its second column, expected one of 3 from 2 to 11"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, file: str, lines: list[str], says: str) -> None:
    write_text(cub(tmp_path) / file, *lines)
    said = refusal(lambda: known(tmp_path))
    assert says in said
    assert Path(file).stem in said or file == "images.txt" or "classes.txt" in said or "split" in said


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "'CUB_200_2011'; give the folder of CUB-200-2011" in refusal(lambda: Cub(tmp_path))
    assert "splits: train, test, all" in refusal(lambda: Cub(cub(tmp_path), "val"))
    (tmp_path / "images" / CUB_PHOTOS[6][0]).unlink()
    train = Cub(tmp_path)
    assert train[0].size == (20, 12)
    assert "Crested_Auklet_0001_794941.jpg" in refusal(lambda: train[1])
    assert "Crested_Auklet_0001_794941.jpg" in refusal(lambda: known(tmp_path))
    photo(tmp_path / "images" / CUB_PHOTOS[6][0])
    (tmp_path / "image_class_labels.txt").unlink()
    assert "image_class_labels.txt" in refusal(lambda: Cub(tmp_path))


# The real one


@needs_cub
def test_the_real_cub() -> None:
    train, test, whole = (Cub(DATA, split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(whole), len(train.classes)) == (1500, 1389, 2889, 50)
    assert set(train.names) | set(test.names) == set(whole.names)
    assert not set(train.names) & set(test.names)
    assert Cub(DATA / "CUB_200_2011").names == train.names
    assert without_photos(train) == without_photos(test) == ()
    assert np.bincount(train.labels).tolist() == [30] * 50
    for labelled in (train, test):
        for name, number in zip(labelled.names, labelled.labels.tolist(), strict=True):
            assert int(name[:3]) == number + 1
    kept, held = hold_out(train.labels, 0.2)
    assert (len(kept), np.bincount(train.labels[held]).tolist()) == (1200, [6] * 50)


@needs_cub
def test_the_real_parts_lie_in_their_boxes() -> None:
    train = Cub(DATA)
    annotation = train.annotation
    assert annotation is not None
    keypoints, boxes, attributes = annotation.keypoints, annotation.boxes, annotation.attributes
    assert keypoints is not None
    assert boxes is not None
    assert attributes is not None
    assert annotation.photos is None
    assert (keypoints.xy.shape, boxes.shape, attributes.shares.shape) == ((1500, 15, 2), (1500, 4), (50, 312))
    seen = keypoints.xy[keypoints.visible]
    box = np.repeat(boxes, keypoints.visible.sum(1), axis=0)
    inside = ((seen >= box[:, :2] - 0.02) & (seen <= box[:, 2:] + 0.02)).all(1)
    assert inside.mean() > 0.98
    assert attributes.shares[0, 1] == pytest.approx(0.029197080292)
    width, height = train[0].size
    np.testing.assert_allclose(keypoints.xy[0, 0] * (width, height), (173.7, 105.1))
