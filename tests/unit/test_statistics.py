"""Planted clusters, sub-concepts and outliers are found again."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from conceptlens import statistics
from conceptlens.io.errors import InputError


def planted(rows: int = 30, labels: int = 4, spread: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels along axes of their own, far apart for their spread."""
    draw = np.random.default_rng(seed)
    codes = np.repeat(np.arange(labels), rows)
    return np.eye(labels + 2)[codes] * 3 + spread * draw.normal(size=(rows * labels, labels + 2)), codes.astype(str)


@pytest.mark.parametrize(("method", "metric"), [("ward", "euclidean"), ("complete", "cosine")])
def test_planted_labels_are_found_by_every_cut(method: str, metric: str) -> None:
    vectors, labels = planted()
    tree = statistics.cluster(vectors, method, metric)
    cuts = [
        statistics.adaptive_cut(tree, labels),
        statistics.count_cut(tree, 4),
    ]
    for cut in cuts:
        found = statistics.agreement(cut, labels)
        assert (found.purity, found.clusters, found.adjusted_rand, found.nmi) == (1, 4, 1, pytest.approx(1))
        assert found.ami == pytest.approx(1)
        assert found.corrected == pytest.approx(1)
        assert found.chance == pytest.approx(0.33, abs=0.05)
    np.testing.assert_array_equal(np.sort(tree.order()), np.arange(120))
    assert (np.diff(cuts[0][tree.order()]) >= 0).all()  # numbered from left to right


def test_planted_purity_is_measured() -> None:
    vectors, labels = planted()
    for code in range(4):  # a fifth of each label lies with the next one
        own = np.flatnonzero(labels == str(code))[:6]
        vectors[own] = np.roll(vectors[own], 1, axis=1) if code < 3 else np.roll(vectors[own], -3, axis=1)
    found = statistics.agreement(statistics.count_cut(statistics.cluster(vectors), 4), labels)
    assert found.purity == pytest.approx(0.8)
    confused = statistics.neighbour_confusion(statistics.distances(vectors), labels)
    assert confused.of("0", "0") == pytest.approx(0.8 * 23 / 29 + 0.2 * 5 / 29, abs=0.06)
    assert confused.of("0", "1") == pytest.approx(0.2 * 24 / 29, abs=0.06)
    by_cluster = statistics.cluster_confusion(statistics.count_cut(statistics.cluster(vectors), 4), labels)
    assert by_cluster.of("0", "1") == pytest.approx(0.2 * 24 / 29)
    assert confused.of("0", "2") == 0


def test_a_label_aware_cut_is_pure_by_chance_and_its_chance_says_so() -> None:
    draw = np.random.default_rng(0)
    vectors, labels = draw.normal(size=(150, 5)), draw.integers(3, size=150).astype(str)
    tree = statistics.cluster(vectors)
    cut = statistics.adaptive_cut(tree, labels, min_share=0)
    blind = statistics.agreement(cut, labels)
    aware = statistics.agreement(
        cut, labels, recut=lambda shuffled: statistics.adaptive_cut(tree, shuffled, min_share=0)
    )
    assert aware.purity > 0.95
    assert aware.chance == pytest.approx(aware.purity, abs=0.02)
    assert blind.chance == pytest.approx(0.89, abs=0.03)
    honest = statistics.agreement(statistics.count_cut(tree, 3), labels)
    assert abs(honest.adjusted_rand or 0) < 0.05
    assert abs(honest.ami or 0) < 0.05
    assert abs(honest.corrected or 0) < 0.1


def test_a_tree_as_deep_as_it_has_rows() -> None:
    rows = sys.getrecursionlimit() + 500
    vectors = (np.arange(rows, dtype=float) ** 2)[:, None]
    tree = statistics.cluster(vectors, "single", "euclidean")
    assert statistics.adaptive_cut(tree, np.repeat(["a", "b"], [rows - 1, 1]), min_purity=1.0).max() == 1


def test_separation_falls_with_one_odd_row_and_its_quantile_does_not() -> None:
    vectors, labels = planted()
    apart = statistics.distances(vectors, "euclidean")
    odd = vectors.copy()
    odd[0] = vectors[30]  # one row of label 0 lies in label 1
    ruined = statistics.distances(odd, "euclidean")
    assert statistics.separation(apart, labels).of("0", "1") > 0.8
    assert statistics.separation(ruined, labels).of("0", "1") == 0
    before, after = (statistics.quantile_separation(a, labels).of("0", "1") for a in (apart, ruined))
    assert after == pytest.approx(before, abs=0.03)
    assert statistics.overlap(ruined, labels).of("0", "1") == pytest.approx(1 / 30)
    assert statistics.overlap(apart, labels).mean() == 0
    assert (statistics.silhouettes(apart, labels).mean() or 0) > 0.9
    assert statistics.silhouettes(ruined, labels).values[0] < -0.9


def test_retrieval_of_planted_and_of_random_labels() -> None:
    vectors, labels = planted()
    assert statistics.retrieve(vectors, labels).mean() == pytest.approx(1)
    above, at, precision = [], [], []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        noise = statistics.retrieve(draw.normal(size=(200, 40)), draw.integers(4, size=200))
        above.append((noise.average_precision - noise.chance).mean())
        at.append((noise.average_precision_at - noise.chance_at).mean(0))
        precision.append((noise.precision - (noise.relevant / noise.candidates)[:, None]).mean(0))
    assert np.mean(above) == pytest.approx(0, abs=0.004)
    assert np.mean(at, axis=0) == pytest.approx(0, abs=0.03)
    assert np.mean(precision, axis=0) == pytest.approx(0, abs=0.03)


def test_rows_of_the_querys_image_are_left_out() -> None:
    draw = np.random.default_rng(0)
    photos = draw.normal(size=(40, 8))
    vectors = np.repeat(photos, 2, axis=0) + 0.01 * draw.normal(size=(80, 8))  # two masks a photo, alike
    labels, images = np.tile(["a", "a"], 40), np.repeat(np.arange(40), 2)
    labels[40:] = "b"
    with_own, without = statistics.retrieve(vectors, labels), statistics.retrieve(vectors, labels, images)
    assert with_own.precision[:, 0].mean() == 1  # the other mask of the photo
    assert without.precision[:, 0].mean() < 0.8
    assert (without.relevant == 38).all()
    confused = statistics.neighbour_confusion(statistics.distances(vectors), labels, 1, images)
    kept = (confused.of("a", "a") + confused.of("b", "b")) / 2
    assert kept == pytest.approx(without.precision[:, 0].mean())


@pytest.mark.parametrize("by", ["cluster", "mixture"])
def test_planted_sub_concepts(by: str) -> None:
    draw = np.random.default_rng(0)
    middles = np.eye(8)[[0, 1, 2, 3]] * 4
    two = np.concatenate([middles[0] + 0.3 * draw.normal(size=(40, 8)), middles[1] + 0.3 * draw.normal(size=(20, 8))])
    one = middles[2] + 0.5 * draw.normal(size=(60, 8))
    vectors, labels = np.concatenate([two, one, middles[3:]]), ["two"] * 60 + ["one"] * 60 + ["single"]
    found = statistics.sub_concepts(vectors, labels, by=by, n_bootstrap=12)
    parts = found["two"]
    assert (parts.count, found["one"].count, found["single"].count) == (2, 1, 1)
    assert parts.assigned.tolist() == [0] * 40 + [1] * 20
    assert parts.rows.tolist() == list(range(60))
    assert parts.stability == pytest.approx(1, abs=0.05)
    assert (parts.found_again > 0.95).all()
    assert (found["one"].stability, found["one"].found_again.tolist(), found["one"].reason) == (None, [], None)
    assert found["single"].reason == "1 rows; parts are looked for in at least 6"
    assert statistics.sub_concepts(vectors, labels, by=by, n_bootstrap=12)["two"].stability == parts.stability


def test_parts_that_are_not_there_are_not_found_again() -> None:
    from conceptlens.statistics.subclusters import ASSIGN, stability

    points = np.random.default_rng(1).normal(size=(60, 4))
    assigned = ASSIGN["cluster"](points, 4)
    agreed, again = stability(points, assigned, np.arange(60), ASSIGN["cluster"], 30, 0)
    assert agreed is not None
    assert agreed < 0.7
    assert again.mean() < 0.7


@pytest.mark.parametrize("score", ["distance", "lof", "isolation"])
def test_planted_outliers_stand_first(score: str) -> None:
    vectors, labels = planted(rows=60, labels=2)
    vectors[[5, 17]] = np.array([[-1.0, 0, 2, 0], [-1.2, 0, 2, 0.1]])
    vectors[77] = -vectors[77]
    found = statistics.outliers(vectors, labels, score)
    assert set(found["0"].rows[:2].tolist()) == {5, 17}
    assert found["1"].rows[0] == 77
    assert found["0"].flagged[:2].all()
    assert not found["0"].flagged[10:].any()
    assert (np.diff(found["0"].scores) <= 0).all()
    assert sorted(found["0"].rows.tolist()) == list(range(60))
    again = statistics.outliers(vectors, labels, score)
    np.testing.assert_array_equal(again["0"].scores, found["0"].scores)


def test_planted_gaussians_with_their_ellipses() -> None:
    draw = np.random.default_rng(0)
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    long = draw.normal(size=(600, 2)) * [3, 0.5] @ turn.T  # the longer axis points to 45 degrees
    round_ = draw.normal([12, -6], size=(300, 2))
    found = statistics.fit_mixture(np.concatenate([long, round_]))
    assert found.weights == pytest.approx([2 / 3, 1 / 3], abs=0.01)
    assert found.assigned.tolist() == [0] * 600 + [1] * 300
    ellipses = found.ellipses()
    assert ellipses.centres == pytest.approx(np.array([[0, 0], [12, -6]]), abs=0.3)
    assert ellipses.radii == pytest.approx(np.array([[3, 0.5], [1, 1]]), abs=0.2)
    assert ellipses.angles[0] == pytest.approx(45, abs=2)
    assert found.ellipses(2).radii == pytest.approx(2 * ellipses.radii)


def test_small_components_are_dropped_and_the_rest_keep_their_weights() -> None:
    draw = np.random.default_rng(0)
    points = np.concatenate([draw.normal(size=(95, 2)), draw.normal(20, 0.1, (5, 2))])
    kept, dropped = statistics.fit_mixture(points, min_weight=0), statistics.fit_mixture(points, min_weight=0.1)
    assert kept.weights == pytest.approx([0.95, 0.05])
    assert dropped.weights == pytest.approx([0.95])
    assert dropped.assigned.tolist() == [0] * 95 + [-1] * 5
    means = statistics.prototypes(points, ["a"] * 100, dropped.assigned)
    assert means.vectors == pytest.approx(points[None, :95].mean(1))
    assert means.support.tolist() == [95]


def test_principal_axes() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 5)) * [1, 9, 0.1, 3, 0.2] + 100
    found = statistics.principal(vectors, 2)
    assert np.abs(found.axes).argmax(1).tolist() == [1, 3]
    assert (found.axes.max(1) > 0.9).all()
    assert found.share == pytest.approx([81 / 91, 9 / 91], abs=0.03)
    assert found.points == pytest.approx((vectors - found.mean) @ found.axes.T)
    assert found.points.std(0) == pytest.approx([9, 3], rel=0.15)
    flat = statistics.principal(np.ones((4, 3)), 2)
    assert (flat.points.tolist(), flat.share.tolist()) == ([[0, 0]] * 4, [0, 0])
    assert statistics.principal(np.ones((1, 3)), 2).points.tolist() == [[0, 0]]


def test_a_prototype_for_each_cluster() -> None:
    vectors, _ = planted()
    by_cluster = statistics.prototypes(vectors, statistics.count_cut(statistics.cluster(vectors), 4))
    assert len(by_cluster.vectors) == 4


def test_sampling_takes_as_many_of_each() -> None:
    labels = ["a"] * 5 + ["b"] * 200 + ["c"] * 100
    taken = statistics.sample_rows(labels, 100, seed=1)
    assert np.unique(np.array(labels)[taken], return_counts=True)[1].tolist() == [5, 100, 100]
    assert len(set(taken.tolist())) == 205
    assert (taken == statistics.sample_rows(labels, 100, seed=1)).all()
    assert (taken != statistics.sample_rows(labels, 100, seed=2)).any()


@pytest.mark.process
@pytest.mark.slow
def test_umap_lays_planted_labels_apart_and_leaves_torch_its_threads() -> None:
    """Numba sets the number of OpenMP threads, torch's too, once threadpoolctl has looked for all libraries."""
    code = """
import torch, numpy, threadpoolctl, umap
from conceptlens import statistics
torch.set_num_threads(1)
threadpoolctl.threadpool_info()
labels = numpy.repeat(numpy.arange(3), 20)
vectors = numpy.eye(5)[labels] * 3 + 0.05 * numpy.random.default_rng(0).normal(size=(60, 5))
points, again = (statistics.umap_points(vectors, n_neighbors=6) for _ in range(2))
found = statistics.agreement(statistics.count_cut(statistics.cluster(points), 3), labels)
print(points.shape, (points == again).all(), found.purity, torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(60, 2) True 1.0 1\n", 0), done.stderr


def test_missing_umap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install umap-learn, or take principal\(\)"):
        statistics.umap_points(np.random.default_rng(0).normal(size=(20, 3)), 5)
