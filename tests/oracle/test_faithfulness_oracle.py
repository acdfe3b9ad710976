"""Every metric of a map and a model against plain loops from its definition: one image, one step, one pixel at a time.

The loops share nothing with the package but the draws of its seeds: maps are enlarged by hand, holes are filled by
scipy's sparse solver, a blur is scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, gaussian_filter
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from conceptlens import metrics
from conceptlens.metrics import ScoredImages, score_module
from conceptlens.metrics.neighbour_imputation import impute
from conceptlens.metrics.pixel_fills import BLUR_SIGMA, ROAD_NOISE, WHOLE_FILLS, prepare_fill

SIZE, CLASSES = (10, 8), 4
BLACK = torch.tensor([-1.5, -1.0, -0.5], dtype=torch.float64)
SHARES = (0.1, 0.35, 0.8)
Array = np.ndarray


class Net(nn.Module):
    """A small network that is nowhere linear, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Conv2d(3, 6, 3, padding=1, dtype=torch.float64)
        self.last = nn.Linear(6, CLASSES, dtype=torch.float64)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.6
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images).tanh().amax((2, 3)) * 2)


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


@pytest.fixture(scope="module")
def scored(net: Net) -> ScoredImages:
    images = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return score_module(net, images, torch.tensor([[0, 2], [1, 3], [3, 0]]), BLACK)


def drawn_maps(kind: str) -> Tensor:
    """Maps at their own grid, at the size of the images, or with large equal regions as a ReLU leaves them."""
    generator = torch.Generator().manual_seed(3)
    if kind == "coarse":
        return torch.randn(3, 2, 7, 4, generator=generator)
    maps = torch.randn(3, 2, *SIZE, generator=generator)
    return maps if kind == "fine" else maps.clamp_min(0.8) - 0.8


KINDS = ("coarse", "fine", "equal regions")


def probabilities(net: Net, image: Array) -> Array:
    logits = net(torch.from_numpy(np.ascontiguousarray(image))[None])[0].detach().numpy()
    return np.exp(logits) / np.exp(logits).sum()


def enlarge(cells: Array) -> Array:
    """Bilinear, by hand: the centre of a cell keeps its place, and beyond the outermost centres nothing changes."""
    (rows, columns), (height, width) = SIZE, cells.shape
    large = np.zeros(SIZE)
    for row in range(rows):
        for column in range(columns):
            y = min(max((row + 0.5) * height / rows - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / columns - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            down, right = min(top + 1, height - 1), min(left + 1, width - 1)
            v, u = y - top, x - left
            above = cells[top, left] * (1 - u) + cells[top, right] * u
            below = cells[down, left] * (1 - u) + cells[down, right] * u
            large[row, column] = above * (1 - v) + below * v
    return large


def falling(cells: Array, seed: int = 0) -> list[tuple[int, int]]:
    """Pixels from the highest down; equal ones in the order of one drawn permutation."""
    large = enlarge(cells.astype(np.float64)).astype(np.float32)
    drawn = torch.randperm(SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(seed)).tolist()
    pixels = [divmod(index, SIZE[1]) for index in drawn]
    return sorted(pixels, key=lambda pixel: -large[pixel])


def solved(image: Array, hole: list[tuple[int, int]]) -> Array:
    """ROAD's system, one equation after the other; the same one for each colour, solved by itself."""
    number = {pixel: index for index, pixel in enumerate(hole)}
    filled = image.copy()
    matrix, right = lil_matrix((len(hole), len(hole))), np.zeros((len(image), len(hole)))
    for (row, column), index in number.items():
        for down in (-1, 0, 1):
            for aside in (-1, 0, 1):
                beside = (row + down, column + aside)
                if (down, aside) == (0, 0) or not (0 <= beside[0] < SIZE[0] and 0 <= beside[1] < SIZE[1]):
                    continue
                weight = 1 / 12 if down and aside else 1 / 6
                matrix[index, index] += weight
                if beside in number:
                    matrix[index, number[beside]] -= weight
                else:
                    right[:, index] += weight * image[:, beside[0], beside[1]]
    for colour in range(len(image)):
        values = spsolve(matrix.tocsc(), right[colour])
        for pixel, index in number.items():
            filled[colour][pixel] = values[index]
    return filled


def without(image: Array, hole: list[tuple[int, int]], fill: str) -> Array:
    """One image with something else in the place of some pixels."""
    if fill in ("inpaint", "noisy_linear"):
        if not hole:
            return image
        if len(hole) == SIZE[0] * SIZE[1]:
            other = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape).copy()
        else:
            other = solved(image, hole)
        if fill == "noisy_linear":
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).numpy()
            other = other + ROAD_NOISE * noise
    else:
        other = whole_fill(image, fill)
    changed = image.copy()
    for pixel in hole:
        for colour in range(len(image)):
            changed[colour][pixel] = other[colour][pixel]
    return changed


def whole_fill(image: Array, fill: str) -> Array:
    if fill == "mean":
        return np.stack([np.full(SIZE, colour.mean()) for colour in image])
    if fill == "black":
        return np.stack([np.full(SIZE, float(value)) for value in BLACK])
    if fill == "zero":
        return np.zeros_like(image)
    if fill == "rise_blur":
        point = np.zeros((11, 11))
        point[5, 5] = 1
        kernel = gaussian_filter(point, 5)
        return np.stack([convolve(colour, kernel, mode="constant") for colour in image])
    sigma = BLUR_SIGMA * min(SIZE)
    return np.stack([gaussian_filter(colour, sigma, mode="nearest", truncate=4.0) for colour in image])


Score = Callable[[Array], float]


def each(scored: ScoredImages, net: Net, maps: Tensor, measure: Callable[[Array, Array, int, Score], float]) -> Tensor:
    """Call `measure(image, map, class, p)` for every image and question."""
    values = torch.zeros(maps.shape[:2], dtype=torch.float64)
    for image in range(maps.shape[0]):
        for question in range(maps.shape[1]):
            about = int(scored.classes[image, question])
            values[image, question] = measure(
                scored.images[image].numpy(),
                maps[image, question].numpy(),
                about,
                lambda variant, about=about: float(probabilities(net, variant)[about]),
            )
    return values


def count(share: float) -> int:
    return round(share * SIZE[0] * SIZE[1])


def trapezoid(values: list[float], places: list[float]) -> float:
    steps = zip(values, values[1:], places, places[1:], strict=False)
    return sum((a + b) / 2 * (right - left) for a, b, left, right in steps)


@pytest.mark.parametrize("fill", metrics.FILLS)
@pytest.mark.parametrize("kind", KINDS)
def test_deletion_and_insertion(net: Net, scored: ScoredImages, kind: str, fill: str) -> None:
    maps, pixels = drawn_maps(kind), SIZE[0] * SIZE[1]
    counts = [count(step / 5) for step in range(6)]

    def deleted(image: Array, cells: Array, about: int, p: Score) -> float:
        order = falling(cells)
        return trapezoid([p(without(image, order[:n], fill)) for n in counts], [n / pixels for n in counts])

    def inserted(image: Array, cells: Array, about: int, p: Score) -> float:
        order = falling(cells)
        return trapezoid([p(without(image, order[n:], fill)) for n in counts], [n / pixels for n in counts])

    found = metrics.deletion(maps, scored, fill, shares=5)
    assert found.fill == fill
    torch.testing.assert_close(found.values, each(scored, net, maps, deleted), rtol=0, atol=1e-6)
    found = metrics.insertion(maps, scored, fill, shares=5)
    torch.testing.assert_close(found.values, each(scored, net, maps, inserted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_relative_drop_and_its_area(net: Net, scored: ScoredImages, kind: str) -> None:
    maps, pixels = drawn_maps(kind), SIZE[0] * SIZE[1]
    rivals = (scored.classes + 1) % CLASSES

    def drop(image: Array, cells: Array, about: int, n: int, rival: int | None) -> float:
        before, after = probabilities(net, image), probabilities(net, without(image, falling(cells)[:n], "blur"))
        if rival is None:
            rival = max((one for one in range(CLASSES) if one != about), key=lambda one: before[one])
        return (before[about] - after[about]) - (before[rival] - after[rival])

    expected = each(scored, net, maps, lambda x, m, c, p: drop(x, m, c, count(0.1), None))
    found = metrics.relative_drop(maps, scored, 0.1, "blur")
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-9)
    expected = each(scored, net, maps, lambda x, m, c, p: drop(x, m, c, count(0.1), (c + 1) % CLASSES))
    found = metrics.relative_drop(maps, scored, 0.1, "blur", rivals)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-9)
    places = [n / pixels for n in map(count, SHARES)]
    expected = each(
        scored,
        net,
        maps,
        lambda x, m, c, p: (
            trapezoid([drop(x, m, c, count(s), None) for s in SHARES], places) / (places[-1] - places[0])
        ),
    )
    found = metrics.relative_drop_area(maps, scored, "blur", SHARES)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fill", ["mean", "black", "inpaint"])
def test_comprehensiveness_and_sufficiency(net: Net, scored: ScoredImages, fill: str) -> None:
    maps = drawn_maps("coarse")

    def comprehensive(image: Array, cells: Array, about: int, p: Score) -> float:
        drops = [p(image) - p(without(image, falling(cells)[: count(share)], fill)) for share in SHARES]
        return sum(drops) / len(drops)

    def sufficient(image: Array, cells: Array, about: int, p: Score) -> float:
        kept = [len(falling(cells)) - count(1 - share) for share in SHARES]
        drops = [p(image) - p(without(image, falling(cells)[n:], fill)) for n in kept]
        return sum(drops) / len(drops)

    found = metrics.comprehensiveness(maps, scored, fill, SHARES)
    torch.testing.assert_close(found.values, each(scored, net, maps, comprehensive), rtol=0, atol=1e-6)
    found = metrics.sufficiency(maps, scored, fill, SHARES)
    torch.testing.assert_close(found.values, each(scored, net, maps, sufficient), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_road(net: Net, scored: ScoredImages, kind: str) -> None:
    maps = drawn_maps(kind)

    def most(image: Array, cells: Array, about: int, p: Score) -> float:
        losses = [p(without(image, falling(cells)[: count(s)], "noisy_linear")) - p(image) for s in SHARES]
        return sum(losses) / len(losses)

    def least(image: Array, cells: Array, about: int, p: Score) -> float:
        losses = [p(without(image, falling(cells)[::-1][: count(s)], "noisy_linear")) - p(image) for s in SHARES]
        return sum(losses) / len(losses)

    first, last = each(scored, net, maps, most), each(scored, net, maps, least)
    for order, expected in (("most", first), ("least", last), ("combined", (last - first) / 2)):
        found = metrics.road(maps, scored, order=order, shares=SHARES)
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", WHOLE_FILLS)
def test_average_drop_and_increase(net: Net, scored: ScoredImages, fill: str) -> None:
    maps = drawn_maps("coarse")

    def masked(image: Array, cells: Array, p: Score) -> float:
        large = enlarge(cells.astype(np.float64))
        kept = (large - large.min()) / (large.max() - large.min())
        return p(kept * image + (1 - kept) * whole_fill(image, fill))

    drops = each(scored, net, maps, lambda x, m, c, p: max(0.0, p(x) - masked(x, m, p)) / p(x))
    rises = each(scored, net, maps, lambda x, m, c, p: float(masked(x, m, p) > p(x)))
    torch.testing.assert_close(metrics.average_drop(maps, scored, fill).values, drops, rtol=0, atol=1e-6)
    torch.testing.assert_close(metrics.increase_in_confidence(maps, scored, fill).values, rises, rtol=0, atol=0)


def test_completeness(net: Net, scored: ScoredImages) -> None:
    maps = drawn_maps("coarse")

    def missed(image: Array, cells: Array, about: int, p: Score) -> float:
        change = p(image) - p(whole_fill(image, "blur"))
        return abs(sum(float(cell) for cell in cells.ravel()) - change) / abs(change)

    found = metrics.completeness(maps, scored, "blur")
    torch.testing.assert_close(found.values, each(scored, net, maps, missed), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity(net: Net, scored: ScoredImages, scaled: bool) -> None:
    maps, samples = drawn_maps("coarse"), 6
    draws = torch.rand(samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    squares = []
    for length, down, right in draws:
        side = max(1, round(min(SIZE) * (1 / 8 + length * 3 / 8)))
        top, left = int(down * (SIZE[0] - side + 1)), int(right * (SIZE[1] - side + 1))
        squares.append([(row, column) for row in range(top, top + side) for column in range(left, left + side)])

    def error(image: Array, cells: Array, about: int, p: Score) -> float:
        large = enlarge(cells.astype(np.float64)) * cells.size / (SIZE[0] * SIZE[1])
        told = [sum(large[pixel] for pixel in square) for square in squares]
        change = [p(image) - p(without(image, square, "mean")) for square in squares]
        factor = 1.0
        if scaled:
            factor = sum(a * b for a, b in zip(told, change, strict=True)) / sum(a * a for a in told)
        return sum((factor * a - b) ** 2 for a, b in zip(told, change, strict=True)) / samples

    found = metrics.infidelity(maps, scored, "mean", samples, scaled)
    torch.testing.assert_close(found.values, each(scored, net, maps, error), rtol=1e-5, atol=1e-9)


def test_max_sensitivity(net: Net, scored: ScoredImages) -> None:
    def explain(images: Tensor) -> Tensor:
        return net.first(images).detach()[:, :2]  # two channels stand for the maps of two questions

    radius, samples, generator = 0.1, 4, torch.Generator().manual_seed(0)
    noise = [radius * (2 * torch.rand(3, *SIZE, generator=generator) - 1) for _ in range(samples)]
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for image in range(3):
        one = scored.images[image : image + 1]
        for question in range(2):
            before = explain(one)[0, question]
            moved = [float((explain(one + e)[0, question] - before).norm() / before.norm()) for e in noise]
            expected[image, question] = max(moved)
    found = metrics.max_sensitivity(explain, scored.images, radius, samples)
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-9)


def drawn_concepts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    regions = torch.rand(3, 5, *SIZE, generator=generator) > 0.8
    contributions = torch.randn(3, 5, generator=generator)
    contributions[0, 2] = torch.nan
    regions[1, 3] = False
    return regions, contributions


@pytest.mark.parametrize("fill", ["mean", "inpaint"])
def test_deletion_and_insertion_of_concepts(net: Net, scored: ScoredImages, fill: str) -> None:
    regions, contributions = drawn_concepts()
    everything = {(row, column) for row in range(SIZE[0]) for column in range(SIZE[1])}

    def area(image: int, question: int, put_in: bool) -> float:
        x, about = scored.images[image].numpy(), int(scored.classes[image, question])
        usable = [c for c in range(5) if regions[image, c].any() and not math.isnan(contributions[image, c])]
        order = sorted(usable, key=lambda c: -float(contributions[image, c]))
        taken: set[tuple[int, int]] = set()
        curve = []
        for concept in (None, *order):
            if concept is not None:
                taken |= {(int(row), int(column)) for row, column in regions[image, concept].nonzero()}
            hole = sorted(everything - taken if put_in else taken)
            curve.append(float(probabilities(net, without(x, hole, fill))[about]))
        return trapezoid(curve, [step / len(order) for step in range(len(curve))])

    for put_in, compute in ((False, metrics.concept_deletion), (True, metrics.concept_insertion)):
        expected = torch.tensor([[area(i, q, put_in) for q in range(2)] for i in range(3)], dtype=torch.float64)
        found = compute(regions, contributions, scored, fill)
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-6)


def test_deletion_of_the_channels_of_concepts() -> None:
    generator = torch.Generator().manual_seed(5)
    cells = torch.randn(2, 8, 4, 4, generator=generator, dtype=torch.float64)
    head = torch.randn(8, generator=generator, dtype=torch.float64)

    def score(variants: Tensor, rows: Tensor) -> Tensor:
        return (variants.square().mean((2, 3)) @ head).sigmoid()[:, None]

    channels = torch.rand(2, 3, 8, generator=generator) > 0.5
    contributions = torch.randn(2, 3, generator=generator)
    found = metrics.concept_deletion(channels, contributions, ScoredImages(cells, score))
    for image in range(2):
        variant, curve = cells[image].clone(), [float(score(cells[image][None], torch.tensor([image])))]
        for concept in contributions[image].argsort(descending=True).tolist():
            for channel in range(8):
                if channels[image, concept, channel]:
                    variant[channel] = cells[image, channel].mean()
            curve.append(float(score(variant[None], torch.tensor([image]))))
        assert found.of(image, 0) == pytest.approx(trapezoid(curve, [0, 1 / 3, 2 / 3, 1]), abs=1e-9)


def test_rfxg(net: Net, scored: ScoredImages) -> None:
    maps, pixels = drawn_maps("fine"), SIZE[0] * SIZE[1]
    generator = torch.Generator().manual_seed(6)
    first, second = (torch.rand(3, 2, CLASSES, generator=generator) > 0.4 for _ in range(2))
    first[..., 1], second[..., 2] = True, True
    rivals = (scored.classes + 2) % CLASSES
    places = [count(s) / pixels for s in metrics.group_scores.RFXG_SHARES]

    def mean(p: Array, group: Tensor) -> float:
        members = [float(p[k]) for k in range(CLASSES) if group[k]]
        return sum(members) / len(members)

    def area(measure: Callable[[Array, Array, int, int], float]) -> Tensor:
        values = torch.zeros(3, 2, dtype=torch.float64)
        for i in range(3):
            for q in range(2):
                x, order = scored.images[i].numpy(), falling(maps[i, q].numpy())
                before = probabilities(net, x)
                curve = [
                    measure(before, probabilities(net, without(x, order[: round(place * pixels)], "black")), i, q)
                    for place in places
                ]
                values[i, q] = trapezoid(curve, places)
        return values

    def same(found: metrics.Score, expected: Tensor) -> None:
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-9)

    own = scored.classes
    same(
        metrics.contrastive_class_score(maps, scored, rivals),
        area(lambda p, s, i, q: s[own[i, q]] - s[rivals[i, q]]),
    )
    same(
        metrics.class_group_score(maps, scored, first),
        area(lambda p, s, i, q: (mean(s - p, first[i, q]) + s[own[i, q]] - p[own[i, q]]) / 2),
    )
    same(metrics.pointwise_group_score(maps, scored, first), area(lambda p, s, i, q: mean(p - s, first[i, q])))
    same(
        metrics.contrastive_group_score(maps, scored, first, second),
        area(lambda p, s, i, q: (mean(s - p, first[i, q]) + mean(s - p, second[i, q])) / 2),
    )
    same(
        metrics.group_relative_drop(maps, scored, first, second),
        area(lambda p, s, i, q: mean(p - s, first[i, q]) - mean(p - s, second[i, q])),
    )


@pytest.mark.parametrize("size", [(5, 7), (33, 40), (64, 64), (70, 31)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 5e-4), (torch.float64, 1e-5)])
def test_holes_of_any_shape_are_solved(size: tuple[int, int], share: float, dtype: torch.dtype, error: float) -> None:
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(2, 3, *size, generator=generator).to(dtype)
    smooth = nn.functional.interpolate(torch.randn(1, 1, 4, 4, generator=generator), size, mode="bicubic")[0, 0]
    scattered = torch.rand(size, generator=generator)
    removed = torch.stack([smooth <= smooth.quantile(share), scattered <= scattered.quantile(share)])
    found = impute(images, removed)
    assert torch.equal(found[~removed[:, None].expand_as(found)], images[~removed[:, None].expand_as(images)])
    for image, hole, filled in zip(images, removed, found, strict=True):
        expected = solve_matrix(image.double().numpy(), hole.numpy())
        np.testing.assert_allclose(filled.numpy(), expected, rtol=0, atol=error)


def solve_matrix(image: Array, hole: Array) -> Array:
    """The same system as `solved`, of any size."""
    rows, columns = hole.shape
    number = -np.ones(hole.shape, int)
    number[hole] = np.arange(hole.sum())
    matrix, right = lil_matrix((hole.sum(), hole.sum())), np.zeros((hole.sum(), len(image)))
    for row, column in zip(*np.nonzero(hole), strict=True):
        index = number[row, column]
        for down, aside in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
            y, x = row + down, column + aside
            if not (0 <= y < rows and 0 <= x < columns):
                continue
            weight = 1 / 12 if down and aside else 1 / 6
            matrix[index, index] += weight
            if hole[y, x]:
                matrix[index, number[y, x]] -= weight
            else:
                right[index] += weight * image[:, y, x]
    filled = image.copy()
    filled[:, hole] = spsolve(matrix.tocsc(), right).reshape(hole.sum(), -1).T
    return filled


def test_an_image_of_which_nothing_is_left_is_its_mean_colour() -> None:
    images = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(8))
    found = impute(images, torch.ones(1, 20, 20, dtype=torch.bool))
    torch.testing.assert_close(found, images.mean((2, 3), keepdim=True).expand_as(images), rtol=0, atol=1e-6)


def test_a_blur_is_scipys() -> None:
    images = torch.randn(2, 3, 30, 24, generator=torch.Generator().manual_seed(9))
    found = prepare_fill("blur", images).replacement
    expected = np.stack(
        [[gaussian_filter(c, BLUR_SIGMA * 24, mode="nearest", truncate=4.0) for c in x] for x in images.numpy()]
    )
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
