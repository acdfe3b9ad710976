"""Targets that a user brings: tables of classes and photos; what is refused, with file and line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from written_classes import class_folders, cub
from written_sets import refusal, write_text

from conceptlens.concepts.concept_table import MAX_COMPARED, ConceptTable, KnownNames, read_concept_table
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.cub import Cub

CLASSES = ("Laysan Albatross", "Crested Auklet", "owl")
PHOTOS = ("train/owl/1.jpg", "train/owl/2.jpg", "train/auk/1.jpg", "train/auk/3.png")


def table(folder: Path, *lines: str, name: str = "told.csv") -> ConceptTable:
    write_text(folder / name, *lines)
    return read_concept_table(folder / name, CLASSES, PHOTOS)


def said_of(folder: Path, *lines: str, name: str = "told.csv") -> str:
    """What is said of a table that is refused: the file, and one sentence."""
    said = refusal(lambda: table(folder, *lines, name=name))
    assert str(folder / name) in said
    assert "\n" not in said
    return said.partition(str(folder / name))[2].lstrip("', ")


def plainly(lines: Sequence[str], names: Sequence[str]) -> list[list[float]]:
    """A cell at a time, by splitting: for tables without quotes."""
    concepts = lines[0].split(",")[1:]
    told = [[math.nan for _ in concepts] for _ in names]
    for line in lines[1:]:
        name, *cells = line.split(",")
        for place, cell in enumerate(cells):
            if cell:
                told[names.index(name)][place] = float(cell)
    return told


def test_rows_of_classes_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    lines = ("name,long beak,owlish", "owl,0,1", "Laysan Albatross,.75,0", "Crested Auklet,2.5e-1,1.")
    found = table(tmp_path, *lines)
    assert (found.of, found.labels) == ("class", ("long beak", "owlish"))
    assert found.targets.dtype == np.float64
    np.testing.assert_array_equal(found.targets, [[0.75, 0], [0.25, 1], [0, 1]])
    np.testing.assert_array_equal(found.targets, plainly(lines, CLASSES))


def test_what_nobody_told_of_a_photo_is_nan(tmp_path: Path) -> None:
    lines = ("name,long beak,owlish,tail", "train/auk/3.png,1,,0.5", "train/owl/1.jpg,,,0")
    found = table(tmp_path, *lines)
    assert found.of == "photo"
    np.testing.assert_array_equal(found.targets, plainly(lines, PHOTOS))
    assert np.isnan(found.targets).sum() == 9


def test_photos_are_known_by_the_end_of_their_path(tmp_path: Path) -> None:
    found = table(tmp_path, "name,tail", "3.png,1", "owl/1.jpg,0.5", "my/photos/train/auk/1.jpg,0.25")
    np.testing.assert_array_equal(found.targets[:, 0], [0.5, np.nan, 0.25, 1])
    assert said_of(tmp_path, "name,tail", "3.png,1", "1.jpg,0") == (
        "line 3: '1.jpg' may be 'train/owl/1.jpg' and 'train/auk/1.jpg'; write more of its path"
    )
    for other in ("val/owl/1.jpg", "l/1.jpg"):
        said = said_of(tmp_path, "name,tail", "3.png,1", f"{other},1")
        assert f"no photo of the set is called {other!r}; near: train/" in said


def test_a_table_with_tabs_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = ('\ufeffNAME\t long,  thin beak \t"a ""crest"""', "", "owl\t0\t1", " Crested Auklet \t1\t 0 ", "\t\t")
    found = table(tmp_path, *lines, "Laysan Albatross\t0\t+1e0", name="told.TSV")
    assert found.labels == ("long, thin beak", 'a "crest"')
    np.testing.assert_array_equal(found.targets, [[0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize("name", ["1.jpg", "train/auk/1.jpg"])
def test_a_name_that_is_a_class_and_a_photo_is_the_class(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "told.csv", "name,tail", f"{name},1", "b,0")
    assert read_concept_table(tmp_path / "told.csv", [name, "b"], PHOTOS).of == "class"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("name,tail", "owl,1", "Crested Awklet,0"), "line 3: no class of the set is called 'Crested Awklet'; near: C"),
        (("name,tail", "owl,1", "train/owl/1.jpg,0"), "line 3: no class of the set is called 'train/owl/1.jpg'"),
        (("name,tail", "train/owl/1.jpg,0", "awl,1"), "line 3: no photo of the set is called 'awl'; near: "),
        (("name,tail", "Crested_Auklet,0"), "has no row of a class or photo of the set; near 'Crested_Auklet' are "),
        (("name,tail", "3.png,1", "auk/3.jpg,0"), "line 3: no photo of the set is called 'auk/3.jpg'; near: train/a"),
        (("name,tail", "owl,1", "owl,1"), "line 3: 'owl' has line 2 too; leave one of them out"),
        (("name,tail", "3.png,1", "", "auk/3.png,1"), "line 4: 'auk/3.png' has line 2 too"),
        (("name,tail", "owl,1"), "has no row for the class 'Laysan Albatross' and 1 more; write one for each class"),
        (("name,tail", "owl,1", "Crested Auklet,0"), "has no row for the class 'Laysan Albatross'; write"),
        (("name,tail", "owl,"), "line 2: 'tail' is ''; expected a number from 0 to 1, as 0.25"),
        (("name,tail,beak", "owl,0,1.01"), "line 2: 'beak' is 1.01; expected 0 to 1: divide percentages by 100"),
        (("name,tail", "3.png,-1e-9"), "line 2: 'tail' is -1e-9; expected 0 to 1"),
        (("name,tail", "3.png,1e999"), "line 2: 'tail' is 1e999; expected 0 to 1"),
        (("name", "owl"), "line 1: the header names no concept"),
        (("name,,", "owl,1,0"), "line 1: the header names no concept"),
        (("name,tail,,beak", "owl,1,0,1"), "line 1: column 3 has no name"),
        (("name,tail,beak, Tail", "owl,1,0,1"), "line 1: the concept 'Tail' has two columns"),
        (("photo,tail", "owl,1"), "line 1: the first column is 'photo'; expected 'name', and then the concepts"),
        (("name;tail", "owl;1"), "line 1: the first column is 'name;tail'; expected 'name'"),
        (("",), "line 1: the first column is ''; expected 'name'"),
        (("name,tail",), "has no row under its header"),
        (("name,tail", ",", ""), "has no row under its header"),
        (("name,tail", "", "owl,1,0"), "line 3: 3 cells under 2 columns"),
        (("name,tail,beak", "3.png,1"), "line 2: 2 cells under 3 columns; write as many, some of them empty"),
        (("name,tail", '"owl"x,1'), "line 2: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    assert said_of(tmp_path, *lines).startswith(said)


@pytest.mark.parametrize(
    "cell", ["inf", "-inf", "nan", "NaN", "Infinity", "yes", "0,5", "1_0", "0x1", "½", "٠", "1e", "."]
)
@pytest.mark.parametrize("name", ["owl", "3.png"])
def test_what_is_no_number_is_refused(tmp_path: Path, cell: str, name: str) -> None:
    said = said_of(tmp_path, "name,tail", f'{name},"{cell}"')
    assert said.startswith(f"line 2: 'tail' is {cell!r}; expected a number from 0 to 1, as 0.25")
    assert said.endswith("nothing where it is unknown") == (name == "3.png")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    said = refusal(lambda: read_concept_table(tmp_path / "none.csv", CLASSES, PHOTOS))
    assert f"cannot read {str(tmp_path / 'none.csv')!r} (No such file or directory)" in said
    (tmp_path / "told.csv").write_bytes("name,küche\nowl,1\n".encode("latin-1"))
    assert "is not UTF-8 text" in refusal(lambda: read_concept_table(tmp_path / "told.csv", CLASSES, PHOTOS))
    assert "expected .csv, with commas, or .tsv" in said_of(tmp_path, "name,tail", "owl,1", name="told.txt")


def test_the_rows_are_those_of_a_labelled_set(tmp_path: Path) -> None:
    """A table of classes gives each photo its class's row; a table of photos is in the set's order."""
    photos = Cub(cub(tmp_path / "cub"), "train")
    write_text(tmp_path / "classes.csv", "name,dark", "Crested Auklet,1", "Laysan Albatross,0.25")
    told = read_concept_table(tmp_path / "classes.csv", photos.classes, photos.names)
    np.testing.assert_array_equal(told.targets[photos.labels], [[0.25], [1], [1]])
    folder = ClassFolder(class_folders(tmp_path / "folder", {"cat": 2, "dog": 1}))
    write_text(tmp_path / "photos.csv", "name,tail", "dog/0.jpg,1", "cat/1.jpg,0")
    told = read_concept_table(tmp_path / "photos.csv", folder.classes, folder.names)
    np.testing.assert_array_equal(told.targets, [[np.nan], [0], [1]])


def test_near_names_of_many_photos_are_found_without_a_long_wait() -> None:
    names = [f"n{i % 7}/{i}.jpg" for i in range(3 * MAX_COMPARED)]
    said = refusal(lambda: KnownNames(names, "photo").index("n6/34.jpeg"))
    assert said.startswith("no photo of the set is called 'n6/34.jpeg'; near: n6/34.jpg, n6/")
    assert "near: n0/0.jpg" in refusal(lambda: KnownNames(names, "photo").index("ß"))
