"""Concepts of a bottleneck: what a record holds, what files say, what class attributes become, what is left out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from conceptlens.concepts.concept_set import (
    BottleneckConcept,
    ConceptSet,
    Dropped,
    attribute_concepts,
    collect,
    read_concept_set,
    write_concept_set,
)
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.errors import InputError

TRUNK = BottleneckConcept("yellow trunk", "belly", "trunk", "yellow", "color")
STRUCTURED = (
    TRUNK,
    BottleneckConcept('a "hooked" beak, long', part="beak"),
    BottleneckConcept("#1 feather: white"),
    BottleneckConcept("striped fur", type="texture"),
)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path: Path, text: str, name: str = "birds.txt") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_concept_has_a_label_and_perhaps_a_structure() -> None:
    assert BottleneckConcept("  long \n tail ", part=" ", property=" long ") == BottleneckConcept(
        "long tail", None, None, "long"
    )
    assert BottleneckConcept("striped fur", type="texture").name() == ConceptName("striped fur", "texture")
    with pytest.raises(FrozenInstanceError):
        TRUNK.label = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": " "}, "a concept is called ''"),
        ({"label": "x", "type": "smell"}, "unknown type 'smell'"),
        ({"label": "x", "part": 3}, "the part of a concept is 3"),
    ],
)
def test_what_is_no_concept_is_refused(given: dict[str, str], said: str) -> None:
    assert said in refusal(lambda: BottleneckConcept(**given))


def test_of_concepts_alike_the_first_stays_and_the_others_say_why() -> None:
    targets = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    found = collect(["Long tail", " LONG   tail", "crown", "Crown"], "mine", targets)
    assert found.labels == ("Long tail", "crown")
    assert [(one.label, one.filter) for one in found.dropped] == [("LONG tail", "duplicate"), ("Crown", "duplicate")]
    assert found.dropped[0].reason == "entry 2 repeats entry 1, 'Long tail'"
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, targets[:, [0, 2]])
    assert (len(found), found.source, found.tally()) == (2, "mine", {"duplicate": 2})


def test_words_run_together_are_another_concept() -> None:
    assert collect(["bird house", "birdhouse"], "mine").labels == ("bird house", "birdhouse")


def test_what_is_kept_keeps_its_targets_and_its_past() -> None:
    targets = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    whole = collect(["a", "b", "c", "A"], "mine", np.c_[targets, [0, 0]])
    gone = Dropped("b", "length", 1.0, 0.0, "too long")
    left = whole.keep([2, 0], [gone])
    assert left.labels == ("c", "a")
    np.testing.assert_array_equal(left.targets, targets[:, [2, 0]])
    assert [one.filter for one in left.dropped] == ["duplicate", "length"]
    assert whole.labels == ("a", "b", "c")


def test_an_empty_set_says_which_filter_took_most() -> None:
    gone = [Dropped(str(n), "similarity" if n > 0 else "length", None, None, "") for n in range(4)]
    said = refusal(lambda: collect(["x"], "birds.txt").keep([], gone))
    assert said.startswith("birds.txt leaves no concept (similarity dropped 3, length dropped 1)")
    assert "loosen 'similarity' first" in said
    assert refusal(lambda: collect([], "birds.txt")).startswith("birds.txt holds no concept; name at least one")


def test_a_set_checks_labels_and_targets() -> None:
    twins = (BottleneckConcept("crown"), BottleneckConcept("Crown"))
    assert "names 'crown' more than once" in refusal(lambda: ConceptSet(twins, "mine"))
    assert "shape (1, 2); expected class concept, 1 concepts" in refusal(lambda: collect(["a"], "m", np.zeros((1, 2))))


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 45.0, float("inf")])
def test_a_share_that_is_none_is_named(wrong: float) -> None:
    shares = np.array([[0.5, 0.5], [0.5, wrong]])
    said = refusal(lambda: attribute_concepts(["wing", "crown"], shares, "cub"))
    assert f"the share of class 1 for 'crown' is {wrong:g}" in said
    assert "divide percentages by 100" in said


def test_attributes_become_concepts_whose_targets_are_shares() -> None:
    names = ["yellow wing", TRUNK, "unseen", "rare", "everywhere", "Yellow  Wing"]
    shares = np.array([[0.9, 0.0, 0, 0.49, 1, 0], [0.1, 0.6, 0, 0.2, 1, 0], [0.5, 0.7, 0, 0, 1, 1]])
    found = attribute_concepts(names, shares, "cub")
    assert found.concepts == (BottleneckConcept("yellow wing"), TRUNK)
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, shares[:, :2])
    why = {(one.label, one.filter): one for one in found.dropped}
    assert set(why) == {
        ("Yellow Wing", "duplicate"), ("unseen", "presence"), ("rare", "presence"), ("everywhere", "constant"),
    }  # fmt: skip
    assert why["unseen", "presence"].reason == "no image of any class shows it"
    assert (why["rare", "presence"].value, why["rare", "presence"].threshold) == (0.49, 0.5)
    assert "all 3 classes show it in 100%" in why["everywhere", "constant"].reason


def test_how_often_a_class_must_show_an_attribute_can_be_set() -> None:
    shares = np.array([[0.9, 0.3], [0.1, 0.3], [0.5, 0.2]])
    assert attribute_concepts(["a", "b"], shares, "cub").labels == ("a",)
    assert attribute_concepts(["a", "b"], shares, "cub", min_share=0.3).labels == ("a", "b")
    said = refusal(lambda: attribute_concepts(["a", "b"], shares, "cub", min_share=0.95))
    assert said.startswith("cub leaves no concept (presence dropped 2)")


@pytest.mark.parametrize("min_share", [1.5, -0.1, float("nan")])
def test_a_minimum_that_is_none_is_refused(min_share: float) -> None:
    shares = np.array([[0.9], [0.1]])
    assert "expected a share from 0 to 1" in refusal(lambda: attribute_concepts(["a"], shares, "cub", min_share))


def test_one_class_has_nothing_to_be_told_from() -> None:
    assert "tells classes apart" in refusal(lambda: attribute_concepts(["a"], np.array([[0.9]]), "cub"))


def test_a_text_file_has_one_concept_a_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, "\ufeff# birds\nred crown  # on top\n\nWhiskers\n a tall, cylindrical shape\nsoft:texture\n"
    )
    found = read_concept_set(path)
    assert found.labels == ("red crown", "whiskers", "a tall, cylindrical shape", "soft")
    assert [concept.type for concept in found.concepts] == ["object", "part", "object", "texture"]
    assert found.source == str(path)


def test_twins_in_a_file_are_said(tmp_path: Path) -> None:
    found = read_concept_set(written(tmp_path, "red crown\nsoft\nRed  Crown\n"))
    assert [one.label for one in found.dropped] == ["Red Crown"]
    assert "entry 3 repeats entry 1, 'red crown'" in found.dropped[0].reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nratio 3:1\n", "birds.txt, line 2: unknown type '1'"),
        ("a\nwing\tyellow\n", "birds.txt, line 2 holds a tab; name a table .tsv"),
        ("# nothing\n\n", "birds.txt holds no concept"),
    ],
)
def test_a_text_file_that_holds_something_else(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(lambda: read_concept_set(written(tmp_path, text)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot read" in refusal(lambda: read_concept_set(tmp_path / "none.txt"))
    (tmp_path / "photo.tsv").write_bytes(b"\xff\xd8\xff\xe0")
    assert "photo.tsv' is not UTF-8 text" in refusal(lambda: read_concept_set(tmp_path / "photo.tsv"))


def test_a_table_has_columns_in_any_order(tmp_path: Path) -> None:
    text = (
        "# source: me\n\nPart\tlabel\tkind\r\nbelly\tyellow trunk\tcolor\r\n\t\t\r\n\tcrown\r\nwing\tlong wing\t\t\r\n"
    )
    found = read_concept_set(written(tmp_path, text, "birds.tsv"))
    assert found.concepts == (
        BottleneckConcept("yellow trunk", part="belly", kind="color"),
        BottleneckConcept("crown"),
        BottleneckConcept("long wing", part="wing"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("part\tkind\nwing\tcolor\n", "line 1: the header is part, kind; expected label"),
        ("", "the header is missing"),
        ("label\tlabel\na\tb\n", "expected label"),
        ("label\tpaart\n", "no column 'paart' in a table of concepts; near names: part"),
        ("# by me\nlabel\tpart\n\twing\n", "line 3: a concept is called ''"),
        ("label\tpart\na\tb\tc\n", "line 2: 3 cells under 2 columns"),
        ('label\tpart\n"a\tb\nc\td\n', "unexpected end of data"),
        ("label\ttype\na\tsmell\n", "line 2: unknown type 'smell'"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    shown = refusal(lambda: read_concept_set(written(tmp_path, text, "birds.tsv")))
    assert said in shown
    assert "birds.tsv" in shown


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    dropped = Dropped("LONG tail", "duplicate", None, None, "entry 3 repeats entry 1")
    whole = ConceptSet(STRUCTURED, "cub\nattributes", (dropped,))
    path = tmp_path / "deep" / "birds.TSV"
    write_concept_set(whole, path)
    assert read_concept_set(path).concepts == STRUCTURED
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# source: cub attributes"
    assert lines[1] == "# dropped: LONG tail (duplicate): entry 3 repeats entry 1"
    write_concept_set(collect(["crown"], "mine"), path)
    assert path.read_text(encoding="utf-8") == "# source: mine\nlabel\tpart\tregion\tproperty\tkind\ncrown\t\t\t\t\n"


def test_a_text_comes_back_as_it_was_written(tmp_path: Path) -> None:
    labels = [("red crown", "object"), ("ratio 3:1", "object"), ("whiskers", "part"), ("orange", "colour")]
    concepts = [BottleneckConcept(label, type=kind) for label, kind in [*labels, ("feathers", "material")]]
    write_concept_set(collect(concepts, "mine"), tmp_path / "birds.txt")
    assert list(read_concept_set(tmp_path / "birds.txt").concepts) == concepts


@pytest.mark.parametrize("concept", STRUCTURED[:3:2])
def test_a_text_cannot_hold_everything(tmp_path: Path, concept: BottleneckConcept) -> None:
    path = tmp_path / "birds.txt"
    assert "name the file .tsv" in refusal(lambda: write_concept_set(collect([concept], "mine"), path))
    assert not path.exists()


def test_a_concept_set_needs_no_torch() -> None:
    code = "import sys, conceptlens.concepts.concept_set; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
