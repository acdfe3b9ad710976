"""One forward pass: what is kept of it, how it is asked, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from architectures import CLASSES, backbone, fresh, observation_of, random_images, stir, wrap
from conceptlens.model import gradients
from conceptlens.model.observation import Observation
from tolerance import assert_agree

SIZE = (32, 48)


def small(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ).eval()


def seen_by(module: nn.Module, layers: Any = None, images: int = 2, **settings: Any) -> Observation:
    return cl.Backbone(module, "small", input_size=SIZE, **settings).observe(random_images(SIZE, images), layers)


def gradient_by_hand(module: nn.Module, images: Tensor, layer: str, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Feature and gradient with one hook and `backward`, as anyone would write it."""
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()

    handle = module.get_submodule(layer).register_forward_hook(hook)
    output = module(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(getattr(output, "logits", output), kept[0], cotangent)
    return kept[0].detach(), gradient


class TestGradient:
    @pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
    @pytest.mark.parametrize("inplace", [False, True])
    def test_equals_backward_by_hand(self, layer: str, inplace: bool) -> None:
        observation = seen_by(small(inplace=inplace), layer)
        cotangent = torch.randn(2, CLASSES)
        feature, gradient = gradient_by_hand(small(), observation.images, layer, cotangent)
        torch.testing.assert_close(observation.feature(), feature)
        torch.testing.assert_close(observation.pull(observation.logits, cotangent[:, None])[:, 0], gradient)

    def test_is_of_one_score_or_of_several(self) -> None:
        observation = seen_by(small(), "2")
        one, several = (
            observation.gradient(observation.logits[:, 3]),
            observation.gradient(observation.logits[:, [3, 5]]),
        )
        assert one.shape == (2, 1, 16, 4, 6)
        assert several.shape == (2, 2, 16, 4, 6)
        torch.testing.assert_close(one[:, 0], several[:, 0])

    def test_every_layer_is_kept_in_one_pass(self) -> None:
        observation = seen_by(small(), ["1", "2", "4"])
        for layer in ("1", "2", "4"):
            alone = seen_by(small(), layer)
            torch.testing.assert_close(observation.gradient(observation.logits, layer), alone.gradient(alone.logits))
        assert observation.layer == "4"

    def test_several_questions_are_chunked_by_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        observation = seen_by(small(), "2")
        at_once = observation.gradient(observation.logits[:, :5])
        products: list[int] = []
        plain = gradients._products

        def counted(root: Tensor, raw: Tensor, cotangents: Tensor) -> Tensor:
            products.append(len(cotangents))
            return plain(root, raw, cotangents)

        monkeypatch.setattr(gradients, "_products", counted)
        monkeypatch.setattr(gradients, "GRADIENT_BYTES", 2 * observation.layer_output().raw.numel() * 4)
        torch.testing.assert_close(observation.gradient(observation.logits[:, :5]), at_once)
        assert products == [2, 2, 1]
        monkeypatch.setattr(gradients, "GRADIENT_BYTES", 0)
        torch.testing.assert_close(observation.gradient(observation.logits[:, :5]), at_once)

    def test_is_refused_where_none_arrives(self) -> None:
        class Deaf(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.trunk, self.aside = small(), nn.Conv2d(3, 8, 8, stride=8)

            def forward(self, images: Tensor) -> Tensor:
                self.aside(images)
                return self.trunk(images)

        with pytest.raises(cl.InputError, match=r"no gradient reaches layer 'aside'.*choose another layer"):
            cl.cam(seen_by(Deaf(), "aside"))


# What the cells must reach the logits through for the closed form to be chosen: their mean and one linear map.
CLOSED = {
    "timm resnet": True,
    "timm efficientnet": True,
    "timm coatnet": True,
    "hf swin": True,
    "torchvision swin": True,
    "torchvision resnet18": True,
    "timm convnext": False,  # a norm stands between pooling and classifier
    "timm vit": False,
    "open_clip resnet": False,
}


class PatchMean(nn.Module):
    """A linear probe on the mean of a frozen ViT's normed patch tokens, as Finer-CAM's own DINOv2 head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = fresh("timm vit").module
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.trunk.forward_features(images)
        return self.head(tokens[:, 1:].mean(1))


class TestClosedForm:
    @pytest.mark.parametrize(("name", "chosen"), CLOSED.items())
    def test_is_chosen_where_it_holds_and_equals_the_gradient(self, name: str, chosen: bool) -> None:
        observation = observation_of(name)
        root = observation.logits if observation.class_scores is not None else observation.embedding
        assert (observation.readout(root) is not None) == chosen
        cotangents = torch.randn(2, 3, root.shape[1], generator=torch.Generator().manual_seed(0))
        pulled = observation.pull(root, cotangents)
        through = gradients.gradient_through_graph(root, cotangents, observation.layer, observation.layer_output())
        torch.testing.assert_close(pulled, through, rtol=0, atol=1e-5 * float(through.abs().max()))

    def test_needs_no_backward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        observation = observation_of("timm resnet")
        observation.readout(observation.logits)
        monkeypatch.setattr(torch.autograd, "grad", None)
        pulled = observation.pull(observation.logits, torch.eye(CLASSES).expand(2, -1, -1))
        assert pulled.shape == (2, CLASSES, 96, 3, 5)
        assert pulled.stride()[-2:] == (0, 0), "one value per channel, not one per cell"

    def test_serves_the_embedding_too(self) -> None:
        observation = observation_of("timm resnet")
        matrix = observation.readout(observation.embedding)
        assert matrix is not None
        assert_agree(matrix, torch.eye(96))

    def test_of_a_probe_on_patch_tokens_whose_trunk_has_no_gradients(self) -> None:
        torch.manual_seed(0)
        model = cl.Backbone(PatchMean(), "probe", input_size=(96, 160))
        assert model.default_layers == ("trunk.norm",)
        observation = model.observe(random_images((96, 160)))
        assert observation.layer_output().grid.prefix == 1
        assert observation.readout(observation.logits) is not None
        contrast = cl.Contrast(3, against=[4], gamma=0.6)
        weights = cl.cam(observation, contrast).weights[..., 0, 0]
        rows = model.module.head.weight.detach()
        torch.testing.assert_close(weights, ((rows[3] - 0.6 * rows[4]) / 60).expand(2, 1, -1))

    def test_is_not_taken_for_a_target_that_is_no_matrix(self) -> None:
        observation = observation_of("timm resnet")
        assert observation.readout(observation.logits * 2) is None

    @pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ReLU())])
    def test_is_refused_by_its_values_before_any_backward(
        self, pool: nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = small()
        module[4], module[5] = nn.Identity(), pool
        observation = seen_by(module, "3")
        monkeypatch.setattr(torch.autograd, "grad", None)
        assert observation.readout(observation.logits) is None

    def test_is_refused_by_its_gradient_where_the_values_agree(self) -> None:
        class Louder(nn.Module):
            """The same numbers, twice the gradient."""

            def forward(self, mean: Tensor) -> Tensor:
                return 2 * mean - mean.detach()

        module = small()
        module[6] = nn.Sequential(nn.Flatten(), Louder())
        observation, plain = seen_by(module, "4"), seen_by(small(), "4")
        assert_agree(observation.logits, plain.logits)
        assert observation.readout(observation.logits) is None
        torch.testing.assert_close(cl.cam(observation, 3).maps, 2 * cl.cam(plain, 3).maps)


class Frame(NamedTuple):
    tokens: Tensor
    extra: int


class TestOutputs:
    @pytest.mark.parametrize(
        ("wrapped", "opened"),
        [
            (lambda t: (t, 1), lambda o: o[0]),
            (lambda t: [t, 1], lambda o: o[0]),
            (lambda t: {"features": t, "extra": t}, lambda o: o["features"]),
            (lambda t: {"extra": 1, "features": t}, lambda o: o["features"]),
            (lambda t: Frame(t, 1), lambda o: o.tokens),
        ],
        ids=["tuple", "list", "dict", "dict, second", "named tuple"],
    )
    def test_a_layer_may_wrap_its_tensor(self, wrapped: Callable[..., Any], opened: Callable[..., Tensor]) -> None:
        class Wrapping(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = small()[:5]

            def forward(self, images: Tensor) -> Any:
                return wrapped(self.inner(images))

        class Whole(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stage, self.head = Wrapping(), small()[5:]

            def forward(self, images: Tensor) -> Tensor:
                return self.head(opened(self.stage(images)))

        plain = seen_by(nn.Sequential(small()[:5], small()[5:]), "0")
        observation = seen_by(Whole(), "stage")
        torch.testing.assert_close(cl.cam(observation, 3).maps, cl.cam(plain, 3).maps)

    def test_a_model_output_is_read_by_its_logits(self) -> None:
        observation = observation_of("hf dinov2 registers")
        assert torch.equal(observation.logits, observation.output.logits)
        assert observation.layer_output().grid.prefix == 4
        assert observation.embedding.shape == (2, 64)

    def test_a_model_output_that_hides_a_second_path_is_not_the_default_layer(self) -> None:
        # `swin` puts out last_hidden_state and pooler_output, and the classifier reads the second
        assert backbone("hf swin").default_layers == ("swin.layernorm",)
        assert backbone("hf convnext").default_layers == ("convnext.encoder",)

    def test_missing_answers_say_so(self) -> None:
        tower, unknown = observation_of("open_clip vit"), observation_of("hf deit distilled")
        with pytest.raises(cl.InputError, match=r"open_clip vit gives no class scores.*cl\.Concept"):
            _ = tower.logits
        with pytest.raises(cl.InputError, match=r"hf deit distilled has no embedding.*classifier="):
            _ = unknown.embedding


class TestInPlace:
    def test_what_comes_after_does_not_touch_what_is_kept(self) -> None:
        observation = seen_by(small(inplace=True), "3")
        assert bool((observation.feature() < 0).any()), "the ReLU after the layer must not reach into it"
        torch.testing.assert_close(observation.feature(), seen_by(small(), "3").feature())

    def test_an_in_place_sum_after_the_layer(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.branch, self.head = small()[:2], nn.Conv2d(8, 8, 1), nn.Linear(8, CLASSES)

            def forward(self, images: Tensor) -> Tensor:
                base = self.stem(images)
                branch = self.branch(base)
                branch += base
                return self.head(F.relu_(branch).mean((2, 3)))

        torch.manual_seed(0)
        module = Residual()
        observation = seen_by(module, "branch")
        torch.testing.assert_close(observation.feature(), module.branch(module.stem(observation.images)).detach())
        assert bool(cl.cam(observation, 3).maps.isfinite().all())


class TestCallers:
    @pytest.mark.parametrize("name", ["timm resnet", "timm convnext", "timm vit", "hf swin"])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_may_have_turned_gradients_off(self, name: str, mode: Any) -> None:
        expected = observation_of(name)
        targets = [cl.Logit(3), cl.Contrast(3), lambda answer: answer.logits[:, 2]]
        with mode():
            observation = backbone(name).observe(expected.images * 1.0)
            maps = cl.cam(observation, targets, signed=True).maps
        torch.testing.assert_close(maps, cl.cam(expected, targets, signed=True).maps)
        torch.testing.assert_close(cl.cam(observation, targets, signed=True).maps, maps)

    @pytest.mark.parametrize("name", ["timm resnet", "timm convnext", "timm vit"])
    def test_may_round_their_models_but_not_our_arithmetic(self, name: str) -> None:
        """Asked within autocast or without, what was seen in full precision gives the same maps."""
        observation = observation_of(name)
        size = observation.embedding.shape[1]
        targets = [cl.Logit(3), cl.Contrast(3), cl.Concept(direction=torch.linspace(-1, 1, size))]
        expected = cl.cam(observation, targets)
        again = observation.model.observe(observation.images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = cl.cam(again, targets)
            assert (again.readout(again.logits) is None) == (observation.readout(observation.logits) is None)
        torch.testing.assert_close(found.maps, expected.maps)
        torch.testing.assert_close(found.scores, expected.scores)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_may_name_the_very_first_layer(self, mode: Any) -> None:
        module = nn.Sequential(nn.Identity(), small())
        with mode():
            observation = seen_by(module, "0", channels_last=False)
            assert bool(cl.cam(observation, 3, signed=True).maps.abs().sum() > 0)

    def test_a_module_whose_trunk_has_no_gradients_is_seen_from_the_trunks_end(self) -> None:
        class Probe(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.trunk, self.head = small()[:5], small()[5:]

            def forward(self, images: Tensor) -> Tensor:
                with torch.no_grad():
                    features = self.trunk(images)
                return self.head(features)

        model = cl.Backbone(Probe(), "probe", input_size=SIZE)
        assert model.default_layers == ("trunk",)
        maps = cl.cam(model.observe(random_images(SIZE)), 3).maps
        torch.testing.assert_close(maps, cl.cam(seen_by(small(), "4"), 3).maps)
        with pytest.raises(cl.InputError, match="turns gradients off after it"):
            cl.cam(model.observe(random_images(SIZE), layers="trunk.2"), 3)


class TestShapes:
    @pytest.mark.parametrize("name", ["timm vit", "hf swin", "torchvision swin", "timm mambaout"])
    def test_images_need_not_be_square(self, name: str) -> None:
        observation = observation_of(name)
        height, width = observation.layer_output().grid.height, observation.layer_output().grid.width
        assert height / width == observation.images.shape[2] / observation.images.shape[3]
        assert cl.cam(observation, 3).maps.shape == (2, 1, height, width)

    @pytest.mark.parametrize(
        ("name", "layer"),
        {
            "timm vit": "blocks.0.norm1",
            "hf swin": "swin.embeddings.norm",
            "torchvision swin": "features.0.2",
            "timm mambaout": "stages.0",
            "timm resnet": "layer1",
        }.items(),
    )
    def test_cells_lie_where_the_image_changed(self, name: str, layer: str) -> None:
        """A patch painted at the top right changes the feature most at the top right."""
        expected = observation_of(name)
        painted = expected.images.clone()
        rows, columns = painted.shape[2:]
        painted[..., : rows // 3, -columns // 4 :] += 4.0
        before, after = (expected.model.observe(i, layers=layer).feature() for i in (expected.images, painted))
        change = (before - after).abs().sum((0, 1))
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert row < change.shape[0] / 2
        assert column > change.shape[1] / 2


class TestRefusals:
    def test_a_layer_that_runs_twice(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block, self.rest = nn.Conv2d(3, 3, 3, padding=1), small()

            def forward(self, images: Tensor) -> Tensor:
                return self.rest(self.block(self.block(images)))

        with pytest.raises(cl.InputError, match=r"layer 'block' runs more than once"):
            seen_by(Twice(), "block")

    def test_a_layer_that_never_runs(self) -> None:
        module = small()
        module.register_module("idle", nn.Identity())
        wrapped = nn.Sequential()
        wrapped.add_module("used", small())
        wrapped.idle = nn.ModuleDict({"part": nn.Linear(2, 2)})
        wrapped.forward = lambda images: wrapped.used(images)  # type: ignore[method-assign]
        with pytest.raises(cl.InputError, match=r"layer 'idle\.part' gave no tensor"):
            seen_by(wrapped, "idle.part")

    def test_a_layer_that_was_not_observed(self) -> None:
        with pytest.raises(cl.InputError, match=r"layer '2' was not observed; observed: 4; use model\.observe"):
            seen_by(small(), "4").feature("2")

    def test_an_unknown_layer_has_near_names(self) -> None:
        with pytest.raises(cl.InputError, match=r"no layer 'layer5' in timm resnet; near names: .*layer4"):
            backbone("timm resnet").observe(torch.randn(1, 3, 96, 160), layers="layer5")

    @pytest.mark.parametrize("images", [torch.randn(32, 48), torch.zeros(1, 3, 32, 48, dtype=torch.int64)])
    def test_a_tensor_that_is_no_batch_of_images(self, images: Tensor) -> None:
        with pytest.raises(cl.InputError, match="expected floating image colour rows columns"):
            cl.Backbone(small(), input_size=SIZE).observe(images)


def rerun_by_hand(module: nn.Module, image: Tensor, layer: str, raw: Tensor) -> Tensor:
    handle = module.get_submodule(layer).register_forward_hook(lambda *_: raw)
    output = module(image.expand(len(raw), -1, -1, -1))
    handle.remove()
    return getattr(output, "logits", output).detach()


class TestRerun:
    @pytest.mark.parametrize("name", ["timm resnet", "timm mambaout", "timm vit", "hf swin", "torchvision swin"])
    @pytest.mark.parametrize("image", [0, 1])
    def test_equals_replacing_cells_by_hand(self, name: str, image: int) -> None:
        observation = observation_of(name)
        layer_output = observation.layer_output()
        cells = observation.feature()[image].expand(3, -1, -1, -1).clone()
        cells[1, :, 0, -1] = 0
        cells[2] *= 0.5
        answer = observation.rerun(cells, image)
        raw = layer_output.grid.write(
            layer_output.raw.detach()[image : image + 1].expand(3, *layer_output.raw.shape[1:]), cells
        )
        by_hand = rerun_by_hand(observation.model.module, observation.images[image : image + 1], observation.layer, raw)
        torch.testing.assert_close(answer.logits, by_hand, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer.logits[0], observation.logits[image].detach(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(answer.logits[1], answer.logits[0])

    def test_a_sequence_first_layer(self) -> None:
        class SequenceFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch, self.mix, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, CLASSES)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.mix(self.patch(images).flatten(2).permute(2, 0, 1)).relu().mean(0))

        torch.manual_seed(0)
        observation = seen_by(SequenceFirst(), "mix")
        assert observation.layer_output().grid.order == "token image channel"
        cells = torch.stack([observation.feature()[1], observation.feature()[1] * 0])
        answer = observation.rerun(cells, image=1)
        torch.testing.assert_close(answer.logits[0], observation.logits[1].detach())
        torch.testing.assert_close(answer.logits[1], observation.model.module.head.bias.detach())

    def test_what_lies_before_the_layer_runs_once_for_all(self) -> None:
        module, batches = small(), []
        module[0].register_forward_hook(lambda _m, inputs, _o: batches.append(len(inputs[0])))
        observation = seen_by(module, "4")
        batches.clear()
        observation.rerun(observation.feature()[:1].expand(5, -1, -1, -1))
        assert batches == [1]

    def test_a_callable_may_read_the_raw_output(self) -> None:
        observation = observation_of("hf dinov2 registers")
        answer = observation.rerun(observation.feature()[:1].expand(3, -1, -1, -1))
        assert answer.output.logits.shape == (3, CLASSES)

    @pytest.mark.parametrize("kind", ["raises", "asserts", "mixes"])
    def test_falls_back_where_the_batch_cannot_grow(self, kind: str) -> None:
        """The head reads something of the images beside the tapped layer: once as a shape, once as values."""

        class Aside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.trunk, self.head = small()[:5], small()[5:]

            def forward(self, images: Tensor) -> Tensor:
                features = self.trunk(images)
                if kind == "raises":
                    features = features.view(len(images), 16, 4, 6)
                    return self.head(features)
                if kind == "asserts":  # as torch's attention does of keys and values
                    assert len(features) == len(images), "key and value of two lengths"
                    return self.head(features)
                return self.head(features) / len(images) * len(features)

        observation = seen_by(Aside(), "trunk")
        cells = torch.stack([observation.feature()[0], observation.feature()[0] * 0])
        answer = observation.rerun(cells)
        torch.testing.assert_close(answer.logits[0], observation.logits[0].detach())
        torch.testing.assert_close(answer.logits[1], small()[7].bias.detach())


def test_forward_asks_again_without_a_graph() -> None:
    observation = seen_by(small(), "4")
    answer = observation.forward(observation.images.flip(0))
    torch.testing.assert_close(answer.logits, observation.logits.detach().flip(0))
    assert not answer.logits.requires_grad


def test_a_module_in_training_mode_is_seen_in_eval_mode() -> None:
    module = stir(small()).train()
    observation = seen_by(module, "4")
    torch.testing.assert_close(observation.logits.detach(), module.eval()(observation.images).detach())


def test_wrapping_keeps_the_module_it_was_given() -> None:
    module = small()
    assert wrap("timm resnet", module).module is module
