"""COCO's two layouts, written small: names, crowds, void, turned photos, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pycocotools import mask as run_lengths
from written_sets import by_label, colours, left_half, only, photo, red, refusal, write_json

from conceptlens.data.annotation_files import _turned
from conceptlens.data.coco import CocoInstances, CocoPanoptic, readable_name
from conceptlens.data.masked_sets import open_set
from conceptlens.io.image_file import TURNS
from conceptlens.io.images import read_image
from conceptlens.io.run_lengths import decode_mask, unpacked

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "person"},
    {"id": 18, "name": "dog", "isthing": 1, "supercategory": "animal"},
    {"id": 184, "name": "tree-merged", "isthing": 0, "supercategory": "plant"},
    {"id": 187, "name": "sky-other-merged", "isthing": 0, "supercategory": "sky"},
]
# Person in two segments, a tree, a crowd of persons, and void; the second needs green, the tree blue.
PERSON, OTHER, TREE, CROWD = 200, 256 + 3, 65536 * 2 + 5, 77


def stripes() -> np.ndarray:
    ids = np.zeros((12, 20), np.int32)
    ids[:, 0:4], ids[:, 4:8], ids[:, 8:12], ids[:, 12:16] = PERSON, OTHER, TREE, CROWD
    return ids


def panoptic(folder: Path, ids: np.ndarray, turn: int = 1, **changed: Any) -> Path:
    photo(folder / "val2017" / "000000000009.jpg", turn=turn)
    colours(folder / "annotations" / "panoptic_val2017" / "000000000009.png", ids)
    segments = [(PERSON, 1, 0), (OTHER, 1, 0), (TREE, 184, 0), (CROWD, 1, 1)]
    listed = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "width": 20, "height": 12}],
        "annotations": [
            {
                "image_id": 9,
                "file_name": "000000000009.png",
                "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
            }
        ],
        "categories": CATEGORIES,
    }
    write_json(folder / "annotations" / "panoptic_val2017.json", listed | changed)
    return folder


def instances(folder: Path, *entries: dict[str, Any], turn: int = 1, grown: int = 1, **options: Any) -> CocoInstances:
    photo(folder / "val2017" / "000000000009.jpg", turn=turn)
    listed = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "width": 20 * grown, "height": 12 * grown}],
        "annotations": [{"id": n, "image_id": 9, "iscrowd": 0, "category_id": 1, **e} for n, e in enumerate(entries)],
        "categories": CATEGORIES[:2],
    }
    file = write_json(folder / "annotations" / "instances_val2017.json", listed)
    return CocoInstances(folder / "val2017", file, **options)


def packed(mask: np.ndarray) -> dict[str, Any]:
    coded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


# Panoptic


def test_segments_of_a_category_are_joined_and_void_is_ignored(tmp_path: Path) -> None:
    one = only(CocoPanoptic(panoptic(tmp_path, stripes())))
    assert one.name == "000000000009.jpg"
    assert [c.label for c in one.concepts] == ["person", "tree"]
    assert one.groups == ("thing", "stuff")
    assert by_label(one)["person"].all(0).tolist() == [True] * 8 + [False] * 12
    assert by_label(one)["tree"].all(0).tolist() == [False] * 8 + [True] * 4 + [False] * 8
    assert one.ignored is not None
    assert one.ignored.all(0).tolist() == [False] * 12 + [True] * 8


def test_crowds_may_join_their_category(tmp_path: Path) -> None:
    one = only(CocoPanoptic(panoptic(tmp_path, stripes()), crowds="join"))
    assert by_label(one)["person"].all(0).tolist() == [True] * 8 + [False] * 4 + [True] * 4 + [False] * 4
    assert one.ignored is not None
    assert one.ignored.all(0).tolist() == [False] * 16 + [True] * 4


def test_all_categories_are_named_in_order(tmp_path: Path) -> None:
    labels = [c.label for c in open_set(f"coco_panoptic:{panoptic(tmp_path, stripes())}").concepts]
    assert labels == ["person", "dog", "tree", "sky"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tree-merged", "tree"),
        ("wall-other-merged", "wall"),
        ("door-stuff", "door"),
        ("water-other", "water"),
        ("wall-brick", "brick wall"),
        ("window-blind", "window blind"),
        ("hot dog", "hot dog"),
    ],
)
def test_names_as_one_would_say_them(name: str, said: str) -> None:
    assert readable_name(name) == said


def test_distinct_names_stay_distinct(tmp_path: Path) -> None:
    alike = [*CATEGORIES, {"id": 200, "name": "tree", "isthing": 0}, {"id": 201, "name": "tree-other", "isthing": 0}]
    labels = [c.label for c in CocoPanoptic(panoptic(tmp_path, stripes(), categories=alike)).concepts]
    assert labels == ["person", "dog", "tree-merged", "sky", "tree", "tree-other"]


@pytest.mark.parametrize("turn", [1, *TURNS])
def test_a_mask_turns_with_its_photo(tmp_path: Path, turn: int) -> None:
    ids = left_half(code=PERSON)
    ids[ids == 0] = TREE
    one = only(CocoPanoptic(panoptic(tmp_path, ids, turn=turn)))
    assert one.photo.size == read_image(tmp_path / "val2017" / "000000000009.jpg").size == one.masks.shape[:0:-1]
    assert (by_label(one)["person"] == red(one.photo)).mean() > 0.98


def test_a_mask_drawn_on_the_turned_photo_stays(tmp_path: Path) -> None:
    upright = _turned(left_half(code=PERSON), TURNS[6])
    one = only(CocoPanoptic(panoptic(tmp_path, upright, turn=6)))
    assert (by_label(one)["person"] == red(one.photo)).mean() > 0.98


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    said = refusal(lambda: CocoPanoptic(panoptic(tmp_path, stripes()[::2, ::2])))
    assert "000000000009.jpg" in said
    assert "20 x 12" in said
    assert "10 x 6" in said
    assert "same size" in said


def test_a_missing_split_names_those_there_are(tmp_path: Path) -> None:
    assert "splits there: val2017" in refusal(lambda: CocoPanoptic(panoptic(tmp_path, stripes()), "train2017"))


def test_a_segment_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    ids = stripes()
    ids[0, 0] = 4321
    assert "4321" in refusal(lambda: CocoPanoptic(panoptic(tmp_path, ids)))


def test_a_segment_of_a_category_that_is_not_listed_is_left_out_and_ignored(tmp_path: Path) -> None:
    made = CocoPanoptic(panoptic(tmp_path, stripes(), categories=CATEGORIES[:2]))
    segment = f"000000000009.jpg, segment {TREE}"
    assert made.excluded == {segment: "its category 184 is not listed under 'categories'"}
    one = only(made)
    assert [c.label for c in one.concepts] == ["person"]
    assert one.ignored is not None
    assert one.ignored.all(0).tolist() == [False] * 8 + [True] * 12


def test_a_file_of_unlisted_categories_alone_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: CocoPanoptic(panoptic(tmp_path, stripes(), categories=CATEGORIES[3:])))
    assert "category 1 is not listed" in said
    assert "panoptic_val2017.json" in said


@pytest.mark.parametrize(
    "changed",
    [
        {"images": None},
        {"images": [{"id": 9}]},
        {"images": []},
        {"annotations": [{"image_id": 9, "file_name": "a.png"}]},
        {"annotations": [7]},
        {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        {"categories": [{"id": 1, "name": "a"}, {"id": 184, "name": "a"}]},
    ],
)
def test_a_json_of_another_layout_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert "panoptic_val2017.json" in refusal(lambda: CocoPanoptic(panoptic(tmp_path, stripes(), **changed)))


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = panoptic(tmp_path, stripes())
    png = folder / "annotations" / "panoptic_val2017" / "000000000009.png"
    whole = png.read_bytes()
    png.write_bytes(whole[: len(whole) // 2])
    assert "000000000009.png" in refusal(lambda: CocoPanoptic(folder))
    png.unlink()
    assert "000000000009.png" in refusal(lambda: CocoPanoptic(folder))
    png.write_bytes(whole)
    (folder / "val2017" / "000000000009.jpg").unlink()
    assert "000000000009.jpg" in refusal(lambda: CocoPanoptic(folder))
    listed = folder / "annotations" / "panoptic_val2017.json"
    listed.write_text(listed.read_text()[:100])
    said = refusal(lambda: CocoPanoptic(folder))
    assert "panoptic_val2017.json" in said
    assert "cut short" in said


# Instances


def test_polygons_and_both_kinds_of_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((12, 20), bool)
    mask[2:6, 10:14] = True
    plain = {"size": [12, 20], "counts": [122, 4, 8, 4, 8, 4, 8, 4, 78]}
    for given in (box(10, 2, 14, 6), packed(mask), plain):
        one = only(instances(tmp_path, {"segmentation": given, "category_id": 18}))
        assert [c.label for c in one.concepts] == ["dog"]
        np.testing.assert_array_equal(one.masks[0], mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(20))
def test_masks_are_those_of_pycocotools(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = (int(draw.integers(1, 300)), int(draw.integers(1, 300)))
    scattered = packed(draw.random(size) < draw.random())
    np.testing.assert_array_equal(decode_mask(scattered, size), run_lengths.decode(scattered).astype(bool))
    polygons = [(draw.random(2 * int(draw.integers(3, 9))) * 320 - 10).tolist() for _ in range(2)]
    expected = run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(polygons, *size))).astype(bool)
    np.testing.assert_array_equal(decode_mask(polygons, size), expected)


def test_instances_of_a_category_are_joined_and_others_may_overlap(tmp_path: Path) -> None:
    entries = [
        {"segmentation": box(0, 0, 4, 4)},
        {"segmentation": box(8, 0, 12, 4)},
        {"segmentation": box(0, 0, 2, 2), "category_id": 18},
    ]
    one = only(instances(tmp_path, *entries))
    assert by_label(one)["person"].sum() == 32
    assert (by_label(one)["person"] & by_label(one)["dog"]).sum() == 4
    assert one.ignored is None


@pytest.mark.parametrize(("crowds", "person"), [("ignore", 0), ("join", 64)])
def test_crowds_are_ignored_except_where_an_instance_lies(
    tmp_path: Path, crowds: Literal["ignore", "join"], person: int
) -> None:
    crowd = np.zeros((12, 20), np.uint8)
    crowd[:8, :8] = 1
    entry = {"segmentation": packed(crowd), "iscrowd": 1}
    made = instances(tmp_path, entry, {"segmentation": box(0, 0, 4, 4), "category_id": 18})
    one = only(CocoInstances(tmp_path / "val2017", tmp_path / "annotations" / "instances_val2017.json", crowds))
    assert len(made) == 1
    assert by_label(one)["dog"].sum() == 16
    assert by_label(one).get("person", np.zeros(1)).sum() == person
    if crowds == "ignore":
        assert one.ignored is not None
        np.testing.assert_array_equal(one.ignored, crowd.astype(bool) & ~by_label(one)["dog"])
    else:
        assert one.ignored is None


def test_a_photo_without_instances_is_read_too(tmp_path: Path) -> None:
    one = only(instances(tmp_path))
    assert one.concepts == ()
    assert one.masks.shape == (0, 12, 20)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_instances_turn_with_their_photo(tmp_path: Path, turn: int) -> None:
    one = only(instances(tmp_path, {"segmentation": box(0, 0, 10, 12)}, turn=turn))
    assert (one.masks[0] == red(one.photo)).mean() > 0.98


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 1e9, 0, 0, 9]],
        [[0, 0, float("nan"), 0, 0, 9]],
        [["a", "b", "c", "d", "e", "f"]],
        {"size": [20, 12], "counts": [240]},
        {"size": [12, 20], "counts": [100]},
        {"size": [12, 20], "counts": [-1, 241]},
        {"counts": [240]},
        [],
        None,
        7,
    ],
)
def test_a_mask_that_cannot_be_drawn_is_left_out_and_refused_where_none_can(tmp_path: Path, segmentation: Any) -> None:
    assert "instances_val2017.json" in refusal(lambda: instances(tmp_path, {"segmentation": segmentation}))
    made = instances(tmp_path, {"segmentation": segmentation}, {"segmentation": box(0, 0, 4, 4)})
    assert list(made.excluded) == ["annotation 0"]
    assert "cannot be drawn" in made.excluded["annotation 0"]
    assert only(made).masks.sum() == 16


@pytest.mark.parametrize("counts", ["0", "P", "é", "zz\0z", "", "oooooooooo0", 7, None, {}, [100, "140"], [0.5, 239.5]])
def test_run_lengths_that_are_broken_are_counted_when_the_set_is_opened(tmp_path: Path, counts: Any) -> None:
    broken = {"segmentation": {"size": [12, 20], "counts": counts}}
    made = instances(tmp_path, broken, {"segmentation": box(0, 0, 4, 4)})
    assert list(made.excluded) == ["annotation 0"]
    assert made.excluded["annotation 0"].startswith("it cannot be drawn (")
    assert int(only(made).masks.sum()) == 16


@pytest.mark.parametrize("seed", range(20))
def test_packed_run_lengths_are_read_as_they_were_counted(seed: int) -> None:
    """Runs are recounted from the mask, and packed by COCO's own code."""
    draw = np.random.default_rng(seed)
    mask = draw.random((int(draw.integers(1, 90)), int(draw.integers(1, 90)))) < draw.random() ** 3
    runs, kind = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != kind:
            runs.append(0)
            kind = pixel
        runs[-1] += 1
    assert unpacked(packed(mask)["counts"]) == runs
    assert unpacked(packed(mask)["counts"].encode()) == runs


# An entry that is broken, and what is said of it.
BROKEN: dict[str, tuple[Any, str]] = {
    "null": (None, "it is null; expected an object with fields"),
    "a text": ("x", 'it is "x"; expected an object with fields'),
    "a number": (7, "it is 7; expected an object with fields"),
    "a list": ([1, 2], "it is [1, 2]; expected an object with fields"),
    "points in quotes": ({"segmentation": [["5", "5", "9", "5", "9", "9"]]}, "a polygon holds '5', which is no number"),
    "points that are null": ({"segmentation": [[5, None, 9, 5, 9, 9]]}, "a polygon holds None, which is no number"),
    "a polygon that is null": ({"segmentation": [None]}, "a polygon is None; expected a list"),
    "a flat polygon": ({"segmentation": [5, 5, 9, 5, 9, 9]}, "a polygon is 5; expected a list"),
    "a size that is a number": ({"segmentation": {"size": 240, "counts": [240]}}, "the size of its run lengths is 240"),
    "a category in quotes": ({"category_id": "1"}, "its category '1' is not listed"),
    "a list of categories": ({"category_id": [1]}, "its category [1] is not listed"),
    "a photo in quotes": ({"image_id": "9"}, "its photo '9' is not listed"),
    "a list of photos": ({"image_id": [9]}, "its photo [9] is not listed"),
    "a crowd in quotes": ({"iscrowd": "0"}, "its iscrowd is '0'"),
    "outside": ({"segmentation": box(500, 5, 520, 9)}, "its outline lies wholly outside the photo"),
    "above": ({"segmentation": [*box(5, -50, 9, -40), *box(-9, -9, -5, -5)]}, "its outline lies wholly outside"),
}
GOOD = {"id": 1, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": box(0, 0, 4, 4), "bbox": [0, 0, 4, 4]}


def written(folder: Path, entries: list[Any], **changed: Any) -> tuple[Path, Path]:
    photo(folder / "val2017" / "a.jpg")
    images = [{"id": 9, "file_name": "a.jpg", "width": 20, "height": 12}]
    listed = {"images": images, "annotations": entries, "categories": CATEGORIES[:2], **changed}
    return folder / "val2017", write_json(folder / "instances.json", listed)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_annotation_is_left_out_alone(tmp_path: Path, kind: str) -> None:
    given, says = BROKEN[kind]
    entry = {**GOOD, "id": 2, **given} if isinstance(given, dict) else given
    made = CocoInstances(*written(tmp_path, [GOOD, entry]))
    ((title, reason),) = made.excluded.items()
    assert title == ("annotation 2" if isinstance(given, dict) else "annotation number 2")
    assert says in reason
    assert int(only(made).masks.sum()) == 16
    said = refusal(lambda: CocoInstances(*written(tmp_path, [entry])))
    assert "1 annotations and none can be used" in said
    assert says in said


@pytest.mark.parametrize(
    ("bbox", "says"),
    [
        (["1", "1", "3", "3"], "its bbox holds '1', which is no number"),
        ([1, 1, None, 3], "its bbox holds None, which is no number"),
        ([50, 1, 3, 3], "its box lies wholly outside the photo"),
        ([10**400, 1, 3, 3], "a box far outside its photo"),
    ],
)
def test_a_broken_box_is_left_out_alone(tmp_path: Path, bbox: list[Any], says: str) -> None:
    made = CocoInstances(*written(tmp_path, [GOOD, {**GOOD, "id": 2, "bbox": bbox}]), shape="box")
    assert says in made.excluded["annotation 2"]
    assert int(only(made).masks.sum()) == 16


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "it is null; expected an object with fields"),
        ({"file_name": "b.jpg", "width": 20, "height": 12}, "it has no id"),
        ({"id": [3], "file_name": "b.jpg", "width": 20, "height": 12}, "its id is [3]; expected a number or a text"),
        ({"id": 3, "file_name": None, "width": 20, "height": 12}, "its file_name is null; expected a text"),
        ({"id": 3, "file_name": "b.jpg", "width": 20}, "it has no height"),
        (
            {"id": 3, "file_name": "b.jpg", "width": "wide", "height": 12},
            'its width is "wide"; expected a whole number',
        ),
    ],
)
def test_a_broken_entry_of_a_photo_is_left_out_alone(tmp_path: Path, image: Any, says: str) -> None:
    whole = {"id": 9, "file_name": "a.jpg", "width": "20", "height": "12"}  # the same numbers in quotes
    made = CocoInstances(*written(tmp_path, [GOOD], images=[image, whole]))
    assert list(made.excluded) == ["image number 1"]
    assert says in made.excluded["image number 1"]
    assert int(only(made).masks.sum()) == 16
    said = refusal(lambda: CocoInstances(*written(tmp_path, [GOOD], images=[image])))
    assert "lists 1 images and none can be used; image number 1" in said


def test_a_broken_category_is_left_out_alone(tmp_path: Path) -> None:
    made = CocoInstances(*written(tmp_path, [GOOD], categories=[None, {"id": 7}, *CATEGORIES[:2]]))
    assert made.excluded == {
        "category number 1": "it is null; expected an object with fields",
        "category number 2": "it has no name",
    }


def test_broken_segments_are_left_out_alone(tmp_path: Path) -> None:
    whole = {"image_id": 9, "file_name": "000000000009.png", "segments_info": [None, {"id": PERSON, "category_id": 1}]}
    ids = np.full((12, 20), PERSON, np.int32)
    entries = [whole, None, {"image_id": 9, "file_name": "a.png", "segments_info": None}]
    made = CocoPanoptic(panoptic(tmp_path, ids, annotations=entries))
    assert made.excluded == {
        "annotation number 2": "it is null; expected an object with fields",
        "annotation number 3": "its segments_info is null; expected a list",
        "000000000009.jpg, segment number 1": "it is null; expected an object with fields",
    }
    assert only(made).masks.all()


def test_a_mask_without_a_pixel_is_counted_where_others_of_its_category_are(tmp_path: Path) -> None:
    one = only(instances(tmp_path, {"segmentation": box(0, 0, 4, 4)}, {"segmentation": box(3, 3, 3, 3)}))
    assert (int(one.masks.sum()), one.n_excluded, one.excluded) == (16, 1, ("annotation 1 covers no pixel",))


@pytest.mark.parametrize("entry", [{"category_id": 5}, {"image_id": 5}, {"no": "segmentation"}])
def test_an_entry_of_nothing_listed_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    drawn = {} if "no" in entry else {"segmentation": box(0, 0, 4, 4)}
    assert "instances_val2017.json" in refusal(lambda: instances(tmp_path, {**drawn, **entry}))


def test_a_photo_of_another_size_than_its_entry_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: instances(tmp_path, {"segmentation": box(0, 0, 4, 4)}, grown=2))
    assert "same size" in said


def test_options_are_those_there_are(tmp_path: Path) -> None:
    folder = panoptic(tmp_path, stripes())
    assert "'ignore', 'join', 'skip'" in refusal(lambda: CocoPanoptic(folder, crowds="drop"))  # pyright: ignore
    assert "'category', 'instance'" in refusal(lambda: CocoPanoptic(folder, by="object"))  # pyright: ignore
    assert "'outline', 'box', 'ellipse'" in refusal(lambda: instances(tmp_path, shape="disc"))


# One mask for each object, coarse masks, and what is left out


def test_each_segment_may_be_a_mask_of_its_own(tmp_path: Path) -> None:
    one = only(CocoPanoptic(panoptic(tmp_path, stripes()), by="instance"))
    assert [c.label for c in one.concepts] == ["person", "person", "tree"]
    assert one.groups == ("thing", "thing", "stuff")
    assert [np.flatnonzero(mask.all(0)).tolist() for mask in one.masks] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_each_instance_may_be_a_mask_of_its_own(tmp_path: Path) -> None:
    entries = [
        {"segmentation": box(0, 0, 2, 2), "category_id": 18},
        {"segmentation": box(8, 0, 12, 4)},
        {"segmentation": box(0, 0, 4, 4)},
    ]
    one = only(instances(tmp_path, *entries, by="instance"))
    assert [c.label for c in one.concepts] == ["person", "person", "dog"]
    assert [np.flatnonzero(mask.any(0)).tolist() for mask in one.masks] == [[8, 9, 10, 11], [0, 1, 2, 3], [0, 1]]
    assert one.n_excluded == 0


def test_a_crowd_that_joins_is_an_instance_of_its_category(tmp_path: Path) -> None:
    entries = [{"segmentation": box(0, 0, 4, 4)}, {"segmentation": box(8, 0, 12, 4), "iscrowd": 1}]
    assert only(instances(tmp_path, *entries, by="instance", crowds="join")).masks.sum((1, 2)).tolist() == [16, 16]
    ids = CocoPanoptic(panoptic(tmp_path, stripes()), by="instance", crowds="join")
    assert [c.label for c in only(ids).concepts].count("person") == 3


def test_crowds_that_are_skipped_are_rest_and_counted(tmp_path: Path) -> None:
    entries = [{"segmentation": box(0, 0, 4, 4)}, {"segmentation": box(8, 0, 12, 4), "iscrowd": 1}]
    one = only(instances(tmp_path, *entries, crowds="skip"))
    assert (int(one.masks.sum()), one.ignored, one.n_excluded) == (16, None, 1)
    whole = only(CocoPanoptic(panoptic(tmp_path, stripes()), crowds="skip"))
    assert whole.ignored is not None
    assert whole.ignored.all(0).tolist() == [False] * 16 + [True] * 4
    assert by_label(whole)["person"].all(0).tolist() == [True] * 8 + [False] * 12
    assert whole.n_excluded == 1


@pytest.mark.parametrize(("shape", "pixels"), [("box", 48), ("ellipse", 36)])
def test_boxes_need_no_outline(tmp_path: Path, shape: str, pixels: int) -> None:
    one = only(instances(tmp_path, {"bbox": [4, 2, 8, 6]}, {"bbox": [0, 0, 0, 3]}, shape=shape, by="instance"))
    assert np.argwhere(one.masks[0])[[0, -1]][:, 0].tolist() == [2, 7]
    assert (int(one.masks.sum()), one.n_excluded) == (pixels, 1)


@pytest.mark.parametrize("given", [{}, {"bbox": [1, 2, 3]}, {"bbox": "none"}, {"bbox": None}])
def test_a_box_that_cannot_be_read_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    assert "instances_val2017.json" in refusal(lambda: instances(tmp_path, given, shape="box"))


def test_blank_masks_are_left_out(tmp_path: Path) -> None:
    entries = [
        {"segmentation": box(0, 0, 12, 4)},
        {"segmentation": box(0, 0, 2, 2), "category_id": 18},
        {"segmentation": box(3, 3, 3, 3), "category_id": 18},
    ]
    one = only(instances(tmp_path, *entries, by="instance"))
    assert ([c.label for c in one.concepts], one.n_excluded) == (["person", "dog"], 1)


def test_a_mask_of_the_whole_photo_is_kept(tmp_path: Path) -> None:
    one = only(instances(tmp_path, {"segmentation": box(0, 0, 20, 12)}))
    assert one.masks.all()
    assert one.n_excluded == 0


def test_a_listed_segment_without_a_pixel_is_counted(tmp_path: Path) -> None:
    ids = stripes()
    ids[ids == TREE] = PERSON
    assert only(CocoPanoptic(panoptic(tmp_path, ids))).n_excluded == 1


def test_photos_without_an_annotation_are_counted(tmp_path: Path) -> None:
    listed = [{"id": 9, "file_name": "000000000009.jpg"}, {"id": 10, "file_name": "000000000010.jpg"}]
    made = CocoPanoptic(panoptic(tmp_path, stripes(), images=listed))
    assert (len(made), made.n_excluded) == (1, 1)
