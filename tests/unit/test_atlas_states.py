"""What cannot be measured is a clear state: one label, one instance, equal rows, zeros, NaN, nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from conceptlens.concept import atlas
from conceptlens.error import InputError

EVERY: dict[str, Callable[[np.ndarray, list[str]], object]] = {
    "distances": lambda v, _: atlas.distances(v),
    "cluster": lambda v, _: atlas.cluster(v),
    "principal": lambda v, _: atlas.principal(v),
    "umap": lambda v, _: atlas.umap_points(v, 3),
    "mixture": lambda v, _: atlas.fit_mixture(v),
    "label mixtures": lambda v, n: atlas.fit_label_mixtures(v, n),
    "sub-concepts": lambda v, n: atlas.sub_concepts(v, n),
    "outliers": lambda v, n: atlas.outliers(v, n),
    "isolation": lambda v, n: atlas.outliers(v, n, "isolation"),
    "retrieve": lambda v, n: atlas.retrieve(v, n),
    "published": lambda v, n: atlas.published_precision(v, n),
    "search": lambda v, _: atlas.search(v, v),
    "prototypes": lambda v, n: atlas.prototypes(v, n),
    "probabilities": lambda v, n: atlas.label_probabilities(v, v, n),
    "compare": lambda v, n: atlas.compare({"one": v}, n, draws=3),
}
COSINE = ["distances", "outliers", "sub-concepts", "retrieve", "published", "search", "probabilities", "compare"]


@pytest.mark.parametrize("name", EVERY)
def test_nan_is_refused_by_row(name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    vectors[[2, 5], 1] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 of 8 vectors are .*NaN or infinite \(rows 2, 5\); .*usable\(vectors"):
        EVERY[name](vectors, list("aaaabbbb"))
    assert np.flatnonzero(~atlas.usable(vectors)).tolist() == [2, 5]


@pytest.mark.parametrize("name", COSINE)
def test_zeros_have_no_direction(name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    vectors[6] = 0
    with pytest.raises(InputError, match=r"1 of 8 vectors are zero, NaN or infinite \(rows 6\)"):
        EVERY[name](vectors, list("aaaabbbb"))
    kept = atlas.usable(vectors)
    EVERY[name](vectors[kept], list("aaaabbb"))
    assert atlas.usable(vectors, "euclidean").all()
    assert atlas.distances(vectors, "euclidean")[6, 0] > 0


@pytest.mark.parametrize("name", EVERY)
def test_no_rows_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"0 vectors were given|0 rows"):
        EVERY[name](np.empty((0, 3)), [])


@pytest.mark.parametrize("given", [np.ones(3), np.ones((2, 0)), np.array([["a"]]), np.ones((2, 2, 2))])
def test_what_is_no_table_is_refused(given: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected numbers, row channel"):
        atlas.distances(given)


def test_one_row_is_a_state_of_its_own() -> None:
    vectors, labels = np.array([[1.0, 2, 3]]), ["a"]
    apart = atlas.distances(vectors)
    assert apart.tolist() == [[0]]
    tree = atlas.cluster(vectors)
    assert (tree.rows, tree.order().tolist()) == (1, [0])
    for cut in (atlas.adaptive_cut(tree, labels), atlas.size_cut(tree, 1), atlas.distance_cut(tree, 0.0)):
        assert cut.tolist() == [0]
    found = atlas.agreement([0], labels)
    assert (found.purity, found.chance, found.corrected, found.rand, found.information) == (1, 1, None, None, None)
    assert found.adjusted_information is None
    for statistic in (atlas.separation, atlas.overlap, atlas.category_separation, atlas.silhouettes):
        assert statistic(apart, labels).mean() is None
    assert atlas.quantile_separation(apart, labels).of("a", "a") is None
    assert atlas.neighbour_confusion(apart, labels).of("a", "a") is None
    assert atlas.neighbour_votes(apart, labels).best() == (None,)
    assert atlas.cluster_confusion([0], labels).mean() is None
    retrieval = atlas.retrieve(vectors, labels)
    assert (retrieval.mean(), retrieval.candidates.tolist(), retrieval.precision.sum()) == (None, [0], 0)
    assert atlas.published_precision(vectors, labels).sum() == 0
    assert atlas.search(vectors, vectors)[0].rows.tolist() == [0]
    assert atlas.outliers(vectors, labels)["a"].reason == "1 rows; what is odd is told among at least 3"
    assert atlas.fit_label_mixtures(vectors, labels) == {}
    assert atlas.prototypes(vectors, labels).vectors.tolist() == [[1, 2, 3]]
    compared = atlas.compare({"one": vectors}, labels, draws=5).table["one"]
    assert compared["purity"] == atlas.Estimate(1)
    assert compared["average_precision"] == atlas.Estimate(None)
    with pytest.raises(InputError, match="1 vectors were given; at least 2"):
        atlas.fit_mixture(vectors)
    with pytest.raises(InputError, match="1 vectors were given; at least 5"):
        atlas.umap_points(vectors, 5)


def test_one_label_has_nothing_to_be_told_from() -> None:
    vectors, labels = np.random.default_rng(0).normal(size=(9, 4)), ["a"] * 9
    apart = atlas.distances(vectors)
    for statistic in (atlas.separation, atlas.quantile_separation, atlas.overlap, atlas.category_separation):
        assert statistic(apart, labels).mean() is None
    assert atlas.silhouettes(apart, labels).mean() is None
    assert atlas.neighbour_confusion(apart, labels).values.tolist() == [[1]]
    assert atlas.retrieve(vectors, labels).mean() == pytest.approx(1)
    assert atlas.retrieve(vectors, labels).chance.tolist() == pytest.approx([1] * 9)
    found = atlas.agreement([0, 0, 0, 1, 1, 1, 2, 2, 2], labels)
    assert (found.purity, found.chance, found.corrected, found.rand, found.information) == (1, 1, None, 0, 0)
    compared = atlas.compare({"one": vectors}, labels, draws=5).table["one"]
    assert compared["rand"].value is None
    assert compared["overlap"] == compared["quantile_separation"] == compared["silhouette"] == atlas.Estimate(None)


def test_labels_of_one_instance() -> None:
    vectors = np.array([[1.0, 0], [1, 0.1], [0, 1], [-1, 0.2]])
    labels = ["a", "a", "b", "c"]
    apart = atlas.distances(vectors, "euclidean")
    assert atlas.separation(apart, labels).of("b", "c") == pytest.approx(1, abs=1e-5)
    overlap = atlas.overlap(apart, labels)
    assert (overlap.of("a", "b"), overlap.of("b", "a")) == (0, None)
    assert atlas.category_separation(apart, labels).applies.tolist() == [True, False, False]
    assert atlas.silhouettes(apart, labels).applies.tolist() == [True, True, False, False]
    retrieval = atlas.retrieve(vectors, labels)
    assert retrieval.applies.tolist() == [True, True, False, False]
    assert np.isfinite(retrieval.precision).all()
    assert retrieval.precision[2:].sum() == 0
    assert atlas.neighbour_confusion(apart, labels, 1).of("b", "c") == 1
    assert set(atlas.fit_label_mixtures(vectors, labels)) == {"a"}
    everything_in_one_image = atlas.retrieve(vectors, labels, ["same"] * 4)
    assert (everything_in_one_image.mean(), everything_in_one_image.candidates.sum()) == (None, 0)
    alone = atlas.neighbour_confusion(apart, labels, 1, ["same"] * 4)
    assert not alone.applies.any()
    assert np.isfinite(alone.values).all()


def test_equal_rows_do_no_harm() -> None:
    vectors, labels = np.tile([[1.0, 2, 3]], (12, 1)), ["a"] * 6 + ["b"] * 6
    for metric in ("cosine", "euclidean"):
        apart = atlas.distances(vectors, metric)
        assert (apart == 0).all()
        assert atlas.separation(apart, labels).of("a", "b") == 0
        for statistic in (atlas.quantile_separation, atlas.category_separation, atlas.silhouettes):
            assert statistic(apart, labels).mean() is None
        assert atlas.overlap(apart, labels).mean() == 0  # no row is strictly nearer
        assert atlas.neighbour_confusion(apart, labels, 3).of("a", "b") == pytest.approx(6 / 11)
    assert atlas.cluster(vectors).merges[:, 2].max() == 0
    retrieval = atlas.retrieve(vectors, labels)
    assert retrieval.average_precision == pytest.approx(retrieval.chance)
    assert retrieval.average_precision_at == pytest.approx(retrieval.chance_at)
    assert retrieval.precision == pytest.approx(5 / 11)
    fitted = atlas.fit_mixture(vectors)
    assert fitted.weights.tolist() == [1]
    assert np.isfinite(fitted.density(vectors)).all()
    for score in ("distance", "neighbours", "isolation"):
        found = atlas.outliers(vectors, labels, score)["a"]
        assert np.isfinite(found.scores).all()
        assert found.rows.tolist() == list(range(6))
        assert not found.flagged.any()
    for by in ("cluster", "mixture"):
        assert atlas.sub_concepts(vectors, labels, by=by, draws=3)["a"].count == 1


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e9, 1e200])
def test_the_unit_of_the_vectors_is_of_no_matter(scale: float) -> None:
    draw = np.random.default_rng(0)
    vectors, labels = draw.normal(size=(30, 4)) + 2 * np.eye(4)[np.arange(30) % 3], (np.arange(30) % 3).astype(str)
    plain, scaled = (atlas.distances(v, "cosine") for v in (vectors, vectors * scale))
    assert scaled == pytest.approx(plain, abs=1e-12)
    assert atlas.distances(vectors * scale, "euclidean") / scale == pytest.approx(atlas.distances(vectors, "euclidean"))
    assert atlas.retrieve(vectors * scale, labels).mean() == pytest.approx(atlas.retrieve(vectors, labels).mean())


def test_near_rows_keep_their_digits() -> None:
    base = np.full(50, 1000.0)
    vectors = np.stack([base, base + 1e-9, base * 2, base * 3])
    apart = atlas.distances(vectors, "euclidean")
    assert apart[0, 1] == pytest.approx(float(np.linalg.norm(vectors[0] - vectors[1])), rel=1e-9)
    assert (apart == apart.T).all()
    single = atlas.distances(vectors.astype(np.float32), "cosine")
    assert single.dtype == np.float64
    assert single[0, 2] < 1e-14


REFUSED: list[tuple[Callable[[np.ndarray, list[str]], object], str]] = [
    (lambda v, n: atlas.distances(v, "manhattan"), "no metric 'manhattan'; there are: cosine, euclidean"),
    (lambda v, n: atlas.cluster(v, "ward", "cosine"), "ward's distance is not defined for metric 'cosine'"),
    (lambda v, n: atlas.cluster(v, "centroid"), "no method 'centroid'"),
    (lambda v, n: atlas.adaptive_cut(atlas.cluster(v), n[:-1]), "labels have shape .* for each of 8 rows"),
    (lambda v, n: atlas.size_cut(atlas.cluster(v), 0), "a cluster has at least 1 row"),
    (lambda v, n: atlas.count_cut(atlas.cluster(v), 9), "9 clusters of 8 rows"),
    (lambda v, n: atlas.agreement([0, 1], n), "clusters have shape"),
    (lambda v, n: atlas.separation(v, n), "distances have shape"),
    (lambda v, n: atlas.separation(atlas.distances(v) + 1, n), "zeros on the diagonal"),
    (lambda v, n: atlas.quantile_separation(atlas.distances(v), n, 0.9, 0.1), "0 <= low <= high <= 1"),
    (lambda v, n: atlas.overlap(atlas.distances(v), n).of("dog", "a"), "no label 'dog'; labels: a, b"),
    (lambda v, n: atlas.neighbour_votes(atlas.distances(v), n, 0), "0 neighbours"),
    (lambda v, n: atlas.retrieve(v, n, cutoffs=(0,)), "each at least 1"),
    (lambda v, n: atlas.retrieve(v, n, images=[1.5] * 8), "images have shape"),
    (lambda v, n: atlas.search(v[:, :2], v), "queries have 2 channels and rows 3"),
    (lambda v, n: atlas.distances_between(v[:, :2], v), "of different layers"),
    (lambda v, n: atlas.outliers(v, n, "lof"), "no score 'lof'; there are: distance, neighbours, isolation"),
    (lambda v, n: atlas.sub_concepts(v, n, by="size"), "expected one of cluster, mixture"),
    (lambda v, n: atlas.fit_mixture(v, 0), "at least 1 component"),
    (lambda v, n: atlas.fit_mixture(v, 1).ellipses() and atlas.fit_mixture(v[:, :1]).ellipses(), "at least 2 axes"),
    (lambda v, n: atlas.fit_mixture(v, 1).density(v[:, :1]), "points have 1 axes"),
    (lambda v, n: atlas.region_map({}, (0, 1, 0, 1)), "0 mixtures"),
    (lambda v, n: atlas.prototypes(v, n, [0.5] * 8), "expected a number for each of 8 rows"),
    (lambda v, n: atlas.prototypes(v, n, [-1] * 8), "none is left"),
    (lambda v, n: atlas.principal(v, 0), "0 axes"),
    (lambda v, n: atlas.sample_rows(n, 0), "at least 1"),
    (lambda v, n: atlas.compare({}, n), "no embeddings"),
    (lambda v, n: atlas.compare({"one": v}, n, reference="two"), "no embeddings 'two'; there are: one"),
    (lambda v, n: atlas.compare({"one": v, "two": v[:4]}, n), "two: labels have shape .* for each of 4 rows"),
    (lambda v, n: atlas.compare({"one": v}, n, images=["a"]), "images have shape"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_errors_teach(call: Callable[[np.ndarray, list[str]], object], said: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(InputError, match=said):
        call(vectors, list("aaaabbbb"))


def test_too_many_rows_for_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conceptlens.concept.atlas.distance.MOST", 5)
    with pytest.raises(InputError, match="give at most 5"):
        atlas.distances(np.ones((6, 2)))
