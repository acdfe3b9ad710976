"""The analysis of a planted store finds what was planted, and every number equals a plain sum."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis_store import CONFUSED, LAYERS, MODE, MODEL, OUTLIER, PARTED, RUN, planted

from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.analysis.analysis_rows import AnalysisRows, AnalysisSettings, read_rows
from conceptlens.local_embeddings.analysis.analysis_tables import analysis_tables
from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis, analyze
from conceptlens.local_embeddings.report.analysis_sentences import (
    confused_pairs,
    other_best_layers,
    published_and_corrected,
    summary_lines,
)
from conceptlens.local_embeddings.report.figure_style import spread
from conceptlens.pages.number_format import interval_text, number, signed
from conceptlens.store import EmbeddingRow, ImageRow, RunRow, Store, row_id

pytestmark = pytest.mark.wide

FEW = ("car", "truck", "bird", "cup", "dog", "boat")
SETTINGS = AnalysisSettings(n_bootstrap=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted(tmp_path_factory.mktemp("analysis") / "store", concepts=FEW, rows=20)


@pytest.fixture(scope="module")
def analysis(store: Store) -> StoreAnalysis:
    return analyze(store, SETTINGS)


def test_what_was_planted_is_found(analysis: StoreAnalysis) -> None:
    assert analysis.best == analysis.selected.layer == "layer2"
    assert list(analysis.layers) == list(LAYERS)  # in the order of the run, not of the alphabet
    for one, other in (CONFUSED, CONFUSED[::-1]):
        assert analysis.selected.of(one).confused_with == analysis.selected.of(one).nearest == other
    assert [one.concept for one in analysis.examples.sub_concepts] == [PARTED]
    assert (analysis.examples.outliers[0].concept, analysis.examples.outliers[0].distance_ratio > 2) == (OUTLIER, True)
    assert {pair["concept"] for pair in confused_pairs(analysis)[:2]} == set(CONFUSED)


def test_sub_concepts_and_the_outlier_are_those_planted(store: Store, analysis: StoreAnalysis) -> None:
    names = {row.id: row.name for row in store.images()}
    rows = analysis.rows

    def turn(row: int) -> int:
        image = int(Path(names[rows.images[row]]).stem)
        place = next(p for p in (2 * image, 2 * image + 1) if FEW[p % len(FEW)] == rows.labels[row])
        return place // len(FEW)

    parts = analysis.selected.sub_concepts[PARTED]
    turns = np.array([turn(row) % 2 for row in parts.rows])
    assert parts.count == 2
    assert len(set(zip(parts.assigned.tolist(), turns.tolist(), strict=True))) == 2
    assert (parts.stability or 0) > 0.95
    assert all(part.reproducible and part.verdict == "stable" for part in analysis.examples.sub_concepts[0].parts)
    assert turn(analysis.examples.outliers[0].row) == 3


def test_average_precision_is_that_of_a_plain_loop(analysis: StoreAnalysis) -> None:
    rows = analysis.rows
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
        told = analysis.selected.of(name).average_precision
        assert told is not None
        assert told.mean == pytest.approx(means[name], abs=1e-6)
    assert analysis.selected.average_precision is not None
    assert analysis.selected.average_precision.mean == pytest.approx(np.mean(list(means.values())), abs=1e-6)
    assert 0.05 < (analysis.selected.chance or 0) < 0.3


def test_rows_are_the_same_at_every_layer(store: Store, analysis: StoreAnalysis) -> None:
    rows = analysis.rows
    where = {row.id: row for layer in LAYERS for row in [*_stored(store, layer)]}
    for layer, own in rows.layers.items():
        for place in range(0, len(rows), 17):
            kept = where[own.ids[place]]
            assert (kept.image, kept.concept, kept.layer) == (rows.images[place], rows.labels[place], layer)
            assert np.array_equal(kept.vector, own.vectors[place])
    assert analysis.selected.unconverged == len(FEW)  # turn 7 of each


def _stored(store: Store, layer: str) -> list[EmbeddingRow]:
    found = store.embeddings(layer=layer)
    return [
        EmbeddingRow(
            id=str(found.ids[i]), run=RUN, image=str(found.images[i]), concept=str(found.concepts[i]), model=MODEL,
            layer=layer, mode=MODE, vector=found.vectors[i],
        )
        for i in range(len(found))
    ]  # fmt: skip


def test_own_masks_stand_beside_another_photos(analysis: StoreAnalysis) -> None:
    one = analysis.selected.of("dog")
    assert one.own_iou is not None
    assert one.control_iou is not None
    assert one.selectivity is not None
    assert one.selectivity.mean == pytest.approx(one.own_iou - one.control_iou, abs=1e-6)
    assert analysis.selected.selectivity is not None
    assert analysis.layers["layer1"].selectivity is not None
    assert analysis.selected.selectivity.mean == pytest.approx(0.08, abs=0.02)
    assert analysis.layers["layer1"].selectivity.mean == pytest.approx(0.03, abs=0.02)


def test_a_sample_is_of_most_rows_and_the_same_for_a_seed(store: Store) -> None:
    def drawn(seed: int) -> AnalysisRows:
        return read_rows(store, replace(SETTINGS, max_rows=6, seed=seed))

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert set(Counter(first.labels.tolist()).values()) == {6}
    assert first.rows_in_store == dict.fromkeys(FEW, 20)
    ids = [part.layers["layer1"].ids.tolist() for part in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_only_the_chosen_concepts_are_analyzed(store: Store) -> None:
    settings = replace(SETTINGS, concepts=("dog", "boat"), layer="layer10")
    found = analyze(store, settings)
    assert found.rows.concepts == ("boat", "dog")
    assert found.selected.layer == "layer10"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "timm:other"}, r"no model 'timm:other' in the store; it has: timm:lite"),
        ({"mode": "paper"}, r"no mode 'paper' in the store; it has: mean_difference"),
        ({"layer": "layer3"}, r"no layer 'layer3' of timm:lite in .*; layers: layer2, layer1"),
        ({"concepts": ("kat",)}, r"no concept 'kat' in .*; near names: boat"),
        ({"run": "other"}, r"no run 'other' in .*; it has: 0123456789abcdef"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(store: Store, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_rows(store, replace(SETTINGS, **settings))


@pytest.mark.parametrize("settings", [{"max_rows": 1}, {"max_concepts": 0}, {"n_bootstrap": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="analysis needs at least 2 rows of a concept, 1 concept and 1 resample"):
        AnalysisSettings(**settings)  # pyright: ignore[reportArgumentType]


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
    analysis = analyze(small(tmp_path / "store", rows), SETTINGS)
    few = analysis.selected.of("few").average_precision
    assert few is not None
    assert (few.mean, few.low, few.high) == (1, None, None)
    assert analysis.ranked() == ("many", "mess", "few", "one")
    assert [one.concept for one in analysis.compared()] == ["many", "mess"]
    assert "few" not in summary_lines(analysis)[0]["answer"]
    assert "at least 5 photos" in summary_lines(analysis)[0]["answer"]
    assert analysis.selected.of("one").average_precision is None
    assert analysis.selected.selectivity is None
    assert published_and_corrected(analysis.selected)[3]["corrected"] == "not measured"


def test_a_store_with_nothing_to_retrieve_has_no_numbers(tmp_path: Path) -> None:
    rows = [(name, name, [1.0, place]) for place, name in enumerate("abc")]
    analysis = analyze(small(tmp_path / "store", rows), SETTINGS)
    assert analysis.best is None
    assert analysis.selected.average_precision is None
    answers = {one["to"]: one["answer"] for one in summary_lines(analysis)}
    assert answers["retrieval"] == "No concept is in two photos, so nothing can be retrieved."
    assert answers["layers"] == "No concept is in two photos, so layers cannot be compared."
    assert answers["outliers"] == "None is much farther from its concept than the median embedding."
    assert other_best_layers(analysis) is None


def test_zero_vectors_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [(f"{i}", "cat", [1.0, i]) for i in range(5)] + [("z", "cat", [0.0, 0.0])]
    found = read_rows(small(tmp_path / "store", rows), SETTINGS)
    assert (len(found), found.zero_vectors) == (5, 1)
    nothing = small(tmp_path / "nothing", [("z", "cat", [0.0, 0.0])])
    with pytest.raises(InputError, match=r"every vector of .* is zero at some layer; embed the images again"):
        read_rows(nothing, SETTINGS)


def test_a_mask_embedded_by_two_runs_needs_a_run(tmp_path: Path) -> None:
    rows = [(f"{i}", "cat", [1.0, i]) for i in range(3)]
    small(tmp_path / "store", rows)
    store = small(tmp_path / "store", rows, run="fedcba9876543210")
    with pytest.raises(InputError, match=r"embedded by two runs, .* give one of them as --run"):
        read_rows(store, SETTINGS)
    assert len(read_rows(store, replace(SETTINGS, run=RUN))) == 3


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no embeddings yet; fill it with conceptlens embed"):
        read_rows(Store(tmp_path / "store", create=True), SETTINGS)


def test_tables_hold_every_row_and_pair_and_no_nan(analysis: StoreAnalysis) -> None:
    found = analysis_tables(analysis)
    count = len(FEW)
    assert {name: len(of) for name, of in found.items() if name != "ellipses"} == {
        "layers": 3, "concepts": 3 * count, "pairs": 3 * count**2, "sub_concepts": len(found["sub_concepts"]),
        "rows": 3 * 20 * count, "merges": 20 * count - 1,
    }  # fmt: skip
    for of in found.values():
        assert len({tuple(one) for one in of}) == 1  # the same keys
        assert all(math.isfinite(v) for one in of for v in one.values() if isinstance(v, float))
    best = next(one for one in found["layers"] if one["best"])
    assert (best["layer"], best["gap_to_best"]) == ("layer2", None)
    own = [one for one in found["rows"] if one["layer"] == "layer2"]
    parts = Counter(one["sub_concept"] for one in own if one["concept"] == PARTED)
    assert sorted(parts.values()) == [10, 10]


def test_published_numbers_stand_beside_corrected_ones(analysis: StoreAnalysis) -> None:
    told = published_and_corrected(analysis.selected)
    assert [one["what"] for one in told] == ["Retrieval", "Clusters", "Distance", "Fit"]
    assert told[0]["published"].startswith(number(analysis.selected.published_at[10]))
    assert number(analysis.selected.agreement.adjusted_rand) in told[1]["corrected"]
    assert number(analysis.selected.pairs.separation.mean()) in told[2]["published"]


@pytest.mark.parametrize(("value", "written"), [(-0.004, "0.00"), (-0.5, "−0.50"), (None, "–"), (0.125, "0.13")])
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


def test_one_concept_cannot_be_confused(store: Store) -> None:
    settings = replace(SETTINGS, concepts=("cup",))
    retrieval, confused, *_ = summary_lines(analyze(store, settings))
    assert retrieval["answer"].startswith("There is one concept")
    assert confused["answer"].startswith("Not measured")
