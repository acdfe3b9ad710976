"""Metrics of a map and a model: known extremes, invariances, whatever size of batch, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_cases import random_maps, scored_case
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens import metrics
from conceptlens.cams.image_scoring import scored_cells, scored_images, similar_classes
from conceptlens.metrics import FAITHFULNESS_METRICS, FURTHER_FAITHFULNESS_METRICS, ScoredImages, score_module
from conceptlens.metrics.removal_readings import REMOVAL_READINGS
from conceptlens.metrics.rise_settings import RISE_FILLS
from planted import LABELS, ColourNet
from tolerance import assert_agree

SIZE = 16
PIXELS = SIZE * SIZE
BLACK = torch.zeros(3)


class Counted(nn.Module):
    """A network whose answer is planted: the logit of class 0 is the sum of the pixels times their weights."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.most = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.most = max(self.most, len(images))
        total = (images.mean(1) * self.weights).sum((1, 2))
        return torch.stack([total, torch.zeros_like(total), -total], 1)


@pytest.fixture
def weights() -> Tensor:
    """How much each pixel counts, no two alike, all above 0."""
    order = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0)).reshape(SIZE, SIZE)
    return (order + 1) / PIXELS**1.5


@pytest.fixture
def scored(weights: Tensor) -> ScoredImages:
    """Ones, so that removing a pixel takes its weight away; the score is the share of the weights that is left."""
    images = torch.ones(2, 3, SIZE, SIZE)

    def share(variants: Tensor, rows: Tensor) -> Tensor:
        return ((variants.mean(1) * weights).sum((1, 2)) / weights.sum())[:, None]

    return ScoredImages(images, share, BLACK)


def expected_area(order: Tensor, weights: Tensor) -> float:
    """The mean of what is left while pixels are removed in an order, step by step of a single pixel."""
    left = 1 - torch.cat([torch.zeros(1), (weights.flatten()[order] / weights.sum()).cumsum(0)])
    return float(torch.trapezoid(left.double(), torch.linspace(0, 1, PIXELS + 1, dtype=torch.float64)))


def test_the_true_order_is_best_and_the_inverted_one_worst(scored: ScoredImages, weights: Tensor) -> None:
    perfect = weights.expand(2, 1, SIZE, SIZE)
    falling = weights.flatten().argsort(descending=True)
    best = metrics.deletion(perfect, scored, "black", PIXELS)
    worst = metrics.deletion(-perfect, scored, "black", PIXELS)
    assert best.of(0) == pytest.approx(expected_area(falling, weights), abs=1e-6)
    assert worst.of(0) == pytest.approx(expected_area(falling.flip(0), weights), abs=1e-6)
    assert best.of(0) == pytest.approx(1 / 3, abs=0.01)  # of weights that rise evenly, (1 - s)^2 is left
    assert worst.of(0) == pytest.approx(2 / 3, abs=0.01)
    assert metrics.insertion(perfect, scored, "black").of(0) == pytest.approx(2 / 3, abs=0.01)
    assert metrics.road(perfect, scored, "black").of(0) > 0.1
    assert metrics.road(-perfect, scored, "black").of(0) < -0.1
    assert metrics.comprehensiveness(perfect, scored, "black").of(0) > metrics.comprehensiveness(
        -perfect, scored, "black"
    ).of(0)
    assert metrics.sufficiency(perfect, scored, "black").of(0) < metrics.sufficiency(-perfect, scored, "black").of(0)


def test_random_orders_have_their_derived_level(scored: ScoredImages) -> None:
    """Of what adds up, a random order leaves 1 - s after a share s: an area of one half, and ROAD of 0."""
    found = []
    for seed in range(20):
        maps = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        found.append(
            [
                metrics.deletion(maps, scored, "black").of(0),
                metrics.insertion(maps, scored, "black").of(0),
                metrics.road(maps, scored, "black").of(0),
                metrics.comprehensiveness(maps, scored, "black").of(0),
            ]
        )
    mean = np.mean(found, 0)
    assert mean == pytest.approx([0.5, 0.5, 0, np.mean(metrics.faithfulness.ERASER_SHARES)], abs=0.01)


def test_a_contribution_map_is_complete_and_predicts_what_squares_take_away(weights: Tensor) -> None:
    net = Counted(weights)
    scored = ScoredImages(torch.ones(1, 3, SIZE, SIZE), lambda x, rows: net(x)[:, :1], BLACK)
    maps = weights[None, None]
    assert metrics.completeness(maps, scored, "black").of(0) == pytest.approx(0, abs=1e-5)
    assert metrics.completeness(2 * maps, scored, "black").of(0) == pytest.approx(1, abs=1e-5)
    assert metrics.completeness(0 * maps, scored, "black").of(0) == 1
    exact = metrics.infidelity(maps, scored, "black")
    assert exact.of(0) == pytest.approx(0, abs=1e-9)
    assert metrics.infidelity(7 * maps, scored, "black").of(0) == pytest.approx(0, abs=1e-9)
    assert metrics.infidelity(7 * maps, scored, "black", scaled=False).of(0) > 1e-3
    assert metrics.infidelity(0 * maps, scored, "black").of(0) > 1e-3


def test_a_map_that_ignores_the_image_is_not_sensitive(weights: Tensor) -> None:
    images = torch.ones(2, 3, SIZE, SIZE)
    fixed = metrics.max_sensitivity(lambda x: weights.expand(len(x), 1, SIZE, SIZE), images)
    assert fixed.values.tolist() == [[0.0], [0.0]]
    moved = metrics.max_sensitivity(lambda x: x[:, :1], images, radius=0.1)
    assert 0 < moved.of(0) <= 0.1
    nothing = metrics.max_sensitivity(lambda x: 0 * x[:, :1], images)
    assert nothing.count == 0


def test_relative_drop_tells_a_class_from_its_rival() -> None:
    """Class 0 is seen on the left, class 1 on the right: only the map of the left loses one and not the other."""

    def logits(images: Tensor) -> Tensor:
        shown = images.mean(1)
        left, right = shown[..., : SIZE // 2].mean((1, 2)), shown[..., SIZE // 2 :].mean((1, 2))
        return torch.stack([5 * left, 4 * right, torch.zeros_like(left)], 1)

    images = torch.ones(1, 3, SIZE, SIZE)
    scored = ScoredImages(
        images,
        lambda x, rows: logits(x).softmax(1)[:, :1],
        BLACK,
        lambda x, rows: logits(x).softmax(1),
        torch.zeros(1, 1, dtype=torch.long),
    )
    columns = torch.arange(SIZE).flip(0).float().expand(1, 1, SIZE, SIZE)
    left, right = (metrics.relative_drop(maps, scored, 0.5, "black").of(0) for maps in (columns, -columns))
    p = logits(images).softmax(1)[0]
    q = torch.tensor([0.0, 4.0, 0.0]).softmax(0)
    assert left == pytest.approx(float((p[0] - q[0]) - (p[1] - q[1])), abs=1e-5)
    assert left > 1 > 0 > right
    curves = metrics.relative_drop_curves(columns, scored, 4, "black")
    assert curves.scores[0, 0, 0] == 0
    assert metrics.relative_drop_area(columns, scored, "black", 4).of(0) == pytest.approx(float(curves.area().of(0)))
    third = metrics.relative_drop(columns, scored, 0.5, "black", rivals=torch.tensor([[2]])).of(0)
    assert third == pytest.approx(float((p[0] - q[0]) - (p[2] - q[2])), abs=1e-5)


@pytest.mark.parametrize("name", [*FAITHFULNESS_METRICS])
def test_metrics_of_the_table(name: str) -> None:
    """What ranks pixels takes any rising map alike; batches are singles; values lie in the stated range."""
    metric, (scored, maps) = FAITHFULNESS_METRICS[name], drawn_case()
    fill = "black" if name in ("average_drop", "increase_in_confidence", "completeness") else "noisy_linear"
    taken = {} if name in RISE_FILLS else {"fill": fill}
    found = metric.compute(maps, scored, **taken)
    assert found.fill == RISE_FILLS.get(name, fill)
    assert bool(found.applies.all())
    assert metric.low <= float(found.values.min()) <= float(found.values.max()) <= metric.high
    if name not in ("average_drop", "increase_in_confidence", "completeness", "infidelity"):
        same = metric.compute((maps * 3).exp(), scored, **taken)
        assert torch.equal(same.values, found.values)
        assert not bool(metric.compute(torch.ones_like(maps), scored, **taken).applies.any())
    swapped = ScoredImages(
        scored.images.flip(0),
        lambda x, rows: scored.score(x, 2 - rows),
        scored.black,
        lambda x, rows: scored.probabilities(x, 2 - rows),
        scored.classes.flip(0),
    )
    assert_agree(metric.compute(maps.flip(0), swapped, **taken).values.flip(0).float(), found.values.float())


@pytest.mark.parametrize("fill", ["blur", "noisy_linear"])
@pytest.mark.parametrize("classes_known", [True, False])
def test_metrics_that_share_their_passes_are_the_same(fill: str, classes_known: bool) -> None:
    scored, maps = drawn_case()
    maps[0, 0] = 1.0
    if not classes_known:
        scored = dataclasses.replace(scored, classes=None)
    found = metrics.removal_scores(maps, scored, fill)
    alone = {"average_drop", "increase_in_confidence", "infidelity", "completeness", *RISE_FILLS}
    drops = {name for name in FAITHFULNESS_METRICS if name.startswith("relative_drop")}
    assert set(found) == set(FAITHFULNESS_METRICS) - alone - (set() if classes_known else drops)
    for name, score in found.items():
        expected = FAITHFULNESS_METRICS[name].compute(maps, scored, fill=fill)
        torch.testing.assert_close(score.values, expected.values, rtol=0, atol=1e-6)
        assert torch.equal(score.applies, expected.applies)
        assert score.fill == fill


@pytest.mark.parametrize("metric", sorted(REMOVAL_READINGS))
def test_a_shared_metric_alone_runs_what_it_needs(metric: str) -> None:
    scored, maps = drawn_case()
    ran: list[int] = []
    counted = dataclasses.replace(scored, probabilities=noting(scored.probabilities, ran))
    found = metrics.removal_scores(maps, counted, metrics=[metric], rivals=(scored.classes + 2) % 4)
    assert list(found) == [metric]
    other = {"rivals": (scored.classes + 2) % 4} if metric.startswith("relative") else {}
    expected = FAITHFULNESS_METRICS[metric].compute(maps, scored, fill="mean", **other)
    torch.testing.assert_close(found[metric].values, expected.values, rtol=0, atol=1e-6)
    one = REMOVAL_READINGS[metric]
    each = len({round(share, 9) for share in one.highest} - {0}) + len({round(share, 9) for share in one.lowest} - {0})
    # Both maps of an image share the one without a pixel.
    assert sum(ran) == 3 + 3 * (2 * each - (1.0 in one.highest) - (1.0 in one.lowest))


def test_only_metrics_that_remove_pixels_are_shared() -> None:
    scored, maps = drawn_case()
    with pytest.raises(cl.InputError, match=r"no metric 'deletoin'.*deletion"):
        metrics.removal_scores(maps, scored, metrics=["deletoin"])
    with pytest.raises(cl.InputError, match="no metric 'average_drop'"):
        metrics.removal_scores(maps, scored, metrics=["average_drop"])
    with pytest.raises(cl.InputError, match="not known which class"):
        metrics.removal_scores(maps, dataclasses.replace(scored, classes=None), metrics=["relative_drop_5"])


def test_maps_that_remove_the_same_pixels_share_their_passes() -> None:
    scored, maps = drawn_case()
    ran: list[int] = []
    counted = dataclasses.replace(scored, score=noting(scored.score, ran))
    alone = metrics.deletion(maps, scored)
    one = maps.clone()
    one[:, 1] = 3 * one[:, 0] + 1  # the same order
    one[0, 1] = -one[0, 0]  # another one
    one[2] = maps[1].clone()  # the same maps of another image
    shared = metrics.deletion(one, counted)
    steps = 20
    assert sum(ran) == 3 + (2 * steps - 1) + steps + (2 * steps - 1)
    assert torch.equal(shared.values[:2, 0], alone.values[:2, 0])
    for image, question in [(0, 1), (1, 1), (2, 0), (2, 1)]:
        own = torch.zeros_like(maps)
        own[image, question] = one[image, question]
        expected = metrics.deletion(own, scored).values[image, question]
        assert float(shared.values[image, question]) == pytest.approx(float(expected), abs=1e-6)


def test_soft_masks_share_their_passes() -> None:
    scored, maps = drawn_case()
    ran: list[int] = []
    found = metrics.soft_mask_scores(maps, dataclasses.replace(scored, score=noting(scored.score, ran)), "blur")
    assert sum(ran) == 3 + 6
    assert set(found) == {"average_drop", "increase_in_confidence"}
    for name, score in found.items():
        assert torch.equal(score.values, FAITHFULNESS_METRICS[name].compute(maps, scored, fill="blur").values)


def noting(function: Callable[[Tensor, Tensor], Tensor] | None, ran: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function, which adds to `ran` how many variants each of its calls is given."""

    def run(variants: Tensor, rows: Tensor) -> Tensor:
        ran.append(len(variants))
        assert function is not None
        return function(variants, rows)

    return run


def drawn_case(dtype: torch.dtype = torch.float32) -> tuple[ScoredImages, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 20, 24, generator=generator).to(dtype)
    weight = torch.randn(4, 3, generator=generator)
    classes = torch.tensor([[0, 1], [2, 3], [1, 0]])

    def probabilities(variants: Tensor, rows: Tensor) -> Tensor:
        return (variants.float().square().mean((2, 3)) @ weight.T * 6).softmax(1)

    def score(variants: Tensor, rows: Tensor) -> Tensor:
        return probabilities(variants, rows).gather(1, classes[rows])

    maps = torch.randn(3, 2, 20, 24, generator=generator)
    return ScoredImages(images, score, torch.zeros(3), probabilities, classes), maps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fill", metrics.FILLS)
def test_half_precision(dtype: torch.dtype, fill: str) -> None:
    (scored, maps), (half, _) = drawn_case(), drawn_case(dtype)
    maps = maps.to(dtype)
    rounded = dataclasses.replace(scored, images=half.images.float())
    for compute in (metrics.deletion, metrics.road, metrics.relative_drop):
        found, expected = compute(maps, half, fill=fill), compute(maps.float(), rounded, fill=fill)
        torch.testing.assert_close(found.values, expected.values, rtol=0, atol=0.03)


def test_one_pass_takes_a_bounded_number_of_variants(weights: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    net = Counted(weights)
    scored = score_module(net, images, torch.zeros(3, 2, dtype=torch.long), BLACK)
    maps = torch.rand(3, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    whole = metrics.deletion(maps, scored)
    assert net.most > 5
    monkeypatch.setattr("conceptlens.metrics.variant_runs.PASS_BYTES", 5 * 4 * images[0].numel())
    monkeypatch.setattr("conceptlens.metrics.pixel_removal.RANK_BYTES", 4 * PIXELS)
    net.most = 0
    assert_agree(metrics.deletion(maps, scored).values, whole.values)
    assert net.most == 5


def test_curves_are_what_the_areas_are_made_of(scored: ScoredImages, weights: Tensor) -> None:
    maps = weights.expand(2, 1, SIZE, SIZE)
    curves = metrics.removal_curves(maps, scored, 4, "black")
    assert curves.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.scores[0, 0, 0] == curves.whole[0, 0] == pytest.approx(1)
    assert curves.scores[0, 0, -1] == pytest.approx(0, abs=1e-6)
    assert bool((curves.scores.diff(dim=2) < 0).all())
    assert metrics.deletion(maps, scored, "black", 4).of(0) == curves.area().of(0)
    some = metrics.deletion(maps, scored, "black", [0, 0.5, 1])
    assert some.of(0) == pytest.approx(float(curves.scores[0, 0, [0, 2, 4]] @ torch.tensor([0.25, 0.5, 0.25]).double()))


def test_equal_pixels_go_in_one_drawn_order_or_row_by_row(scored: ScoredImages) -> None:
    maps = torch.zeros(2, 1, SIZE, SIZE)
    maps[..., 0, 0] = 1
    drawn = [metrics.deletion(maps, scored, "black", seed=seed).of(0) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert metrics.deletion(maps, scored, "black", ties="rows").of(0) != drawn[0]


@pytest.fixture(scope="module")
def seen() -> cl.Observation:
    net = ColourNet()
    model = cl.Backbone(
        net,
        "colours",
        layers=("features",),
        transform=cl.Preprocess((64, 64), (0, 0, 0), (1, 1, 1)),
        class_names=LABELS,
    )
    return model.observe([photo(0), photo(1)])


class TestRefusals:
    """What has no right answer gets none."""

    def test_maps(self, scored: ScoredImages) -> None:
        maps = torch.rand(2, 1, SIZE, SIZE)
        maps[0, 0, 0, 0] = torch.nan
        with pytest.raises(cl.InputError, match="1 of 512 cells of the maps are NaN or infinite"):
            metrics.deletion(maps, scored)
        with pytest.raises(cl.InputError, match="expected image question height width for 2 images"):
            metrics.deletion(torch.rand(3, 1, 4, 4), scored)
        with pytest.raises(cl.InputError, match="are finer than images of 16 x 16 pixels"):
            metrics.deletion(torch.rand(2, 1, 32, 32), scored)
        with pytest.raises(cl.InputError, match="maps of 2 questions and scores of 1"):
            metrics.deletion(torch.rand(2, 2, 4, 4), scored)
        with pytest.raises(cl.InputError, match="hold no question"):
            metrics.deletion(torch.rand(2, 0, 4, 4), scored)
        flat = metrics.deletion(torch.cat([torch.ones(1, 1, 4, 4), torch.rand(1, 1, 4, 4)]), scored)
        assert flat.applies.tolist() == [[False], [True]]

    def test_logits_are_no_probabilities(self, weights: Tensor) -> None:
        net = Counted(weights * 10)
        images, maps = torch.ones(1, 3, SIZE, SIZE), torch.rand(1, 1, 4, 4)

        def logits(x: Tensor, rows: Tensor) -> Tensor:
            return net(x)

        scored = ScoredImages(images, lambda x, r: net(x)[:, :1], BLACK, logits, torch.zeros(1, 1, dtype=torch.long))
        for name in ("relative_drop_5", "relative_drop_area", "deletion", "insertion", "average_drop", "sufficiency"):
            with pytest.raises(cl.InputError, match=r"are no probabilities.*after the softmax"):
                FAITHFULNESS_METRICS[name].compute(maps, scored)
        assert metrics.road(maps, scored).count == 1

    def test_one_class(self) -> None:
        def one(x: Tensor, rows: Tensor) -> Tensor:
            return torch.ones(len(x), 1)

        images = torch.ones(1, 3, 8, 8)
        scored = ScoredImages(images, one, probabilities=one, classes=torch.zeros(1, 1, dtype=torch.long))
        with pytest.raises(cl.InputError, match="one class alone"):
            metrics.relative_drop(torch.rand(1, 1, 4, 4), scored)

    def test_modules(self) -> None:
        images, classes = torch.ones(1, 3, 4, 4), torch.zeros(1, 1, dtype=torch.long)
        maps = torch.rand(1, 1, 4, 4)
        for width, wanted in ((1, "logits of two classes or more"), (2, "a class is 5; the module gives logits of 2")):
            net = nn.Sequential(nn.Flatten(), nn.Linear(48, width)).eval()
            with pytest.raises(cl.InputError, match=wanted):
                metrics.deletion(maps, score_module(net, images, classes + 5 * (width > 1)))
        with pytest.raises(cl.InputTypeError, match="expected an nn"):
            score_module(torch.sum, images, classes)  # pyright: ignore[reportArgumentType]

    def test_training_mode(self, weights: Tensor) -> None:
        with pytest.raises(cl.InputError, match="training mode"):
            score_module(Counted(weights).train(), torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 1, dtype=torch.long))

    def test_what_is_not_known(self, scored: ScoredImages) -> None:
        maps = torch.rand(2, 1, 4, 4)
        with pytest.raises(cl.InputError, match="not known what black is"):
            metrics.deletion(maps, dataclasses.replace(scored, black=None), "black")
        with pytest.raises(cl.InputError, match="not known which class"):
            metrics.relative_drop(maps, scored)
        known = dataclasses.replace(scored, classes=torch.zeros(2, 1, dtype=torch.long))
        with pytest.raises(cl.InputError, match="probabilities of all classes are not known"):
            metrics.relative_drop(maps, known)
        with pytest.raises(cl.InputError, match="no fill 'blurr'; near names: blur"):
            metrics.deletion(maps, scored, "blurr")
        with pytest.raises(cl.InputError, match="needs pixels that are removed or not"):
            metrics.average_drop(maps, scored, "inpaint")
        with pytest.raises(cl.InputError, match="where the whole image goes"):
            metrics.completeness(maps, scored, "inpaint")

    def test_words_and_numbers(self, scored: ScoredImages) -> None:
        maps = torch.rand(2, 1, 4, 4)
        for shares in ([0.5, 0.2], [-0.1, 0.2], []):
            with pytest.raises(cl.InputError, match="expected shares of the pixels, rising"):
                metrics.deletion(maps, scored, shares=shares)
        with pytest.raises(cl.InputError, match="at least two shares"):
            metrics.deletion(maps, scored, shares=[0.5])
        with pytest.raises(cl.InputError, match="the number of steps is 0"):
            metrics.deletion(maps, scored, shares=0)
        with pytest.raises(cl.InputError, match="no ties 'any'"):
            metrics.deletion(maps, scored, ties="any")  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="no order 'both'"):
            metrics.road(maps, scored, order="both")  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="no removed 'all'"):
            metrics.removal_curves(maps, scored, removed="all")  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="the number of samples is 0"):
            metrics.infidelity(maps, scored, samples=0)
        with pytest.raises(cl.InputError, match="a radius above 0"):
            metrics.max_sensitivity(lambda x: x[:, :1], scored.images, radius=0)
        with pytest.raises(cl.InputTypeError, match="expected a function from images"):
            metrics.max_sensitivity(maps, scored.images)  # pyright: ignore[reportArgumentType]

    def test_images_and_scores(self) -> None:
        def score(x: Tensor, rows: Tensor) -> Tensor:
            return torch.full((len(x), 1), torch.nan)

        images, maps = torch.ones(1, 3, 8, 8), torch.rand(1, 1, 4, 4)
        with pytest.raises(cl.InputError, match="gave NaN or infinite scores"):
            metrics.deletion(maps, ScoredImages(images, score))
        with pytest.raises(cl.InputError, match="expected variant question"):
            metrics.deletion(maps, ScoredImages(images, lambda x, rows: x.mean((1, 2, 3))))
        with pytest.raises(cl.InputTypeError, match="expected a floating tensor"):
            metrics.deletion(maps, ScoredImages(images, lambda x, rows: x.mean((1, 2, 3))[:, None].long()))
        with pytest.raises(cl.InputTypeError, match="images are torch"):
            ScoredImages(images.byte(), score)
        with pytest.raises(cl.InputError, match="images hold NaN"):
            ScoredImages(images * torch.nan, score)
        with pytest.raises(cl.InputError, match="expected image colour rows columns"):
            ScoredImages(images[0], score)
        with pytest.raises(cl.InputTypeError, match="score is a Tensor"):
            ScoredImages(images, images)  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="one value for each colour"):
            ScoredImages(images, score, torch.zeros(2))

    def test_concepts(self, scored: ScoredImages) -> None:
        regions, counts = torch.rand(2, 3, SIZE, SIZE) > 0.5, torch.rand(2, 3)
        regions[0, 1:] = False
        counts[1, 0] = torch.nan
        found = metrics.concept_deletion(regions, counts, scored)
        assert found.applies.tolist() == [[False], [True]]  # one region is no order
        with pytest.raises(cl.InputError, match="compare them first"):
            metrics.concept_deletion(regions.float(), counts, scored)  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="places have shape"):
            metrics.concept_deletion(regions[..., :4], counts, scored)
        with pytest.raises(cl.InputError, match="contributions have shape"):
            metrics.concept_deletion(regions, counts[:, :2], scored)
        with pytest.raises(cl.InputError, match="infinite"):
            metrics.concept_deletion(regions, counts / 0, scored)
        with pytest.raises(cl.InputError, match="fill of channels is blur"):
            metrics.concept_insertion(torch.ones(2, 3, 3, dtype=torch.bool), counts, scored)

    def test_groups(self) -> None:
        scored, maps = drawn_case()
        groups = torch.zeros(3, 2, 4, dtype=torch.bool)
        groups[1:, :, :2] = True
        found = metrics.pointwise_group_score(maps, scored, groups)
        assert found.applies.tolist() == [[False, False], [True, True], [True, True]]
        with pytest.raises(cl.InputError, match="expected bool, image question class"):
            metrics.pointwise_group_score(maps, scored, groups.float())  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="groups are of 3 classes; the network gives 4"):
            metrics.pointwise_group_score(maps, scored, groups[..., :3])
        with pytest.raises(cl.InputError, match="a class is 9"):
            metrics.contrastive_class_score(maps, scored, torch.full((3, 2), 9))

    def test_rivals(self) -> None:
        scored, maps = drawn_case()
        with pytest.raises(cl.InputError, match="cannot be its own rival"):
            metrics.relative_drop(maps, scored, rivals=scored.classes)
        with pytest.raises(cl.InputError, match="rivals have shape"):
            metrics.relative_drop(maps, scored, rivals=torch.zeros(3, 1, dtype=torch.long))
        with pytest.raises(cl.InputError, match="no rivals 'nearest'"):
            metrics.relative_drop(maps, scored, rivals="nearest")  # pyright: ignore[reportArgumentType]


class TestObservations:
    """The builder: an observation and its targets become scored images, so the metrics see what the maps are of."""

    def test_a_true_map_beats_its_inverse(self, seen: cl.Observation) -> None:
        scored = scored_images(seen)
        found = cl.cam(seen)
        for name in ("deletion", "relative_drop_area"):
            metric = FAITHFULNESS_METRICS[name]
            true, inverted = (metric.compute(m, scored, fill="black").mean() for m in (found, -found.maps))
            assert (true > inverted) == metric.higher_is_better

    def test_scores_are_those_of_the_targets(self, seen: cl.Observation) -> None:
        rows = torch.tensor([1, 0])
        variants = seen.images[rows]
        targets = [cl.Probability(0), cl.Logit(1), cl.Contrast(2, gamma=1, nearest=1)]
        scored = scored_images(seen, targets)
        found = scored.run(variants, rows)
        probabilities = seen.logits.detach().softmax(1)[rows]
        assert_agree(found[:, 0], probabilities[:, 0])
        assert_agree(found[:, 1], seen.logits.detach()[rows, 1])
        assert_agree(scored.run_classes(variants, rows), probabilities)
        assert scored.classes is not None
        assert scored.classes.tolist() == [[0, 1, 2], [0, 1, 2]]
        assert scored_images(seen, lambda output: output.logits[:, 0]).classes is None
        assert scored.black is not None
        assert scored.black.tolist() == [0, 0, 0]

    def test_classes_are_asked_for_their_probability(self, seen: cl.Observation) -> None:
        rows = torch.arange(2)
        found = scored_images(seen, [0, 1]).run(seen.images, rows)  # one class for each image: one question
        expected = seen.logits.detach().softmax(1)[rows, rows][:, None]
        assert_agree(found, expected)

    def test_maps_of_other_photos_are_refused(self, seen: cl.Observation) -> None:
        with pytest.raises(cl.InputError, match="give them in one order"):
            metrics.deletion(cl.cam(seen).of(0), scored_images(seen.model.observe([photo(1)])))
        model = cl.Backbone(
            seen.model.module, "cropped", layers=("features",), class_names=LABELS,
            transform=cl.Preprocess((64, 64), (0, 0, 0), (1, 1, 1), share=0.5),
        )  # fmt: skip
        cropped = model.observe([photo(0)])
        assert metrics.deletion(cl.cam(cropped), scored_images(cropped)).count == 1
        with pytest.raises(cl.InputError, match="without upsampled"):
            metrics.deletion(cl.cam(seen).of(0), scored_images(cropped))

    def test_cells_lose_channels(self, seen: cl.Observation) -> None:
        scored = scored_cells(seen, cl.Probability(None))
        count = scored.images.shape[1]
        channels = torch.eye(count, dtype=torch.bool).expand(2, count, count)
        best = seen.logits.argmax(1)
        true = torch.nn.functional.one_hot(best, count).float()
        kept, lost = (metrics.concept_insertion(channels, c, scored, "mean").mean() for c in (true, -true))
        assert kept is not None
        assert lost is not None
        whole = scored.run(scored.images.flip(0), torch.tensor([1, 0]))
        assert_agree(whole.flip(0), scored_images(seen).run(seen.images, torch.arange(2)))

    def test_similar_classes(self, seen: cl.Observation) -> None:
        by_rank = similar_classes(seen, None, "rank")
        assert by_rank[:, 0].tolist() == seen.logits.topk(2, 1).indices[:, 1].tolist()
        rivals = similar_classes(seen, [cl.Probability(0), cl.Logit(1)])
        assert rivals.shape == (2, 2)
        maps = cl.cam(seen, [cl.Logit(0), cl.Logit(1)])
        found = metrics.relative_drop(maps, scored_images(seen, [cl.Probability(0), cl.Logit(1)]), rivals=rivals)
        assert found.values.shape == (2, 2)
        with pytest.raises(cl.InputError, match="not about a class"):
            similar_classes(seen, lambda output: output.logits[:, 0])


def photo(kind: int) -> Image.Image:
    """Return grey with a square of one colour, and a smaller one of another."""
    from conceptlens.data.drawn_scene import SCENE_COLOURS

    colours = list(SCENE_COLOURS.values())
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[16:48, 0:32] = colours[kind]
    pixels[16:32, 48:64] = colours[kind + 2]
    return Image.fromarray(pixels)


def test_scores_of_two_groups_add_what_the_score_of_one_says() -> None:
    scored, maps = scored_case(), random_maps(3)
    first = torch.nn.functional.one_hot(torch.tensor([[0, 0], [1, 1], [2, 2]]), 4).bool()
    second = torch.nn.functional.one_hot(torch.tensor([[3, 3], [2, 2], [0, 0]]), 4).bool()
    alone = [cl.metrics.pointwise_group_score(maps, scored, one).values for one in (first, second)]
    both = cl.metrics.contrastive_group_score(maps, scored, first, second).values
    torch.testing.assert_close(both, -(alone[0] + alone[1]) / 2)
    turned = cl.metrics.contrastive_group_score(maps, scored, second, first).values
    torch.testing.assert_close(turned, both)
    assert not FURTHER_FAITHFULNESS_METRICS["contrastive_group_score"].higher_is_better
    drop = cl.metrics.group_relative_drop(maps, scored, first, second).values
    torch.testing.assert_close(drop, alone[0] - alone[1])


def test_a_class_or_a_group_is_no_rival_of_itself() -> None:
    scored, maps = scored_case(), random_maps(3)
    assert scored.classes is not None
    groups = torch.nn.functional.one_hot(scored.classes, 4).bool()
    with pytest.raises(cl.InputError, match="a class cannot be its own rival; name another one for each question"):
        cl.metrics.contrastive_class_score(maps, scored, scored.classes)
    for metric in (cl.metrics.contrastive_group_score, cl.metrics.group_relative_drop):
        with pytest.raises(cl.InputError, match="a group cannot be its own rival"):
            metric(maps, scored, groups, groups)
        nobody = torch.zeros_like(groups)
        assert metric(maps, scored, nobody, nobody).count == 0


def test_channels_become_their_own_mean_or_that_of_their_layer() -> None:
    cells = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]]]])
    places = torch.eye(2, dtype=torch.bool)[None]

    def read(variants: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return variants[:, 0, 0, :1] / 100

    scored = ScoredImages(cells, read)
    contributions = torch.tensor([[2.0, 1.0]])
    # 0.01, then without channel 0 and without both: 0.02 by its own mean, 0.11 by that of the layer.
    for fill, rest in (("mean", 0.02), ("layer_mean", 0.11)):
        found = cl.metrics.concept_deletion(places, contributions, scored, fill)
        assert found.of(0, 0) == pytest.approx((0.5 * (0.01 + rest) + rest) / 2)
    with pytest.raises(cl.InputError, match="expected mean, each channel's own, or layer_mean"):
        cl.metrics.concept_deletion(places, contributions, scored, "blur")


def test_every_metric_says_what_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    told = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.M)))
    assert sorted(told) == sorted(FAITHFULNESS_METRICS | FURTHER_FAITHFULNESS_METRICS)
    cell = r" ([^|\n]*) \|"
    row = rf"^\| (`\w+`(?:, `\w+`)*) \|{cell}{cell}{cell}{cell}{cell}{cell}"
    for names, _, _, better, _, _, needs in re.findall(row, page, re.M):
        for name, side in zip(re.findall(r"`(\w+)`", names), better.split(", ") * 3, strict=False):
            metric = (FAITHFULNESS_METRICS | FURTHER_FAITHFULNESS_METRICS)[name]
            assert needs == ", ".join(metric.needs), name
            assert side == ("high" if metric.higher_is_better else "low"), name
    for name, metric in (FAITHFULNESS_METRICS | FURTHER_FAITHFULNESS_METRICS).items():
        assert metric.name == name
        assert metric.title
        assert metric.chance
        assert metric.source
        assert metric.needs
        assert metric.low < metric.high
