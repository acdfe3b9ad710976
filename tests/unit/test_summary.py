"""Questions over a store: the numbers are those of plain loops, and what is planted is found."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from conceptlens.cli import app
from conceptlens.io.errors import InputError
from conceptlens.statistics.multiple_comparisons import holm
from conceptlens.statistics.shared_draws import mean_intervals
from conceptlens.store import ExplanationStore
from conceptlens.summary import summarize
from conceptlens.summary.shortcuts import expected_concepts
from summary_stores import MadePhoto, made_store, planted_photos

pytestmark = pytest.mark.wide


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_intervals_of_a_table_are_those_of_its_columns_and_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(2, [1, 3], (200, 2))
    found = mean_intervals(values)
    alone = mean_intervals(values[:, :1])[0]
    assert (found[0].low, found[0].high) == pytest.approx((alone.low, alone.high))
    for one, column in zip(found, values.T, strict=True):
        reach = 1.96 * column.std() / np.sqrt(200)
        assert one.mean == pytest.approx(column.mean())
        assert (one.low, one.high) == pytest.approx((one.mean - reach, one.mean + reach), abs=0.15 * reach)
    assert mean_intervals(values[:1])[0].low is None
    with pytest.raises(InputError, match="expected finite values"):
        mean_intervals(values * nan)


def test_a_class_is_summed_up_as_a_plain_loop_does(tmp_path: Path) -> None:
    photos = planted_photos(10, "mark")
    summary = summarize(made_store(tmp_path / "store", photos))
    assert {one.name: one.photos for one in summary.classes} == {"a": 10, "b": 10, "c": 10}
    (b,) = (one for one in summary.classes if one.name == "b")
    own = [one for one in photos if one.answer == "b"]
    for concept in b.concepts:
        rows = [row for one in own for row in one.concepts if row[0] == concept.label]
        assert concept.shown == len(rows) == 10
        assert concept.contribution.mean == pytest.approx(sum(row[2] for row in rows) / len(own), rel=1e-5)
        assert concept.of_margin == pytest.approx(concept.contribution.mean / 4, rel=1e-5)
        assert concept.present.mean == pytest.approx(sum(row[2] > 0 for row in rows) / len(own))
        assert concept.place is not None
        assert concept.place.x == pytest.approx(np.mean([row[4] for row in rows]), rel=1e-5)
        assert concept.place.spread_y == pytest.approx(np.std([row[5] for row in rows]), abs=1e-5)
        assert concept.contribution.low is not None
        assert concept.contribution.low < concept.contribution.mean
    means = [one.contribution.mean for one in b.concepts]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_planted_mark_comes_first_wherever_it_lies(tmp_path: Path, seed: int, fixed: bool) -> None:
    found = summarize(made_store(tmp_path / "store", planted_photos(20, "mark", seed, fixed))).shortcuts
    assert found[0].class_name == "b"
    assert "mark" in found[0].label
    if fixed:
        assert found[0].region is not None
        left, top, right, bottom = found[0].region
        assert left <= 0.9 <= right
        assert top <= 0.92 <= bottom
    none = summarize(made_store(tmp_path / "plain", planted_photos(20, "", seed))).shortcuts
    assert not none or none[0].score < found[0].score / 2


def test_too_few_photos_are_said_and_make_no_candidate(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", planted_photos(4, "mark"))
    summary = summarize(store)
    assert summary.shortcuts == ()
    assert not any(one.enough for one in summary.classes)
    printed = call("summarize", store.path).stdout
    assert "too few photos of any class to say" in printed
    assert "b: 4 photos, too few to say how sure" in printed
    found = json.loads(call("summarize", store.path, "--json").stdout)
    assert found["classes"][0]["concepts"][0]["contribution"]["low"] is None


def test_a_scene_is_a_candidate_where_it_carries_more_than_objects_and_is_not_expected(tmp_path: Path) -> None:
    photos = [
        replace(one, answer=name)
        for one in planted_photos(12)
        for name in [{"a": "tabby", "b": "beagle"}.get(one.answer, "pug")]
    ]
    for one in photos:
        if one.answer == "beagle":
            one.concepts = [("snow", "scene", 2.0, 0.9, 0.5, 0.5), ("dog", "object", 0.3, 0.9, 0.5, 0.5)]
    summary = summarize(made_store(tmp_path / "store", photos))
    first = next(one for one in summary.shortcuts if one.type != "place")
    assert (first.class_name, first.label, first.unusual.surroundings) == ("beagle", "snow", 1)
    resting = {summary.photos.names[at] for at in summary.resting_on_scene}
    assert resting == {one.name for one in photos if one.answer == "beagle"}
    assert "cat" in expected_concepts("tabby, tabby cat")
    assert {"snout", "dog"} <= expected_concepts("husky") - {"snow"} == expected_concepts("husky")
    assert expected_concepts("no such class") == frozenset()


def test_mistakes_are_counted_with_their_photos_and_the_concepts_that_tipped_them(tmp_path: Path) -> None:
    photos = planted_photos(10)
    for one in photos[:27:3]:  # nine photos of a are answered b, with a fence
        one.answer = "b"
        one.concepts = [("fence", "object", 2.0, nan, 0.5, 0.5), *one.concepts]
    summary = summarize(made_store(tmp_path / "store", photos))
    assert summary.confusion is not None
    assert summary.confusion.counts == {("a", "a"): 1, ("a", "b"): 9, ("b", "b"): 10, ("c", "c"): 10}
    assert (summary.confusion.right, summary.confusion.labelled) == (21, 30)
    (pair,) = summary.pairs
    assert (pair.one, pair.other, pair.of, len(pair.photos)) == ("a", "b", 10, 9)
    assert pair.concepts[0].label == "fence"
    assert (pair.concepts[0].present, pair.concepts[0].present_otherwise) == (1, 0)
    assert {summary.photos.names[at] for at in pair.photos} == {one.name for one in photos[:27:3]}


def test_without_labels_close_calls_are_taken(tmp_path: Path) -> None:
    photos = [replace(one, true="", second="c", lead=0.5 if one.answer == "a" else 2.0) for one in planted_photos(9)]
    summary = summarize(made_store(tmp_path / "store", photos))
    assert summary.confusion is None
    assert [(one.one, one.other, len(one.photos)) for one in summary.pairs] == [("c", "a", 9)]
    assert "Close calls" in call("summarize", tmp_path / "store").stdout


def test_drift_is_welchs_test_corrected_for_all_comparisons(tmp_path: Path) -> None:
    here, there = planted_photos(20, "mark", 1), planted_photos(25, "mark", 2)
    for one in here:
        if one.answer == "a":
            one.concepts = [
                (label, kind, value + (label == "leaf"), presence, x, y)
                for label, kind, value, presence, x, y in one.concepts
            ]
    stores = [made_store(tmp_path / name, photos) for name, photos in (("here", here), ("there", there))]
    found = summarize(stores[0], stores[1]).drift
    assert found is not None

    def values(photos: list[MadePhoto], name: str, label: str) -> list[float]:
        return [sum(row[2] for row in one.concepts if row[0] == label) for one in photos if one.answer == name]

    tests: list[Any] = [
        stats.ttest_ind(
            values(here, one.class_name, one.label), values(there, one.class_name, one.label), equal_var=False
        )
        for one in found.concepts
    ]
    assert [one.p_value for one in found.concepts] == pytest.approx(holm([one.pvalue for one in tests]), rel=1e-3)
    ends = [test.confidence_interval(1 - 0.05 / len(tests)) for test in tests]
    assert [(one.low, one.high) for one in found.concepts] == [pytest.approx((e.low, e.high), rel=1e-3) for e in ends]
    assert [(one.class_name, one.label) for one in found.concepts if one.sure] == [("a", "leaf")]


def test_a_run_is_named_where_there_are_several_and_what_cannot_be_summed_up_is_refused(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", planted_photos(8))
    made_store(tmp_path / "store", planted_photos(8, "mark"), "second")
    with pytest.raises(InputError, match=r"has 2 runs of explained photos: .*; name one with --run"):
        summarize(store)
    with pytest.raises(InputError, match="has no run 'secund'; near names: second"):
        summarize(store, run="secund")
    assert summarize(store, store, "second", "run").drift is not None
    refused = call("summarize", tmp_path / "store", "--against-run", "run")
    assert "--against-run has no effect without --against" in refused.stderr
    empty = ExplanationStore(tmp_path / "empty", create=True)
    with pytest.raises(InputError, match="has 0 runs of explained photos: none"):
        summarize(empty)
    failed = made_store(tmp_path / "failed", [replace(planted_photos(1)[0], failure="broken")])
    with pytest.raises(InputError, match="has no explained photo in run run"):
        summarize(failed)


def test_the_command_writes_numbers_and_a_page_whose_photos_lie_beside_it(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", planted_photos(400, "mark"))
    done = call("summarize", store.path, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text("utf-8")) == json.loads(done.stdout)
    files = sorted(path.name for path in (tmp_path / "out" / "photos").iterdir())
    assert files == ["numbers-0000.js", "numbers-0001.js"]  # the photos are not there, so there are no pictures
    text = (tmp_path / "out" / "photos" / "numbers-0001.js").read_text("utf-8")
    rows = json.loads(text.removeprefix("conceptlensPhotos(").removesuffix(");\n"))
    assert (rows["start"], len(rows["rows"])) == (1000, 200)
