"""Broden as Network Dissection published it, written small: 256 green + red, several PNGs a cell, half size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from written_sets import by_label, colours, only, photo, refusal, write_text

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.broden import Broden
from conceptlens.data.masked_sets import open_set

LABELS = (
    "number,name,category,frequency,coverage,syns",
    "1,black-c,color(50),50,9.1,",
    "21,fabric,material(36);object(3),39,4.2,cloth",
    "300,bed,object(7),7,1.5,",
    "301,headboard,part(5),5,0.5,",
    "302,striped,texture(9),9,9.0,",
    "303,bedroom-s,scene(4),4,4.0,",
    "304,orange-c,color(4),4,4.0,",
    "305,orange,object(4),4,4.0,",
    "306,\"post, corner\",part(5),5,0.5,",
)  # fmt: skip
HEADER = "image,split,ih,iw,sh,sw,color,object,material,part,scene,texture"


def stripe(number: int, left: int, right: int) -> np.ndarray:
    codes = np.zeros((8, 8), np.int32)
    codes[:, left:right] = number
    return codes


def broden(folder: Path) -> Path:
    """One photo of ADE20K with everything, one of DTD with a texture alone, one for training."""
    write_text(folder / "label.csv", *LABELS)
    write_text(folder / "category.csv", "name,first,last,count,frequency", "color,1,304,2,54")
    write_text(folder / "c_object.csv", "code,number,name,frequency,coverage", "1,300,bed,7,1.5")
    a = "ade20k/ADE_train_00000001"
    write_text(
        folder / "index.csv",
        HEADER,
        f"{a}.jpg,val,16,16,8,8,{a}_color.png,{a}_object.png,{a}_material.png,{a}_part_1.png;{a}_part_2.png,303,302;1",
        "dtd/g_0106.jpg,val,16,16,8,8,,,,,,302",
        "dtd/g_0107.jpg,train,16,16,8,8,dtd/g_0107_color.png,,,,,302",
    )
    images = folder / "images"
    photo(images / f"{a}.jpg", 16, 16)
    photo(images / "dtd/g_0107.jpg", 16, 16)
    colours(images / f"{a}_color.png", stripe(1, 0, 8))
    colours(images / f"{a}_object.png", stripe(300, 0, 4) + stripe(21, 4, 5))
    colours(images / f"{a}_material.png", stripe(21, 2, 4))
    colours(images / f"{a}_part_1.png", stripe(301, 0, 2))
    colours(images / f"{a}_part_2.png", stripe(306, 1, 2) + stripe(301, 5, 6))
    colours(images / "dtd/g_0107_color.png", stripe(304, 0, 8))
    return folder


def columns(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask.all(0)).tolist()


def test_labels_above_255_need_green(tmp_path: Path) -> None:
    one = only(Broden(broden(tmp_path), "val"))
    assert columns(by_label(one)["bed"]) == [0, 1, 2, 3]


def test_every_png_of_a_cell_counts_and_a_label_is_joined_across_columns(tmp_path: Path) -> None:
    one = only(Broden(broden(tmp_path), "val"))
    found = by_label(one)
    assert columns(found["headboard"]) == [0, 1, 5]
    assert columns(found["post, corner"]) == [1]
    assert columns(found["fabric"]) == [2, 3, 4]
    assert dict(zip(found, one.groups, strict=True)) == {
        "black": "colour",
        "fabric": "material",
        "bed": "object",
        "headboard": "part",
        "post, corner": "part",
    }


def test_masks_may_be_half_the_photo(tmp_path: Path) -> None:
    one = only(Broden(broden(tmp_path), "val"))
    assert one.photo.size == (16, 16)
    assert one.masks.shape[1:] == (8, 8)


def test_scenes_and_textures_are_left_out(tmp_path: Path) -> None:
    concepts = Broden(broden(tmp_path)).concepts
    assert {c.type for c in concepts} == {"colour", "object", "material", "part"}
    assert ConceptName("orange", "colour") in concepts
    assert ConceptName("orange", "object") in concepts
    assert not {"striped", "bedroom"} & {c.label for c in concepts}


def test_photos_without_a_place_are_counted(tmp_path: Path) -> None:
    folder = broden(tmp_path)
    assert [Broden(folder, split).n_excluded for split in ("all", "train", "val")] == [1, 0, 1]


def test_small_masks_may_be_left_out(tmp_path: Path) -> None:
    every = only(Broden(broden(tmp_path), "val"))
    large = every.with_min_area(0.3)
    assert every.n_excluded == 0
    assert {c.label for c in large.concepts} < {c.label for c in every.concepts}
    assert large.n_excluded == len(every.masks) - len(large.masks)


def test_splits(tmp_path: Path) -> None:
    folder = broden(tmp_path)
    assert len(Broden(folder)) == len(open_set(f"broden:{folder}")) == 2
    assert len(Broden(folder, "train")) == len(Broden(folder, "val")) == 1
    assert "all, train, val" in refusal(lambda: Broden(folder, "test"))


def test_another_shape_is_refused(tmp_path: Path) -> None:
    folder = broden(tmp_path)
    photo(folder / "images/ade20k/ADE_train_00000001.jpg", 32, 16)
    assert "same shape" in refusal(lambda: Broden(folder))


def test_pngs_that_differ_in_size_are_refused(tmp_path: Path) -> None:
    folder = broden(tmp_path)
    colours(folder / "images/ade20k/ADE_train_00000001_part_2.png", np.zeros((16, 16), np.int32))
    assert "differ in size" in refusal(lambda: Broden(folder))


def test_a_label_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    folder = broden(tmp_path)
    colours(folder / "images/ade20k/ADE_train_00000001_color.png", stripe(299, 0, 8))
    said = refusal(lambda: Broden(folder))
    assert "299" in said
    assert "_color.png" in said


@pytest.mark.parametrize("name", ["index.csv", "label.csv", "images/dtd/g_0107_color.png", "images/dtd/g_0107.jpg"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    folder = broden(tmp_path)
    (folder / name).unlink()
    assert Path(name).name in refusal(lambda: Broden(folder))


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("index.csv", ("picture,split", "a,b"), "'image'"),
        ("label.csv", ("number,name,category", "one,red-c,color(1)"), "label.csv"),
        ("label.csv", ("number,name,category", "1,red-c,sound(1)"), "'sound'"),
        ("label.csv", ("number,name,category", "1"), "label.csv"),
    ],
)
def test_tables_of_another_layout_are_refused(tmp_path: Path, name: str, lines: tuple[str, ...], says: str) -> None:
    folder = broden(tmp_path)
    write_text(folder / name, *lines)
    assert says in refusal(lambda: Broden(folder))
