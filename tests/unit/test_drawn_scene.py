"""Scenes are exact to the pixel, and the planted networks see what is drawn, where it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conceptlens.data.drawn_scene import KINDS, SCENE_COLOURS, Scene, Shape, draw_scene, random_scene
from planted import LABELS, SOLID, ColourNet, TokenNet, pixels


def shows(scene: Scene, colour: str) -> np.ndarray:
    """True where the image has exactly that colour."""
    return (np.asarray(scene.image) == SCENE_COLOURS[colour]).all(2)


# Scenes


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_where_the_colour_is(kind: str) -> None:
    scene = draw_scene([Shape(kind, "red", (0.4, 0.6), 0.3)], 96, 3)
    assert scene.image.mode == "RGB"
    assert scene.image.size == (96, 96)
    assert scene.masks["red"].dtype == bool
    assert np.array_equal(scene.masks["red"], shows(scene, "red"))
    assert np.array_equal(scene.masks["red"], scene.kinds[kind])
    y, x = np.nonzero(scene.masks["red"])
    assert (np.hypot((x + 0.5) / 96 - 0.4, (y + 0.5) / 96 - 0.6) <= 0.3).all()


def test_disc_against_a_loop() -> None:
    mask = draw_scene([Shape("disc", "blue", (0.3, 0.7), 0.2)], 40).masks["blue"]
    for row in range(40):
        for column in range(40):
            inside = ((column + 0.5) / 40 - 0.3) ** 2 + ((row + 0.5) / 40 - 0.7) ** 2 <= 0.2**2
            assert mask[row, column] == inside


@pytest.mark.parametrize(
    ("kind", "area"),
    [
        ("disc", np.pi),
        ("square", 2.0),
        ("triangle", 27**0.5 / 4),
        ("ring", np.pi * (1 - 0.55**2)),
        ("cross", 2 * 0.6 * 1.9 - 0.6**2),
        ("stripes", 2 * 3 / 5),
    ],
)
def test_areas(kind: str, area: float) -> None:
    mask = draw_scene([Shape(kind, "cyan", (0.5, 0.5), 0.4)], 400).masks["cyan"]
    assert mask.mean() / 0.4**2 == pytest.approx(area, rel=0.02)


def test_later_shapes_hide_earlier_ones() -> None:
    low, high = Shape("square", "red", (0.4, 0.5), 0.3), Shape("disc", "green", (0.6, 0.5), 0.2)
    scene, alone = draw_scene([low, high]), draw_scene([low])
    assert not (scene.masks["red"] & scene.masks["green"]).any()
    assert np.array_equal(scene.masks["red"], alone.masks["red"] & ~scene.masks["green"])
    assert np.array_equal(scene.masks["red"], shows(scene, "red"))
    hidden = draw_scene([Shape("disc", "red", radius=0.1), Shape("disc", "blue", radius=0.2)])
    assert not hidden.masks["red"].any()


def test_masks_join_shapes_of_one_colour() -> None:
    pair = [Shape("disc", "red", (0.25, 0.5), 0.1), Shape("ring", "red", (0.75, 0.5), 0.1)]
    scene = draw_scene(pair)
    assert list(scene.masks) == ["red"]
    assert list(scene.kinds) == ["disc", "ring"]
    assert np.array_equal(scene.masks["red"], scene.parts[0] | scene.parts[1])
    assert scene.shapes == tuple(pair)


def test_empty_scene_has_no_colour() -> None:
    scene = draw_scene([], 64, 5)
    assert scene.masks == {}
    assert not any(shows(scene, colour).any() for colour in SCENE_COLOURS)


def test_same_seed_same_scene() -> None:
    first, again, other = random_scene(7), random_scene(7), random_scene(8)
    assert first.shapes == again.shapes
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(draw_scene([], seed=1).image, draw_scene([], seed=2).image)


def test_random_scenes_keep_their_promise() -> None:
    counts = set()
    for seed in range(60):
        scene = random_scene(seed, 64)
        counts.add(len(scene.shapes))
        assert len({s.kind for s in scene.shapes}) == len({s.colour for s in scene.shapes}) == len(scene.shapes)
        for shape, part in zip(scene.shapes, scene.parts, strict=True):
            alone = draw_scene([shape], 64)
            assert np.array_equal(part, alone.masks[shape.colour])  # nothing hides it
            assert all(shape.radius <= c <= 1 - shape.radius for c in shape.centre)  # nothing is cut off
    assert counts == {1, 2, 3}


def test_random_scene_of_given_kinds() -> None:
    kinds = ("disc", "ring", "cross")
    assert {s.kind for seed in range(9) for s in random_scene(seed, 32, kinds=kinds).shapes} == set(kinds)


# Planted networks

NETS = {
    "ColourNet": ColourNet,
    "ColourNet, shared": lambda: ColourNet(shared=0.3),
    "TokenNet": TokenNet,
    "TokenNet, registers": lambda: TokenNet(prefix=5),
    "TokenNet, mean": lambda: TokenNet(prefix=0),
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    return NETS[request.param]()


@torch.no_grad()
def look(net: nn.Module, scene: Scene) -> tuple[Tensor, Tensor]:
    """Return the logits [class] and the tapped features [channel height width] of one scene."""
    seen: list[Tensor] = []
    layer = net.get_submodule("features" if isinstance(net, ColourNet) else "blocks.0")
    with layer.register_forward_hook(lambda _module, _given, made: seen.append(made)):
        logits = net(pixels([scene]))[0]
    feature = seen[0]
    if isinstance(net, TokenNet):
        feature = feature[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, (14, 14))
    return logits, feature[0]


def localised(feature: Tensor, mask: np.ndarray) -> tuple[bool, float]:
    """Say whether the peak of one channel, enlarged, is in the mask, and how much of its energy is."""
    large = nn.functional.interpolate(feature[None, None], size=mask.shape, mode="bilinear")[0, 0].numpy()
    return bool(mask[np.unravel_index(large.argmax(), mask.shape)]), float((large * mask).sum() / large.sum())


@pytest.mark.parametrize("colour", SCENE_COLOURS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_shape_one_class(net: nn.Module, kind: str, colour: str) -> None:
    logits, _ = look(net, draw_scene([Shape(kind, colour, (0.45, 0.55), 0.3)], seed=2))
    own = logits[LABELS.index(colour)]
    rest = torch.cat([logits[: LABELS.index(colour)], logits[LABELS.index(colour) + 1 :]])
    assert logits.argmax() == LABELS.index(colour)
    assert own > 1
    assert rest.max() < 0.3 * own  # exactly 0 but for the shared channel


def test_planted_colours_win_and_are_found(net: nn.Module) -> None:
    for seed in range(25):
        scene = random_scene(seed, kinds=SOLID)
        logits, feature = look(net, scene)
        present = [LABELS.index(colour) for colour in scene.masks]
        absent = [index for index in range(len(LABELS)) if index not in present]
        assert logits[present].min() > 0.4
        assert logits[present].min() > logits[absent].max()
        for colour, mask in scene.masks.items():
            peak, energy = localised(feature[LABELS.index(colour)], mask)
            assert peak
            assert energy > 0.8
        assert feature[[index for index in absent if index < len(LABELS)]].abs().max() == 0


def test_peak_is_in_the_mask_for_every_kind(net: nn.Module) -> None:
    for seed in range(25):
        scene = random_scene(seed)
        _, feature = look(net, scene)
        for colour, mask in scene.masks.items():
            assert localised(feature[LABELS.index(colour)], mask)[0]


def test_background_is_no_evidence(net: nn.Module) -> None:
    logits, feature = look(net, draw_scene([], seed=4))
    assert logits.abs().max() == 0
    assert feature.abs().max() == 0


def test_only_the_mask_counts(net: nn.Module) -> None:
    """Grey out the mask and the class is gone; grey out all else and its logit stays."""
    scene = draw_scene([Shape("disc", "red", (0.3, 0.3), 0.2), Shape("square", "blue", (0.7, 0.7), 0.2)])
    image, mask = pixels([scene]), torch.from_numpy(scene.masks["red"])
    with torch.no_grad():
        whole, without, only = (net(batch)[0] for batch in (image, image.where(~mask, 0.5), image.where(mask, 0.5)))
    red = LABELS.index("red")
    assert without[red] < 0.3 * whole[red]
    assert only[red] > 0.7 * whole[red]
    assert only.argmax() == red


def test_flip_flips_the_features(net: nn.Module) -> None:
    scene = random_scene(3)
    flipped = Scene(scene.image.transpose(0), scene.masks, scene.kinds, scene.parts, scene.shapes)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(look(net, flipped)[1], look(net, scene)[1].flip(-1))


def test_shared_evidence_leaves_a_difference_of_logits() -> None:
    scene = draw_scene([Shape("disc", "red", (0.3, 0.3), 0.2), Shape("disc", "blue", (0.7, 0.7), 0.2)])
    plain, shared = look(ColourNet(), scene)[0], look(ColourNet(shared=0.5), scene)[0]
    assert shared[LABELS.index("green")] > 1
    torch.testing.assert_close(shared - shared[0], plain - plain[0])
