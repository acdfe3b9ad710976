"""What all sets share: masks resized and cut without growing, sets by name, drawn scenes, and the real COCO."""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written_sets import by_label, refusal, write_json, write_text

import conceptlens
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.broden import Broden
from conceptlens.data.coco import CocoInstances, CocoPanoptic
from conceptlens.data.drawn_scene import DrawnSet, random_scene
from conceptlens.data.imagenet_s import ImageNetS
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto, coarse_mask, crop_masks, resize_mask
from conceptlens.data.masked_sets import FOLDER, SETS, open_set
from conceptlens.data.voc import Voc

DATA = Path(os.environ.get("CONCEPTLENS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "coco_panoptic"
needs_coco = pytest.mark.skipif(not DATA.is_dir(), reason="no folder coco_panoptic in CONCEPTLENS_DATA")


# Resizing and cutting


def test_resizing_never_dilates_where_bilinear_does() -> None:
    mask = np.zeros((60, 60), bool)
    mask[25:35, 25:35] = True
    ours = resize_mask(mask, (224, 224))
    theirs = np.asarray(Image.fromarray(mask).convert("F").resize((224, 224), Image.Resampling.BILINEAR)) > 0
    assert ours.dtype == np.bool_
    assert theirs.mean() > 1.1 * mask.mean()
    assert ours.mean() == pytest.approx(mask.mean(), rel=0.05)
    assert not (ours & ~theirs).any()


@pytest.mark.parametrize("size", [(7, 5), (112, 90), (23, 41), (60, 60), (30, 30), (240, 120), (1, 1)])
def test_resizing_takes_the_pixel_at_each_centre(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((3, 60, 60)) < 0.4
    as_float = torch.tensor(mask[None]).float()
    expected = torch.nn.functional.interpolate(as_float, size, mode="nearest-exact")[0].bool().numpy()
    np.testing.assert_array_equal(resize_mask(mask, size), expected)


def test_the_whole_box_at_the_same_size_changes_nothing() -> None:
    mask = np.random.default_rng(1).random((2, 427, 641)) < 0.5
    np.testing.assert_array_equal(crop_masks(mask, (0.0, 0.0, 1.0, 1.0), (427, 641)), mask)


def test_a_centre_crop_shows_what_the_model_saw() -> None:
    mask = np.random.default_rng(2).random((1, 80, 120)) < 0.5
    box = (20 / 120, 0.0, 100 / 120, 1.0)
    np.testing.assert_array_equal(crop_masks(mask, box, (80, 80)), mask[:, :, 20:100])


def test_beyond_the_photo_is_padding() -> None:
    mask = np.ones((1, 40, 80), bool)
    letterboxed = (0.0, -0.5, 1.0, 1.5)
    seen = crop_masks(mask, letterboxed, (80, 80))
    assert seen[0, 20:60].all()
    assert not seen[0, :20].any()
    assert not seen[0, 60:].any()
    ignored = crop_masks(np.zeros((40, 80), bool), letterboxed, (80, 80), outside=True)
    np.testing.assert_array_equal(ignored, ~seen[0])


def test_a_photo_without_concepts_has_none_large_enough() -> None:
    bare = MaskedPhoto("bare", Image.new("RGB", (8, 8)), (), (), np.zeros((0, 8, 8), bool))
    assert bare.with_min_area(0.01).concepts == ()


def test_what_is_too_small_is_counted() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :4], masks[1, 0, 0] = True, True
    one = MaskedPhoto("one", Image.new("RGB", (8, 8)), tuple(map(ConceptName, "abc")), ("",) * 3, masks, n_excluded=2)
    kept = one.with_min_area(0.1)
    assert ([c.label for c in kept.concepts], kept.n_excluded) == (["a"], 4)


# Coarse masks


def test_a_box_is_filled_where_pixels_have_their_centres() -> None:
    mask = coarse_mask((1.5, 0.4, 4.5, 2.0), (5, 7))
    assert np.argwhere(mask).tolist() == [[row, column] for row in (0, 1) for column in (1, 2, 3)]
    assert coarse_mask((-3, -3, 30, 30), (5, 7)).all()
    assert coarse_mask((-3, -3, 30, 30), (5, 7)).shape == (5, 7)


def test_an_ellipse_has_its_area_and_touches_its_box() -> None:
    mask = coarse_mask((10, 20, 90, 60), (80, 100), "ellipse")
    assert mask.sum() == pytest.approx(np.pi * 40 * 20, rel=0.01)
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    assert (np.flatnonzero(mask.any(1))[[0, -1]].tolist(), np.flatnonzero(mask.any(0))[[0, -1]].tolist()) == (
        [20, 59],
        [10, 89],
    )


def test_a_coarse_shape_is_one_there_is() -> None:
    assert "'box', 'ellipse'" in refusal(lambda: coarse_mask((0, 0, 4, 4), (8, 8), "disc"))  # pyright: ignore
    for empty in ((4, 0, 4, 4), (4, 4, 0, 0), (0, 0, float("nan"), 4)):
        assert "is empty" in refusal(lambda empty=empty: coarse_mask(empty, (8, 8)))


# One way of reading


@pytest.mark.parametrize("kind", [Broden, CocoInstances, CocoPanoptic, DrawnSet, ImageNetS, MaskFolder, Voc])
def test_every_set_says_only_how_one_photo_is_read(kind: type) -> None:
    assert issubclass(kind, ListedMaskedSet)
    assert not {"__len__", "__iter__", "__getitem__", "name", "concepts"} & set(vars(kind))


def test_photos_are_listed_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    listed = {"images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}], "annotations": [], "categories": []}
    file = write_json(tmp_path / "instances.json", listed)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "a.png")
    write_text(tmp_path / "labels.txt", "cat")
    for made in (CocoInstances(tmp_path, file), MaskFolder(tmp_path)):
        assert isinstance(made._entries, Sequence)
        assert made[0].photo.size == (8, 8)
        with pytest.raises(IndexError):
            made[1]


@pytest.mark.parametrize("room", ["data", "concepts"])
def test_no_file_takes_a_private_name_of_another(room: str) -> None:
    for file in (Path(conceptlens.__file__).parent / room).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], file.name


# Sets by name


def test_the_table_of_sets() -> None:
    assert {"coco_panoptic", "coco_instances", "coco", "voc", "broden", "imagenet_s", "masks", "drawn"} == set(SETS)
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "data-sets.md").read_text(encoding="utf-8")
    for name, kind in SETS.items():
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert any(f"| `{kind.split}` |" in row for row in rows), name


@pytest.mark.parametrize(
    ("name", "choice", "says"),
    [
        ("drawn", {"crowds": "skip"}, "crowds was chosen, which the masks of drawn do not have; their choices: none"),
        ("voc", {"shape": "box"}, "shape was chosen, which the masks of voc do not have; their choices: by"),
        ("coco_panoptic", {"shape": "box"}, "their choices: by, crowds"),
    ],
)
def test_a_choice_that_a_set_does_not_have_is_refused(name: str, choice: dict[str, str], says: str) -> None:
    assert says in refusal(lambda: open_set(name, **choice))


def test_a_folder_alone_is_a_folder_of_masks(tmp_path: Path) -> None:
    assert "labels.csv" in refusal(lambda: open_set(str(tmp_path)))


def test_drawn_by_name() -> None:
    assert len(open_set("drawn")) == 100
    assert len(open_set("drawn:3")) == 3
    assert open_set("drawn:3", "train").name == "drawn train"


@pytest.mark.parametrize("count", ["", " ", "0", "-3", "2.5", "many", "1000001", "12345678", "3:4"])
def test_scenes_that_cannot_be_counted_are_refused_in_one_way(count: str) -> None:
    said = refusal(lambda: open_set(f"drawn:{count}"))
    assert said == f"'drawn:{count.strip()}' counts no scenes; write a number from 1 to 1000000, such as drawn:200"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("coco_panoptik", "coco_panoptic"),
        ("", "drawn"),
        ("drawn:many", "drawn:200"),
        ("drawn:0", "drawn:200"),
        ("voc:/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(text: str, says: str) -> None:
    assert says in refusal(lambda: open_set(text))


def test_a_folder_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert "set CONCEPTLENS_DATA" in refusal(lambda: open_set("voc"))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert str(tmp_path / "voc") in refusal(lambda: open_set("voc"))
    (tmp_path / "voc").mkdir()
    assert str(Path("ImageSets", "Segmentation", "val.txt")) in refusal(lambda: open_set("voc"))


def test_an_unknown_split_names_those_there_are() -> None:
    assert "train, val" in refusal(lambda: open_set("drawn", "test"))


# DrawnSet scenes


def test_drawn_scenes_are_the_same_every_time() -> None:
    first, again = list(DrawnSet(4, size=64)), list(DrawnSet(4, size=64))
    assert [one.name for one in first] == [one.name for one in again]
    for one, other in zip(first, again, strict=True):
        assert one.photo.tobytes() == other.photo.tobytes()
        np.testing.assert_array_equal(one.masks, other.masks)


def test_drawn_concepts_are_colours_and_kinds_with_exact_masks() -> None:
    scenes = DrawnSet(5, "train", size=64)
    for seed, one in enumerate(scenes):
        scene = random_scene(seed, 64)
        assert set(one.concepts) <= set(scenes.concepts)
        assert {c.type for c, group in zip(one.concepts, one.groups, strict=True) if group == "colour"} == {"colour"}
        for label, mask in (scene.masks | scene.kinds).items():
            np.testing.assert_array_equal(by_label(one)[label], mask)
    assert ConceptName("red", "colour") in scenes.concepts


def test_splits_of_drawn_scenes_share_nothing() -> None:
    assert not {one.name for one in DrawnSet(3, "train", 64)} & {one.name for one in DrawnSet(3, "val", 64)}


def test_photos_come_one_by_one() -> None:
    assert inspect.isgenerator(iter(DrawnSet(1_000_000, size=64)))
    assert next(iter(DrawnSet(1_000_000, size=64))).photo.size == (64, 64)


# The real COCO


@needs_coco
@pytest.mark.parametrize("split", [pytest.param("train2017", marks=pytest.mark.slow), "val2017"])
def test_the_real_coco(split: str) -> None:
    panoptic, instances = open_set(f"coco_panoptic:{DATA}", split), open_set(f"coco_instances:{DATA}", split)
    listed = json.loads((DATA / "annotations" / f"panoptic_{split}.json").read_text())["categories"]
    labels = [concept.label for concept in panoptic.concepts]
    assert len(panoptic) == len(instances) == 100
    assert len(set(labels)) == len(listed) == 133
    assert labels[: len(instances.concepts)] == [category["name"] for category in listed if category["isthing"]]
    assert not [label for label in labels if "-" in label]
    for whole, things in zip(panoptic, instances, strict=True):
        assert whole.name == things.name
        assert whole.photo.size == whole.masks.shape[:0:-1]
        covered = whole.masks.sum(0) if whole.ignored is None else whole.masks.sum(0) + whole.ignored
        assert (covered == 1).all()
        found = {c: m for c, g, m in zip(whole.concepts, whole.groups, whole.masks, strict=True) if g == "thing"}
        assert list(found) == list(things.concepts)
        for mask, other in zip(found.values(), things.masks, strict=True):
            np.testing.assert_array_equal(mask, other)


@needs_coco
def test_a_split_needs_no_year() -> None:
    assert CocoPanoptic(DATA, "train").name == "coco_panoptic train2017"
