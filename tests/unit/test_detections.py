"""Boxes of a detector as targets: VLG-CBM's layout, one file of all photos, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_classes import class_folders, cub
from written_sets import refusal

from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.cub import Cub
from conceptlens.data.detections import _plain, read_detections

PHOTOS = ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/9.png")
BOX = [1, 2, 30.5, 40]


def one(label: str, confidence: Any = 0.5, box: Any = BOX) -> dict[str, Any]:
    """A box as VLG-CBM writes it, with the value of each token too."""
    return {"logits": [confidence], "logit": confidence, "label": label, "box": box}


def as_published(folder: Path, photos: Mapping[int, Sequence[Any]], paths: Mapping[int, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, entries in photos.items():
        first = {"img_path": (paths or {}).get(number)}
        (folder / f"{number}.json").write_text(json.dumps([first, *entries]), encoding="utf-8")
    return folder


def in_one(file: Path, photos: Any) -> Path:
    file.write_text(json.dumps(photos), encoding="utf-8")
    return file


def published_words(s: str) -> str:
    """As `format_concept` of VLG-CBM's code goes."""
    s = s.lower()
    for mark in "-,.()":
        s = s.replace(mark, " ")
    if s[:2] == "a ":
        s = s[2:]
    elif s[:3] == "an ":
        s = s[3:]
    return " ".join(s.split())


def published(folder: Path, count: int, concepts: Sequence[str]) -> list[list[float]]:
    """VLG-CBM's loop: for each photo and concept, whether a box of more than 0.15 confidence has its label."""
    rows = []
    for number in range(count):
        file = folder / f"{number}.json"
        found = json.loads(file.read_text(encoding="utf-8"))[1:] if file.exists() else None
        row = []
        for concept in concepts:
            shown = [
                entry
                for entry in found or []
                if entry["logit"] > 0.15 and published_words(entry["label"]) == published_words(concept)
            ]
            row.append(math.nan if found is None else float(len(shown) > 0))
        rows.append(row)
    return rows


def test_the_published_layout_gives_what_the_published_loop_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    said = ["a long tail", "Long tail", "striped-fur", "striped fur.", "nose", "cat"]
    photos = {
        number: [one(said[rng.integers(6)], float(rng.uniform(0, 0.4))) for _ in range(rng.integers(0, 5))]
        for number in range(12)
        if number != 7
    }
    names = [f"{number:02}.jpg" for number in range(12)]
    folder = as_published(tmp_path / "cub_train", photos)
    (folder / "3.jpg").write_bytes(b"what --save_image leaves")
    found = read_detections(folder, names)
    assert (found.of, sorted(map(published_words, found.labels))) == (
        "photo", ["cat", "long tail", "nose", "striped fur"],
    )  # fmt: skip
    expected = published(folder, 12, found.labels)
    np.testing.assert_array_equal(found.targets, expected)
    assert np.nansum(expected, axis=0).all()
    assert np.isnan(found.targets[7]).all()


def test_boxes_count_from_the_least_confidence_on(tmp_path: Path) -> None:
    entries = [one("A tail", 0.15), one("tail", 0.149), one("nose", 1.0)]
    folder = as_published(tmp_path / "found", {0: entries, 1: [], 3: [one("nose", 0.1)]})
    found = read_detections(folder, PHOTOS)
    assert found.labels == ("nose", "A tail")
    np.testing.assert_array_equal(found.targets, [[1, 1], [0, 0], [np.nan, np.nan], [0, 0]])


def test_one_file_says_the_same(tmp_path: Path) -> None:
    entries = {"dog/1.jpg": [one("tail"), one("nose", 0.01)], "2.jpg": [], "any/dog/9.png": [one("nose")]}
    scored = {
        name: [{"label": e["label"], "box": e["box"], "score": e["logit"]} for e in found]
        for name, found in entries.items()
    }
    for number, written in enumerate((entries, scored)):
        found = read_detections(in_one(tmp_path / f"{number}.json", written), PHOTOS)
        assert found.labels == ("nose", "tail")
        np.testing.assert_array_equal(found.targets, [[np.nan] * 2, [0, 0], [0, 1], [1, 0]])


def test_numbers_are_those_of_sorted_photos_and_paths_go_first(tmp_path: Path) -> None:
    photos = Cub(cub(tmp_path / "cub"), "all")
    backwards = photos.names[::-1]
    assert backwards != sorted(backwards)
    folder = as_published(tmp_path / "found", {0: [one("tail")], 1: []})
    found = read_detections(folder, backwards)
    first = backwards.index(sorted(backwards)[0])
    assert np.flatnonzero(found.targets[:, 0] == 1).tolist() == [first]
    paths = {0: "data/CUB/train/" + backwards[3], 1: ["data/CUB/train/" + backwards[1], 4]}
    found = read_detections(as_published(tmp_path / "paths", {0: [one("tail")], 1: []}, paths), backwards)
    np.testing.assert_array_equal(found.targets[:, 0], [np.nan, 0, np.nan, 1, np.nan])


def test_a_folder_of_classes_is_numbered_as_published(tmp_path: Path) -> None:
    """torchvision's `ImageFolder` sorts class folders, then files; so does the set that `folder:` opens."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = class_folders(tmp_path / "set", {"b c": 2, "b": 11, "B": 1})
    listed = [Path(path).relative_to(folder).as_posix() for path, _ in datasets.ImageFolder(str(folder)).samples]
    assert ClassFolder(folder).names == listed


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([one("tail", 3.2)], "box 1 has the confidence 3.2 in score or logit; expected 0 to 1: take the sigmoid"),
        ([one("tail"), one("tail", math.nan)], "box 2 has the confidence nan"),
        ([one("tail", None)], "box 1 has the confidence None"),
        ([one("tail", True)], "box 1 has the confidence True"),
        ([{"label": "tail", "box": BOX}], "box 1 has the confidence None"),
        ([one("-.")], "box 1 has the label '-.'; expected what was found, in words"),
        ([{"box": BOX, "logit": 0.5}], "box 1 has the label None"),
        ([one("tail", box=[1, 2, 3])], "box 1 is [1, 2, 3]; expected four numbers"),
        ([one("tail", box=[1, 2, 3, math.inf])], "box 1 is [1, 2, 3, inf]; expected four numbers"),
        ([one("tail", box=[1, 2, 3, 10**400])], "expected four numbers: left, top, right, bottom"),
        ([one("tail", box="1234")], "box 1 is '1234'; expected four numbers"),
        ([one("tail", box=[50, 2, 30, 9])], "box 1 is [50, 2, 30, 9]; expected left, top, right, bottom: add left"),
        ([one("tail", box=[5, 20, 30, 9])], "box 1 is [5, 20, 30, 9]; expected left, top, right, bottom: add left"),
        (["tail"], "box 1 is 'tail'; expected an object with label, box, and score or logit"),
        ([one("tail", box=[0.1, 0, 0.5, 1.0])], "goes beyond 1; expected pixels: multiply by width and height"),
        ([], "has no box in any photo"),
    ],
)  # fmt: skip
def test_what_is_no_box_is_refused(tmp_path: Path, entries: list[Any], said: str) -> None:
    folder, file = as_published(tmp_path / "found", {0: entries}), in_one(tmp_path / "all.json", {"cat/1.jpg": entries})
    for path in (folder, file):
        read = refusal(lambda path=path: read_detections(path, PHOTOS))
        assert said in read
        assert str(path) in read
        assert "\n" not in read


def test_a_photo_that_is_unknown_or_there_twice_is_named(tmp_path: Path) -> None:
    def read(path: Path) -> str:
        return refusal(lambda: read_detections(path, PHOTOS))

    file = tmp_path / "all.json"
    assert f"{str(file)!r}: no photo of the set is called 'cat/3.jpg'; near: cat/" in read(
        in_one(file, {"cat/3.jpg": []})
    )
    assert "'1.jpg' may be 'cat/1.jpg' and 'dog/1.jpg'" in read(in_one(file, {"1.jpg": []}))
    assert "lists 'dog/9.png' twice" in read(in_one(file, {"9.png": [], "dog/9.png": []}))
    folder = as_published(tmp_path / "found", {3: [one("tail")], 4: [one("tail")]})
    assert f"{str(folder / '4.json')!r} is of photo 4, and 4 were given, from 0" in read(folder)
    paths = {0: "train/cat/2.jpg", 1: None}
    assert "lists 'cat/2.jpg' twice" in read(as_published(tmp_path / "two", {0: [], 1: []}, paths))
    other = as_published(tmp_path / "three", {0: []}, {0: "train/cow/2.jpg"})
    assert "0.json': no photo of the set is called 'train/cow/2.jpg'" in read(other)


def test_what_is_not_the_layout_is_refused(tmp_path: Path) -> None:
    def read(path: Path) -> str:
        return refusal(lambda: read_detections(path, PHOTOS))

    as_published(tmp_path / "all" / "cub_train", {0: [one("tail")]})
    assert "holds no 0.json, 1.json and so on; folders there: cub_train" in read(tmp_path / "all")
    for number, (wrong, said) in enumerate([
        ({"img_path": None}, "holds dict; expected a list of boxes"),
        ([], "does not begin with 'img_path'"),
        ([one("tail"), one("nose")], "does not begin with 'img_path'"),
    ]):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        in_one(tmp_path / str(number) / "0.json", wrong)
        assert said in read(tmp_path / str(number))
    for wrong, said in (([one("tail")], "names no photo"), ({}, "names no photo"), ({"9.png": 1}, "'9.png' holds int")):
        assert said in read(in_one(tmp_path / "all.json", wrong))
    (tmp_path / "all.json").write_text('{"9.png": [', encoding="utf-8")
    assert "is not JSON or cut short" in read(tmp_path / "all.json")
    assert "cannot read" in read(tmp_path / "none")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aAnN b-,.()", max_size=9))
def test_labels_are_compared_as_published(label: str) -> None:
    """The published code keeps an article after a space or mark; labels do not begin so."""
    said = published_words(label.strip(" -,.()"))
    assert _plain(label) == said
