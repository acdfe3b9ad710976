"""What knows nothing, and whether a method beats it: extremes, the error rate of the check, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.cub import Cub
from conceptlens.heads.logistic_head import fit_logistic
from conceptlens.heads.photo_embeddings import embed_photos
from conceptlens.heads.random_labels import random_label_head
from conceptlens.localization import baseline_maps
from conceptlens.metrics import (
    SANITY_METRICS,
    Score,
    beats_controls,
    cascade_layers,
    cascade_similarity,
    centre_maps,
    edge_maps,
    random_label_similarity,
    random_maps,
)
from conceptlens.model.class_head import ClassHead
from planted import LABELS, ColourNet
from tolerance import assert_agree


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def score(values: Tensor, fill: str = "") -> Score:
    return Score(values.double(), torch.ones(values.shape, dtype=torch.bool), fill=fill)


def test_control_maps_do_not_depend_on_the_batch() -> None:
    whole = random_maps(("a", "b"), 2, (7, 9), seed=3)
    assert whole.shape == (2, 2, 7, 9)
    assert torch.equal(random_maps(("b",), 2, (7, 9), seed=3)[0], whole[1])
    assert not torch.equal(whole[0, 0], whole[0, 1])
    assert not torch.equal(random_maps(("b",), 2, (7, 9), seed=4)[0], whole[1])
    assert 0.4 < float(random_maps([str(i) for i in range(20)], 1, (20, 20)).mean()) < 0.6
    images = noise(3, 3, 8, 8)
    assert_agree(edge_maps(images[1:], 2, (4, 4)), edge_maps(images, 2, (4, 4))[1:])
    assert edge_maps(torch.ones(1, 3, 8, 8)).eq(0).all()
    bump = centre_maps(1, 1, (7, 7))[0, 0]
    assert int(bump.argmax()) == 24
    assert torch.equal(bump, bump.T)


def test_localization_has_the_same_controls() -> None:
    model = cl.Backbone(ColourNet(), layers=("features",), transform=lambda photo: noise(3, 32, 48), class_names=LABELS)
    seen = model.observe([noise(3, 32, 48)])
    found = baseline_maps.centre(seen, [ConceptName("red")])
    assert torch.equal(found.maps, centre_maps(1, 1, (2, 3)))


def test_a_map_that_ignores_the_weights_stays_and_one_of_weights_goes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    images = noise(2, 3, 16, 16)
    edges = cascade_similarity(lambda module: edge_maps(images), net)
    assert_agree(edges.values, torch.ones(2, 1, 2, dtype=torch.float64))

    def explain(module: nn.Module) -> Tensor:
        with torch.no_grad():
            return module(images)

    moved = cascade_similarity(explain, net)
    assert float(moved.values.abs().mean()) < 0.8
    assert torch.equal(cascade_similarity(explain, net).values, moved.values)
    assert not torch.equal(cascade_similarity(explain, net, seed=5).values, moved.values)
    first = cascade_similarity(explain, net, layers=["2"], similarity="map_ssim")
    assert first.values.shape == (2, 4, 1)
    assert all(metric.name == name and not metric.higher_is_better for name, metric in SANITY_METRICS.items())


def test_a_stage_whose_map_is_flat_does_not_apply() -> None:
    net = nn.Sequential(nn.Linear(2, 2)).eval()
    maps = iter((noise(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)))
    assert cascade_similarity(lambda module: next(maps), net).count == 0


def test_layers_come_from_the_output_down() -> None:
    assert cascade_layers(ColourNet()) == ("head", "mix", "pool", "detect.0")
    token = nn.Module()
    token.own = nn.Parameter(torch.ones(2))
    token.inner = nn.Linear(2, 2)
    assert cascade_layers(token) == ("inner", "")


def test_networks_of_the_package_are_made_random() -> None:
    """Grad-CAM of a planted network goes with its head, and an edge detector does not."""
    model = cl.Backbone(ColourNet(), layers=("features",), transform=lambda photo: photo, class_names=LABELS)
    images = noise(1, 3, 64, 64).round()

    def explain(module: nn.Module) -> Tensor:
        changed = cl.Backbone(module, layers=("features",), transform=lambda photo: photo, class_names=LABELS)
        return cl.cam(changed.observe(images), cl.Logit("red"), signed=True).maps

    found = cascade_similarity(explain, model.module, layers=["head", "mix"])
    assert found.values.shape == (1, 1, 2)
    assert found.values.max() < 0.999


def test_controls_alike_are_hardly_ever_beaten() -> None:
    """Of methods that are noise like their four controls, at most about five of a hundred beat any of them."""
    wrong = 0
    for seed in range(100):
        draws = noise(5, 40, 1, seed=seed)
        controls = {str(i): score(draws[i]) for i in range(1, 5)}
        check = beats_controls(score(draws[0]), controls, True, n_bootstrap=2000)
        wrong += any(one.beaten for one in check.comparisons)
    assert wrong <= 8


def test_a_method_that_is_better_everywhere_passes() -> None:
    values = noise(30, 1)
    assert beats_controls(score(values), {"centre": score(values - 0.1), "edges": score(values - 0.2)}, True).passed
    assert beats_controls(score(values), {"centre": score(values)}, True).unbeaten == ("centre",)
    worse = beats_controls(score(values), {"centre": score(values - 0.1)}, False)
    assert worse.comparisons[0].beaten is False


def test_where_nothing_can_be_said_a_control_counts_as_unbeaten() -> None:
    one = beats_controls(score(noise(1, 1)), {"centre": score(noise(1, 1) - 5)}, True)
    assert (one.comparisons[0].beaten, one.unbeaten) == (None, ("centre",))
    few, many = (beats_controls(score(noise(n, 1)), {"centre": score(noise(n, 1) - 5)}, True) for n in (19, 20))
    assert (few.comparisons[0].beaten, many.comparisons[0].beaten) == (None, True)
    assert few.comparisons[0].difference.mean == pytest.approx(5)
    nothing = Score(torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.bool))
    none = beats_controls(score(noise(3, 1)), {"centre": nothing}, True)
    assert none.comparisons[0].difference is None
    assert not none.passed


def test_checks_that_make_no_sense_are_refused() -> None:
    values = score(noise(4, 1), "mean")
    with pytest.raises(cl.InputError, match="there is no control to beat"):
        beats_controls(values, {}, True)
    with pytest.raises(cl.InputError, match=r"fill 'mean', those of the control 'edges' \(4, 1\) and 'blur'"):
        beats_controls(values, {"edges": score(noise(4, 1), "blur")}, True)
    with pytest.raises(cl.InputError, match="expected the same images, questions and fill"):
        beats_controls(values, {"edges": score(noise(3, 1), "mean")}, True)
    with pytest.raises(cl.InputError, match="number of comparisons is 1; expected an integer, at least 2"):
        beats_controls(values, {"a": values, "b": values}, True, comparisons=1)
    with pytest.raises(cl.InputError, match="level is 95; expected a confidence level"):
        beats_controls(values, {"a": values}, True, level=95)


def test_networks_and_functions_that_cannot_be_made_random_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()

    def explain(module: nn.Module) -> Tensor:
        return noise(1, 1, 4, 4)

    with pytest.raises(cl.InputError, match="the module is in training mode"):
        cascade_similarity(explain, nn.Linear(2, 2))
    with pytest.raises(cl.InputError, match="no layer '3'; there are: 0"):
        cascade_similarity(explain, net, layers=["3"])
    with pytest.raises(cl.InputError, match="layer '1' holds no weights"):
        cascade_similarity(explain, net, layers=["1"])
    with pytest.raises(cl.InputError, match="layers are '0'; expected names of modules"):
        cascade_similarity(explain, net, layers="0")
    with pytest.raises(cl.InputError, match="no redraw 'shuffle'; there are: own_scale, reset"):
        cascade_similarity(explain, net, redraw="shuffle")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="ReLU holds no weights"):
        cascade_similarity(explain, nn.ReLU().eval())
    own = nn.Module().eval()
    own.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(cl.InputError, match="Module in layer '' has no reset_parameters; use redraw='own_scale'"):
        cascade_similarity(explain, own, redraw="reset")
    with pytest.raises(cl.InputError, match="cells of the maps are NaN"):
        cascade_similarity(lambda module: noise(1, 1, 4, 4) * math.nan, net)
    with pytest.raises(cl.InputError, match="explain is 'net'; expected a function"):
        cascade_similarity("net", net)  # pyright: ignore[reportArgumentType]


def test_control_maps_that_cannot_be_are_refused() -> None:
    with pytest.raises(cl.InputError, match="two images have one name"):
        random_maps(("a", "a"), 1, (3, 3))
    with pytest.raises(cl.InputError, match=r"grid is \(0, 3\); expected rows and columns, both at least 1"):
        centre_maps(1, 1, (0, 3))
    with pytest.raises(cl.InputError, match="grid is 9 x 9, finer than images of 8 x 8 pixels"):
        edge_maps(noise(1, 3, 8, 8), 1, (9, 9))
    with pytest.raises(cl.InputError, match="expected finite image colour rows columns"):
        edge_maps(noise(1, 3, 8, 8) * math.nan)


def test_a_head_for_random_labels_is_fitted_to_shuffled_ones(
    birds: Path, bird_model: cl.Backbone, tmp_path: Path
) -> None:
    photos = Cub(birds, "train")
    seen = embed_photos(bird_model, photos, tmp_path)
    classes = tuple(photos.classes)
    head = random_label_head(bird_model, seen.vectors, seen.labels, classes, seed=1)
    order = torch.randperm(len(seen.labels), generator=torch.Generator().manual_seed(1))
    weight, bias = fit_logistic(seen.vectors, seen.labels[order], 1e-4).folded()
    assert_agree(head.weight, weight.float())
    assert_agree(head.bias, bias.float())
    right = fit_logistic(seen.vectors, seen.labels, 1e-4)
    real = float((right(seen.vectors).argmax(1) == seen.labels).double().mean())
    assert head.training["train_accuracy"] < 0.7 < 0.9 < real
    heads = ClassHead.of(bird_model, *(values.float() for values in right.folded()), classes, {}), head
    asked = [cl.Logit(name) for name in classes]
    of_own, of_random = (cl.cam(h.on(bird_model).observe([photos[0], photos[5]]), asked, signed=True) for h in heads)
    assert random_label_similarity(of_own, of_own).mean() == pytest.approx(1)
    assert random_label_similarity(of_own, of_random).mean() < 0.7
    assert SANITY_METRICS["random_label_similarity"].compute is random_label_similarity
    with pytest.raises(cl.InputError, match="expected photo dimension, and a class for each photo"):
        random_label_head(bird_model, seen.vectors, seen.labels[1:], classes)
