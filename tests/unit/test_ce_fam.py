"""CE-FAM with a branch: its weights by every way, its layers, its contributions, and the way in from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage
import timm
import torch
import torchvision
from tiny_models import photo, register_open_clip, save_transformers
from torch import Tensor, nn
from typer.testing import CliRunner

import conceptlens as cl
from architectures import ARCHITECTURES, FEW, LABELS, backbone, fresh, observation_of, random_images, stir
from branches import CLIP, PAIRS, PLAIN, SIGLIP, branch_of
from conceptlens.cams.concept_target import similarity
from conceptlens.cli import app
from conceptlens.concept_regions.branch import Branch, branch_layers, layer_widths
from conceptlens.concept_regions.ce_fam import ce_fam, channel_weights
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.concept_regions.competing_explanation import pairs_of
from conceptlens.concept_regions.competition import Competition, compete
from conceptlens.concept_regions.concept_scores import score_concepts
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.concepts.vocabulary import everyday_words, parse_concepts
from conceptlens.data.drawn_scene import Shape, draw_scene
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.observation import Observation
from planted import LABELS as COLOURS
from planted import ManyNet, pixels
from planted_words import Colours
from tolerance import assert_agree

pytestmark = pytest.mark.wide

CAT = Path(skimage.__file__).parent / "data" / "chelsea.png"
EXACT = torch.float64
ASKED = parse_concepts("cat, wheel, red:colour, striped fur:texture")
# Its windows are merged by adding in place to a tensor that knows no forward mode: the reverse mode does it all.
NO_FORWARD = {"hf swin"}
ROUNDED = {"timm efficientnet_evos"}  # its normalisation computes in float32 whatever it is given
DEAR = {"torchvision resnet18"}  # a hundred channels and more a layer: in float32 only
# The last layer's cells reach the class through their mean alone, which is then normalised, bent or joined to more.
BENT_AFTER_POOLING = (
    "timm convnext", "timm convnext2", "timm convnext3", "timm mambaout", "timm vit2", "timm vit4", "timm vit_relpos",
    "hf dinov2 registers", "hf convnext", "hf beit",
)  # fmt: skip


def look(name: str, precision: torch.dtype = torch.float32, words=CLIP) -> tuple[Observation, Translator]:
    model = backbone(name, precision)
    translator = branch_of(model, words)
    return model.observe(random_images(ARCHITECTURES[name].size), translator.layers), translator


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest entry of each image and question."""
    return float(((found - wanted).abs().amax(2) / wanted.abs().amax(2)).max())


def own_way(observation: Observation, translator: Translator, cotangents: Tensor, layer: str) -> Tensor:
    """Return `beta` by one backward pass a question through classifier and branch, no product shared."""
    root = translator.encode_image(observation)
    found = []
    for q in range(cotangents.shape[1]):
        score = (root * cotangents[:, q].to(root)).sum(1)
        (gradient,) = torch.autograd.grad(score.sum(), observation.layer_output(layer).raw, retain_graph=True)
        found.append(observation.layer_output(layer).grid.read(gradient).mean((2, 3)))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [
        pytest.param(
            name,
            torch.float32 if name in DEAR else EXACT,
            1e-5 if name in DEAR or name in ROUNDED else 1e-9,
            marks=() if name in FEW else pytest.mark.slow,
        )
        for name in ARCHITECTURES
    ],
)
def test_every_way_gives_the_same_weights(name: str, precision: torch.dtype, tolerance: float) -> None:
    observation, translator = look(name, precision)
    cotangents = score_concepts(observation, translator, ASKED).score_gradients(torch.arange(4).expand(2, -1))
    reverse = channel_weights(observation, translator, cotangents, translator.layers, "reverse")
    assert list(reverse) == list(translator.layers)
    for layer, weights in reverse.items():
        plain = own_way(observation, translator, cotangents, layer)
        assert apart(weights, plain) < 2e-5, layer  # the branch itself computes in float32
    ways = ["auto"] if name in NO_FORWARD else ["auto", "forward"]
    for way in ways:
        found = channel_weights(observation, translator, cotangents, translator.layers, way)
        for layer in translator.layers:
            assert not found[layer].requires_grad
            assert apart(found[layer], reverse[layer]) < tolerance, (way, layer)
    for layer in translator.layers:
        alone = channel_weights(observation, translator, cotangents, (layer,))
        assert list(alone) == [layer]
        assert apart(alone[layer], reverse[layer]) < tolerance


@pytest.mark.parametrize("name", sorted(NO_FORWARD))
def test_where_torch_has_no_forward_mode_the_reverse_mode_steps_in(name: str) -> None:
    observation, translator = look(name)
    many = torch.randn(2, 400, 9, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="inplace arithmetic"):
        channel_weights(observation, translator, many, translator.layers, "forward")
    reverse = channel_weights(observation, translator, many, translator.layers, "reverse")
    found = channel_weights(observation, translator, many, translator.layers)
    assert all(torch.equal(found[layer], reverse[layer]) for layer in translator.layers)


def test_the_cheapest_way_depends_on_the_number_of_questions() -> None:
    """Forward for more questions than channels: a pass for each of three layers, and one to keep what is before it."""
    observation, translator = look("hf convnext")
    passes: list[str] = []
    module = observation.model.module
    handle = module.register_forward_hook(lambda *_: passes.append("forward"))
    for questions, expected in ((2, 0), (60, 6)):
        passes.clear()
        many = torch.randn(2, questions, 9, generator=torch.Generator().manual_seed(1))
        channel_weights(observation, translator, many, translator.layers)
        assert len(passes) == expected
    handle.remove()


class InPlace(nn.Module):
    """Layers whose outputs the next operation overwrites, as in DenseNet and VGG."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.second = nn.Conv2d(8, 10, 3, stride=2, padding=1)
        self.head = nn.Linear(10, 12)

    def forward(self, images: Tensor) -> Tensor:
        first = torch.relu_(self.first(images))
        return self.head(torch.relu_(self.second(first)).mean((2, 3)))


def test_operations_in_place_change_nothing_that_is_kept() -> None:
    model = cl.Backbone(InPlace().double().eval(), "in place", class_names=LABELS, input_size=(64, 96))
    translator = branch_of(model, layers=("first", "second"))
    observation = model.observe(random_images((64, 96)).double(), translator.layers)
    kept = {name: layer_output.raw.detach().clone() for name, layer_output in observation.layer_outputs.items()}
    cotangents = score_concepts(observation, translator, ASKED).score_gradients(torch.arange(4).expand(2, -1))
    forward, reverse = (
        channel_weights(observation, translator, cotangents, translator.layers, way) for way in ("forward", "reverse")
    )
    ce_fam(observation, translator, ASKED)
    assert all(torch.equal(observation.layer_outputs[name].raw.detach(), raw) for name, raw in kept.items())
    assert float(kept["first"].min()) < 0
    for layer in translator.layers:
        assert apart(forward[layer], reverse[layer]) < 1e-9


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_turned_off(how: Callable[[], torch.no_grad]) -> None:
    model = backbone("torchvision resnet18")
    translator = branch_of(model)
    images = random_images((96, 160), 1)
    wanted = ce_fam(model.observe(images, translator.layers), translator, ASKED)
    region = compete(model.observe(images, translator.layers), ASKED, translator).maps
    with how():
        observation = model.observe(images, translator.layers)
        found = ce_fam(observation, translator, ASKED)
        competed = compete(observation, ASKED, translator).maps
    assert_agree(found.maps, wanted.maps)
    assert_agree(found.contributions, wanted.contributions)
    assert_agree(competed, region)


@pytest.mark.parametrize("pair", PAIRS)
def test_scores_are_those_of_the_pair(pair: str) -> None:
    observation, translator = look("timm resnet", words=PAIRS[pair])
    found = ce_fam(observation, translator, ASKED, with_contributions=False)
    texts = translator.encode_text(["a photo of a cat", "a photo of a wheel"])
    vectors = translator.encode_image(observation).detach()
    assert torch.allclose(found.scores[:, :2], similarity(vectors, texts, translator), atol=1e-5)
    assert found.concept_types[0] == ("object", "part", "colour", "texture")


def test_without_counting_nothing_is_counted() -> None:
    observation, translator = look("timm resnet")
    counted, left_out = (
        ce_fam(observation, translator, ASKED, with_contributions=with_them) for with_them in (True, False)
    )
    assert left_out.contributions is None
    assert left_out.explained_classes == ()
    assert counted.contributions is not None
    assert counted.explained_classes == tuple(LABELS[i] for i in observation.logits.argmax(1).tolist())
    assert_agree(counted.maps, left_out.maps)
    assert counted.layers == left_out.layers


def test_the_top_of_the_vocabulary_is_explained_where_nothing_is_named() -> None:
    observation, translator = look("timm resnet", words=PLAIN)
    found = ce_fam(observation, translator, top=5)
    assert found.maps.shape[:2] == (2, 5)
    every = score_concepts(observation, translator, everyday_words()).scores
    for i in range(2):
        assert float(found.scores[i, 0]) == pytest.approx(float(every[i].max()), rel=1e-5)
        assert found.scores[i].tolist() == sorted(found.scores[i].tolist(), reverse=True)
        row = parse_concepts([f"{w}:{t}" for w, t in zip(found.labels[i], found.concept_types[i], strict=True)])
        named = ce_fam(observation, translator, row)
        assert torch.allclose(named.maps[i], found.maps[i], atol=1e-6)
        assert torch.allclose(named.contributions[i], found.contributions[i], atol=1e-6)
        assert named.layers[i] == found.layers[i]


def test_what_else_is_asked_does_not_matter() -> None:
    observation, translator = look("timm resnet")
    together = ce_fam(observation, translator, ASKED)
    for q, concept in enumerate(ASKED):
        alone = ce_fam(observation, translator, [concept])
        assert torch.allclose(alone.maps[:, 0], together.maps[:, q], atol=1e-6)
        assert torch.allclose(alone.contributions[:, 0], together.contributions[:, q], atol=1e-6)
        assert [row[0] for row in alone.layers] == [row[q] for row in together.layers]


def test_one_layer_of_several() -> None:
    observation, translator = look("timm resnet")
    whole = ce_fam(observation, translator, ASKED)
    for place, layer in enumerate(translator.layers):
        one = ce_fam(observation, translator, ASKED, layer=layer)
        assert one.source.layer == layer
        assert (one.components, one.layers) == ((), ())
        assert_agree(one.maps, whole.components[place].maps)
        assert_agree(one.weights, whole.components[place].weights)
        for i in range(2):
            for q in range(len(ASKED)):
                if whole.layers[i][q] == layer:
                    assert_agree(one.contributions[i, q], whole.contributions[i, q])
    with pytest.raises(cl.InputError, match=r"does not read layer 'layer5'; it reads layer1, layer2, layer3, layer4"):
        ce_fam(observation, translator, ASKED, layer="layer5")


def test_a_branch_of_a_single_layer() -> None:
    model = backbone("torchvision resnet18")
    translator = branch_of(model, layers=("layer4",))
    observation = model.observe(random_images((96, 160)), translator.layers)
    found = ce_fam(observation, translator, ASKED)
    assert found.source.layer == "layer4"
    assert (found.components, found.layers) == ((), ())
    assert found.maps.shape == (2, 4, 3, 5)
    root = translator.encode_image(observation)
    score = similarity(root, translator.encode_text(["a photo of a cat"]), translator)
    weights = observation.gradient(score, "layer4").mean((3, 4))
    assert torch.allclose(found.weights[:, :1, :, 0, 0], weights, rtol=1e-4, atol=1e-7)


def test_another_model_and_other_layers_are_refused() -> None:
    observation, translator = look("timm resnet")
    other = backbone("torchvision resnet18")
    with pytest.raises(cl.InputError, match="this branch was trained for timm resnet"):
        ce_fam(other.observe(random_images((96, 160)), translator.layers), translator, ASKED)
    with pytest.raises(cl.InputError, match="layer1, layer2, layer3 was not observed"):
        ce_fam(observation.model.observe(random_images((96, 160))), translator, ASKED)
    with pytest.raises(cl.InputError, match="top is 0"):
        ce_fam(observation, translator, top=0)


def rerun_by_hand(
    observation: Observation, weights: Tensor, image: int, question: int, layer: str, target: int
) -> float:
    """The masking curve by the whole model under a hook of its own, and one forward pass a step."""
    module, grid = observation.model.module, observation.layer_output(layer).grid
    cells = observation.feature(layer)[image : image + 1].clone()
    value = (weights[image, question] * cells.mean((2, 3))[0]).tolist()
    order = sorted(range(len(value)), key=lambda k: -value[k])[:20]
    pooled_alone = (
        observation.model.name in BENT_AFTER_POOLING or observation.readout(observation.logits, layer) is not None
    )
    fill = cells.mean().expand(len(value)) if pooled_alone and layer == observation.layer else cells.mean((2, 3))[0]

    def probability(replacement: Tensor | None) -> float:
        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            if replacement is None:
                return None
            raw = output if isinstance(output, Tensor) else output[0]
            written = grid.write(raw, replacement)
            if isinstance(output, Tensor):
                return written
            if isinstance(output, tuple):
                return (written, *output[1:])
            output["last_hidden_state"] = written
            return output

        handle = module.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            output = module.eval()(observation.images[image : image + 1])
        handle.remove()
        logits = output if isinstance(output, Tensor) else output.logits
        return float(logits[0].double().softmax(0)[target])

    before, total = probability(None), 0.0
    for channel in order:
        cells[0, channel] = fill[channel]
        total += (before - probability(cells)) / max(before, 1 / observation.logits.shape[1])
    return total / len(order)


SOME = ("timm vit", "hf dinov2 registers", "hf swin", "torchvision swin")
SOME_SLOW = ("timm vit3", "timm vit4", "hf vit", "torchvision vit", "hf convnext")


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in SOME_SLOW)])
def test_contributions_of_transformers_and_their_kin_equal_a_rerun_by_hand(name: str) -> None:
    observation, translator = look(name, EXACT)
    cotangents = score_concepts(observation, translator, ASKED).score_gradients(torch.arange(4).expand(2, -1))
    weights = channel_weights(observation, translator, cotangents, translator.layers)
    for layer in translator.layers:
        found = ce_fam(observation, translator, ASKED[:2], target=[3, 5], layer=layer)
        assert found.contributions is not None
        assert bool(found.contributions.isfinite().all())
        wanted = torch.tensor(
            [[rerun_by_hand(observation, weights[layer], i, q, layer, (3, 5)[i]) for q in range(2)] for i in range(2)]
        )
        assert torch.allclose(found.contributions, wanted, atol=2e-6), layer


@pytest.mark.parametrize("name", BENT_AFTER_POOLING)
def test_no_false_zero_where_a_mean_is_all_that_is_read(name: str) -> None:
    """A channel's own mean in its place changes nothing there: as at the last layer, it takes the layer's mean."""
    observation = observation_of(name)
    weights = torch.randn(2, 3, observation.feature().shape[1], generator=torch.Generator().manual_seed(0))
    assert observation.readout(observation.logits) is None
    found = masking_contributions(observation, weights, torch.tensor([1, 2]))
    assert float(found.abs().min()) > 1e-4


def test_cells_that_do_not_reach_the_class_have_no_contribution() -> None:
    """The patches behind a ViT's last attention: the branch reads them, the class does not."""
    model = backbone("timm vit")
    images = random_images((96, 160))
    behind = branch_of(model, layers=("norm",))
    found = ce_fam(model.observe(images, ("norm",)), behind, ASKED)
    assert found.contributions is None
    assert found.explained_classes == ()
    assert float(found.maps.max()) > 0
    both = branch_of(model, layers=("blocks.5.norm1", "norm"))
    observation = model.observe(images, both.layers)
    assert ce_fam(observation, both, ASKED, layer="norm").contributions is None
    assert ce_fam(observation, both, ASKED, layer="blocks.5.norm1").contributions is not None


def test_a_model_without_classes_has_no_contributions() -> None:
    observation, translator = look("open_clip vit")
    found = ce_fam(observation, translator, ASKED)
    assert found.contributions is None
    assert found.explained_classes == ()


def test_what_speaks_against_a_class_is_negative_and_kept() -> None:
    """Silencing red makes room for blue; the branch hands the channels on as they are."""
    scene = draw_scene([Shape("disc", "red", (0.3, 0.3), 0.2), Shape("square", "blue", (0.7, 0.7), 0.25)])
    model = cl.Backbone(ManyNet(), "planted", ("features",), class_names=COLOURS)
    branch = Branch(("features",), (20 * len(COLOURS),), len(COLOURS), ())
    with torch.no_grad():
        branch.network[0].weight.copy_(model.module.head.weight)
        branch.network[0].bias.zero_()
    vlm = cl.Backbone(nn.Linear(2, 2), "colours", text=Colours(), task="embedding")
    translator = Translator(branch, Teacher.of(vlm), "planted", weights_fingerprint(model.module), {}, vlm)
    observation = model.observe(pixels([scene]))
    for target, signs in (("blue", (-1, 1)), ("red", (1, -1))):
        found = ce_fam(observation, translator, "red:colour, blue:colour", target=target)
        assert found.contributions is not None
        assert found.contributions.sign()[0].tolist() == list(signs)
        assert float(found.contributions.abs().min()) > 0.05
        assert found.explained_classes == (target,)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, cl.Backbone]:
    register_open_clip(tmp_path_factory.mktemp("open_clip"))
    clip = save_transformers("clip", tmp_path_factory.mktemp("clip"))
    siglip = save_transformers("siglip", tmp_path_factory.mktemp("siglip"))
    torch.manual_seed(0)
    return {
        "open_clip vit": cl.load_model("open_clip:toy-vit", pretrained=False),
        "open_clip resnet": cl.load_model("open_clip:toy-resnet", pretrained=False),
        "open_clip sigmoid": cl.load_model("open_clip:toy-sigmoid", pretrained=False),
        "hf clip": cl.load_model(f"hf:{clip}"),
        "hf siglip": cl.load_model(f"hf:{siglip}"),
    }


@pytest.mark.parametrize("name", ["open_clip vit", "open_clip resnet", "open_clip sigmoid", "hf clip", "hf siglip"])
def test_a_real_pair_is_the_teacher(name: str, teachers: dict[str, cl.Backbone], tmp_path: Path) -> None:
    vlm, model = teachers[name], backbone("timm resnet")
    layers = branch_layers(model)
    dimension = vlm.language.encode_text(["a"]).shape[1]
    torch.manual_seed(1)
    branch = Branch(layers, layer_widths(model, layers), dimension, (16,))
    made = Translator(branch, Teacher.of(vlm), model.name, weights_fingerprint(model.module), {}, vlm)
    assert made.normalised
    assert (made.bias != 0) == (name in ("open_clip sigmoid",))  # transformers begins SigLIP's own at 0
    translator = Translator.load(made.save(tmp_path), vlm)
    observation = model.observe(random_images((96, 160)), layers)
    found = ce_fam(observation, translator, ASKED)
    again = ce_fam(observation, made, ASKED)
    assert found.contributions is not None
    assert bool(found.contributions.isfinite().all())
    assert max(float(part.maps.amax()) for part in found.components) > 0
    assert torch.equal(found.maps, again.maps)
    assert found.source.settings["text"] == translator.name


def test_explain_takes_a_branch_and_refuses_what_it_cannot_do() -> None:
    observation, translator = look("timm resnet")
    found = cl.explain(observation, ASKED, branch=translator, regions="official", contribution="masking")
    direct = ce_fam(observation, translator, ASKED)
    assert_agree(found.maps, direct.maps)
    assert_agree(found.contributions, direct.contributions)
    assert found.z_scores is None
    with pytest.raises(cl.InputError, match="contribution is 'all'; expected evidence or masking"):
        cl.explain(observation, ASKED, branch=translator, contribution="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.InputError, match="both branch and against are given"):
        cl.explain(observation, ASKED, branch=translator, against=3)
    with pytest.raises(cl.InputError, match="regions are 'mine'; expected competing, coarse, fine or official"):
        cl.explain(observation, ASKED, branch=translator, regions="mine")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("with_branch", [True, False])
def test_explain_with_competing_regions_keeps_all_but_the_maps(with_branch: bool) -> None:
    observation, translator = look("timm resnet", words=SIGLIP)
    branch = translator if with_branch else None
    official = cl.explain(observation, ASKED, branch=branch, regions="official")
    found = cl.explain(observation, ASKED, branch=branch, regions="competing")
    assert found.maps.shape[-2:] == (28, 28)
    assert found.labels == official.labels
    assert_agree(found.scores, official.scores)
    assert_agree(found.margins, official.margins)
    assert (found.weights, found.layers) == (None, ())
    (kept,) = found.components
    assert_agree(kept.maps, official.maps)
    assert kept.layers == official.layers
    assert found.source.method == "ce_fam with competing regions"
    language = pairs_of(observation.model, branch)
    for i in range(2):
        row = [f"{w}:{t}" for w, t in zip(found.labels[i], found.concept_types[i], strict=True)]
        assert torch.allclose(found.maps[i], compete(observation, row, language).maps[i], rtol=1e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained branch of the default model, whose teacher is that model itself: no download."""
    model = cl.load_model()
    layers = branch_layers(model)
    torch.manual_seed(0)
    branch = Branch(layers, layer_widths(model, layers), 1280, (32,))
    made = Translator(branch, Teacher.of(model), model.name, weights_fingerprint(model.module))
    return made.save(tmp_path_factory.mktemp("branch"))


def test_a_run_with_a_branch_and_competing_regions(saved: Path) -> None:
    options = ExplainOptions(concepts=ASKED, branch=Translator.load(saved), regions="competing", for_page=True)
    (found,) = explain_photos(cl.load_model(), [CAT], options)
    assert isinstance(found, PhotoResult)
    assert found.concepts is not None
    assert found.concepts.maps.shape == (1, 4, 28, 28)
    assert found.concepts.contributions is not None
    assert found.concepts.components[0].source.layer == "blocks.1 + blocks.2 + blocks.4 + bn2"
    assert found.class_map is not None
    assert found.class_map.source.layer == found.layer == "bn2"


@pytest.mark.parametrize("regions", ["official", "competing"])
def test_the_command_explains_with_a_branch(saved: Path, regions: str) -> None:
    arguments = ["explain", str(CAT), "--branch", str(saved), "--regions", regions, "--concepts", "cat, wheel"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.stdout)["images"]
    assert [c["label"] for c in image["concepts"]] == ["cat", "wheel"]
    for concept in image["concepts"]:
        assert concept["z_score"] is None
        assert abs(concept["contribution"]) < 10
        assert all(0 <= share <= 1 for share in (*concept["peak"], concept["area"]))


def test_the_command_refuses_in_one_sentence(saved: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["--branch", str(tmp_path)], "holds no branch"),
        (["--branch", str(saved), "--regions", "mine"], "expected competing, coarse, fine or official"),
        (["--branch", str(saved), "--against", "tabby"], "both branch and against"),
        (
            ["--branch", str(saved), "--model", "timm:tf_efficientnet_lite0", "--no-pretrained"],
            "this branch was trained for",
        ),
    ):
        done = CliRunner().invoke(app, ["explain", str(CAT), *arguments, "--json"])
        assert done.exit_code == 2, (arguments, done.output)
        assert said in done.stderr
        assert "Traceback" not in done.output


def test_a_densenet_is_seen_as_it_is() -> None:
    """Its pooling starts with a ReLU in place on the layer that is looked at."""
    from conceptlens.model.input_sizes import cells_at

    module = torchvision.models.densenet121(num_classes=12)
    model = cl.Backbone(stir(module).eval(), "dense", class_names=LABELS, transform=cl.Preprocess((64, 64)))
    observation = model.observe(photo())
    assert observation.layer == "features"
    cells = cells_at(observation, 0, (64, 64), ["features"], mirrored=False)["features"][0]
    assert torch.allclose(cells, observation.feature()[0], atol=1e-5)
    assert float(cells.min()) < 0


def test_fused_attention_has_a_forward_mode_too() -> None:
    """timm's Swin calls an attention kernel that knows none; the plain one stands in."""
    module = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=12, num_classes=12)
    model = cl.Backbone(stir(module).eval(), "swin", class_names=LABELS, input_size=(64, 64))
    translator = branch_of(model)
    observation = model.observe(random_images((64, 64)), translator.layers)
    cotangents = score_concepts(observation, translator, ASKED).score_gradients(torch.arange(4).expand(2, -1))
    forward, reverse = (
        channel_weights(observation, translator, cotangents, translator.layers, way) for way in ("forward", "reverse")
    )
    assert all(apart(forward[layer], reverse[layer]) < 1e-4 for layer in translator.layers)


@pytest.mark.parametrize("precision", [torch.bfloat16, EXACT])
def test_other_precisions(precision: torch.dtype) -> None:
    model = fresh("timm resnet", precision)
    model.module.to(precision)
    translator = branch_of(model)
    observation = model.observe(random_images((96, 160)), translator.layers)
    exact, its_own = look("timm resnet")
    found, wanted = (
        ce_fam(observation, translator, ASKED, layer="layer4"),
        ce_fam(exact, its_own, ASKED, layer="layer4"),
    )
    assert found.weights is not None
    assert wanted.weights is not None
    alike = nn.functional.cosine_similarity(found.weights.float().flatten(2), wanted.weights.flatten(2), dim=2)
    assert float(alike.min()) > 0.99
    once = Competition(input_scales=(1.0,))
    competed = compete(observation, ASKED, translator, competition=once).maps
    assert bool(competed.isfinite().all())
    assert competed.dtype == torch.float32
