"""LoCE's statistics once more, in plain loops straight from the published formulas."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import LocalOutlierFactor

from conceptlens import statistics
from conceptlens.statistics.retrieval import expected_average_precision


def drawn(seed: int = 0, rows: int = 40, labels: int = 4) -> tuple[np.ndarray, list[str], list[str]]:
    """Overlapping clouds in 6 channels with labels of unequal size, a duplicate and about two rows an image."""
    draw = np.random.default_rng(seed)
    codes = np.sort(draw.integers(labels, size=rows))
    vectors = draw.normal(size=(rows, 6)) + 1.2 * draw.normal(size=(labels, 6))[codes]
    vectors[3] = vectors[1]
    return vectors, [f"label {c}" for c in codes], [f"image {i}" for i in draw.integers(rows // 2, size=rows)]


def euclidean(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    product = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return 1 - product / (euclidean(a, 0 * a) * euclidean(b, 0 * b))


def rows_of(labels: list[str]) -> dict[str, list[int]]:
    return {name: [i for i, label in enumerate(labels) if label == name] for name in sorted(set(labels))}


def near(found: float | None, wanted: float) -> bool:
    return found is not None and abs(found - wanted) <= 1e-9


@pytest.mark.parametrize(("metric", "slow"), [("euclidean", euclidean), ("cosine", cosine)])
def test_distances(metric: str, slow: object) -> None:
    vectors, _, _ = drawn()
    found = statistics.distances(vectors, metric)
    for i, j in permutations(range(len(vectors)), 2):
        assert near(found[i, j], slow(vectors[i], vectors[j]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_separation_and_overlap(seed: int) -> None:
    vectors, labels, _ = drawn(seed)
    apart, own = statistics.distances(vectors, "euclidean"), rows_of(labels)
    published, robust = statistics.separation(apart, labels), statistics.quantile_separation(apart, labels)
    overlap, category = statistics.overlap(apart, labels), statistics.category_separation(apart, labels)
    for i, j in permutations(own, 2):
        between = sorted(euclidean(vectors[a], vectors[b]) for a in own[i] for b in own[j])
        union = sorted(euclidean(vectors[a], vectors[b]) for a, b in combinations(own[i] + own[j], 2))
        assert near(published.of(i, j), between[0] / (union[-1] + 1e-6))
        low = between[max(0, math.ceil(0.05 * len(between) - 1e-9) - 1)]
        high = union[max(0, math.ceil(0.95 * len(union) - 1e-9) - 1)]
        assert near(robust.of(i, j), low / high)
        lies_in = 0
        for a in own[i]:
            to_other = min(euclidean(vectors[a], vectors[b]) for b in own[j])
            to_own = min(euclidean(vectors[a], vectors[b]) for b in own[i] if b != a)
            lies_in += to_other < to_own
        assert near(overlap.of(i, j), lies_in / len(own[i]))
    for i, rows in own.items():
        assert (published.of(i, i), robust.of(i, i), overlap.of(i, i)) == (None, None, None)
        others = [b for b in range(len(labels)) if labels[b] != i]
        nearest = min(euclidean(vectors[a], vectors[b]) for a in rows for b in others)
        inside = [euclidean(vectors[a], vectors[b]) for a, b in permutations(rows, 2)]
        assert near(category.of(i), nearest / (sum(inside) / len(inside)))
    shown = statistics.silhouettes(apart, labels)
    assert shown.applies.all()
    assert shown.values == pytest.approx(silhouette_samples(apart, labels, metric="precomputed"), abs=1e-9)


def slow_cut(tree: statistics.Tree, accepted: object) -> list[set[int]]:
    """Cut by recursion from the root, as published."""
    rows = tree.rows

    def below(node: int) -> list[int]:
        if node < rows:
            return [node]
        left, right = (int(child) for child in tree.merges[node - rows, :2])
        return below(left) + below(right)

    def split(node: int) -> list[set[int]]:
        leaves = below(node)
        if node < rows or accepted(node, leaves):
            return [set(leaves)]
        left, right = (int(child) for child in tree.merges[node - rows, :2])
        return split(left) + split(right)

    return split(2 * rows - 2)


def sets(clusters: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(clusters == c).tolist()) for c in range(int(clusters.max()) + 1)]


@pytest.mark.parametrize(("method", "metric"), [("ward", "euclidean"), ("complete", "cosine")])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_two_cuts_and_purity(method: str, metric: str, seed: int) -> None:
    vectors, labels, _ = drawn(seed, rows=60)
    tree = statistics.cluster(vectors, method, metric)
    smallest = int(60 * 0.05)

    def pure(node: int, leaves: list[int]) -> bool:
        common = max(Counter(labels[i] for i in leaves).values())
        return len(leaves) <= smallest or common / len(leaves) >= 0.8

    found = statistics.adaptive_cut(tree, labels, 0.05, 0.8)
    assert sets(found) == slow_cut(tree, pure)
    assert sets(statistics.count_cut(tree, 6)) == slow_cut(tree, lambda node, _: node < 2 * 60 - 6)
    common = sum(max(Counter(labels[i] for i in cluster).values()) for cluster in sets(found))
    assert near(statistics.agreement(found, labels, n_shuffles=0).purity, common / 60)


def slow_rand(a: list[int], b: list[int]) -> float:
    """The adjusted Rand index from all pairs of rows."""
    both = first = second = total = 0.0
    for i, j in combinations(range(len(a)), 2):
        total += 1
        both += a[i] == a[j] and b[i] == b[j]
        first += a[i] == a[j]
        second += b[i] == b[j]
    expected = first * second / total
    return (both - expected) / ((first + second) / 2 - expected)


def slow_information(a: list[int], b: list[int]) -> tuple[float, float]:
    """Mutual information and mean entropy, in nats."""
    n = len(a)
    joint, first, second = Counter(zip(a, b, strict=True)), Counter(a), Counter(b)
    mutual = sum(c / n * math.log(c * n / (first[x] * second[y])) for (x, y), c in joint.items())
    entropies = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (first, second)]
    return mutual, sum(entropies) / 2


def test_corrections_for_chance() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(3, size=30), draw.integers(4, size=30)
    b[:18] = a[:18]
    found = statistics.agreement(a, b, n_shuffles=0)
    assert near(found.adjusted_rand, slow_rand(a.tolist(), b.tolist()))
    mutual, mean = slow_information(a.tolist(), b.tolist())
    assert near(found.nmi, mutual / mean)
    assert (found.chance, found.corrected) == (None, None)


def test_expectations_over_all_orders_of_the_labels() -> None:
    a, b = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0]
    orders = list(permutations(b))
    expected = sum(slow_information(a, list(order))[0] for order in orders) / len(orders)
    mutual, mean = slow_information(a, b)
    found = statistics.agreement(a, b, n_shuffles=4000)
    assert near(found.ami, (mutual - expected) / (mean - expected))
    pure = [
        sum(max(Counter(y for x, y in zip(a, o, strict=True) if x == k).values()) for k in range(3)) for o in orders
    ]
    assert found.chance == pytest.approx(sum(pure) / len(orders) / 6, abs=0.01)
    assert near(found.corrected, (found.purity - found.chance) / (1 - found.chance))


@pytest.mark.parametrize("neighbours", [1, 5, 100])
def test_confusion_by_neighbours(neighbours: int) -> None:
    vectors, labels, images = drawn(4)
    found = statistics.neighbour_confusion(statistics.distances(vectors), labels, neighbours, images)
    own = rows_of(labels)
    for i, rows in own.items():
        shares = []
        for a in rows:
            others = [b for b in range(len(labels)) if images[b] != images[a]]
            ranked = sorted(others, key=lambda b: (round(cosine(vectors[a], vectors[b]), 9), b))
            last = round(cosine(vectors[a], vectors[ranked[:neighbours][-1]]), 9)
            nearer = [b for b in others if round(cosine(vectors[a], vectors[b]), 9) < last]
            tied = [b for b in others if round(cosine(vectors[a], vectors[b]), 9) == last]
            count = min(neighbours, len(others))
            left = (count - len(nearer)) / len(tied)
            votes = Counter(labels[b] for b in nearer)
            shares.append({j: (votes[j] + left * sum(labels[b] == j for b in tied)) / count for j in own})
        for j in own:
            assert near(found.of(i, j), sum(share[j] for share in shares) / len(rows))
    assert found.values.sum(1) == pytest.approx(1)


def test_confusion_by_clusters() -> None:
    vectors, labels, _ = drawn(4)
    clusters = statistics.count_cut(statistics.cluster(vectors), 9)
    found = statistics.cluster_confusion(clusters, labels)
    own = rows_of(labels)
    for i, rows in own.items():
        mates = {a: [b for b in range(len(labels)) if clusters[b] == clusters[a] and b != a] for a in rows}
        met = [a for a in rows if mates[a]]
        for j in own:
            shares = [sum(labels[b] == j for b in mates[a]) / len(mates[a]) for a in met]
            assert near(found.of(i, j), sum(shares) / len(met))
    made = statistics.composition(clusters, labels)
    assert made.counts.sum() == len(labels)
    for k, cluster in enumerate(sets(clusters)):
        assert made.counts[k].tolist() == [sum(labels[i] == j for i in cluster) for j in own]


def slow_retrieval(
    vectors: np.ndarray, labels: list[str], images: list[str], query: int, k: int
) -> tuple[float, float, float, int, int]:
    others = [b for b in range(len(labels)) if images[b] != images[query]]
    ranked = sorted(others, key=lambda b: cosine(vectors[query], vectors[b]))
    relevant = sum(labels[b] == labels[query] for b in others)
    hits, total, at = 0, 0.0, 0.0
    for rank, b in enumerate(ranked, 1):
        if labels[b] == labels[query]:
            hits += 1
            total += hits / rank
            at += hits / rank if rank <= k else 0
    precision = sum(labels[b] == labels[query] for b in ranked[:k]) / min(k, len(ranked))
    return total / max(relevant, 1), at / max(min(k, relevant), 1), precision, relevant, len(others)


@pytest.mark.parametrize("by_image", [True, False])
def test_retrieval(by_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels, images = drawn(6)
    vectors[3] += 0.5  # no equal rows here: ties have a test of their own
    own = images if by_image else [str(i) for i in range(len(labels))]
    monkeypatch.setattr("conceptlens.statistics.retrieval.BATCH_PAIRS", 170)  # four queries at once
    found = statistics.retrieve(vectors, labels, images if by_image else None)
    assert found.cutoffs == (1, 5, 10, 20, 30, 40)
    for query in range(len(labels)):
        for i, k in enumerate(found.cutoffs):
            mean, at, precision, relevant, candidates = slow_retrieval(vectors, labels, own, query, k)
            assert (found.relevant[query], found.candidates[query]) == (relevant, candidates)
            assert near(found.average_precision[query], mean)
            assert near(found.average_precision_at[query, i], at)
            assert near(found.precision[query, i], precision if relevant else 0)
    assert near(found.mean(), float(np.mean(found.average_precision[found.applies])))


def test_rounding_of_float32_makes_no_equal_rows_unequal() -> None:
    draw = np.random.default_rng(3)
    labels, images = ["disc", "red", "ring", "red"] * 30, [str(i // 2) for i in range(120)]
    twice = np.repeat(draw.normal(size=(60, 40)), 2, axis=0).astype(np.float32)  # one mask under two names
    rounded = twice * (1 + draw.uniform(-6e-8, 6e-8, twice.shape)).astype(np.float32)
    same, other = (statistics.retrieve(rows, labels, images) for rows in (twice, rounded))
    assert other.average_precision == pytest.approx(same.average_precision, abs=1e-9)
    assert other.precision == pytest.approx(same.precision, abs=1e-9)
    votes = [
        statistics.neighbour_confusion(statistics.distances(rows, "cosine"), labels, 5, images).values
        for rows in (twice, rounded)
    ]
    assert votes[1] == pytest.approx(votes[0], abs=1e-9)


def test_retrieval_of_equal_rows_is_the_mean_over_all_orders() -> None:
    vectors = np.array([[1, 0], [1, 1], [1, 1], [2, 2], [1, 3], [1, 3.0]])
    labels = ["a", "a", "b", "a", "b", "a"]
    found = statistics.retrieve(vectors, labels, cutoffs=(2,))
    means, ats, precisions = [], [], []
    for middle in permutations([1, 2, 3]):
        for last in permutations([4, 5]):
            hits, total, at = 0, 0.0, 0.0
            ranked = [*middle, *last]
            for rank, b in enumerate(ranked, 1):
                if labels[b] == "a":
                    hits += 1
                    total += hits / rank
                    at += hits / rank if rank <= 2 else 0
            means.append(total / 3)
            ats.append(at / 2)
            precisions.append(sum(labels[b] == "a" for b in ranked[:2]) / 2)
    assert near(found.average_precision[0], float(np.mean(means)))
    assert near(found.average_precision_at[0, 0], float(np.mean(ats)))
    assert near(found.precision[0, 0], float(np.mean(precisions)))


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 6), (3, 6), (6, 6), (2, 5)])
@pytest.mark.parametrize("cutoff", [None, 1, 2, 10])
def test_the_chance_of_average_precision(relevant: int, candidates: int, cutoff: int | None) -> None:
    k, values = cutoff or candidates, []
    for places in combinations(range(1, candidates + 1), relevant):
        hits = [(i + 1) / place for i, place in enumerate(places) if place <= k]
        values.append(sum(hits) / min(k, relevant, candidates))
    found = expected_average_precision(np.array([relevant, 0]), np.array([candidates, 4]), cutoff)
    assert near(found[0], float(np.mean(values)))
    assert found[1] == 0


def test_published_precision() -> None:
    vectors, labels, _ = drawn(7)
    found = statistics.published_precision(vectors, labels, (1, 5, 40))
    matrix = [[cosine(a, b) for b in vectors] for a in vectors]
    for query in range(len(labels)):
        ranked = sorted(range(len(labels)), key=lambda b: round(matrix[query][b], 12))[1:]
        for i, k in enumerate((1, 5, 40)):
            hits = [labels[b] == labels[query] for b in ranked[:k]]
            assert near(found[query, i], sum(hits) / len(hits))


def test_search_is_exact() -> None:
    vectors, _, images = drawn(8)
    allowed = np.array(images) != images[0]
    (found,) = statistics.search(vectors[:1], vectors, allowed=allowed)
    wanted = sorted(np.flatnonzero(allowed).tolist(), key=lambda b: cosine(vectors[0], vectors[b]))
    assert found.rows.tolist() == wanted
    assert found.similarities == pytest.approx([1 - cosine(vectors[0], vectors[b]) for b in wanted], abs=1e-9)
    assert statistics.search(vectors[:1], vectors, 3, allowed)[0].rows.tolist() == wanted[:3]


def test_outliers() -> None:
    vectors, labels, _ = drawn(9, rows=90, labels=2)
    summed, factors = statistics.outliers(vectors, labels), statistics.outliers(vectors, labels, "lof")
    for name, rows in rows_of(labels).items():
        sums = {a: sum(cosine(vectors[a], vectors[b]) for b in rows if b != a) for a in rows}
        assert summed[name].rows[:7].tolist() == sorted(rows, key=lambda a: -sums[a])[:7]
        assert summed[name].scores == pytest.approx([sums[a] for a in summed[name].rows], abs=1e-9)
        peer = LocalOutlierFactor(20, metric="cosine", contamination=0.05).fit(vectors[rows])
        by_row = dict(zip(rows, -peer.negative_outlier_factor_, strict=True))
        assert factors[name].scores == pytest.approx([by_row[a] for a in factors[name].rows], rel=1e-5)
        assert factors[name].rows[0] == max(by_row, key=by_row.get)


def slow_density(mixture: statistics.Mixture, point: np.ndarray) -> float:
    total = 0.0
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        (a, b), (_, c) = covariance
        determinant = a * c - b * b
        x, y = point - mean
        away = (c * x * x - 2 * b * x * y + a * y * y) / determinant
        total += weight * math.exp(-away / 2) / (2 * math.pi * math.sqrt(determinant))
    return math.log(total)


def test_gaussian_mixtures() -> None:
    points = np.concatenate([np.random.default_rng(i).normal(3 * i, 1 + i, (40, 2)) for i in range(3)])
    whole = statistics.fit_mixture(points, max_components=3)
    count, free = len(whole.weights), 6 * len(whole.weights) - 1
    cost = -2 * sum(slow_density(whole, p) for p in points) + free * math.log(len(points))
    assert near(whole.bic[count - 1] / 1000, cost / 1000)
    assert count == int(np.argmin(whole.bic)) + 1


def test_prototypes_are_means() -> None:
    vectors, labels, _ = drawn(2)
    means, units = statistics.prototypes(vectors, labels), statistics.prototypes(vectors, labels, unit=True)
    for k, rows in enumerate(rows_of(labels).values()):
        for channel in range(6):
            assert near(means.vectors[k, channel], sum(vectors[a, channel] for a in rows) / len(rows))
            shares = [vectors[a, channel] / euclidean(vectors[a], 0 * vectors[a]) for a in rows]
            assert near(units.vectors[k, channel], sum(shares) / len(rows))
