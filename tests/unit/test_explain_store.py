"""Photos explained into a store: the rows are those of the JSON document, whatever fails, stops or is resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explain_process import explained, small_classifier, told, written_photos

from conceptlens.explainer.explain_json import explain_json
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.runs import explain_run
from conceptlens.io.errors import Failure, InputError
from conceptlens.runs.process_engine import process_engine
from conceptlens.store import (
    ConceptRow,
    ExplanationRows,
    ExplanationStore,
    ImageRow,
    MapRow,
    export,
    import_export,
    lance_tables,
)
from conceptlens.store.row import row_id

pytestmark = pytest.mark.wide


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return written_photos(tmp_path / "photos", 8)


def float32(value: float | None) -> float:
    return math.nan if value is None else float(np.float32(value))


def same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"regions": "official", "against": "zebra", "target": "espresso", "intervals": True},
        {"regions": "fine", "contribution": "masking"},
    ],
)
def test_rows_are_the_numbers_of_the_json_document(photos: list[Path], tmp_path: Path, options: dict[str, Any]) -> None:
    store, last = explained(tmp_path / "store", photos, options=options)
    assert (last.photos, last.failures, last.before) == (8, 0, 0)
    results = list(explain_photos(small_classifier(), photos, ExplainOptions(top=3, **options), batch_size=3))
    predictions = {str(one.image_info.name): one.predictions for one in results if isinstance(one, PhotoResult)}
    document = explain_json([one for one in results if isinstance(one, PhotoResult)], [])
    rows = {name: store.table(name).to_pylist() for name in ("images", "predictions", "explained", "concepts")}
    assert len(rows["images"]) == len(rows["explained"]) == len(document["images"]) == 8
    assert len(rows["concepts"]) == sum(len(one["concepts"]) for one in document["images"]) > 0
    for image in document["images"]:
        own = {name: [row for row in rows[name] if row.get("photo") == image["image"]] for name in rows}
        (answer,) = own["explained"]
        assert (answer["target_index"], answer["target"]) == (image["target"]["index"], image["target"]["name"])
        assert answer["logit"] == float32(image["target"]["logit"])
        assert answer["against"] == (image["against"]["name"] if "against" in image else "")
        assert answer["method"] == image["method"]
        margin = image["margin"] or {}
        for column, field in (
            ("margin", "value"),
            ("named", "named"),
            ("unnamed", "unnamed"),
            ("residual", "residual"),
        ):
            assert same(answer[column], float32(margin.get(field)))
        assert (answer["over"], answer["unit"]) == (margin.get("over") or "", margin.get("unit") or "")
        found = [(row["class_index"], row["class_name"], row["logit"]) for row in own["predictions"]]
        assert found == [(one.index, one.name, float32(one.logit)) for one in predictions[image["image"]]]
        assert [row["rank"] for row in own["concepts"]] == list(range(1, len(image["concepts"]) + 1))
        for row, concept in zip(own["concepts"], image["concepts"], strict=True):
            assert (row["label"], row["type"], row["target"]) == (concept["label"], concept["type"], answer["target"])
            for column in ("presence", "z_score", "score", "contribution", "area"):
                assert same(row[column], float32(concept[column])), column
            low, high = concept["contribution_range"] or (None, None)
            x, y = concept["peak"] or (None, None)
            expected = {"contribution_low": low, "contribution_high": high, "peak_x": x, "peak_y": y}
            assert all(same(row[column], float32(value)) for column, value in expected.items())
            assert row["place_vague"] is bool(concept.get("place_vague"))


def test_maps_are_kept_on_the_layers_grid(photos: list[Path], tmp_path: Path) -> None:
    store, _ = explained(tmp_path / "store", photos[:4], with_maps=True)
    results = list(explain_photos(small_classifier(), photos[:4], ExplainOptions(top=3, with_class_map=True), 3))
    rows = [
        MapRow(**{name: row[name] for name in MapRow.__dataclass_fields__}) for row in store.table("maps").to_pylist()
    ]
    found = {(row.image, row.kind, row.rank): row for row in rows}
    for one in results:
        assert isinstance(one, PhotoResult)
        assert one.class_map is not None
        assert one.concepts is not None
        image = row_id(one.image_info.name)
        expected = [("class", 0, one.class_map.maps[0, 0])]
        expected += [("concept", n + 1, one.concepts.maps[0, n]) for n in range(one.concepts.maps.shape[1])]
        for kind, rank, values in expected:
            row = found.pop((image, kind, rank))
            assert np.abs(row.map() - values.numpy()).max() <= 5e-4 * float(values.abs().max())
    assert not found


def test_a_broken_photo_and_one_deleted_meanwhile_are_failures_that_can_be_tried_again(
    photos: list[Path], tmp_path: Path
) -> None:
    whole, kept = photos[1].read_bytes(), photos[5].read_bytes()
    photos[1].write_bytes(whole[:60])
    photos[5].unlink()
    store, last = explained(tmp_path / "store", photos)
    assert (last.photos, last.failures) == (8, 2)
    reasons = {row.name: row.failure or "" for row in store.failures()}
    assert "broken or cut short" in reasons[str(photos[1])]
    assert "no file" in reasons[str(photos[5])]
    assert store.count("explained") == 6
    photos[1].write_bytes(whole)
    photos[5].write_bytes(kept)
    _, resumed = explained(tmp_path / "store", photos, resume=True)
    assert (resumed.before, resumed.failures) == (8, 2)  # what is recorded stays
    _, retried = explained(tmp_path / "store", photos, resume=True, retry_failed=True)
    assert (retried.before, retried.photos, retried.failures) == (6, 8, 0)
    assert store.failures() == ()
    assert store.count("explained") == 8


def test_a_run_goes_on_with_what_a_folder_has_gained_and_another_folder_is_another(tmp_path: Path) -> None:
    photos = written_photos(tmp_path / "one", 5)
    explained(tmp_path / "store", photos[:3])
    with pytest.raises(InputError, match=r"already has 3 photos of this run; resume it \(--resume\)"):
        explained(tmp_path / "store", photos)
    store, last = explained(tmp_path / "store", photos, resume=True)
    assert (last.before, last.photos, last.total) == (3, 5, 5)
    again = written_photos(tmp_path / "two", 5)  # of the same names
    _, other = explained(tmp_path / "store", again, resume=True)
    assert (other.before, other.photos) == (0, 5)
    assert store.count("explained") == 10
    assert len(store.runs()) == 1
    with pytest.raises(InputError, match=r"no run of these settings to resume; the last one has regions None; give"):
        explained(tmp_path / "store", photos, resume=True, options={"regions": "official"})
    explained(tmp_path / "store", photos, options={"regions": "official"})
    assert len(store.runs()) == 2
    assert store.count("explained") == 15


def test_what_is_found_is_kept_when_a_run_is_left(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExplanationStore(tmp_path / "store", create=True)
    steps = explain_run.explain_into(store, small_classifier(), photos, ExplainOptions(top=3), batch_size=3)
    assert [next(steps).photos for _ in range(3)] == [0, 3, 6]
    assert store.images() == ()  # several batches are written at once
    steps.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(store.images()) == 6
    assert store.runs()[0].finished is None
    _, last = explained(tmp_path / "store", photos, resume=True)
    assert (last.before, last.photos) == (6, 8)
    whole, _ = explained(tmp_path / "whole", photos)
    assert told(store) == told(whole)
    assert store.runs()[0].counts == {"photos": 8, "failures": 0}


@pytest.mark.process
def test_processes_give_the_rows_of_the_local_engine(photos: list[Path], tmp_path: Path) -> None:
    photos[2].write_text("no photo")
    local, _ = explained(tmp_path / "local", photos, with_maps=True)
    several, last = explained(tmp_path / "several", photos, with_maps=True, engine=process_engine(2))
    assert last.failures == 1
    assert told(several) == told(local)


def test_what_has_no_concepts_is_refused_and_so_is_an_unknown_class(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wolf"):
        explained(tmp_path / "store", photos, options={"target": "wolf"})
    with pytest.raises(InputError, match="no transform"):
        explained(tmp_path / "store", photos, model=replace(small_classifier(), transform=None))


def test_filters_find_rows_by_class_concept_presence_and_sql(photos: list[Path], tmp_path: Path) -> None:
    store, _ = explained(tmp_path / "store", photos)
    every = store.table("concepts").to_pylist()
    label, target = every[0]["label"], every[0]["target"]
    assert every == sorted(every, key=lambda row: (row["image"], row["rank"]))

    def ids(**filters: Any) -> list[str]:
        return store.table("concepts", **filters)["id"].to_pylist()

    assert ids(concepts=[label]) == [row["id"] for row in every if row["label"] == label]
    fitting = [row for row in every if row["target"] == target and row["presence"] >= 0.7 and row["rank"] < 3]
    assert ids(classes=target, min_presence=0.7, where="rank < 3") == [row["id"] for row in fitting]
    assert 0 < len(fitting) < len(every)
    assert [len(piece) for piece in store.stream("concepts", size=5)][:2] == [5, 5]
    assert store.table("concepts", run="none").num_rows == store.table("maps").num_rows == 0
    assert store.table("concepts").to_pandas()["photo"].str.endswith(".png").all()
    for wrong, said in (
        ({"name": "concept"}, "no table 'concept' .* concepts"),
        ({"name": "images", "classes": ["zebra"]}, "classes filter predictions, explained, concepts"),
        ({"name": "maps", "min_presence": 0.5}, "min_presence filters concepts"),
        ({"name": "concepts", "where": "colour = 1"}, "cannot read from"),
        ({"name": "concepts", "size": 0}, "size is 0"),
    ):
        with pytest.raises(InputError, match=said):
            list(store.stream(**wrong))  # pyright: ignore[reportArgumentType]


def test_rows_of_an_image_that_is_not_committed_are_refused_or_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExplanationStore(tmp_path / "store", create=True)
    concept = ConceptRow("c", "run", "image", 1, "cat", "snow", "object")
    with pytest.raises(InputError, match="not in its batch or has failed"):
        store.append(ExplanationRows([ImageRow("image", "run", "a.jpg", failure="broken")], concepts=[concept]))
    written = lance_tables.merge
    monkeypatch.setattr(lance_tables, "merge", lambda *given, **named: given[2] == "images" or written(*given, **named))
    store.append(ExplanationRows([ImageRow("image", "run", "a.jpg")], concepts=[concept]))  # killed before its images
    assert store.table("concepts").num_rows == store.count("concepts") == 0
    assert lance_tables.read(store.path, store._database, "concepts").num_rows == 1


def test_a_store_of_explanations_is_exported_whole_and_imported(photos: list[Path], tmp_path: Path) -> None:
    store, _ = explained(tmp_path / "store", photos[:3], with_maps=True)
    again = import_export(export(store, tmp_path / "out"), tmp_path / "again")
    assert told(ExplanationStore(again.path)) == told(store)


def test_a_failure_of_one_photo_is_recorded_beside_the_others(photos: list[Path], tmp_path: Path) -> None:
    options = {"against": "espresso"}
    found = list(explain_photos(small_classifier(), photos, ExplainOptions(top=3, **options), 3))
    failed = {one.name for one in found if isinstance(one, Failure)}
    store, last = explained(tmp_path / "store", photos, options=options)
    assert {row.name for row in store.failures()} == failed
    assert last.failures == len(failed)
