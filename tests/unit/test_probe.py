"""A module asked about itself: its default layer, its classifier, the layers that have a grid; wrappers off."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from architectures import ARCHITECTURES, CLASSES, backbone, build, observation_of, random_images, wrap
from tolerance import assert_agree

# The layer chosen, and the final classifier. CNN and Swin: the map before pooling. A ViT that averages tokens: its
# final norm. A ViT that reads its class token: the norm before the last attention, after which patches are not read.
CHOSEN = {
    "timm resnet": ("layer4", "fc"),
    "timm efficientnet": ("bn2", "classifier"),
    "timm convnext": ("stages", "head.fc"),
    "timm nfnet": ("final_act", "head.fc"),
    "timm maxvit": ("norm", "head.fc"),
    "timm mambaout": ("stages", "head.fc"),
    "timm vit": ("blocks.5.norm1", "head"),
    "timm vit3": ("norm", "head"),
    "hf vit": ("vit.layers.1.layernorm_before", "classifier"),
    "hf deit distilled": ("deit.layers.1.layernorm_before", None),
    "hf swin": ("swin.layernorm", "classifier"),
    "hf dinov2 registers": ("dinov2_with_registers", "classifier"),
    "hf convnext": ("convnext.encoder", "classifier"),
    "hf clip vision": ("encoder.layers.1.layer_norm1", None),
    "hf detr": ("model.encoder", None),
    "open_clip vit": ("transformer.resblocks.1.ln_1", None),
    "open_clip resnet": ("layer4", None),
    "torchvision resnet18": ("layer4", "fc"),
    "torchvision swin": ("permute", "head"),
    "torchvision vit": ("encoder.layers.encoder_layer_1.ln_1", "heads.head"),
}


@pytest.mark.parametrize(("name", "expected"), CHOSEN.items())
def test_default_layer_and_classifier(name: str, expected: tuple[str, str | None]) -> None:
    model = backbone(name)
    assert (*model.default_layers, model.classifier_name) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_said_to_be_reached_has_a_gradient_and_no_other_has(name: str) -> None:
    """The table of layers against the observation itself, for a layer of every tenth and the last ones."""
    model = backbone(name)
    layers = model.anatomy.layers
    images = random_images(ARCHITECTURES[name].size)
    for layer in {layer.name: layer for layer in [*layers[::10], *layers[-4:]]}.values():
        observation = model.observe(images, layers=layer.name)
        assert (observation.layer_output().grid.height, observation.layer_output().grid.width) == (
            layer.grid.height,
            layer.grid.width,
        )
        root = observation.class_scores if observation.class_scores is not None else observation.embedding
        direction = torch.randn(1, root.shape[1], generator=torch.Generator().manual_seed(5)).expand(2, 1, -1)
        try:
            reached = bool(observation.pull(root, direction).abs().max() > 0)
        except cl.InputError:
            reached = False
        assert reached == layer.reached, layer.name


def test_layers_are_listed_in_order_of_execution() -> None:
    names = [layer.name for layer in backbone("timm resnet").anatomy.layers]
    assert names.index("layer1") < names.index("layer2.0.conv1") < names.index("layer2") < names.index("layer4")


def test_what_only_passes_on_is_never_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Identity(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = cl.Backbone(module, input_size=(32, 48), task="embedding")
    assert [layer.name for layer in model.anatomy.layers] == ["0"]
    assert model.default_layers == ("0",)


def test_a_head_of_zeros_hides_nothing() -> None:
    module = build("timm resnet")
    nn.init.zeros_(module.fc.weight)
    nn.init.zeros_(module.fc.bias)
    model = wrap("timm resnet", module)
    assert (*model.default_layers, model.classifier_name) == ("layer4", "fc")


def test_a_model_without_a_grid_says_so() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 5))
    with pytest.raises(cl.InputError, match="no layer of this model has a grid of cells that reaches its output"):
        cl.Backbone(module, input_size=(32, 48)).observe(torch.randn(1, 3, 32, 48))


def test_probing_draws_no_random_number_of_yours() -> None:
    before = torch.get_rng_state()
    _ = wrap("timm vit", build("timm vit")).anatomy
    assert torch.equal(torch.get_rng_state(), before)


class TestWrappers:
    def maps(self, module: nn.Module) -> Tensor:
        return cl.cam(wrap("timm resnet", module).observe(random_images((96, 160))), 3).maps

    def expected(self) -> Tensor:
        return cl.cam(observation_of("timm resnet"), 3).maps

    def test_compile_is_taken_off(self) -> None:
        compiled = torch.compile(build("timm resnet"), backend="eager")
        assert_agree(self.maps(compiled), self.expected())

    def test_data_parallel_is_taken_off(self) -> None:
        assert_agree(self.maps(nn.DataParallel(build("timm resnet"))), self.expected())

    def test_one_around_the_other_is_taken_off(self) -> None:
        both = torch.compile(nn.DataParallel(build("timm resnet")), backend="eager")
        assert_agree(self.maps(both), self.expected())

    def test_torchscript_is_refused(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that TorchScript goes away
            traced = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 8, 8))
        with pytest.raises(cl.InputError, match=r"TorchScript module was given.*give the original"):
            cl.Backbone(traced)

    def test_what_is_no_module_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match=r"a function was given; expected a torch\.nn\.Module"):
            cl.Backbone(lambda images: images)  # type: ignore[arg-type]


class TestNames:
    def test_an_unknown_layer(self) -> None:
        with pytest.raises(cl.InputError, match=r"no layer 'layer5' in mine; near names: .*layer4"):
            cl.Backbone(build("timm resnet"), "mine", layers="layer5")

    def test_an_unknown_class(self) -> None:
        with pytest.raises(cl.InputError, match=r"no class 'kin 3' in timm resnet; near names: .*kind 3"):
            cl.cam(observation_of("timm resnet"), "kin 3")

    def test_a_class_out_of_range(self) -> None:
        with pytest.raises(cl.InputError, match=rf"no class {CLASSES} in timm resnet; it has classes 0 to 11"):
            cl.cam(observation_of("timm resnet"), CLASSES)

    @pytest.mark.parametrize("name", ["tabby", "Tabby Cat", " tabby, tabby cat "])
    def test_any_of_a_classs_names(self, name: str) -> None:
        labels = ["tiger", "tabby, tabby cat", *map(str, range(10))]
        assert cl.Backbone(build("timm resnet"), class_names=labels).class_index(name) == 1

    def test_classes_without_names(self) -> None:
        model = cl.Backbone(build("timm resnet"), "mine", input_size=(96, 160))
        assert model.class_name(3) == "class 3"
        with pytest.raises(cl.InputError, match=r"'tabby' is no class of mine: its classes have no names"):
            model.class_index("tabby")


class Checked(nn.Module):
    """A network that refuses pixels outside 0..1, or runs its trunk in inference mode."""

    def __init__(self, checks: bool) -> None:
        super().__init__()
        self.conv, self.kept, self.head = nn.Conv2d(3, 8, 8, 8), nn.Identity(), nn.Linear(8, 4)
        self.checks = checks

    def forward(self, images: Tensor) -> Tensor:
        if self.checks and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("pixels must be in [0, 1]")
        with torch.inference_mode(not self.checks):
            found = self.conv(images)
        return self.head(self.kept(found).relu().mean((2, 3)))


def test_a_network_that_checks_its_pixels_gets_noise_of_their_range() -> None:
    observation = cl.Backbone(Checked(checks=True), task="single_label").observe(torch.rand(2, 3, 32, 32))
    assert cl.cam(observation, 0).maps.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("rule", ["grad_cam", "score_cam"])
def test_a_trunk_in_inference_mode_is_read_like_one_without_gradients(rule: str) -> None:
    observation = cl.Backbone(Checked(checks=False), task="single_label").observe(torch.rand(2, 3, 32, 32))
    assert cl.cam(observation, 0, rule).maps.shape == (2, 1, 4, 4)


class Probable(nn.Module):
    """Numbers of a linear layer through a last step that no node of the graph tells."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.last = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 4), last

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.head(self.conv(images).mean((2, 3))))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lambda z: z.softmax(1).clamp(1e-6, 1), "sum to 1"),
        (lambda z: z.exp() / z.exp().sum(1, keepdim=True), "sum to 1"),
        (lambda z: z.sigmoid() * 1.0, "look like probabilities"),
        (lambda z: (z.tanh() + 1) / 2, "look like probabilities"),
    ],
)
def test_probabilities_are_told_by_their_values(last: Callable[[Tensor], Tensor], said: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(cl.InputError, match=said):
        cl.Backbone(Probable(last)).observe(images)
    assert cl.Backbone(Probable(last), task="regression").observe(images).logits.shape == (2, 4)
    assert cl.Backbone(Probable(lambda z: z)).observe(images).logits.shape == (2, 4)


def test_shares_of_one_are_no_logits_whatever_is_said() -> None:
    module = Probable(lambda z: z.softmax(1).clamp(1e-6, 1))
    with pytest.raises(cl.InputError, match="lie between 0 and 1 and sum to 1"):
        cl.Backbone(module, task="single_label").observe(torch.rand(2, 3, 32, 32))


def test_small_numbers_of_a_relu_are_no_probabilities() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return (0.01 * self.last(self.conv(images))).relu().mean((2, 3))

    assert cl.Backbone(Small(), class_names=list("abcd")).observe(torch.rand(2, 3, 32, 32)).logits.shape == (2, 4)
