"""The story of a planted store: what was planted is what is told, and every number is that of a plain sum."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from story_store import CONFUSED, LAYERS, MODE, MODEL, ODD, PARTED, RUN, planted

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.analysis import Asked, Story, StoryRows, read_rows, tables, tell
from conceptlens.local_embeddings.report.analysis_sentences import beside, opening, otherwise, pairs_told
from conceptlens.local_embeddings.report.figure_style import spread
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.store import EmbeddingRow, ImageRow, RunRow, Store, row_id

FEW = ("car", "truck", "bird", "cup", "dog", "boat")
ASKED = Asked(draws=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted(tmp_path_factory.mktemp("story") / "store", concepts=FEW, rows=20)


@pytest.fixture(scope="module")
def story(store: Store) -> Story:
    return tell(read_rows(store, ASKED), ASKED)


def test_what_was_planted_is_told(story: Story) -> None:
    assert story.best == story.told.layer == "layer2"
    assert list(story.layers) == list(LAYERS)  # in the order of the run, not of the alphabet
    for one, other in (CONFUSED, CONFUSED[::-1]):
        assert story.told.of(one).confused == story.told.of(one).nearest == other
    assert [one.concept for one in story.shown.parted] == [PARTED]
    assert (story.shown.odd[0].concept, story.shown.odd[0].times > 2) == (ODD, True)
    assert {pair["concept"] for pair in pairs_told(story)[:2]} == set(CONFUSED)


def test_parts_are_those_planted_and_the_odd_row_is_the_one_turned_round(store: Store, story: Story) -> None:
    names = {row.id: row.name for row in store.images()}
    rows = story.rows

    def turn(row: int) -> int:
        image = int(Path(names[rows.images[row]]).stem)
        place = next(p for p in (2 * image, 2 * image + 1) if FEW[p % len(FEW)] == rows.labels[row])
        return place // len(FEW)

    parts = story.told.parts[PARTED]
    turns = np.array([turn(row) % 2 for row in parts.rows])
    assert parts.count == 2
    assert len(set(zip(parts.assigned.tolist(), turns.tolist(), strict=True))) == 2
    assert (parts.stability or 0) > 0.95
    assert all(part.firm and part.verdict == "stable" for part in story.shown.parted[0].parts)
    assert turn(story.shown.odd[0].row) == 3


def test_average_precision_is_that_of_a_plain_loop(story: Story) -> None:
    rows = story.rows
    vectors = rows.layers["layer2"].vectors.astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = {}
    for name in rows.concepts:
        found = []
        for query in np.flatnonzero(rows.labels == name):
            others = np.flatnonzero(rows.images != rows.images[query])
            right = rows.labels[others[np.argsort(-(unit[others] @ unit[query]))]] == name
            found.append(np.mean([right[: k + 1].mean() for k in np.flatnonzero(right)]))
        means[name] = np.mean(found)
        told = story.told.of(name).precision
        assert told is not None
        assert told.mean == pytest.approx(means[name], abs=1e-6)
    assert story.told.precision is not None
    assert story.told.precision.mean == pytest.approx(np.mean(list(means.values())), abs=1e-6)
    assert 0.05 < (story.told.chance or 0) < 0.3


def test_rows_are_the_same_at_every_layer(store: Store, story: Story) -> None:
    rows = story.rows
    where = {row.id: row for layer in LAYERS for row in [*_stored(store, layer)]}
    for layer, own in rows.layers.items():
        for place in range(0, len(rows), 17):
            kept = where[own.ids[place]]
            assert (kept.image, kept.concept, kept.layer) == (rows.images[place], rows.labels[place], layer)
            assert np.array_equal(kept.vector, own.vectors[place])
    assert story.told.unconverged == len(FEW)  # turn 7 of each


def _stored(store: Store, layer: str) -> list[EmbeddingRow]:
    found = store.embeddings(layer=layer)
    return [
        EmbeddingRow(
            id=str(found.ids[i]), run=RUN, image=str(found.images[i]), concept=str(found.concepts[i]), model=MODEL,
            layer=layer, mode=MODE, vector=found.vectors[i],
        )
        for i in range(len(found))
    ]  # fmt: skip


def test_own_masks_stand_beside_another_photos(story: Story) -> None:
    one = story.told.of("dog")
    assert one.own_iou is not None
    assert one.control_iou is not None
    assert one.selectivity is not None
    assert one.selectivity.mean == pytest.approx(one.own_iou - one.control_iou, abs=1e-6)
    assert story.told.selectivity is not None
    assert story.layers["layer1"].selectivity is not None
    assert story.told.selectivity.mean == pytest.approx(0.08, abs=0.02)
    assert story.layers["layer1"].selectivity.mean == pytest.approx(0.03, abs=0.02)


def test_a_sample_is_of_most_rows_and_the_same_for_a_seed(store: Store) -> None:
    def drawn(seed: int) -> StoryRows:
        return read_rows(store, replace(ASKED, most=6, seed=seed))

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert set(Counter(first.labels.tolist()).values()) == {6}
    assert first.sizes == dict.fromkeys(FEW, 20)
    ids = [part.layers["layer1"].ids.tolist() for part in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_only_what_is_asked_for_is_told(store: Store) -> None:
    asked = replace(ASKED, concepts=("dog", "boat"), layer="layer10")
    told = tell(read_rows(store, asked), asked)
    assert told.rows.concepts == ("boat", "dog")
    assert told.told.layer == "layer10"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"model": "timm:other"}, r"no model 'timm:other' in the store; it has: timm:lite"),
        ({"mode": "paper"}, r"no mode 'paper' in the store; it has: contrast"),
        ({"layer": "layer3"}, r"no layer 'layer3' of timm:lite in .*; layers: layer2, layer1"),
        ({"concepts": ("kat",)}, r"no concept 'kat' in .*; concepts: "),
        ({"run": "other"}, r"no run 'other' in .*; it has: 0123456789abcdef"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(store: Store, asked: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_rows(store, replace(ASKED, **asked))


@pytest.mark.parametrize("asked", [{"most": 1}, {"drawn": 0}, {"draws": 0}])
def test_numbers_that_make_no_story_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(InputError, match="a story needs at least 2 rows, 1 concept and 1 draw"):
        Asked(**asked)  # pyright: ignore[reportArgumentType]


def small(path: Path, rows: list[tuple[str, str, list[float]]], run: str = RUN, **about: object) -> Store:
    """Return a store of one layer: rows are an image, a concept and a vector."""
    store = Store(path, create=True)
    store.write_run(RunRow(run, {}, "2026-05-01T10:00:00+00:00"))
    images = {name: ImageRow(row_id(name), run, name) for name, _, _ in rows}
    store.append(
        list(images.values()),
        [
            EmbeddingRow(
                id=row_id(run, name, concept, "deep"), run=run, image=images[name].id, concept=concept, model=MODEL,
                layer="deep", mode=MODE, vector=np.array(vector, np.float32), **about,  # pyright: ignore[reportArgumentType]
            )
            for name, concept, vector in rows
        ],
    )  # fmt: skip
    return store


def test_two_photos_make_no_interval_and_no_place_among_the_best(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [(f"{i}", "many", [1, 0.5 * draw.normal(), 0]) for i in range(6)]
    rows += [(f"{i}", "mess", draw.normal(size=3).tolist()) for i in range(6, 12)]
    rows += [("a", "few", [0, 0, 1]), ("b", "few", [0, 0, 1]), ("c", "one", [0.1, 0, -1])]
    story = tell(read_rows(small(tmp_path / "store", rows), ASKED), ASKED)
    few = story.told.of("few").precision
    assert few is not None
    assert (few.mean, few.low, few.high) == (1, None, None)
    assert story.ranked() == ("many", "mess", "few", "one")
    assert [one.concept for one in story.compared()] == ["many", "mess"]
    assert "few" not in opening(story)[0]["answer"]
    assert "at least 5 photos" in opening(story)[0]["answer"]
    assert story.told.of("one").precision is None
    assert story.told.selectivity is None
    assert beside(story.told)[3]["mended"] == "not measured"


def test_a_store_with_nothing_to_find_is_told_without_numbers(tmp_path: Path) -> None:
    rows = [(name, name, [1.0, place]) for place, name in enumerate("abc")]
    story = tell(read_rows(small(tmp_path / "store", rows), ASKED), ASKED)
    assert story.best is None
    assert story.told.precision is None
    answers = {one["to"]: one["answer"] for one in opening(story)}
    assert answers["held"] == "No concept is in two photos, so none can be found again."
    assert answers["layers"] == "No concept is in two photos, so no layer can be said to find it again."
    assert answers["odd"] == "None lies much further from its concept than is usual."
    assert otherwise(story) is None


def test_rows_that_point_nowhere_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [(f"{i}", "cat", [1.0, i]) for i in range(5)] + [("z", "cat", [0.0, 0.0])]
    found = read_rows(small(tmp_path / "store", rows), ASKED)
    assert (len(found), found.left_out) == (5, 1)
    nothing = small(tmp_path / "nothing", [("z", "cat", [0.0, 0.0])])
    with pytest.raises(InputError, match=r"every vector asked for in .* is zero at some layer; embed the images again"):
        read_rows(nothing, ASKED)


def test_a_mask_embedded_by_two_runs_is_told_of_one(tmp_path: Path) -> None:
    rows = [(f"{i}", "cat", [1.0, i]) for i in range(3)]
    small(tmp_path / "store", rows)
    store = small(tmp_path / "store", rows, run="fedcba9876543210")
    with pytest.raises(InputError, match=r"embedded by two runs, .* give one of them as --run"):
        read_rows(store, ASKED)
    assert len(read_rows(store, replace(ASKED, run=RUN))) == 3


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no embeddings yet; fill it with conceptlens embed"):
        read_rows(Store(tmp_path / "store", create=True), ASKED)


def test_tables_hold_every_row_and_pair_and_no_nan(story: Story) -> None:
    found = tables(story)
    count = len(FEW)
    assert {name: len(of) for name, of in found.items() if name != "ellipses"} == {
        "layers": 3, "concepts": 3 * count, "pairs": 3 * count**2, "sub_concepts": len(found["sub_concepts"]),
        "rows": 3 * 20 * count, "merges": 20 * count - 1,
    }  # fmt: skip
    for of in found.values():
        assert len({tuple(one) for one in of}) == 1  # the same keys
        assert all(math.isfinite(v) for one in of for v in one.values() if isinstance(v, float))
    best = next(one for one in found["layers"] if one["best"])
    assert (best["layer"], best["behind_best"]) == ("layer2", None)
    own = [one for one in found["rows"] if one["layer"] == "layer2"]
    parts = Counter(one["part"] for one in own if one["concept"] == PARTED)
    assert sorted(parts.values()) == [10, 10]


def test_published_numbers_stand_beside_mended_ones(story: Story) -> None:
    told = beside(story.told)
    assert [one["what"] for one in told] == ["Retrieval", "Clusters", "Distance", "Fit"]
    assert told[0]["published"].startswith(number(story.told.published_at[10]))
    assert number(story.told.agreement.adjusted_rand) in told[1]["mended"]
    assert number(story.told.pairs.separation.mean()) in told[2]["published"]


@pytest.mark.parametrize(("value", "written"), [(-0.004, "0.00"), (-0.5, "−0.50"), (None, "–"), (0.125, "0.12")])
def test_numbers_have_true_minus_signs(value: float | None, written: str) -> None:
    assert number(value) == written
    assert interval_text(None) == {"value": "–", "spread": None}
    assert (signed(0.5), signed(-0.5), signed(0.001)) == ("+0.50", "−0.50", "0.00")


def test_labels_are_moved_apart_and_stay_inside() -> None:
    places = np.array([0.5, 0.5, 0.52, 3.0, 9.9, 9.8])
    moved = spread(places, 1.0, 0.0, 10.0)
    assert np.diff(np.sort(moved)).min() >= 1 - 1e-9
    assert 0 <= moved.min() <= moved.max() <= 10
    assert moved[3] == pytest.approx(3.0, abs=0.6)
    assert (np.argsort(moved, kind="stable") == np.argsort(places, kind="stable")).all()
    assert np.diff(spread(np.zeros(30), 1.0, 0.0, 10.0)).min() > 0.3  # too many: as far apart as there is room


def test_one_concept_has_nothing_to_be_told_from(store: Store) -> None:
    asked = replace(ASKED, concepts=("cup",))
    held, confused, *_ = opening(tell(read_rows(store, asked), asked))
    assert held["answer"].startswith("There is one concept")
    assert confused["answer"].startswith("Nothing can be said")
