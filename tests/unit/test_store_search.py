"""What is nearest: the same as by hand, with an index and without, and only what is committed and asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_rows import RUN, batch, embedding

from conceptlens.io.errors import InputError
from conceptlens.store import ImageRow, Store, lance_tables, row_id

COUNT, CHANNELS = 1500, 16


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of clusters: 30 images of 50 concepts each; every seventh vector is zero."""
    store = Store(tmp_path_factory.mktemp("search") / "store", create=True)
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, CHANNELS))
    images, rows = [], []
    for number in range(30):
        images.append(ImageRow(row_id(str(number)), RUN, f"{number}.jpg"))
        for concept, centre in enumerate(centres):
            vector = (centre + 0.5 * random.standard_normal(CHANNELS)) * random.uniform(0.1, 10)
            vector *= (number * 50 + concept) % 7 > 0
            about: dict[str, Any] = {"concept": f"concept {concept}", "image": images[-1].id, "layer": "deep"}
            rows.append(embedding(concept, CHANNELS, vector=vector.astype(np.float32), iou=concept / 50, **about))
    store.append(images, rows)
    return store


def by_hand(store: Store, vector: np.ndarray, k: int, kept: Any = slice(None)) -> tuple[list[str], np.ndarray]:
    """Return ids and distances by plain sums in double precision."""
    rows = store.embeddings(layer="deep")
    found = []
    for number in np.arange(len(rows))[kept]:
        one = rows.vectors[number].astype(float)
        if one.any():
            cosine = (one * vector).sum() / np.sqrt((one * one).sum() * (vector * vector).sum())
            found.append((1 - cosine, rows.ids[number]))
    found = sorted(found)[:k]
    return [name for _, name in found], np.array([distance for distance, _ in found])


@pytest.mark.parametrize("k", [1, 10, 2000])
def test_nearest_is_what_it_is_by_hand(filled: Store, k: int) -> None:
    rows = filled.embeddings(layer="deep")
    vector = rows.vectors[np.linalg.norm(rows.vectors, axis=1).argmax()]
    found = filled.nearest(vector, k, layer="deep", exact=True)
    ids, distances = by_hand(filled, vector.astype(float), k)
    assert np.allclose(found.distances, distances, atol=1e-5)
    assert found.rows.ids.tolist() == ids or k == 2000  # ties of float32 among the many
    assert set(found.rows.ids) == set(ids)
    assert (found.distances >= 0).all()
    assert (np.diff(found.distances) >= 0).all()
    assert found.distances[0] < 1e-6
    scaled = filled.nearest(vector.astype(np.float64) * 7, k, layer="deep")
    assert set(scaled.rows.ids) == set(ids)


def test_filters_come_before_the_search(filled: Store) -> None:
    rows = filled.embeddings(layer="deep")
    vector = rows.vectors[rows.concepts == "concept 3"][1]
    image = rows.images[rows.concepts == "concept 3"][1]
    for asked, kept in (
        ({"concepts": ["concept 9"]}, rows.concepts == "concept 9"),
        ({"exclude_image": image}, rows.images != image),
        (
            {"where": "iou > 0.9", "concepts": [f"concept {n}" for n in range(48)]},
            (rows.ious > 0.9) & (rows.ious < 0.95),
        ),
    ):
        found = filled.nearest(vector, 12, layer="deep", **asked)
        ids, distances = by_hand(filled, vector.astype(float), 12, kept)
        assert found.rows.ids.tolist() == ids
        assert len(found) == 12
        assert np.allclose(found.distances, distances, atol=1e-5)
    assert len(filled.nearest(vector, 5, layer="deep", model="another")) == 0


def test_an_index_finds_them_too_and_rows_written_after_it(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled.index("deep") is False
    monkeypatch.setattr(lance_tables, "MIN_INDEXED_ROWS", 1000)
    assert filled.index("deep") is True
    rows = filled.embeddings(layer="deep")
    asked = np.flatnonzero(rows.vectors.any(1))[::40]
    by_index, by_pairs = (
        [filled.nearest(rows.vectors[row], 10, layer="deep", exact=exact) for row in asked] for exact in (False, True)
    )
    hits = sum(len(set(one.rows.ids) & set(two.rows.ids)) for one, two in zip(by_index, by_pairs, strict=True))
    assert hits >= 0.95 * 10 * len(asked)
    few = filled.nearest(rows.vectors[asked[0]], 25, layer="deep", concepts=["concept 40"])
    assert len(few) == 25  # however many partitions they are in
    new = ImageRow("new", RUN, "new.jpg")
    vector = -rows.vectors[asked[0]]
    filled.append([new], [embedding(0, CHANNELS, vector=vector, image="new", layer="deep")])
    assert filled.nearest(vector, 1, layer="deep").rows.images.tolist() == ["new"]
    filled.compact()
    assert filled.nearest(vector, 1, layer="deep").rows.images.tolist() == ["new"]


def test_many_rows_that_are_not_committed_hide_none_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store", create=True)
    vector = np.ones(6, np.float32)
    store.append([ImageRow("far", RUN, "far.jpg")], [embedding(0, image="far", vector=np.eye(6, dtype=np.float32)[0])])
    written = lance_tables.merge
    with monkeypatch.context() as patched:
        patched.setattr(lance_tables, "merge", lambda *given, **named: given[2] == "images" or written(*given, **named))
        near = [embedding(0, image="near", concept=str(number), vector=vector) for number in range(200)]
        store.append([ImageRow("near", RUN, "near.jpg")], near)
    found = store.nearest(vector, 3, layer="layer6")
    assert found.rows.images.tolist() == ["far"]
    assert found.distances == pytest.approx([1 - 6**-0.5])


def test_questions_without_an_answer(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    store.append(**batch(0))
    for vector, k, said in (
        (np.zeros(6), 1, "a vector that is not zero"),
        (np.ones(6), 0, "k >= 1"),
        (np.full(6, np.nan), 1, "the vector to search for has 6 of 6 values that are NaN"),
        (np.ones((1, 6)), 1, "expected one row of numbers"),
        (np.ones(5), 1, "5 channels was searched at layer6, which has 6"),
        (np.ones(4), 1, "4 channels was searched at layer6, which has 6"),
    ):
        with pytest.raises(InputError, match=said):
            store.nearest(vector, k, layer="layer6")
    image = batch(0)["images"][0]
    store.append([image], [embedding(3, image=image.id, model="another", concept="cow")])
    with pytest.raises(InputError, match=r"searched in another \(exact\), lite \(exact\) at once; name one model"):
        store.nearest(np.ones(6), 99, layer="layer6")
    assert len(store.nearest(np.ones(6), 99, layer="layer6", model="lite")) == 8
