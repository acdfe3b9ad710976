"""What cannot be measured is a clear state: one label, one instance, equal rows, zeros, NaN, nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from conceptlens import statistics
from conceptlens.io.errors import InputError

EVERY: dict[str, Callable[[np.ndarray, list[str]], object]] = {
    "distances": lambda v, _: statistics.distances(v),
    "cluster": lambda v, _: statistics.cluster(v),
    "principal": lambda v, _: statistics.principal(v),
    "umap": lambda v, _: statistics.umap_points(v, 3),
    "mixture": lambda v, _: statistics.fit_mixture(v),
    "label mixtures": lambda v, n: statistics.fit_label_mixtures(v, n),
    "sub-concepts": lambda v, n: statistics.sub_concepts(v, n),
    "outliers": lambda v, n: statistics.outliers(v, n),
    "isolation": lambda v, n: statistics.outliers(v, n, "isolation"),
    "retrieve": lambda v, n: statistics.retrieve(v, n),
    "published": lambda v, n: statistics.published_precision(v, n),
    "search": lambda v, _: statistics.search(v, v),
    "prototypes": lambda v, n: statistics.prototypes(v, n),
}
COSINE = ["distances", "outliers", "sub-concepts", "retrieve", "published", "search"]


@pytest.mark.parametrize("name", EVERY)
def test_nan_is_refused_by_row(name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    vectors[[2, 5], 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 of 8 vectors are .*NaN or infinite \(rows 2, 5\); .*usable\(vectors"):
        EVERY[name](vectors, list("aaaabbbb"))
    assert np.flatnonzero(~statistics.usable(vectors)).tolist() == [2, 5]


@pytest.mark.parametrize("name", COSINE)
def test_zeros_have_no_direction(name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    vectors[6] = 0
    with pytest.raises(InputError, match=r"1 of 8 vectors are zero, NaN or infinite \(rows 6\)"):
        EVERY[name](vectors, list("aaaabbbb"))
    kept = statistics.usable(vectors)
    EVERY[name](vectors[kept], list("aaaabbb"))
    assert statistics.usable(vectors, "euclidean").all()
    assert statistics.distances(vectors, "euclidean")[6, 0] > 0


@pytest.mark.parametrize("name", EVERY)
def test_no_rows_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"0 vectors were given|0 rows"):
        EVERY[name](np.empty((0, 3)), [])


@pytest.mark.parametrize("given", [np.ones(3), np.ones((2, 0)), np.array([["a"]]), np.ones((2, 2, 2))])
def test_what_is_no_table_is_refused(given: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected numbers, row channel"):
        statistics.distances(given)


def test_one_row_is_a_state_of_its_own() -> None:
    vectors, labels = np.array([[1.0, 2, 3]]), ["a"]
    apart = statistics.distances(vectors)
    assert apart.tolist() == [[0]]
    tree = statistics.cluster(vectors)
    assert (tree.rows, tree.order().tolist()) == (1, [0])
    assert statistics.adaptive_cut(tree, labels).tolist() == [0]
    found = statistics.agreement([0], labels)
    assert (found.purity, found.chance, found.corrected, found.adjusted_rand, found.nmi) == (1, 1, None, None, None)
    assert found.ami is None
    for statistic in (
        statistics.separation,
        statistics.overlap,
        statistics.category_separation,
        statistics.silhouettes,
    ):
        assert statistic(apart, labels).mean() is None
    assert statistics.quantile_separation(apart, labels).of("a", "a") is None
    assert statistics.neighbour_confusion(apart, labels).of("a", "a") is None
    assert statistics.cluster_confusion([0], labels).mean() is None
    retrieval = statistics.retrieve(vectors, labels)
    assert (retrieval.mean(), retrieval.candidates.tolist(), retrieval.precision.sum()) == (None, [0], 0)
    assert statistics.published_precision(vectors, labels).sum() == 0
    assert statistics.search(vectors, vectors)[0].rows.tolist() == [0]
    assert statistics.outliers(vectors, labels)["a"].reason == "1 rows; outliers are ranked among at least 3"
    assert statistics.fit_label_mixtures(vectors, labels) == {}
    assert statistics.prototypes(vectors, labels).vectors.tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="1 vectors were given; at least 2"):
        statistics.fit_mixture(vectors)
    with pytest.raises(InputError, match="1 vectors were given; at least 5"):
        statistics.umap_points(vectors, 5)


def test_one_label_has_nothing_to_be_told_from() -> None:
    vectors, labels = np.random.default_rng(0).normal(size=(9, 4)), ["a"] * 9
    apart = statistics.distances(vectors)
    for statistic in (
        statistics.separation,
        statistics.quantile_separation,
        statistics.overlap,
        statistics.category_separation,
    ):
        assert statistic(apart, labels).mean() is None
    assert statistics.silhouettes(apart, labels).mean() is None
    assert statistics.neighbour_confusion(apart, labels).values.tolist() == [[1]]
    assert statistics.retrieve(vectors, labels).mean() == pytest.approx(1)
    assert statistics.retrieve(vectors, labels).chance.tolist() == pytest.approx([1] * 9)
    found = statistics.agreement([0, 0, 0, 1, 1, 1, 2, 2, 2], labels)
    assert (found.purity, found.chance, found.corrected, found.adjusted_rand, found.nmi) == (1, 1, None, 0, 0)


def test_labels_of_one_instance() -> None:
    vectors = np.array([[1.0, 0], [1, 0.1], [0, 1], [-1, 0.2]])
    labels = ["a", "a", "b", "c"]
    apart = statistics.distances(vectors, "euclidean")
    assert statistics.separation(apart, labels).of("b", "c") == pytest.approx(1, abs=1e-5)
    overlap = statistics.overlap(apart, labels)
    assert (overlap.of("a", "b"), overlap.of("b", "a")) == (0, None)
    assert statistics.category_separation(apart, labels).applies.tolist() == [True, False, False]
    assert statistics.silhouettes(apart, labels).applies.tolist() == [True, True, False, False]
    retrieval = statistics.retrieve(vectors, labels)
    assert retrieval.applies.tolist() == [True, True, False, False]
    assert np.isfinite(retrieval.precision).all()
    assert retrieval.precision[2:].sum() == 0
    assert statistics.neighbour_confusion(apart, labels, 1).of("b", "c") == 1
    assert set(statistics.fit_label_mixtures(vectors, labels)) == {"a"}
    everything_in_one_image = statistics.retrieve(vectors, labels, ["same"] * 4)
    assert (everything_in_one_image.mean(), everything_in_one_image.candidates.sum()) == (None, 0)
    alone = statistics.neighbour_confusion(apart, labels, 1, ["same"] * 4)
    assert not alone.applies.any()
    assert np.isfinite(alone.values).all()


def test_equal_rows_do_no_harm() -> None:
    vectors, labels = np.tile([[1.0, 2, 3]], (12, 1)), ["a"] * 6 + ["b"] * 6
    for metric in ("cosine", "euclidean"):
        apart = statistics.distances(vectors, metric)
        assert (apart == 0).all()
        assert statistics.separation(apart, labels).of("a", "b") == 0
        for statistic in (statistics.quantile_separation, statistics.category_separation):
            assert statistic(apart, labels).mean() is None
        assert statistics.silhouettes(apart, labels).mean() == 0
        assert statistics.overlap(apart, labels).mean() == 0  # no row is strictly nearer
        assert statistics.neighbour_confusion(apart, labels, 3).of("a", "b") == pytest.approx(6 / 11)
    assert statistics.cluster(vectors).merges[:, 2].max() == 0
    retrieval = statistics.retrieve(vectors, labels)
    assert retrieval.average_precision == pytest.approx(retrieval.chance)
    assert retrieval.average_precision_at == pytest.approx(retrieval.chance_at)
    assert retrieval.precision == pytest.approx(5 / 11)
    fitted = statistics.fit_mixture(vectors)
    assert fitted.weights.tolist() == [1]
    for score in ("distance", "lof", "isolation"):
        found = statistics.outliers(vectors, labels, score)["a"]
        assert np.isfinite(found.scores).all()
        assert found.rows.tolist() == list(range(6))
        assert not found.flagged.any()
    for by in ("cluster", "mixture"):
        assert statistics.sub_concepts(vectors, labels, by=by, n_bootstrap=3)["a"].count == 1


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e9, 1e200])
def test_the_unit_of_the_vectors_is_of_no_matter(scale: float) -> None:
    draw = np.random.default_rng(0)
    vectors, labels = draw.normal(size=(30, 4)) + 2 * np.eye(4)[np.arange(30) % 3], (np.arange(30) % 3).astype(str)
    plain, scaled = (statistics.distances(v, "cosine") for v in (vectors, vectors * scale))
    assert scaled == pytest.approx(plain, abs=1e-12)
    assert statistics.distances(vectors * scale, "euclidean") / scale == pytest.approx(
        statistics.distances(vectors, "euclidean")
    )
    assert statistics.retrieve(vectors * scale, labels).mean() == pytest.approx(
        statistics.retrieve(vectors, labels).mean()
    )


def test_near_rows_keep_their_digits() -> None:
    base = np.full(50, 1000.0)
    vectors = np.stack([base, base + 1e-9, base * 2, base * 3])
    apart = statistics.distances(vectors, "euclidean")
    assert apart[0, 1] == pytest.approx(float(np.linalg.norm(vectors[0] - vectors[1])), rel=1e-9)
    assert (apart == apart.T).all()
    single = statistics.distances(vectors.astype(np.float32), "cosine")
    assert single.dtype == np.float64
    assert single[0, 2] < 1e-14


REFUSED: list[tuple[Callable[[np.ndarray, list[str]], object], str]] = [
    (lambda v, n: statistics.distances(v, "manhattan"), "no metric 'manhattan'; there are: cosine, euclidean"),
    (lambda v, n: statistics.cluster(v, "ward", "cosine"), "ward's distance is not defined for metric 'cosine'"),
    (lambda v, n: statistics.cluster(v, "centroid"), "no method 'centroid'"),
    (lambda v, n: statistics.adaptive_cut(statistics.cluster(v), n[:-1]), "labels have shape .* for each of 8 rows"),
    (lambda v, n: statistics.count_cut(statistics.cluster(v), 9), "clusters is 9 for 8 rows"),
    (lambda v, n: statistics.agreement([0, 1], n), "clusters have shape"),
    (lambda v, n: statistics.separation(v, n), "distances have shape"),
    (lambda v, n: statistics.separation(statistics.distances(v) + 1, n), "zeros on the diagonal"),
    (lambda v, n: statistics.quantile_separation(statistics.distances(v), n, 0.9, 0.1), "0 <= low <= high <= 1"),
    (lambda v, n: statistics.overlap(statistics.distances(v), n).of("dog", "a"), "no label 'dog'; labels: a, b"),
    (lambda v, n: statistics.neighbour_confusion(statistics.distances(v), n, 0), "n_neighbors is 0"),
    (lambda v, n: statistics.retrieve(v, n, cutoffs=(0,)), "each at least 1"),
    (lambda v, n: statistics.retrieve(v, n, images=[1.5] * 8), "images have shape"),
    (lambda v, n: statistics.search(v[:, :2], v), "queries have 2 channels and rows 3"),
    (lambda v, n: statistics.outliers(v, n, "forest"), "no score 'forest'; there are: distance, lof, isolation"),
    (lambda v, n: statistics.sub_concepts(v, n, by="size"), "expected one of cluster, mixture"),
    (lambda v, n: statistics.fit_mixture(v, 0), "at least 1 component"),
    (
        lambda v, n: statistics.fit_mixture(v, 1).ellipses() and statistics.fit_mixture(v[:, :1]).ellipses(),
        "at least 2 axes",
    ),
    (lambda v, n: statistics.prototypes(v, n, [0.5] * 8), "expected a number for each of 8 rows"),
    (lambda v, n: statistics.prototypes(v, n, [-1] * 8), "none is left"),
    (lambda v, n: statistics.principal(v, 0), "axes is 0"),
    (lambda v, n: statistics.sample_rows(n, 0), "at least 1"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_errors_teach(call: Callable[[np.ndarray, list[str]], object], said: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(InputError, match=said):
        call(vectors, list("aaaabbbb"))


def test_too_many_rows_for_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conceptlens.statistics.vectors.MAX_ROWS", 5)
    with pytest.raises(InputError, match="give at most 5"):
        statistics.distances(np.ones((6, 2)))
