"""Annotation files as tools join and export them: what is unclear is refused, what is bad is left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_classes import cub
from written_sets import colours, left_half, only, palette, photo, refusal, write_json, write_text

from conceptlens.data.broden import Broden
from conceptlens.data.coco import CocoInstances, CocoPanoptic
from conceptlens.data.cub import Cub
from conceptlens.data.places365 import Places
from conceptlens.data.voc import Voc

BIRD, BOAT = {"id": 16, "name": "bird"}, {"id": 9, "name": "boat"}


def triangle(left: int = 0) -> list[list[float]]:
    return [[left, 0, left + 8, 0, left, 8]]


def image(number: Any, name: str, width: int = 20, height: int = 12) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": width, "height": height}


def entry(number: Any, of: Any, category: Any = 16, drawn: Any = None, **more: Any) -> dict[str, Any]:
    drawn = triangle() if drawn is None else drawn
    return {"id": number, "image_id": of, "category_id": category, "segmentation": drawn, **more}


def instances(
    folder: Path,
    entries: list[Any],
    images: list[Any] | None = None,
    categories: list[Any] | None = None,
    **options: Any,
) -> CocoInstances:
    images = [image(1, "x.jpg"), image(2, "y.jpg")] if images is None else images
    for one in images:
        photo(folder / one["file_name"])
    listed = {"images": images, "annotations": entries, "categories": categories or [BIRD, BOAT]}
    return CocoInstances(folder, write_json(folder / "i.json", listed), **options)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([image("7", "x.jpg"), image("7", "y.jpg")], "image id '7' for 'x.jpg' and for 'y.jpg'"),
        ([image(7, "x.jpg"), image(7, "x.jpg")], "image id 7 for 'x.jpg' and for 'x.jpg'"),
        ([image(3, "x.jpg"), image(4, "x.jpg")], "'x.jpg' under the image ids 3 and 4"),
    ],
)
def test_photos_that_are_listed_twice_are_refused(tmp_path: Path, images: list[Any], says: str) -> None:
    assert says in refusal(lambda: instances(tmp_path, [entry(1, images[0]["id"])], images))
    listed = {"images": images, "annotations": [], "categories": [BIRD]}
    write_json(tmp_path / "annotations" / "panoptic_val2017.json", listed)
    assert says in refusal(lambda: CocoPanoptic(tmp_path))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "orphan": (entry(5, 99), "its photo 99 is not listed"),
    "no photo": ({"id": 5, "category_id": 16, "segmentation": triangle()}, "it has no image_id"),
    "no category": ({"id": 5, "image_id": 1, "segmentation": triangle()}, "it has no category_id"),
    "unlisted category": (entry(5, 1, 77), "its category 77 is not listed"),
    "two points": (entry(5, 1, drawn=[[1, 1, 5, 5]]), "at least 3 points"),
    "a good and a bad polygon": (entry(5, 1, drawn=[*triangle(), [1, 1]]), "at least 3 points"),
    "no outline": (entry(5, 1, drawn=[]), "no outline is given"),
    "runs of another size": (entry(5, 1, drawn={"size": [5, 5], "counts": [25]}), "run lengths for (5, 5)"),
    "a word": (entry(5, 1, drawn="box"), "neither polygons nor run lengths"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_annotation_is_left_out_alone(tmp_path: Path, kind: str) -> None:
    bad, says = BAD[kind]
    made = instances(tmp_path, [entry(1, 1, drawn=triangle(8)), bad, entry(2, 2, drawn=[[0, 0, 4, 0, 4, 4, 0, 4]])])
    assert list(made.excluded) == ["annotation 5"]
    assert says in made.excluded["annotation 5"]
    assert made.n_excluded == 1
    assert [one.masks.sum((1, 2)).tolist() for one in made] == [[28], [16]]


def test_bad_boxes_are_left_out_alone(tmp_path: Path) -> None:
    good = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [2, 2, 4, 5]}
    bad = [
        {**good, "id": 2, "bbox": [1, 2, 3]},
        {**good, "id": 3, "bbox": None},
        {**good, "id": 4, "bbox": [0, 0, 1e9, 1]},
    ]
    made = instances(tmp_path, [good, *bad], shape="box")
    assert list(made.excluded) == ["annotation 2", "annotation 3", "annotation 4"]
    assert made[0].masks.sum() == 20


def test_a_file_of_boxes_alone_says_how_to_read_it(tmp_path: Path) -> None:
    said = refusal(lambda: instances(tmp_path, [entry(n, 1, drawn=[], bbox=[0, 0, 4, 4]) for n in (1, 2)]))
    assert "has 2 annotations and none can be used" in said
    assert 'shape="box"' in said


def test_the_same_annotation_twice_counts_once_and_two_of_one_id_both(tmp_path: Path) -> None:
    twice = entry(1, 1)
    made = instances(tmp_path, [twice, dict(twice), entry(1, 2, 9), {**twice, "id": None}, {**twice, "id": None}])
    assert made.excluded == {"annotation 1": "it is listed twice"}
    assert [len(one.concepts) for one in made] == [1, 1]


def test_categories_without_annotations_may_share_a_name(tmp_path: Path) -> None:
    roots = [{"id": 0, "name": "bird", "supercategory": "none"}, BIRD, BOAT, BOAT, {"id": 30, "name": "boat"}]
    made = instances(tmp_path, [entry(1, 1), entry(2, 1, 9)], categories=roots)
    assert [concept.label for concept in made.concepts] == ["bird", "boat"]
    assert made.excluded == {
        "category 0 (bird)": "no annotation, and the name of category 16",
        "category 30 (boat)": "no annotation, and the name of category 9",
    }
    assert sorted(concept.label for concept in made[0].concepts) == ["bird", "boat"]
    both = [entry(1, 1), entry(2, 1, 0)]
    assert "two categories called 'bird'" in refusal(lambda: instances(tmp_path, both, categories=roots))
    renamed = [BIRD, {"id": 16, "name": "boat"}]
    assert "category id 16 for 'bird' and for 'boat'" in refusal(lambda: instances(tmp_path, both, categories=renamed))


# Panoptic


def panoptic(folder: Path, *annotations: dict[str, Any]) -> CocoPanoptic:
    for name in ("x", "y"):
        photo(folder / "val2017" / f"{name}.jpg")
        colours(folder / "annotations" / "panoptic_val2017" / f"{name}.png", 5 * left_half() + 6)
    listed = {"images": [image(1, "x.jpg"), image(2, "y.jpg")], "annotations": annotations, "categories": [BIRD, BOAT]}
    write_json(folder / "annotations" / "panoptic_val2017.json", listed)
    return CocoPanoptic(folder)


def segments(of: int, name: str, *listed: tuple[int, int]) -> dict[str, Any]:
    found = [{"id": number, "category_id": category} for number, category in listed]
    return {"image_id": of, "file_name": f"{name}.png", "segments_info": found}


def test_panoptic_orphans_are_left_out_and_counted(tmp_path: Path) -> None:
    orphan = segments(50, "z", (11, 16))
    made = panoptic(tmp_path, segments(1, "x", (11, 16), (6, 9)), orphan, segments(2, "y", (11, 16), (6, 3)))
    assert made.excluded == {
        "annotation number 2": "its photo 50 is not listed under 'images'",
        "y.jpg, segment 6": "its category 3 is not listed under 'categories'",
    }
    x, y = made
    assert [concept.label for concept in x.concepts] == ["bird", "boat"]
    assert y.ignored is not None
    np.testing.assert_array_equal(y.ignored, left_half() == 0)


def test_a_photo_with_two_panoptic_annotations_is_refused(tmp_path: Path) -> None:
    twice = (segments(1, "x", (11, 16), (6, 9)), segments(1, "y", (11, 16), (6, 9)))
    assert "annotates 'x.jpg' by 'x.png' and 'y.png'" in refusal(lambda: panoptic(tmp_path, *twice))
    said = refusal(lambda: panoptic(tmp_path, segments(1, "x", (11, 16), (11, 9), (6, 9))))
    assert "lists a segment of 'x.jpg' twice" in said


# Lists of other sets


def test_lists_that_were_joined(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    photo(voc / "JPEGImages" / "a.jpg")
    palette(voc / "SegmentationClass" / "a.png", left_half())
    write_text(voc / "ImageSets" / "Segmentation" / "val.txt", "a", "a")
    made = Voc(voc)
    assert (made.names, list(made.excluded)) == (["a"], ["a, listed again"])
    assert only(made).name == "a"


def test_places_with_a_photo_of_two_classes_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "categories_places365.txt", "/a/abbey 0", "/b/barn 1")
    (tmp_path / "val_256").mkdir()
    write_text(tmp_path / "places365_val.txt", "p.jpg 0", "q.jpg 1", "p.jpg 0")
    made = Places(tmp_path, "val")
    assert (made.names, made.labels.tolist(), len(made.excluded)) == (["p.jpg", "q.jpg"], [0, 1], 1)
    write_text(tmp_path / "places365_val.txt", "p.jpg 0", "p.jpg 1")
    assert "lists 'p.jpg' twice, as 0 and as 1" in refusal(lambda: Places(tmp_path, "val"))


def test_broden_with_two_meanings_of_a_number_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "label.csv", "number,name,category", "1,cat,object(3)", "1,dog,object(3)")
    write_text(tmp_path / "index.csv", "image,split,object", "a.jpg,train,a.png")
    assert "lists '1' twice" in refusal(lambda: Broden(tmp_path))


def test_broden_with_a_row_twice_counts_it_once(tmp_path: Path) -> None:
    write_text(tmp_path / "label.csv", "number,name,category", "1,cat,object(3)", "1,cat,object(3)")
    write_text(tmp_path / "index.csv", "image,split,object", *2 * ["a.jpg,train,a.png"], "b.jpg,train,7")
    made = Broden(tmp_path)
    assert made.names == ["a.jpg"]
    assert made.excluded == {
        "a.jpg, listed again": "the same entry of index.csv as before",
        "b.jpg": "no mask, only labels of the whole image",
    }


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("image_class_labels.txt", "4 5", "begin with 4 and differ"),
        ("train_test_split.txt", "4 0", "begin with 4 and differ"),
        ("parts/part_locs.txt", "4 2 9.0 9.0 1", "begin with 4 2 and differ"),
    ],
)
def test_cub_with_two_lines_of_one_photo_is_refused(tmp_path: Path, file: str, line: str, says: str) -> None:
    birds = cub(tmp_path)
    with (birds / file).open("a") as opened:
        opened.write(f"{line}\n")
    assert says in refusal(lambda: [Cub(birds).annotation])


def test_cub_lines_of_photos_that_are_not_there_are_counted(tmp_path: Path) -> None:
    birds = cub(tmp_path)
    with (birds / "image_class_labels.txt").open("a") as opened:
        opened.write("77 5\n78 2\n")
    made = Cub(birds)
    assert len(made) == 3
    assert made.excluded == {"image_class_labels.txt": "2 of its lines are of photos that images.txt does not list"}
