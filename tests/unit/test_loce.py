"""Local concept embeddings as they are asked for: masks, photos, scales, layers, controls, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.local_embeddings import quasi_newton
from conceptlens.local_embeddings.modes import channel_scale
from conceptlens.local_embeddings.problem import overlap, soft_masks
from conceptlens.model import image_batch
from tolerance import assert_agree

pytestmark = pytest.mark.wide

MODES: list[Any] = ["paper", "exact", "mean_difference", "mean"]
RED = 5  # the channel of `first` that is the red of the image


class Times(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, cells: Tensor) -> Tensor:
        return cells * self.factor


class Layers(nn.Module):
    """`first`: 12 channels, of which one is red and no other sees red; `second`: 20 channels on half as many cells."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        one, two = nn.Conv2d(3, 12, 4, stride=4, bias=False), nn.Conv2d(12, 20, 2, stride=2, bias=False)
        with torch.no_grad():
            one.weight.copy_(torch.randn(one.weight.shape, generator=generator) / 8)
            one.weight[:, 0], one.weight[RED] = 0, 0
            one.weight[RED, 0] = 1 / 16
            two.weight.copy_(torch.randn(two.weight.shape, generator=generator) / 4)
        self.first = nn.Sequential(one, nn.ReLU(), Times(factor))
        self.second = nn.Sequential(two, nn.ReLU())
        self.head = nn.Linear(20, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean((2, 3)))


def model(factor: float = 1.0, crop_mode: Any = None) -> cl.Backbone:
    transform = cl.Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, crop_mode=crop_mode) if crop_mode else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Layers(factor).eval()
    return cl.Backbone(module, "layers", ("first", "second"), transform, input_size=(64, 64))


def blobs(images: int = 3, questions: int = 2) -> np.ndarray:
    """Masks of 48 x 80 that differ from image to image: `image question rows columns`."""
    masks = np.zeros((images, questions, 48, 80), bool)
    for i in range(images):
        for q in range(questions):
            masks[i, q, 5 + 7 * q : 25 + 7 * q, 10 + 12 * i : 35 + 12 * i] = True
    return masks


def noise(images: int = 3) -> Tensor:
    return torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(4))


def scene(mask: np.ndarray) -> Tensor:
    """An image that is red where the mask is, and noise in its other colours."""
    image = noise(1)
    image[0, 0] = F.interpolate(torch.from_numpy(mask).float()[None, None], size=(64, 64))[0, 0]
    return image


def vectors(found: cl.Explanation) -> Tensor:
    assert found.vectors is not None
    return found.vectors


def weights(found: cl.Explanation) -> Tensor:
    assert found.weights is not None
    return found.weights[..., 0, 0]


# What masks may look like


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_two_three_and_four_axes_are_the_same_question(mode: Any) -> None:
    observation, masks = model().observe(noise(1)), blobs(1, 1)
    shapes = [masks, masks[0], masks[0, 0]]
    found = [cl.loce(observation, form, mode=mode) for m in shapes for form in (m, torch.from_numpy(m), m.tolist())]
    for other in found:
        assert tuple(vectors(other).shape) == (1, 1, 20)
        assert_agree(vectors(other), vectors(found[0]))
    assert found[0].labels == (("mask 0",),)


def test_several_questions_of_one_image_are_named_in_order() -> None:
    found = cl.loce(model().observe(noise(1)), blobs(1, 2)[0], labels=["cup", "spoon"])
    assert found.labels == (("cup", "spoon"),)
    assert found.question_index("spoon") == 1
    assert tuple(found.maps.shape) == (1, 2, 8, 8)
    assert tuple(weights(found).shape) == (1, 2, 20)


def test_no_question_is_no_error() -> None:
    found = cl.loce(model().observe(noise(1)), np.zeros((0, 9, 9), bool))
    assert tuple(vectors(found).shape) == (1, 0, 20)
    assert tuple(found.scores.shape) == (1, 0)


ONE, TWO = blobs(1, 1)[0, 0], blobs(2, 1)
REFUSED: dict[str, tuple[int, Any, dict[str, Any], str]] = {
    "numbers": (1, ONE.astype(np.uint8), {}, "masks are of type uint8; expected bool, such as mask > 0.5"),
    "a tensor of numbers": (1, torch.from_numpy(ONE).float(), {}, "masks are of type float32; expected bool"),
    "nothing": (1, None, {}, "masks are of type object; expected bool"),
    "one axis": (1, ONE[0], {}, r"masks have shape \(80,\) for 1 observed images; expected image question rows"),
    "five axes": (1, ONE[None, None, None], {}, r"masks have shape \(1, 1, 1, 48, 80\) for 1 observed"),
    "one mask for two images": (2, ONE, {}, r"masks have shape \(48, 80\) for 2 observed images"),
    "two images' masks for one": (1, TWO, {}, r"masks have shape \(2, 1, 48, 80\) for 1 observed images"),
    "sizes that differ": (2, [[ONE], [ONE[:9]]], {}, "masks differ in size; bring them to one size"),
    "an empty mask": (2, np.concatenate([TWO, TWO & False], 1), {}, "mask 1 of image 0 is empty; leave that concept"),
    "a mask without pixels": (1, ONE[:0], {}, "mask 0 of image 0 is empty"),
    "too many labels": (1, ONE, {"labels": ["a", "b"]}, "2 labels were given for 1 masks of each image; give one for"),
    "an unknown mode": (1, ONE, {"mode": "best"}, "mode is 'best'; expected paper, exact, mean_difference"),
    "a ridge of paper": (
        1,
        ONE,
        {"mode": "paper", "ridge": 0.5},
        "a ridge was given for mode paper; only exact has one",
    ),
    "no ridge": (
        1,
        ONE,
        {"mode": "exact", "ridge": 0.0},
        "ridge is 0.0; expected a number above 0, or none for the default",
    ),
    "an unseen layer": (1, ONE, {"layer": "third"}, "layer 'third' was not observed; observed: first, second"),
    "an empty control": (1, ONE, {"control": ONE & False}, "control mask 0 of image 0 is empty"),
    "a control of numbers": (1, ONE, {"control": 1.0 * ONE}, "control masks are of type float64; expected bool"),
    "controls of others": (1, ONE, {"control": np.stack([ONE, ONE])}, r"control masks are for \(1, 2\) images and"),
    "another layer's scale": (1, ONE, {"scale": {"first": torch.ones(12)}}, "no scale was given for layer 'second', o"),
    "a short scale": (
        1,
        ONE,
        {"scale": {"second": torch.ones(12)}},
        r"layer 'second' has shape \(12,\); expected \(20",
    ),
    "a tall scale": (1, ONE, {"scale": {"second": torch.ones(20, 1)}}, r"has shape \(20, 1\); expected \(20,\)"),
    "a broken scale": (1, ONE, {"scale": {"second": torch.full((20,), torch.nan)}}, "all finite and none below 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused_in_one_sentence(case: str) -> None:
    images, masks, options, message = REFUSED[case]
    with pytest.raises(cl.InputError, match=message) as refused:
        cl.loce(model().observe(noise(images)), masks, **options)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


# What the model saw


def drawn_photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("finer", [1, 3])
def test_a_mask_is_cut_to_what_a_crop_left(mode: Any, finer: int) -> None:
    mask = np.zeros((64, 128), bool)
    mask[10:40, 20:60] = True  # begins before the crop does
    photo, fine = drawn_photo(), mask.repeat(finer, 0).repeat(finer, 1)
    cropped = cl.loce(model(crop_mode="center").observe(photo), fine, mode=mode)
    by_hand = cl.loce(model(crop_mode="squash").observe(photo[:, 32:96]), fine[:, 32 * finer : 96 * finer], mode=mode)
    assert cropped.source.image_info[0].box == (0.25, 0.0, 0.75, 1.0)
    assert_agree(vectors(cropped), vectors(by_hand))
    assert_agree(cropped.maps, by_hand.maps)
    whole = cl.loce(model(crop_mode="squash").observe(photo), mask, mode=mode)
    assert float(F.cosine_similarity(vectors(whole), vectors(cropped), dim=2)) < 0.99


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_that_the_model_did_not_see_has_no_vector(mode: Any) -> None:
    masks = np.zeros((2, 64, 128), bool)
    masks[0, :, :20], masks[1, 10:40, 50:80] = True, True
    found = cl.loce(model(crop_mode="center").observe(drawn_photo()), masks, mode=mode)
    assert not vectors(found)[0, 0].any()
    assert vectors(found)[0, 1].any()
    assert found.diagnostics["converged"].tolist() == [[0, 1]]
    assert found.diagnostics["iou"][0, 0] == 0
    assert all(bool(value.isfinite().all()) for value in found.diagnostics.values())


# What a vector is


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", ["first", "second"])
def test_maps_are_weights_times_features_and_vectors_are_weights_in_their_units(mode: Any, layer: str) -> None:
    observation = model().observe(noise())
    found = cl.loce(observation, blobs(), layer, mode)
    features = observation.feature(layer)
    assert torch.allclose(found.maps, torch.einsum("nqc,nchw->nqhw", weights(found), features), rtol=1e-4, atol=1e-5)
    scale = torch.ones(1) if mode == "paper" else channel_scale(features)  # the published vectors know no scale
    assert torch.allclose(vectors(found), weights(found) * scale, rtol=1e-5)
    assert found.signed
    assert torch.equal(found.scores, found.diagnostics["iou"])
    assert (found.source.method, found.source.layer, found.source.settings["mode"]) == ("loce", layer, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_channel_that_is_the_mask_gets_the_weight(mode: Any) -> None:
    """Planted truth: red is where the mask is, and one channel sees red."""
    mask = np.zeros((64, 64), bool)
    mask[12:40, 20:52] = True
    found = cl.loce(model().observe(scene(mask)), mask, "first", mode)
    own = vectors(found)[0, 0]
    assert int(own.argmax()) == RED
    assert int(weights(found)[0, 0].argmax()) == RED
    if mode in ("exact", "mean_difference"):  # AdamW moves every channel by the same first step; a mean has them all
        assert float(own[RED] / own.norm()) > 0.9
    if mode == "mean":
        return
    assert float(found.diagnostics["iou"]) > 0.75
    row, column = divmod(int(found.maps.argmax()), 16)
    assert mask[4 * row + 2, 4 * column + 2]


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_cuda_gives_what_the_processor_gives(mode: Any) -> None:
    here = cl.loce(model().observe(noise()), blobs(), "first", mode)
    there = cl.loce(model().to("cuda").observe(noise().to("cuda")), blobs(), "first", mode)
    assert float(F.cosine_similarity(vectors(here), vectors(there).cpu(), dim=2).min()) > 0.999


@pytest.mark.parametrize("factor", [7.0, 0.01, 1000.0])
@pytest.mark.parametrize("mode", ["exact", "mean_difference", "mean"])
def test_the_scale_of_the_activations_changes_nothing(mode: Any, factor: float) -> None:
    plain, other = (cl.loce(model(times).observe(noise()), blobs(), "first", mode) for times in (1.0, factor))
    unit, as_unit = F.normalize(vectors(plain), dim=2), F.normalize(vectors(other), dim=2)
    slack = 2e-3 if mode == "exact" else 1e-4  # it is solved until the gradient is small, and stops where that is so
    assert float((unit - as_unit).abs().max()) < slack
    assert torch.allclose(vectors(plain), vectors(other), rtol=1e-3, atol=slack)
    assert torch.allclose(weights(plain), factor * weights(other), rtol=1e-3, atol=max(slack, 1e-3))
    assert torch.allclose(plain.diagnostics["iou"], other.diagnostics["iou"], atol=2e-3)
    assert torch.equal(plain.diagnostics["converged"], other.diagnostics["converged"])


def test_the_scale_of_the_activations_changes_the_published_vectors() -> None:
    plain, thousand = (cl.loce(model(factor).observe(noise()), blobs(), "first") for factor in (1.0, 1000.0))
    assert float(F.cosine_similarity(vectors(plain), vectors(thousand), dim=2).min()) < 0.99


def test_exact_tends_to_contrast_as_the_ridge_grows() -> None:
    observation = model().observe(noise())
    mean_difference = vectors(cl.loce(observation, blobs(), "first", "mean_difference"))
    near = [
        F.cosine_similarity(
            vectors(cl.loce(observation, blobs(), "first", "exact", ridge=ridge)), mean_difference, dim=2
        ).mean()
        for ridge in (0.01, 1.0, 100.0)
    ]
    assert near[0] < near[1] < near[2]
    assert float(near[2]) > 0.98


def test_the_default_ridge_grows_with_the_channels() -> None:
    observation = model().observe(noise())
    own, same = (cl.loce(observation, blobs(), "first", "exact", ridge=ridge) for ridge in (None, 0.03 * 12))
    assert_agree(vectors(own), vectors(same))


def test_without_enough_steps_nothing_is_said_to_have_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = model().observe(noise())
    whole = cl.loce(observation, blobs(), "first", "exact", ridge=0.001)
    assert bool(whole.diagnostics["converged"].all())
    monkeypatch.setattr(quasi_newton, "MAX_STEPS", 3)
    short = cl.loce(observation, blobs(), "first", "exact", ridge=0.001)
    assert not short.diagnostics["converged"].any()
    assert bool(vectors(short).norm(dim=2).gt(0).all()), "what was reached is kept"
    assert not torch.allclose(vectors(short), vectors(whole), rtol=0.05)
    objective = [one.diagnostics["loss"] + 0.0005 * vectors(one).square().sum(2) for one in (whole, short)]
    assert bool((objective[0] < objective[1]).all())


def test_convergence_is_each_fit_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = model().observe(noise())
    flags = []
    for most in range(2, 40):
        monkeypatch.setattr(quasi_newton, "MAX_STEPS", most)
        flags.append(cl.loce(observation, blobs(), "first", "exact", ridge=0.01).diagnostics["converged"].flatten())
    done = torch.stack(flags)
    assert bool((done.diff(dim=0) >= 0).all())
    assert not done[0].any()
    assert bool(done[-1].all())
    assert bool(((done.mean(1) > 0) & (done.mean(1) < 1)).any()), "some fits end before others"


# Scale


@pytest.mark.parametrize("mode", MODES)
def test_a_given_scale_makes_a_batch_equal_to_its_images(mode: Any) -> None:
    observation = model().observe(noise())
    scale = {"first": torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.5}
    together = cl.loce(observation, blobs(), "first", mode, scale=scale)
    assert together.source.settings["scale"] == "given"
    for i in range(3):
        alone = cl.loce(model().observe(noise()[i : i + 1]), blobs()[i], "first", mode, scale=scale)
        assert torch.allclose(vectors(alone)[0], vectors(together)[i], rtol=1e-4, atol=1e-5)
        assert torch.equal(vectors(together.of(i)), vectors(together)[i : i + 1])
        assert together.of(i).diagnostics["iou"].shape == (1, 2)


def test_the_own_scale_is_that_of_all_observed_images() -> None:
    observation = model().observe(noise())
    own = cl.loce(observation, blobs(), "first", "mean_difference")
    given = cl.loce(
        observation, blobs(), "first", "mean_difference", scale={"first": channel_scale(observation.feature("first"))}
    )
    assert own.source.settings["scale"] == "own"
    assert_agree(vectors(own), vectors(given))


def test_a_channel_without_a_scale_keeps_its_own_unit() -> None:
    """A channel that was 0 wherever the scale was measured has none."""
    observation = model().observe(noise())
    zero, one = torch.ones(12), torch.ones(12)
    zero[3] = 0
    found = [cl.loce(observation, blobs(), "first", "mean_difference", scale={"first": scale}) for scale in (zero, one)]
    assert_agree(vectors(found[0]), vectors(found[1]))


# Several layers


@pytest.mark.parametrize("mode", MODES)
def test_several_layers_are_unit_vectors_one_after_the_other(mode: Any) -> None:
    observation = model().observe(noise())
    found = cl.loce(observation, blobs(), ["first", "second"], mode)
    alone = [cl.loce(observation, blobs(), layer, mode) for layer in ("first", "second")]
    assert_agree(vectors(found), torch.cat([F.normalize(vectors(one), dim=2) for one in alone], 2))
    assert torch.allclose(vectors(found).norm(dim=2), torch.tensor(2.0).sqrt())
    assert found.weights is None
    assert found.source.layer == "first + second"
    assert found.maps.shape == (3, 2, 16, 16)
    for part, one in zip(found.components, alone, strict=True):
        assert_agree(vectors(part), vectors(one))
        expected = torch.einsum("nqc,nchw->nqhw", weights(part), observation.feature(part.source.layer))
        assert torch.allclose(part.maps, expected, rtol=1e-4, atol=1e-5)
    mean = torch.stack([one.diagnostics["selectivity"] for one in alone]).mean(0)
    assert torch.allclose(found.diagnostics["selectivity"], mean)
    assert len(found.of(1).components) == 2


def test_several_layers_are_drawn_together_above_their_common_bias() -> None:
    found = cl.loce(model().observe(noise()), blobs(), ["first", "second"], "mean_difference")
    expected = torch.zeros(3, 2, 16, 16)
    for part in found.components:
        shifted = (part.maps + part.diagnostics["bias"][..., None, None]) / vectors(part).norm(dim=2)[..., None, None]
        expected += F.interpolate(shifted, size=(16, 16), mode="bilinear")
    assert torch.allclose(found.maps + found.diagnostics["bias"][..., None, None], expected, atol=1e-5)


def test_one_layer_in_a_list_is_that_layer() -> None:
    observation = model().observe(noise())
    listed, named = (cl.loce(observation, blobs(), layer, "mean_difference") for layer in (["first"], "first"))
    assert_agree(vectors(listed), vectors(named))
    assert not listed.components


# Controls


@pytest.mark.parametrize("mode", MODES)
def test_selectivity_is_what_the_own_mask_fits_better_than_the_next_image_s(mode: Any) -> None:
    observation = model().observe(noise())
    found = cl.loce(observation, blobs(), "first", mode)
    following = np.roll(blobs(), -1, axis=0)
    given = cl.loce(observation, blobs(), "first", mode, control=following)
    as_own = cl.loce(observation, following, "first", mode)
    assert torch.allclose(
        found.diagnostics["control_iou"], as_own.diagnostics["iou"], atol=2e-3
    )  # a pixel at the threshold may fall on either side
    assert_agree(found.diagnostics["control_iou"], given.diagnostics["control_iou"])
    assert torch.equal(found.diagnostics["selectivity"], found.diagnostics["iou"] - found.diagnostics["control_iou"])
    assert_agree(vectors(found), vectors(given))


@pytest.mark.parametrize("mode", ["paper", "exact", "mean_difference"])
def test_a_planted_concept_is_selective_and_noise_is_not(mode: Any) -> None:
    mask, other = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[12:40, 20:52], other[30:60, 4:34] = True, True
    planted, noisy = (
        cl.loce(model().observe(image), mask, "first", mode, control=other).diagnostics["selectivity"]
        for image in (scene(mask), noise(1))
    )
    assert float(planted) > 0.3
    assert abs(float(noisy)) < 0.2


def test_one_image_has_no_control() -> None:
    alone = cl.loce(model().observe(noise(1)), blobs(1))
    assert set(alone.diagnostics) == {"iou", "loss", "converged", "bias"}
    given = cl.loce(model().observe(noise(1)), blobs(1), control=blobs(2)[1:])
    assert {"control_iou", "selectivity"} <= set(given.diagnostics)


# Drawing the mask


@pytest.mark.parametrize("mode", MODES)
def test_the_mask_is_drawn_where_the_map_exceeds_less_the_bias(mode: Any) -> None:
    found = cl.loce(model().observe(noise()), blobs(), "first", mode)
    large = F.interpolate(found.maps, size=(100, 100), mode="bilinear", align_corners=False)
    shifted = large + found.diagnostics["bias"][..., None, None]
    for i in range(3):
        assert torch.allclose(overlap(shifted[i], soft_masks(blobs()[i])), found.diagnostics["iou"][i], atol=2e-3)
    assert bool(found.diagnostics["bias"].any()) == (mode != "paper")


@pytest.mark.parametrize("mode", ["mean_difference", "mean"])
def test_the_threshold_draws_better_and_changes_no_vector(mode: Any) -> None:
    observation = model().observe(noise())
    fitted, plain = (cl.loce(observation, blobs(), "first", mode, bias=bias) for bias in (True, False))
    assert_agree(vectors(fitted), vectors(plain))
    assert_agree(fitted.maps, plain.maps)
    assert not plain.diagnostics["bias"].any()
    assert bool((fitted.diagnostics["iou"] >= plain.diagnostics["iou"]).all())
    assert float((fitted.diagnostics["iou"] - plain.diagnostics["iou"]).max()) > 0.01
    assert (fitted.source.settings["bias"], plain.source.settings["bias"]) == (True, False)


def test_the_constant_of_exact_is_fitted_with_the_vector_and_lowers_the_objective() -> None:
    observation = model().observe(noise())
    fitted, plain = (cl.loce(observation, blobs(), "first", "exact", ridge=0.1, bias=bias) for bias in (True, False))
    assert not plain.diagnostics["bias"].any()
    assert bool(fitted.diagnostics["bias"].abs().gt(0).all())
    objective = [one.diagnostics["loss"] + 0.05 * vectors(one).square().sum(2) for one in (fitted, plain)]
    assert bool((objective[0] < objective[1]).all())
    assert float(F.cosine_similarity(vectors(fitted), vectors(plain), dim=2).max()) < 0.9999
    assert (fitted.source.settings["bias"], plain.source.settings["bias"]) == (True, False)


def test_the_published_vectors_have_no_bias() -> None:
    observation = model().observe(noise())
    asked, not_asked = (cl.loce(observation, blobs(), "first", bias=bias) for bias in (True, False))
    assert_agree(asked.diagnostics["iou"], not_asked.diagnostics["iou"])
    assert "bias" not in asked.source.settings


# Surroundings and states


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "autocast", "gradients"])
def test_surroundings_change_nothing(mode: Any, around: str) -> None:
    expected = cl.loce(model().observe(noise()), blobs(), ["first", "second"], mode)
    observation = model().observe(noise())
    masks = blobs()[:, :, :47, :79]  # of a size that no other test has used
    wanted = cl.loce(observation, masks, "first", mode)
    plain, images = model(), noise()  # the caller's own, made elsewhere
    contexts: dict[str, Any] = {
        "no_grad": torch.no_grad(), "inference_mode": torch.inference_mode(), "gradients": torch.enable_grad(),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }  # fmt: skip
    with contexts.get(around, nullcontext()):
        observed = (
            observation if around == "autocast" else plain.observe(images)
        )  # the model rounds there, the fit does not
        found = cl.loce(observed, blobs(), ["first", "second"], mode)
        uncommon = cl.loce(observed, masks, "first", mode)
    assert_agree(vectors(found), vectors(expected))
    assert_agree(vectors(uncommon), vectors(wanted))
    kept = [found.maps, vectors(found), *found.diagnostics.values(), weights(found.components[0])]
    assert not any(value.requires_grad for value in kept)
    assert all(value.dtype == torch.float32 for value in kept)
    after = cl.loce(model().observe(noise()), masks, "first", mode)  # nothing that is kept was spoiled
    assert torch.equal(vectors(after), vectors(wanted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_other_precisions_give_the_same_vectors(mode: Any, precision: torch.dtype) -> None:
    expected = cl.loce(model().observe(noise()), blobs(), "first", mode)
    found = cl.loce(model().to(precision).observe(noise()), blobs(), "first", mode)
    assert vectors(found).dtype == found.maps.dtype == torch.float32
    assert float(F.cosine_similarity(vectors(found), vectors(expected), dim=2).min()) > 0.99


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_cells_that_are_all_alike_tell_nothing_and_break_nothing(mode: Any, value: float) -> None:
    found = cl.loce(model().observe(torch.full((2, 3, 64, 64), value)), blobs(2), "first", mode)
    assert float(found.maps.amax((2, 3)).sub(found.maps.amin((2, 3))).abs().max()) < 1e-5
    kept = [found.maps, vectors(found), weights(found), *found.diagnostics.values()]
    assert all(bool(part.isfinite().all()) for part in kept)
    if value == 0.0:  # what is 0 everywhere has no direction, and no threshold draws anything
        assert not vectors(found).any()
        assert not any(found.diagnostics[name].any() for name in ("iou", "converged", "bias"))
    if mode == "mean_difference":
        assert float(vectors(found).abs().max()) < 1e-5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_cells_that_are_not_finite_have_no_vector_and_spoil_no_other(
    mode: Any, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_batch, "_check_values", lambda images: None)  # as if the network made them itself
    images = noise()
    images[1, 1, 0, 0] = value
    found = cl.loce(model().observe(images), blobs(), "first", mode)
    assert not vectors(found)[1].any()
    assert found.diagnostics["converged"].tolist()[1] == [0, 0]
    assert found.diagnostics["iou"].tolist()[1] == [0, 0]
    assert all(bool(part.isfinite().all()) for part in (vectors(found), *found.diagnostics.values()))
    sound = cl.loce(model().observe(images[::2]), blobs()[::2], "first", mode)
    assert torch.allclose(vectors(found)[::2], vectors(sound), rtol=1e-4, atol=1e-5)
    several = cl.loce(model().observe(images), blobs(), ["first", "second"], mode)
    assert not vectors(several)[1].any()
    every = cl.loce(model().observe(images[1:2]), blobs()[1], "first", mode)
    assert not vectors(every).any()


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_over_the_whole_photo_has_no_rest_and_no_vector(mode: Any) -> None:
    masks = blobs(1)
    masks[0, 1] = True
    found = cl.loce(model().observe(noise(1)), masks, "first", mode)
    assert not vectors(found)[0, 1].any()
    assert vectors(found)[0, 0].any()
    assert found.diagnostics["converged"].tolist() == [[1, 0]]
    assert (float(found.diagnostics["iou"][0, 1]), float(found.diagnostics["bias"][0, 1])) == (0, 0)
    almost = masks.copy()
    almost[0, 1, :, 40:] = False
    assert vectors(cl.loce(model().observe(noise(1)), almost, "first", mode))[0, 1].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_of_one_pixel_has_a_vector_and_no_overlap(mode: Any) -> None:
    point = np.zeros((480, 640), bool)
    point[200, 300] = True
    found = cl.loce(model().observe(noise(1)), point, "first", mode)
    assert bool(vectors(found).isfinite().all())
    assert bool(vectors(found).any())
    assert float(found.diagnostics["iou"]) == 0  # smaller than a pixel of 100 x 100: nothing of it is above one half
