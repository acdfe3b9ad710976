"""What goes into a store comes out again; what does not belong into one is refused with a sentence."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from store_rows import CONCEPTS, RUN, batch, blob, contents, embedding

from conceptlens.io.errors import InputError
from conceptlens.store import EmbeddingRow, ImageRow, MaskRow, RunRow, Store, columns, lance_tables, row_id
from conceptlens.store.row import LayerRow

pytestmark = pytest.mark.wide


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def test_ids_are_the_same_everywhere_and_tell_parts_apart() -> None:
    assert row_id("run", "image", "cat") == "5def75b87a29c024"
    assert row_id("a", "bc") != row_id("ab", "c") != row_id("abc")
    assert row_id("é\ud800") != row_id("é")
    for wrong in ((), ("a", 1)):
        with pytest.raises(InputError, match="give texts"):
            row_id(*wrong)  # type: ignore[arg-type]


def test_an_empty_store_has_nothing_to_read(store: Store) -> None:
    assert (store.images(), store.layers(), store.masks(), store.runs()) == ((),) * 4
    assert (store.concepts(), store.committed_images(RUN), store.bytes()) == ({}, set(), {})
    rows = store.embeddings(layer="layer4")
    assert (len(rows), rows.vectors.shape, rows.vectors.dtype) == (0, (0, 0), np.float32)
    assert list(store.stream()) == []
    assert len(store.nearest(np.ones(4), 3, layer="layer4")) == 0
    assert store.index("layer4") is False
    store.compact()
    with pytest.raises(InputError, match="no mask 'x'"):
        store.mask("x")


def test_a_batch_comes_back(store: Store) -> None:
    given = batch(0, concepts=4)
    store.append(**given)
    assert sorted(store.images(), key=lambda row: row.name) == given["images"]
    assert [row.failure for row in store.failures(RUN)] == ["it is no photo"]
    assert store.committed_images(RUN) == {row.id for row in given["images"]}
    assert store.committed_images("another") == set() == set(store.images("another"))
    assert store.concepts() == dict.fromkeys(sorted(CONCEPTS), 4)
    assert store.layers() == (LayerRow("lite", "layer4", "exact", 4, 16), LayerRow("lite", "layer6", "exact", 6, 16))
    expected = sorted((row for row in given["embeddings"] if row.layer == "layer6"), key=lambda row: row.id)
    rows = store.embeddings(layer="layer6")
    assert rows.ids.tolist() == [row.id for row in expected]
    assert (rows.vectors == np.stack([row.vector for row in expected])).all()
    for name, column in {"concepts": "concept", "ious": "iou", "masks": "mask", "converged": "converged"}.items():
        assert getattr(rows, name).tolist() == [getattr(row, column) for row in expected], name
    assert rows.selectivities.tolist() == [row.selectivity for row in expected]
    assert rows.vectors.flags.writeable
    assert rows.take([2, 0]).ids.tolist() == [rows.ids[2], rows.ids[0]]
    assert rows.take(rows.concepts == "cat").concepts.tolist() == ["cat"] * 4
    assert len(rows.take([])) == 0
    assert store.masks() == tuple(sorted(given["masks"], key=lambda row: row.id))
    assert (store.mask(given["masks"][0].id) == blob(24, 32, 0)).all()


@pytest.mark.parametrize(
    "concept", [*CONCEPTS, "x') OR ('1'='1", "back\\slash", "per%cent_", "`tick`", "новая\nстрока"]
)
def test_any_name_can_be_filtered_by(store: Store, concept: str) -> None:
    image = ImageRow(row_id("image"), RUN, "photo 'one'.jpg")
    others = [embedding(0, concept="other"), embedding(0, concept=concept + "'")]
    store.append([image], [embedding(1, concept=concept, layer=f"layer '{concept}'"), *others])
    assert store.embeddings(concepts=[concept]).concepts.tolist() == [concept]
    assert store.embeddings(layer=f"layer '{concept}'").concepts.tolist() == [concept]
    assert store.nearest(np.ones(6), 9, layer=f"layer '{concept}'", concepts=concept).rows.concepts.tolist() == [
        concept
    ]
    assert len(store.nearest(np.ones(6), 9, layer="layer6", exclude_image="it's another")) == 2


def test_filters(store: Store) -> None:
    for number in range(3):
        store.append(**batch(number))
    everything = store.embeddings(layer="layer6")
    for where, kept in (
        ("iou > 0.3 AND concept = 'cat'", (everything.ious > 0.3) & (everything.concepts == "cat")),
        ("`group` = '' OR iou < 0", np.ones(len(everything), bool)),
        ("selectivity >= 0.25 OR false", everything.selectivities >= 0.25),
    ):
        assert store.embeddings(layer="layer6", where=where).ids.tolist() == everything.ids[kept].tolist()
    assert len(store.embeddings(concepts=[])) == 0
    assert len(store.embeddings(layer="layer6", concepts=(one for one in ("cat", "dog", "cat")))) == len(everything)
    assert len(store.embeddings(layer="layer6", model="lite", mode="exact", run=RUN)) == len(everything)
    assert len(store.embeddings(model="other")) == len(store.embeddings(run="other")) == 0
    with pytest.raises(InputError, match=r"4 and 6 channels.*name one layer"):
        store.embeddings()
    for wrong in ("nonsense = 3", "iou >"):
        with pytest.raises(InputError, match="cannot read from"):
            store.embeddings(where=wrong)
    with pytest.raises(InputError, match="compares with 3 of type int"):
        store.embeddings(concepts=[3])  # type: ignore[list-item]


def test_streams_hold_the_moment_they_began(store: Store) -> None:
    for number in range(3):
        store.append(**batch(number))
    whole = store.embeddings(layer="layer4")
    stream = store.stream(layer="layer4", size=7)
    first = next(stream)
    store.append(**batch(9))
    store.compact()
    pieces = [first, *stream]
    assert [len(piece) for piece in pieces] == [7, 7, 7, 3]
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole.ids.tolist() == sorted(whole.ids)
    assert (np.concatenate([piece.vectors for piece in pieces]) == whole.vectors).all()
    with pytest.raises(InputError, match="at least 1"):
        store.stream(size=0)


def test_the_same_again_changes_nothing_and_a_failed_image_can_be_tried_again(store: Store) -> None:
    given = batch(0)
    store.append(**given)
    before = contents(store)
    store.append(**given)
    store.append(**{name: rows[::-1] for name, rows in given.items()})
    assert contents(store) == before
    failed = given["images"][-1]
    store.append([replace(failed, failure=None)], [embedding(7, image=failed.id)])
    assert store.failures() == ()
    assert len(store.images()) == len(given["images"])
    assert len(store.embeddings(layer="layer6")) == len(before["layer6"]["ids"]) + 1


def test_two_runs_over_one_image_have_two_rows_and_share_its_mask(store: Store) -> None:
    store.append(**batch(0))
    store.append(**batch(0, run="another"))
    assert len(store.images()) == 10
    assert len(store.images("another")) == len(store.committed_images("another")) == 5
    assert len(store.embeddings(layer="layer4")) == 16
    assert len(store.embeddings(layer="layer4", run="another")) == 8
    assert len(store.masks()) == 8
    assert store.concepts() == {"cat": 4, "dog": 4}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vector": np.array([1, np.nan, np.inf], np.float32)}, "2 of 3 values that are NaN or infinite; record"),
        ({"vector": np.array([1e300, 0.0])}, "1 of 2 values"),
        ({"vector": np.ones((2, 3), np.float32)}, r"shape \(2, 3\).*expected one row of numbers"),
        ({"vector": np.zeros(0, np.float32)}, r"shape \(0,\)"),
        ({"vector": np.array(["a"])}, "type <U1"),
        ({"vector": np.ones(5, np.float32), "layer": "layer4"}, "5 channels was given for layer4 .*vectors of 4"),
        ({"image": "elsewhere"}, "image elsewhere in run .* add its ImageRow"),
        ({"run": "elsewhere"}, "not in its batch"),
        ({"mask": "nowhere"}, "mask nowhere, which is not in its batch"),
        ({"id": ""}, "not empty"),
        ({"concept": "a\0"}, "without NUL"),
        ({"concept": "a\ud800"}, "concept cannot be kept as string"),
        ({"iou": None, "id": "x"}, "iou"),
        ({"iou": "high"}, "iou"),
        ({"type": 3}, "type cannot be kept"),
        ({"group": None}, "group of a row in embeddings_6 is None"),
    ],
)
def test_what_does_not_belong_is_refused_before_anything_is_written(
    store: Store, changed: dict[str, Any], said: str
) -> None:
    store.append(**batch(0))
    before = contents(store)
    given = batch(1)
    good = given["embeddings"][0]
    about = {name: value for name, value in vars(good).items() if name != "id"} | {"id": "new"}
    with pytest.raises(InputError, match=said):
        store.append(given["images"], [*given["embeddings"], EmbeddingRow(**{**about, **changed})], given["masks"])
    assert contents(Store(store.path)) == before


def test_rows_with_one_id_and_rows_of_failed_images_are_refused(store: Store) -> None:
    given = batch(0)
    for name, rows in given.items():
        with pytest.raises(InputError, match=rf"{name} of one batch have the id .* twice"):
            store.append(**{**given, name: [*rows, rows[0]]})
    failed = given["images"][-1]
    with pytest.raises(InputError, match="has failed"):
        store.append(given["images"], [embedding(0, image=failed.id)])
    with pytest.raises(InputError, match=r"mask .* which is not in its batch"):
        store.append([], masks=given["masks"])
    assert store.images() == store.masks() == ()
    with pytest.raises(InputError, match=r"shape \(3,\) and type float64; expected bool"):
        MaskRow.from_mask("id", "image", "cat", np.ones(3))
    with pytest.raises(InputError, match="mask id is damaged"):
        MaskRow("id", "image", "cat", 2, 2, b"99").mask()


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks(fill: bool) -> None:
    mask = np.full((7, 300), fill)
    assert (MaskRow.from_mask("id", "image", "cat", mask).mask() == mask).all()


def test_a_layer_keeps_its_length_across_processes(store: Store) -> None:
    store.append(**batch(0))
    image = ImageRow("new", RUN, "new.jpg")
    with pytest.raises(InputError, match="which has vectors of 4; give that many"):
        Store(store.path).append([image], [embedding(0, 9, image="new", layer="layer4")])
    store.append([image], [embedding(0, 9, image="new", layer="layer4", model="another")])
    with pytest.raises(InputError, match="4 and 9 channels"):
        store.embeddings(layer="layer4")
    assert store.embeddings(layer="layer4", model="another").vectors.shape == (1, 9)


def test_runs_are_noted_and_noted_again(store: Store) -> None:
    run = RunRow(
        RUN, {"layers": ["a", "b"], "least": 0.02, "deep": {"x": [1, None, True]}}, "2026-01-01T00:00:00+00:00"
    )
    store.write_run(run)
    assert store.runs() == (run,)
    ended = replace(run, finished="2026-01-01T01:00:00+00:00", counts={"images": 3})
    store.write_run(ended)
    assert store.runs() == (ended,)
    with pytest.raises(InputError, match=r"settings of run .* PosixPath"):
        store.write_run(replace(run, settings={"path": Path("x")}))


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no conceptlens store \(it has no format.json\); give"):
        Store(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="other things in it"):
        Store(tmp_path, create=True)
    with pytest.raises(InputError, match="other things in it"):
        Store(tmp_path / "photo.jpg", create=True)
    for about, said in (
        ({"format": lance_tables.FORMAT, "version": lance_tables.VERSION + 1}, "update conceptlens"),
        ({"format": lance_tables.FORMAT, "version": 0}, "export it with the conceptlens that wrote it"),
        ({"format": "something", "version": 1}, "is a 'something' of version 1"),
        ({"format": lance_tables.FORMAT, "version": "1"}, "of version '1'"),
        ([1], "cannot be read"),
    ):
        (tmp_path / "format.json").write_text(json.dumps(about))
        for create in (False, True):
            with pytest.raises(InputError, match=said):
                Store(tmp_path, create=create)


def test_a_store_is_its_path(store: Store) -> None:
    store.append(**batch(0))
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert contents(again) == contents(store)
    assert repr(again) == f"Store({str(store.path)!r})"


def test_nothing_but_committed_images_is_shown_wherever_a_writer_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store(tmp_path / "whole", create=True)
    whole.append(**batch(0))
    one = contents(whole)
    whole.append(**batch(1))
    both = contents(whole)
    written = lance_tables.merge
    for stop in range(4):  # masks, two tables of embeddings, images
        store = Store(tmp_path / str(stop), create=True)
        store.append(**batch(0))
        left = [stop]

        def broken(*given: Any, left: list[int] = left, **named: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            written(*given, **named)

        with monkeypatch.context() as patched:
            patched.setattr(lance_tables, "merge", broken)
            with pytest.raises(KeyboardInterrupt):
                store.append(**batch(1))
        assert contents(Store(store.path)) == one
        assert len(store.nearest(np.ones(6), 99, layer="layer6")) == 8
        store.append(**batch(1))
        assert contents(store) == both


def test_what_a_process_left_that_was_killed_while_it_made_a_table(store: Store) -> None:
    (store.path / ".table.left" / "images.lance" / "_versions").mkdir(parents=True)
    assert store.images() == store.layers() == ()
    store.compact()
    store.append(**batch(0))
    assert len(store.embeddings(layer="layer6")) == 8


def test_a_table_that_another_made_first_keeps_its_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(**batch(0))
    seen = iter([False])
    there = lance_tables.exists
    monkeypatch.setattr(lance_tables, "exists", lambda path, name: next(seen, True) and there(path, name))
    store.append(**batch(1))
    assert len(store.images()) == 10
    assert sorted(one.name for one in store.path.iterdir() if one.name.startswith(".")) == []


@pytest.mark.process
def test_tables_that_several_make_at_once_hold_the_rows_of_all(tmp_path: Path) -> None:
    """Lance let the later maker of a table overwrite it; this met it about once in 60 rounds."""
    for number in range(20):
        path = Store(tmp_path / str(number), create=True).path
        meeting = Barrier(4)

        def write(one: int, path: Path = path, meeting: Barrier = meeting) -> None:
            store, rows = Store(path), columns.image_columns(batch(one)["images"])
            meeting.wait()
            lance_tables.merge(path, store._database, "images", rows)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert len(Store(path).images()) == 20


def test_bytes_of_an_embedding(store: Store) -> None:
    """The worst case: one layer, so that each embedding has a mask of its own, and ever smaller pieces."""
    random = np.random.default_rng(0)
    sizes = random.integers((100, 100), (481, 641), (1000, 2))
    drawn = [blob(*sizes[number], number) for number in range(100)]
    for start in range(0, 1000, 50):
        images, embeddings, masks = [], [], []
        for number in range(start, start + 50):
            image = row_id(str(number))
            images.append(ImageRow(image, RUN, f"{number:012}.jpg", row_id(image) * 4, 640, 480))
            shifted = np.roll(drawn[number % 100][:: 1 - number % 2 * 2], number // 100 * 3, (0, 1))
            mask = MaskRow.from_mask(row_id(image, "cat"), image, f"concept {number % 80}", shifted)
            masks.append(mask)
            vector = random.standard_normal(256).astype(np.float32)
            embeddings.append(embedding(number, image=image, mask=mask.id, vector=vector, iou=random.random()))
        store.append(images, embeddings, masks)
    store.compact(timedelta(0))
    sizes = store.bytes()
    each = (sizes["embeddings_256"] + sizes["masks"]) / 1000
    print(f"{each:.0f} bytes for each embedding: {sizes}")
    assert len(store.embeddings()) == 1000
    assert each <= 2500


def test_many_rows_and_tidying_on_the_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance_tables, "MAX_COMMITS", 4)
    monkeypatch.setattr(lance_tables, "MIN_INDEXED_ROWS", 500)
    random = np.random.default_rng(0)
    for number in range(10):
        image = ImageRow(row_id(str(number)), RUN, f"{number}.jpg")
        vectors = random.standard_normal((1000, 16)).astype(np.float32)
        rows = [embedding(0, concept=str(one), image=image.id, vector=vector) for one, vector in enumerate(vectors)]
        store.append([image], rows)
        if number == 5:
            store.compact()
    store.compact(timedelta(0))
    assert len(store.embeddings()) == 10_000
    assert sum(map(len, store.stream(size=3000))) == 10_000
    assert len(store.concepts()) == 1000
    store.append([image], rows)
    assert len(store.embeddings()) == 10_000
