"""Part importance on drawn scenes and a network whose truth is planted; extremes, chance, and what has no answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.data.cub import Cub
from conceptlens.data.drawn_scene import Scene, Shape, draw_scene
from conceptlens.data.part_keypoints import part_keypoints
from conceptlens.metrics import (
    PART_METRIC,
    Keypoints,
    ScoredImages,
    part_discs,
    part_drops,
    part_importance,
    part_sums,
)
from planted import LABELS, pixel_detector, pixels
from tolerance import assert_agree

SIZE = 64
# How much a pixel of each colour counts for two questions; the second does not see magenta and cyan.
WEIGHTS = torch.tensor([[1.0, 2.0, -1.0, 0.5, 3.0, -2.0], [0.5, -1.0, 2.0, 1.0, 0.0, 0.0]]) / 1000
SHAPES = tuple(
    Shape("square", colour, (0.18 + 0.32 * (i % 3), 0.3 + 0.45 * (i // 3)), 0.1) for i, colour in enumerate(LABELS)
)


def scenes() -> list[Scene]:
    turned = [Shape(s.kind, s.colour, s.centre, 0.05 + 0.015 * i) for i, s in enumerate(SHAPES)]
    return [draw_scene(SHAPES, SIZE, 0), draw_scene(turned, SIZE, 1)]


@pytest.fixture(scope="module")
def detect() -> torch.nn.Module:
    return pixel_detector().eval()


@pytest.fixture(scope="module")
def planted(detect: torch.nn.Module) -> tuple[ScoredImages, Tensor, Tensor]:
    """Images whose score is the sum of what each pixel says; that sum's map, the truth; the shapes' masks."""
    drawn = scenes()

    def said(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.einsum("qk,ikrc->iqrc", WEIGHTS, detect(images))

    images = pixels(drawn)
    scored = ScoredImages(images, lambda variants, rows: said(variants).sum((2, 3)), torch.zeros(3))
    return scored, said(images), torch.from_numpy(np.stack([np.stack(scene.parts) for scene in drawn]))


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_removing_a_part_takes_what_its_pixels_say(planted: tuple[ScoredImages, Tensor, Tensor], fill: str) -> None:
    scored, maps, parts = planted
    wanted = WEIGHTS[None].double() * parts.sum((2, 3))[:, None]
    torch.testing.assert_close(part_drops(scored, parts, fill).values, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(part_sums(maps, parts).values, wanted, atol=1e-5, rtol=1e-4)
    assert part_drops(scored, parts, fill).fill == fill


def test_the_true_map_is_perfect_and_its_negative_the_worst(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    scored, maps, parts = planted
    assert_agree(part_importance(maps, scored, parts).values, torch.ones(2, 2, dtype=torch.float64))
    assert_agree(part_importance(3 * maps.numpy(), scored, parts.numpy()).values, torch.ones(2, 2, dtype=torch.float64))
    assert_agree(part_importance(-maps, scored, parts).values, -torch.ones(2, 2, dtype=torch.float64))
    other = part_importance(maps.flip(1), scored, parts)
    assert bool((other.values < 0.5).all())
    alone = ScoredImages(scored.images[1:], scored.score, scored.black)
    assert_agree(part_importance(maps.flip(1)[1:], alone, parts[1:]).values, other.values[1:])


def test_random_maps_have_no_correlation(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    scored, _, parts = planted
    generator = torch.Generator().manual_seed(0)
    equal = parts[:1].expand(2, -1, -1, -1)  # parts of one size, so that a sum says nothing
    found = [
        part_importance(torch.randn(2, 2, SIZE, SIZE, generator=generator), scored, equal).mean() for _ in range(60)
    ]
    assert np.mean(found) == pytest.approx(0, abs=0.1)
    assert PART_METRIC.compute is part_importance


def test_parts_without_effect_are_equal_whatever_rounding_says(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    scored, maps, parts = planted
    unseen = parts[:, 4:]  # magenta and cyan, which the second question does not see
    found = part_importance(maps, scored, unseen)
    assert found.applies.tolist() == [[True, False], [True, False]]
    ranks = part_importance(
        maps[:, 1:], ScoredImages(scored.images, lambda x, rows: scored.score(x, rows)[:, 1:]), parts
    )
    assert_agree(ranks.values, torch.ones(2, 1, dtype=torch.float64))


def test_what_has_no_answer_does_not_apply(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    scored, maps, parts = planted
    assert part_importance(0 * maps, scored, parts).count == 0
    one_left = parts.clone()
    one_left[0, 1:] = False
    found = part_importance(maps, scored, one_left)
    assert found.applies.tolist() == [[False, False], [True, True]]
    none = torch.zeros_like(parts)
    assert (
        part_drops(scored, none).count == part_sums(maps, none).count == part_importance(maps, scored, none).count == 0
    )


def test_discs_around_keypoints_are_parts(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    """As for CUB: each keypoint a part, its disc as small as the drawn shape."""
    scored, maps, _ = planted
    xy = torch.tensor([shape.centre for shape in SHAPES]).expand(2, -1, -1)
    seen = torch.ones(2, len(SHAPES), dtype=torch.bool)
    seen[1, 0] = False
    points = Keypoints(xy, seen, torch.eye(len(SHAPES), dtype=torch.bool), seen, torch.full((2, 2), float(SIZE)))
    discs = part_discs(points, (SIZE, SIZE), 0.06)
    found = part_importance(maps, scored, discs)
    assert_agree(found.values, torch.ones(2, 2, dtype=torch.float64))
    assert part_sums(maps, discs).of(1, 0, 0) is None


def test_parts_that_do_not_fit_are_refused(planted: tuple[ScoredImages, Tensor, Tensor]) -> None:
    scored, maps, parts = planted
    with pytest.raises(cl.InputError, match=r"parts have type torch\.float32; expected torch\.bool"):
        part_importance(maps, scored, parts.float())
    with pytest.raises(cl.InputError, match="expected image part rows columns"):
        part_sums(maps, parts[0])
    with pytest.raises(cl.InputError, match="expected masks of the same images, as large as they"):
        part_drops(scored, parts[..., :32])
    with pytest.raises(cl.InputError, match="maps no finer than the parts"):
        part_sums(maps, parts[..., :32, :32])
    with pytest.raises(cl.InputError, match="maps of 1 questions and scores of 2"):
        part_importance(maps[:, :1], scored, parts)
    with pytest.raises(cl.InputError, match="cells of the maps are NaN or infinite"):
        part_importance(maps * math.nan, scored, parts)
    with pytest.raises(cl.InputError, match="no fill 'grey'"):
        part_drops(scored, parts, "grey")


def test_parts_of_a_set_in_cubs_layout_are_those_of_its_keypoints(birds: Path, bird_model: cl.Backbone) -> None:
    """A map that shows bills alone sums up most there; a bird whose wing is hidden has one part alone, and no order."""
    photos = Cub(birds, "test")
    rows = list(range(4))
    assert bird_model.preprocess is not None
    names, points = part_keypoints(photos, rows, bird_model.preprocess)
    bill, wing = names.index("bill"), names.index("wing")
    known = photos.annotation.keypoints if photos.annotation else None
    assert known is not None
    beak = known.xy[rows, known.names.index("beak")]
    seen = bird_model.observe([photos[row] for row in rows])
    size = tuple(seen.images.shape[2:])
    discs = part_discs(points, (size[0], size[1]), 0.1)
    for photo, (x, y) in enumerate(beak.tolist()):
        assert bool(discs[photo, bill, int(y * size[0]), int(x * size[1])])
    assert torch.equal(discs.any(3).any(2), points.present)
    maps = discs[:, [bill]].float()
    sums = part_sums(maps, discs)
    assert bool((sums.values[:, 0, bill] > sums.values[:, 0, wing]).all())
    found = part_importance(maps, cl.scored_images(seen, cl.Logit()), discs)
    assert found.applies[:, 0].tolist() == (points.present.sum(1) > 1).tolist() == [True, True, True, False]
