from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conceptlens as cl
from conceptlens.metrics import (
    MAP_MASK_METRICS,
    Score,
    area,
    best_iou,
    hit,
    iou,
    map_mask_scores,
    peak,
    pixel_precision,
    pixel_ranking,
    pixel_roc,
    pointing_energy,
    pointing_game,
    ranked_area,
    ranked_area_corrected,
    relevance_rank,
    top_inside,
)
from conceptlens.record import ImageInfo, Source
from tolerance import assert_agree

RIGHT = torch.tensor([[[False, True], [False, True]]])
UNRANKED = {"pointing_energy", "pointing_energy_minmax", "iou"}
RANKED = tuple(name for name in MAP_MASK_METRICS if name not in UNRANKED)
PAGE = Path(__file__).parents[2] / "docs" / "api" / "metrics.md"


def one(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.0, 0.0], [0.0, 1.0]], (0.75, 0.75)),
        ([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], (0.125, 0.25)),
        ([[0.0, 0.0], [0.0, 0.0]], (0.5, 0.5)),  # nowhere higher: the centre
        ([[1.0, 0.0, 1.0]], (0.5, 0.5)),  # two peaks: between them
        ([[-3.0, -1.0]], (0.75, 0.5)),
    ],
)
def test_peak(rows: list[list[float]], expected: tuple[float, float]) -> None:
    assert peak(one(rows))[0, 0].tolist() == pytest.approx(list(expected))
    assert torch.equal(peak(one(rows).numpy()), peak(one(rows)))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[0.0, 0.5], [0.4, 1.0]], 0.5), ([[0.0, 0.0]], 0.0), ([[1.0, 1.0]], 1.0), ([[-1.0, -2.0]], 0.0)],
)
def test_area(rows: list[list[float]], expected: float) -> None:
    assert float(area(one(rows))) == pytest.approx(expected)
    assert torch.equal(area(one(rows).numpy()), area(one(rows)))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blob(size: int, ratio: float, seed: int = 0) -> torch.Tensor:
    """A smooth mask that holds `ratio` of the pixels."""
    field = torch.nn.functional.interpolate(noise(1, 1, 4, 4, seed=seed), (size, size), mode="bicubic")[0]
    return field > field.quantile(1 - ratio)


def test_pointing_energy_by_hand() -> None:
    maps = one([[1.0, 3.0], [0.0, -4.0]])
    assert pointing_energy(maps, RIGHT).of(0) == pytest.approx(0.75)
    assert pointing_energy(maps, RIGHT, normalise="minmax").of(0) == pytest.approx(7 / 16)
    assert pointing_energy(torch.zeros(1, 1, 2, 2), RIGHT).of(0) == 0.0
    assert pointing_energy(torch.ones(1, 1, 2, 2), RIGHT, normalise="minmax").of(0) == 0.0


def test_pointing_game_by_hand() -> None:
    assert pointing_game(one([[1.0, 3.0], [0.0, -5.0]]), RIGHT).of(0) == 1.0
    assert pointing_game(one([[3.0, 1.0], [0.0, 2.0]]), RIGHT).of(0) == 0.0
    assert pointing_game(one([[3.0, 3.0], [0.0, 3.0]]), RIGHT).of(0) == pytest.approx(2 / 3)


def test_iou_by_hand() -> None:
    maps = one([[4.0, 3.0], [2.0, 1.0]])
    assert iou(maps, RIGHT).of(0) == pytest.approx(1 / 4)  # three pixels reach 2
    assert iou(maps, RIGHT, share=0.6).of(0) == pytest.approx(1 / 3)
    assert iou(maps - 9, RIGHT).of(0) == 0.0  # nowhere positive: nothing reaches a share of the maximum
    assert best_iou(maps, RIGHT).of(0) == pytest.approx(1 / 2)
    assert pixel_precision(maps, RIGHT).of(0) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_the_highest_pixels_by_hand() -> None:
    maps = one([[4.0, 3.0], [2.0, 1.0]])
    assert pixel_roc(maps, RIGHT).of(0) == pytest.approx(1 / 4)  # of four pairs, 3 over 2 alone is in order
    assert relevance_rank(maps, RIGHT).of(0) == pytest.approx(1 / 2)
    assert [top_inside(maps, RIGHT, share=s).of(0) for s in (0.01, 0.5, 0.75, 1)] == [0, 0.5, 0.5, 1]
    assert relevance_rank(one([[2.0, 1.0], [1.0, 1.0]]), RIGHT).of(0) == pytest.approx(1 / 3)  # one of three, 2 inside
    with pytest.raises(cl.InputError, match="share is 0; expected a share of the pixels, above 0 up to 1"):
        top_inside(maps, RIGHT, share=0)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.02, 0.2, 0.5, 0.9]))
def test_the_ideal_map_is_perfect_and_its_negative_the_worst(seed: int, ratio: float) -> None:
    masks = blob(24, ratio, seed)
    ideal = map_mask_scores(masks[None].float(), masks)
    assert {name: score.of(0) for name, score in ideal.items()} == pytest.approx(dict.fromkeys(MAP_MASK_METRICS, 1.0))
    worst = map_mask_scores(-masks[None].float(), masks)
    assert worst["ranked_area"].of(0) == 0
    assert worst["pixel_roc"].of(0) == 0
    assert worst["relevance_rank"].of(0) == pytest.approx(max(0, 2 * ratio - 1) / ratio, abs=0.02)
    assert MAP_MASK_METRICS["ranked_area_corrected"].low < float(worst["ranked_area_corrected"].values) < 0


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.05, 0.1, 0.4, 0.8]))
def test_chance(seed: int, ratio: float) -> None:
    masks = blob(80, ratio, seed)
    r = float(masks.double().mean())
    known_nothing = map_mask_scores(noise(1, 12, 80, 80, seed=seed + 1), masks)
    means = {name: score.mean() for name, score in known_nothing.items()}
    assert means["ranked_area_corrected"] == pytest.approx(0, abs=0.02)
    assert 0.09 < means["ranked_area"] < 0.18
    assert means["hit"] == 0
    assert means["pointing_energy"] == pytest.approx(r, rel=0.1)
    assert means["pixel_precision"] == pytest.approx(r, abs=0.05)
    assert means["best_iou"] >= r
    assert means["pixel_roc"] == pytest.approx(0.5, abs=0.03)
    assert means["relevance_rank"] == pytest.approx(r, abs=0.03)
    assert means["top_inside"] == pytest.approx(max(r, 0.05), abs=0.04)
    uniform = {name: score.of(0) for name, score in map_mask_scores(torch.full((1, 1, 7, 7), 0.1), masks).items()}
    k = r / (1 - r)
    nra = (k * (1 + k * math.log(r)) - r / 2) / (-r * math.log(r))
    shares = dict.fromkeys(("pointing_energy", "pointing_game", "best_iou", "iou", "pixel_precision"), r)
    shares |= {"pixel_roc": 0.5, "relevance_rank": r, "top_inside": r * 320 / min(320, r * 6400)}
    assert uniform == pytest.approx(
        {**shares, "pointing_energy_minmax": 0, "ranked_area": nra, "ranked_area_corrected": 0, "hit": 0}, abs=1e-9
    )


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_metrics_of_ranks_ignore_monotone_changes(seed: int) -> None:
    maps = (noise(2, 3, 9, 11, seed=seed) * 12).floor() - 4  # with ties
    masks = noise(2, 3, 9, 11, seed=seed + 1) > 0.7
    plain = map_mask_scores(maps, masks)
    for changed in (maps * 7 + 3, maps**3, maps.exp()):
        other = map_mask_scores(changed, masks)
        for name in RANKED:
            torch.testing.assert_close(other[name].values, plain[name].values)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_ignored_pixels_might_as_well_not_be_there(seed: int) -> None:
    maps = (noise(2, 2, 8, 12, seed=seed) * 9).floor() - 3
    masks = noise(2, 2, 8, 12, seed=seed + 1) > 0.6
    ignored = torch.zeros(2, 8, 12, dtype=torch.bool)
    ignored[..., 9:] = True
    with_them, without = map_mask_scores(maps, masks, ignored), map_mask_scores(maps[..., :9], masks[..., :9])
    for name in MAP_MASK_METRICS:
        torch.testing.assert_close(with_them[name].values, without[name].values)


def test_a_batch_gives_what_its_parts_give(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = noise(3, 4, 7, 6).sub(0.5).relu()
    masks = noise(3, 4, 30, 25, seed=1) > 0.5
    ignored = noise(3, 30, 25, seed=2) > 0.8
    whole = map_mask_scores(maps, masks, ignored)
    seeded = ranked_area(maps, masks, ignored, ties="seeded", seed=5)
    monkeypatch.setattr(pixel_ranking, "BATCH_PIXELS", 1)
    in_pieces = map_mask_scores(maps, masks, ignored)
    for i in range(3):
        single = map_mask_scores(maps[i : i + 1], masks[i : i + 1], ignored[i : i + 1])
        for name in MAP_MASK_METRICS:
            assert_agree(whole[name].values, in_pieces[name].values)
            assert_agree(whole[name].values[i : i + 1], single[name].values)
        alone = ranked_area(maps[i : i + 1], masks[i : i + 1], ignored[i : i + 1], ties="seeded", seed=5)
        assert_agree(seeded.values[i : i + 1], alone.values)
        binned = [ranked_area(maps[j], masks[j], ignored[j], bins="published") for j in (slice(3), slice(i, i + 1))]
        assert_agree(binned[0].values[i : i + 1], binned[1].values)
    assert not torch.equal(seeded.values, ranked_area(maps, masks, ignored, ties="seeded", seed=6).values)


def test_locate_is_the_functions_of_the_table() -> None:
    maps = noise(2, 3, 7, 7).sub(0.4)
    masks = torch.cat([blob(40, 0.2), blob(40, 0.4, seed=3)])
    scores = map_mask_scores(maps, masks)
    assert list(scores) == list(MAP_MASK_METRICS)
    for name, metric in MAP_MASK_METRICS.items():
        assert metric.name == name
        assert_agree(scores[name].values, metric.compute(maps, masks).values)
        assert bool(((scores[name].values >= metric.low) & (scores[name].values <= metric.high)).all())
    assert torch.equal(hit(maps, masks).values, (ranked_area(maps, masks).values > 0.5).double())
    same = map_mask_scores(maps, masks[:, None].expand(2, 3, 40, 40))
    for name in MAP_MASK_METRICS:
        assert_agree(same[name].values, scores[name].values)


def test_an_explanation_is_taken_as_its_maps() -> None:
    maps = noise(1, 1, 3, 3)
    source = Source("m", "l", "grad_cam", (ImageInfo("p"),))
    explanation = cl.Explanation(maps, None, torch.zeros(1, 1), (("a",),), source)
    masks = blob(12, 0.3)
    assert torch.equal(ranked_area(explanation, masks).values, ranked_area(maps, masks).values)


def test_maps_of_a_part_of_a_photo_are_not_stretched_over_the_whole() -> None:
    source = Source("m", "l", "grad_cam", (ImageInfo("cat.png", "", 30, 20, (0.25, 0.0, 0.75, 1.0)),))
    explanation = cl.Explanation(noise(1, 1, 3, 3), None, torch.zeros(1, 1), (("a",),), source)
    for metric in (iou, ranked_area, pointing_energy):
        with pytest.raises(cl.InputError, match=r"cat\.png cover a part of the photo \(0\.25 to 0\.75 of its width"):
            metric(explanation, blob(12, 0.3))


def test_a_mask_without_an_inside_or_an_outside_has_no_answer() -> None:
    maps = noise(4, 2, 5, 5).requires_grad_()
    masks = noise(4, 5, 5, seed=1) > 0.5
    ignored = torch.zeros_like(masks)
    masks[0], masks[1] = False, True
    masks[2], ignored[2] = False, True
    for name, score in map_mask_scores(maps, masks, ignored).items():
        assert score.applies.tolist() == [[False] * 2] * 3 + [[True] * 2], name
        assert score.values[:3].eq(0).all()
        assert score.of(0) is None
        assert score.mean() == pytest.approx(float(score.values[3].mean()))
    nowhere = map_mask_scores(maps[:1], masks[:1])["ranked_area"]
    assert nowhere.mean() is None
    assert repr(nowhere) == "Score(applies nowhere, shape (1, 2))"
    ignored[3] = masks[3]  # what is left is all outside
    assert ranked_area(maps, masks, ignored).count == 0


def test_a_score_gives_pairs_and_refuses_hidden_gaps() -> None:
    applies = torch.tensor([[True, False], [True, True]])
    score = Score(torch.tensor([[0.5, 0.0], [0.25, 0.75]]), applies)
    values, images = score.pairs()
    assert (values.tolist(), images.tolist()) == ([0.5, 0.25, 0.75], [0, 1, 1])
    assert repr(score) == "Score(mean 0.5000 over 3 of 4, shape (2, 2))"
    with pytest.raises(cl.InputError, match="must be finite, and 0 where it does not apply"):
        Score(torch.full((2, 2), 0.5), applies)
    with pytest.raises(cl.InputError, match="must be finite"):
        Score(torch.full((2, 2), math.nan), applies)
    with pytest.raises(cl.InputError, match="of one shape"):
        Score(torch.zeros(2), applies)


def test_equal_cells_stay_equal_when_enlarged() -> None:
    """Otherwise rounding would decide between pixels that the map does not tell apart."""
    masks = blob(113, 0.2)
    for dtype in (torch.float16, torch.float32):
        flat = torch.full((1, 1, 7, 7), 0.1, dtype=dtype)
        assert ranked_area_corrected(flat, masks).of(0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_are_refused(value: float) -> None:
    maps = one([[1.0, value], [0.0, 2.0]])
    with pytest.raises(cl.InputError, match="1 of 4 cells of the maps are NaN or infinite"):
        map_mask_scores(maps, RIGHT)


@pytest.mark.parametrize(
    ("shape", "dtype", "ignored", "message"),
    [
        ((2, 4, 4), torch.bool, None, "expected image rows columns for 1 images"),
        ((1, 2, 4, 4), torch.bool, None, "or image question rows columns for 3 questions each"),
        ((1, 4, 4), torch.uint8, None, "masks have type torch.uint8; expected torch.bool"),
        ((1, 1, 4), torch.bool, None, "1 x 4 pixels are coarser than maps of 2 x 2 cells"),
        ((1, 4, 4), torch.bool, (1, 4, 5), r"ignored has shape \(1, 4, 5\); expected \(1, 4, 4\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    shape: tuple[int, ...], dtype: torch.dtype, ignored: tuple[int, ...] | None, message: str
) -> None:
    out = None if ignored is None else torch.zeros(ignored, dtype=torch.bool)
    with pytest.raises(cl.InputError, match=message):
        ranked_area(noise(1, 3, 2, 2), torch.zeros(shape, dtype=dtype), out)


def test_unknown_settings_are_refused() -> None:
    maps = noise(1, 1, 2, 2)
    with pytest.raises(cl.InputError, match="no ties 'first'; there are: average, seeded, official"):
        ranked_area(maps, RIGHT, ties="first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="no bins 'fine'; there are: exact, published"):
        ranked_area(maps, RIGHT, bins="fine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="no normalise 'max'"):
        pointing_energy(maps, RIGHT, normalise="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="share is 0; expected a share of the highest value"):
        iou(maps, RIGHT, share=0)
    with pytest.raises(cl.InputError, match="maps have 3 axes"):
        iou(maps[0], RIGHT)


def test_random_orders_of_equal_pixels_average_to_the_expectation() -> None:
    maps = (noise(1, 2, 40, 40) * 3).floor()
    masks = blob(40, 0.25)
    drawn = torch.stack([ranked_area(maps, masks, ties="seeded", seed=s).values for s in range(40)])
    torch.testing.assert_close(drawn.mean(0), ranked_area(maps, masks).values, atol=5e-3, rtol=0)


def test_the_area_of_masks_of_one_pixel_and_of_all_but_one() -> None:
    masks = torch.zeros(1, 200, 200, dtype=torch.bool)
    masks[0, 3, 5] = True
    for mask in (masks, ~masks):
        assert ranked_area(mask[None].float(), mask).of(0) == pytest.approx(1, abs=1e-9)
        assert np.isfinite(float(ranked_area_corrected(noise(1, 1, 7, 7), mask).values))


def test_the_page_holds_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| (.+) \| `(\w+)` \| (.+) to (.+) \| (.+) \| (.+) \|$", PAGE.read_text("utf-8"), re.M)
    told = [(m.title, m.name, f"{m.low:g}", f"{m.high:g}", m.chance, m.source) for m in MAP_MASK_METRICS.values()]
    assert rows == told
    assert all(metric.higher_is_better for metric in MAP_MASK_METRICS.values())  # the page says so once, for all


def test_arrays_and_records_of_given_maps_score_like_tensors() -> None:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    wanted = map_mask_scores(maps, masks)
    for given_maps, given_masks in (
        (maps.numpy(), masks.numpy()),
        (cl.Explanation.from_maps(maps, ["a", "b", "c"], ["one.jpg", "two.jpg"]), masks),
    ):
        for name, score in map_mask_scores(given_maps, given_masks).items():
            assert torch.equal(score.values, wanted[name].values), name
    with pytest.raises(cl.InputError, match="maps are of type list"):
        map_mask_scores([[1.0]], masks)  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="masks are of type list; expected a tensor or an array"):
        map_mask_scores(maps, masks.tolist())  # pyright: ignore[reportArgumentType]
