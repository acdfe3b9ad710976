"""Regions by competition: what they depend on, what they do not, the sizes they look at, and planted truth."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from PIL import Image, ImageOps
from tiny_models import photo
from torch import Tensor, nn

import conceptlens as cl
from architectures import ARCHITECTURES, LABELS, backbone, fresh, make_symmetric, random_images, wrap
from branches import PLAIN, branch_of, text_vector
from conceptlens.concept_regions import competition
from conceptlens.concept_regions.branch import branch_layers
from conceptlens.concept_regions.competing_explanation import competing, is_competing, pairs_of
from conceptlens.concept_regions.competition import FINE, Competition, compete, rival_words
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts
from conceptlens.data.drawn_scene import Scene, random_scene
from conceptlens.metrics import pixel_precision, pointing_energy, ranked_area_corrected
from conceptlens.model.input_sizes import cells_at, larger_sizes
from conceptlens.model.preprocess import Preprocess
from planted import SOLID, ColourNet
from planted_words import Colours, planted_model
from tolerance import assert_agree

pytestmark = pytest.mark.wide

ASKED = parse_concepts("cat, bottle, a made-up thing")
ONCE = Competition(input_scales=(1.0,))


def reading(name: str) -> cl.Backbone:
    """Return a toy architecture that takes photos."""
    return dataclasses.replace(backbone(name), transform=Preprocess(ARCHITECTURES[name].size))


class Resized:
    """Words whose vectors have as many entries as a model's embedding."""

    name, scale, bias = "resized", 5.0, 0.0

    def __init__(self, dimension: int, normalised: bool = True) -> None:
        self.dimension, self.normalised = dimension, normalised

    def encode_image(self, output: cl.Observation) -> Tensor:
        return output.embedding

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([text_vector(text, self.dimension) for text in texts])


def looking(name: str, normalised: bool = True) -> tuple[cl.Observation, Resized]:
    model = reading(name)
    observation = model.observe([photo(seed=1), photo(97, 151, seed=2)])
    return observation, Resized(observation.embedding.shape[1], normalised)


def test_what_else_is_asked_does_not_matter() -> None:
    """Neither words of the vocabulary, nor others, nor their order: a share is against the vocabulary alone."""
    observation, words = looking("timm resnet")
    together = compete(observation, ASKED, words, competition=ONCE).maps
    backwards = compete(observation, ASKED[::-1], words, competition=ONCE).maps
    assert torch.allclose(together, backwards.flip(1), rtol=1e-4)
    for q, concept in enumerate(ASKED):
        alone = compete(observation, [concept], words, competition=ONCE).maps
        assert torch.allclose(alone[:, 0], together[:, q], rtol=1e-4)
        assert len(rival_words()) ** ONCE.power >= float(alone.max()) > float(alone.min()) >= 0


def test_images_of_a_batch_do_not_matter_to_each_other() -> None:
    observation, words = looking("timm resnet")
    together = compete(observation, ASKED, words).maps
    for i, picture in enumerate(observation.photos):
        alone = compete(observation.model.observe(picture), ASKED, words).maps
        assert torch.allclose(alone[0], together[i], rtol=1e-2)


def test_a_concept_is_not_its_own_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, words = looking("timm resnet")
    cat, bottle, made_up = ASKED
    plain = dataclasses.replace(ONCE, propagation_steps=0, power=1.0)
    monkeypatch.setattr(competition, "rival_words", lambda: (cat,))
    alone = compete(observation, ASKED, words, competition=plain).maps
    assert torch.allclose(alone[:, 0], torch.ones_like(alone[:, 0]))  # cat has nobody to share with
    monkeypatch.setattr(competition, "rival_words", lambda: (cat, bottle))
    both = compete(observation, ASKED, words, competition=plain).maps
    both = both / 2  # maps are multiples of the even share of two words
    assert torch.allclose(both[:, 0] + both[:, 1], torch.ones_like(both[:, 0]), atol=1e-5)
    assert bool((both[:, 2] < 1 - 1e-6).any())  # a word of one's own competes with both, and they not with it
    assert made_up not in rival_words()


def test_contrast_changes_no_ranking_and_evens_out_without_sharpness() -> None:
    observation, words = looking("timm resnet")
    plain, strong = (
        compete(observation, ASKED, words, competition=dataclasses.replace(ONCE, power=c)).maps for c in (1.0, 4.0)
    )
    assert torch.allclose(plain**4, strong, rtol=1e-4)
    even = compete(observation, ASKED, words, competition=dataclasses.replace(ONCE, sharpness=0.0, power=1.0)).maps
    words_known = len(rival_words())
    known = torch.tensor([words_known + float(concept not in rival_words()) for concept in ASKED]) / words_known
    assert torch.allclose(even, (1 / known)[None, :, None, None].expand_as(even), atol=1e-6)


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest entry of each image and question."""
    return float(((found - wanted).abs().amax((2, 3)) / wanted.amax((2, 3))).max())


def test_the_other_way_round_in_the_mirror() -> None:
    """A photo and its mirror image: the map turns round where kernels are symmetric, whatever the size."""
    name = "timm convnext"
    module = make_symmetric(fresh(name).module)
    model = dataclasses.replace(wrap(name, module), transform=Preprocess((96, 160), crop_mode="squash"))
    picture = photo(160, 96)
    observation, mirrored = model.observe(picture), model.observe(ImageOps.mirror(picture))
    words = Resized(observation.embedding.shape[1])
    for how in (Competition(), dataclasses.replace(ONCE, mirrored=False)):
        maps, turned = (compete(s, ASKED, words, competition=how).maps for s in (observation, mirrored))
        assert apart(turned, maps.flip(3)) < 1e-2
        assert apart(turned, maps) > 0.1


def test_looking_in_a_mirror_too_takes_a_networks_own_handedness_away() -> None:
    """Without flow, and for words that do not depend on the photo, any network's map turns round."""
    model = reading("timm resnet")
    picture = photo(160, 96)
    words = Resized(model.observe(picture).embedding.shape[1], normalised=False)
    how = dataclasses.replace(ONCE, propagation_steps=0, mirrored=True)
    squashed = dataclasses.replace(model, transform=Preprocess((96, 160), crop_mode="squash"))
    maps, turned = (
        compete(squashed.observe(p), ASKED, words, competition=how).maps for p in (picture, ImageOps.mirror(picture))
    )
    assert apart(turned, maps.flip(3)) < 1e-3
    one_way = dataclasses.replace(how, mirrored=False)
    maps, turned = (
        compete(squashed.observe(p), ASKED, words, competition=one_way).maps
        for p in (picture, ImageOps.mirror(picture))
    )
    assert apart(turned, maps.flip(3)) > 1e-2


FIXED = ("timm vit3", "timm vit_relpos", "timm coatnet", "hf vit", "hf clip vision", "open_clip vit",
         "open_clip resnet", "torchvision vit", "hf siglip vision")  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_a_model_of_one_input_size_keeps_to_it_and_says_so(name: str) -> None:
    observation, words = looking(name)
    found = compete(observation, ASKED, words)
    assert found.source.settings["input_sizes"] == (ARCHITECTURES[name].size,)
    assert_agree(found.maps, compete(observation, ASKED, words, competition=ONCE).maps)
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        observation.forward(observation.images.new_zeros(1, 3, *(4 * side for side in ARCHITECTURES[name].size)))


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in (*FIXED, "hf deit distilled")])
def test_every_other_architecture_is_looked_at_at_each_size(name: str) -> None:
    """At its own size, cells are those that were observed; at twice the size, they have twice the rows."""
    model = reading(name)
    layers = tuple(dict.fromkeys([*branch_layers(model), *model.default_layers]))
    observation = model.observe(photo(), layers)
    own = ARCHITECTURES[name].size
    sizes = larger_sizes(observation, (1.0, 2.0))
    assert sizes[0] == own
    plain = cells_at(observation, 0, own, layers, mirrored=False)
    for layer in layers:
        assert torch.allclose(plain[layer][0], observation.feature(layer)[0], atol=1e-4)
    assert len(sizes) == 2
    larger = cells_at(observation, 0, sizes[1], layers, mirrored=True)
    for layer in layers:
        one, other = larger[layer]
        assert one.shape == other.shape
        assert one.shape[1] >= 2 * plain[layer][0].shape[1] - 1
    assert list(observation.model.module.state_dict()) == list(backbone(name).module.state_dict())


def test_a_layer_whose_channels_could_be_rows_is_read_as_at_the_models_own_size() -> None:
    """Sixteen channels of 16 x 16 cells at twice the size: which axis is which is known from the size before."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.Conv2d(3, 16, 4, stride=4)
            self.head = nn.Linear(16, 12)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.cells(images).mean((2, 3)))

    torch.manual_seed(0)
    model = cl.Backbone(Square().eval(), "square", ("cells",), Preprocess((32, 32)), class_names=LABELS)
    observation = model.observe(photo())
    cells = cells_at(observation, 0, (64, 64), ["cells"], mirrored=False)["cells"][0]
    larger = dataclasses.replace(model, transform=Preprocess((64, 64)), channels_last=False).observe(photo())
    assert torch.allclose(cells, larger.feature()[0], atol=1e-5)


def test_a_tensor_is_interpolated_where_the_model_takes_other_sizes() -> None:
    model = reading("timm resnet")
    images = random_images((96, 160), 1)
    observation = model.observe(images)
    words = Resized(observation.embedding.shape[1])
    found = compete(observation, ASKED, words)
    assert found.source.settings["input_sizes"] == ((128, 192),)
    larger = torch.nn.functional.interpolate(images, size=(128, 192), mode="bilinear", align_corners=False)
    seen = compete(model.observe(larger), ASKED, words, competition=dataclasses.replace(ONCE, mirrored=False))
    share = (seen.maps / found.maps).sqrt().sqrt()  # the weights are those of the other size
    assert float(share.std()) < 0.25
    fixed = reading("hf vit")
    at_its_size = fixed.observe(random_images((48, 64), 1))
    words = Resized(at_its_size.embedding.shape[1])
    assert compete(at_its_size, ASKED, words).source.settings["input_sizes"] == ((48, 64),)
    its_own_transform = dataclasses.replace(model, transform=None)
    observation = its_own_transform.observe(random_images((96, 160), 1))
    words = Resized(observation.embedding.shape[1])
    assert compete(observation, ASKED, words).source.settings["input_sizes"] == ((128, 192),)


def test_a_size_that_is_no_multiple_of_a_step_is_kept_as_it_is() -> None:
    model = reading("hf dinov2 registers")
    assert larger_sizes(model.observe(photo()), (1.0, 2.0)) == [(48, 64), (96, 128)]


TRANSFORMS = {
    "crop": Preprocess((96, 96)),
    "crop of a share": Preprocess((96, 96), share=0.875),
    "crop of a resize": Preprocess((96, 96), resize=110),
    "crop of a resize of both sides": Preprocess((96, 96), resize=(110, 120)),
    "wide crop": Preprocess((96, 160)),
    "squash": Preprocess((96, 160), crop_mode="squash"),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("sides", [(151, 97), (97, 151), (640, 427)])
def test_a_larger_look_shows_the_same_part_of_the_photo(name: str, sides: tuple[int, int]) -> None:
    from conceptlens.model.input_sizes import resized

    transform = TRANSFORMS[name]
    larger = resized(transform, (transform.size[0] * 2, transform.size[1] * 2))
    assert larger.box(sides) == pytest.approx(transform.box(sides), abs=0.02)
    picture = photo(32, 24).resize(sides, Image.Resampling.BICUBIC)  # coarse: no resampling loses it
    small = transform.view(picture)
    again = larger.view(picture).resize(small.size, Image.Resampling.BOX)
    a, b = (torch.tensor(list(image.tobytes()), dtype=torch.float32) for image in (small, again))
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.97


@pytest.mark.parametrize("name", TRANSFORMS)
def test_maps_of_every_transform_are_finite_and_show_something(name: str) -> None:
    model = dataclasses.replace(backbone("timm resnet"), transform=TRANSFORMS[name])
    observation = model.observe(photo())
    found = compete(observation, ASKED, Resized(observation.embedding.shape[1]), competition=FINE)
    own = TRANSFORMS[name].size
    assert found.source.settings["input_sizes"] == tuple((own[0] * f, own[1] * f) for f in (1, 2, 4))
    assert bool(found.maps.isfinite().all())
    assert bool((found.maps.amax((2, 3)) > found.maps.amin((2, 3))).all())


def test_the_record_tells_how_it_was_made() -> None:
    observation, words = looking("timm resnet")
    how = Competition((1.0, 2.0), False, 0.5, 14, 2.0, 0.2, 1, 2.0)
    found = compete(observation, ASKED, words, competition=how)
    settings = found.source.settings
    assert {name: settings[name] for name in dataclasses.asdict(how) if name != "input_scales"} == {
        name: value for name, value in dataclasses.asdict(how).items() if name != "input_scales"
    }
    assert (found.source.method, found.source.layer, settings["text"]) == ("competition", "layer4", "resized")
    assert found.maps.shape == (2, 3, 14, 14)
    assert (found.weights, found.contributions) == (None, None)
    assert found.labels[0] == tuple(c.label for c in ASKED)
    assert found.concept_types[0] == tuple(c.type for c in ASKED)
    assert not found.maps.requires_grad


def test_competing_puts_each_images_own_regions_in_place() -> None:
    """The images of a batch may have different concepts, of other types and in other orders."""
    model = backbone("timm resnet")
    translator = branch_of(model, PLAIN)
    observation = model.observe(random_images((96, 160)), translator.layers)
    translator.branch.network[-1].bias.sub_(
        translator.encode_image(observation).detach().mean(0)
    )  # images point two ways
    explained = cl.explain(observation, top=3, branch=translator)
    assert explained.labels[0] != explained.labels[1]
    found = competing(observation, explained, translator)
    for i in range(2):
        for q in range(3):
            one = ConceptName(explained.labels[i][q], explained.concept_types[i][q])
            assert torch.allclose(
                found.maps[i, q], compete(observation, [one], pairs_of(model, translator)).maps[i, 0], rtol=1e-3
            )


SCENES = [scene for scene in (random_scene(seed, kinds=SOLID) for seed in range(24)) if len(scene.masks) > 1]


@pytest.mark.parametrize("several_sizes", [True, False])
def test_the_planted_colour_is_found_and_no_other(several_sizes: bool) -> None:
    """On drawn scenes: the map of a colour lies on its shape, and any other colour's lies there less."""
    whole = Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3)
    names = planted_model().class_names
    model = planted_model() if not several_sizes else cl.Backbone(
        ColourNet(), "planted", ("features",), whole, class_names=names, text=Colours()
    )  # fmt: skip
    own, other, precision, chance = [], [], [], []
    for scene in SCENES[:8]:
        observation = model.observe(scene.image)
        names = [f"{colour}:colour" for colour in scene.masks]
        found = compete(observation, names, competition=FINE if several_sizes else None)
        assert len(found.source.settings["input_sizes"]) == (3 if several_sizes else 1)
        right, wrong = masks_of(scene)
        own.append(pointing_energy(found, right).values)
        other.append(pointing_energy(found, wrong).values)
        precision.append(pixel_precision(found, right).values)
        chance.append(ranked_area_corrected(found, right).values)
    assert all(bool((a > b).all()) for a, b in zip(own, other, strict=True))
    assert float(torch.cat(own, 1).mean()) > 0.6
    assert float(torch.cat(precision, 1).mean()) > 0.85
    assert float(torch.cat(chance, 1).min()) > 0.3


def masks_of(scene: Scene) -> tuple[Tensor, Tensor]:
    """Each colour's own mask, and the mask of the colour after it."""
    right = torch.stack([torch.from_numpy(mask) for mask in scene.masks.values()])[None]
    return right, right.roll(1, 1)


KINDS = {"timm resnet": "competing", "timm convnext": "competing", "timm vit2": "competing", "hf beit": "competing",
         "timm vit": "official", "torchvision vit": "official"}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_competing_regions_are_the_default_where_the_classifier_sees_the_mean_cell_alone(name: str) -> None:
    observation = backbone(name).observe(random_images(ARCHITECTURES[name].size, 1))
    found = cl.explain(observation, ["cat"])
    assert is_competing(found) == (KINDS[name] == "competing")
    assert bool(found.maps.isfinite().all())
    assert found.contributions is not None


@pytest.mark.parametrize("name", ["timm convnext", "timm vit2", "hf beit", "hf dinov2 registers"])
def test_products_to_the_mean_cell_are_those_through_all_cells(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    observation, words = looking(name)
    quick = compete(observation, ASKED, words, competition=ONCE).maps
    monkeypatch.setattr(competition, "mean_jacobian", lambda *_: None)
    assert torch.allclose(compete(observation, ASKED, words, competition=ONCE).maps, quick, rtol=1e-3)


def test_pairs_are_the_models_own_and_the_branch() -> None:
    named = planted_model()
    unnamed = backbone("timm resnet")  # classes without names: no pair of its own
    branch = branch_of(unnamed, PLAIN)
    assert pairs_of(named, None) == [named.language]
    assert pairs_of(named, branch) == [named.language, branch]
    assert pairs_of(dataclasses.replace(unnamed, class_names=None), branch) == [branch]


def test_two_pairs_share_the_mean_of_their_scores() -> None:
    """Twice the same pair is that pair; the order of two does not matter."""
    observation, words = looking("timm resnet")
    other = Resized(observation.embedding.shape[1], normalised=False)
    once = compete(observation, ASKED, words, competition=ONCE).maps
    assert torch.allclose(compete(observation, ASKED, [words, words], competition=ONCE).maps, once, rtol=1e-3)
    both = compete(observation, ASKED, [words, other], competition=ONCE).maps
    assert torch.allclose(both, compete(observation, ASKED, [other, words], competition=ONCE).maps, rtol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": 0},
        {"input_scales": ()},
        {"input_scales": (-1.0,)},
        {"affinity_temperature": 0.0},
        {"sharpness": math.nan},
        {"propagation_steps": -1},
        {"centering": 1.1},
    ],
)
def test_a_competition_without_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(cl.InputError, match="a competition with"):
        Competition(**wrong)
