"""Ordinary modules: their maps are right, or a sentence says why there are none; the module stays as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import conceptlens as cl
from conceptlens.model.image_entry import colours_of, input_weight
from conceptlens.model.passed_checkpoints import passed_checkpoints
from tolerance import assert_agree

SIZE = (32, 32)


def images(count: int = 2, colours: int = 3) -> Tensor:
    return torch.randn(count, colours, *SIZE, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """A trunk, a middle and a head; `run` says how the middle is called."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor] = lambda part, x: part(x), colours: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(colours, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(12, 5)
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.run(self.middle, self.trunk(images)).mean((2, 3)))


def seeded(kind: Callable[..., nn.Module], *arguments: Any) -> Any:
    torch.manual_seed(0)
    return kind(*arguments).eval()


def maps(module: nn.Module, rule: str = "grad_cam", layer: str | None = None, given: Tensor | None = None) -> Tensor:
    observation = cl.Backbone(module, input_size=SIZE).observe(images() if given is None else given, layer)
    return cl.cam(observation, [cl.Logit(1), cl.Logit(2)], rule, signed=True).maps


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "reentrant": lambda part, x: checkpoint(part, x, use_reentrant=True),  # pyright: ignore[reportReturnType]
    "not reentrant": lambda part, x: checkpoint(part, x, use_reentrant=False),  # pyright: ignore[reportReturnType]
    "reentrant, in sequence": lambda part, x: checkpoint_sequential(part, 2, x, use_reentrant=True),  # pyright: ignore[reportArgumentType]
    "not reentrant, in sequence": lambda part, x: checkpoint_sequential(part, 2, x, use_reentrant=False),  # pyright: ignore[reportArgumentType]
    "with a keyword": lambda part, x: checkpoint(part, input=x, use_reentrant=False),  # pyright: ignore[reportReturnType]
}


class TestCheckpointing:
    @pytest.mark.parametrize("layer", ["trunk", "middle.0", "middle.1"])
    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test_maps_are_those_without(self, way: Callable[[nn.Module, Tensor], Tensor], layer: str) -> None:
        for rule in ("layer_cam", "score_cam"):
            assert_agree(maps(seeded(Net, way), rule, layer), maps(seeded(Net), rule, layer))

    @pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
    def test_left_on_in_timm(self, name: str) -> None:
        size: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
        plain, left_on = (seeded(lambda: timm.create_model(name, num_classes=5, **size)) for _ in range(2))
        left_on.set_grad_checkpointing(True)
        assert_agree(maps(left_on), maps(plain))

    def test_torch_checkpoints_again_afterwards_and_in_other_threads_meanwhile(self) -> None:
        calls: list[str] = []

        def part(x: Tensor) -> Tensor:
            calls.append(threading.current_thread().name)
            return x * x

        def train() -> None:
            checkpoint(part, torch.ones(1, requires_grad=True), use_reentrant=True).sum().backward()  # pyright: ignore[reportOptionalMemberAccess]
            checkpoint(part, torch.ones(1, requires_grad=True), use_reentrant=False).sum().backward()  # pyright: ignore[reportOptionalMemberAccess]

        with passed_checkpoints():
            train()
            other = threading.Thread(target=train, name="other")
            other.start()
            other.join()
        train()
        assert calls == ["MainThread"] * 2 + ["other"] * 4 + ["MainThread"] * 4


class HalfTrunk(Net):
    """A trunk in half precision, and a head in single."""

    def __init__(self, kind: torch.dtype, head_first: bool = False) -> None:
        super().__init__()
        head = self.head
        if head_first:
            trunk, middle = self.trunk, self.middle
            del self.trunk, self.middle
            self.trunk, self.middle = trunk, middle
        self.head = head
        self.trunk.to(kind)
        self.middle.to(kind)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.trunk(images)).mean((2, 3)).float())


@pytest.mark.parametrize("rule", cl.RULES)
@pytest.mark.parametrize("head_first", [False, True])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_half_trunk_with_a_float_head(kind: torch.dtype, head_first: bool, rule: str) -> None:
    """The same weights in single precision give the same maps, as far as half precision holds them."""
    half = seeded(HalfTrunk, kind, head_first)
    single = seeded(HalfTrunk, torch.float32)
    single.load_state_dict({name: weight.float() for name, weight in half.state_dict().items()})
    found, expected = maps(half, rule), maps(single, rule)
    if rule == "random":  # seeded by the values of the images, which half precision rounds
        assert found.isfinite().all()
        return
    assert (found.float() - expected).norm() <= 0.05 * expected.norm()


class TestWhatImagesEnter:
    class NeckFirst(nn.Module):
        """The neck is written before the trunk."""

        def __init__(self, colours: int = 3) -> None:
            super().__init__()
            self.neck = nn.Conv2d(24, 12, 1)
            self.trunk = nn.Sequential(nn.Conv2d(colours, 24, 3, 4, 1), nn.ReLU())
            self.head = nn.Linear(12, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.neck(self.trunk(images)).mean((2, 3)))

    @pytest.mark.parametrize("colours", [1, 2, 3, 4, 13])
    def test_the_first_convolution_that_runs_tells_the_colours(self, colours: int) -> None:
        module = seeded(self.NeckFirst, colours)
        assert colours_of(module) == colours
        assert maps(module, given=images(colours=colours)).shape == (2, 2, 8, 8)
        as_array = cl.Backbone(module, input_size=SIZE).observe(images(colours=colours).permute(0, 2, 3, 1).numpy())
        assert_agree(as_array.images, images(colours=colours))

    def test_where_it_cannot_be_run_the_first_registered_does(self) -> None:
        class Needs(self.NeckFirst):
            def forward(self, images: Tensor, mask: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
                return super().forward(images * mask)

        assert colours_of(Needs()) == 24

    def test_the_precision_is_that_of_what_runs_first(self) -> None:
        module = seeded(Net)
        module.register_parameter("scale", nn.Parameter(torch.ones(1, dtype=torch.float64)))
        weight = input_weight(module)
        assert weight is not None
        assert weight.dtype == torch.float32
        assert maps(module).dtype == torch.float32

    def test_weights_that_are_all_buffers(self) -> None:
        module = seeded(Net).double()
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                delattr(part, name)
                part.register_buffer(name, parameter.data)
        assert maps(module).dtype == torch.float64

    def test_it_is_found_once_and_leaves_no_trace(self) -> None:
        module = seeded(self.NeckFirst)
        colours_of(module)
        module.train()
        calls: list[Any] = []
        module.trunk.register_forward_hook(lambda *_: calls.append(1))
        assert colours_of(module) == 3
        assert not calls
        assert module.training
        assert not any(part._forward_pre_hooks for part in module.modules())


class ByKeyword(Net):
    """Calls its layers with keywords alone."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(input=self.middle(input=self.trunk(input=images)).mean((2, 3)))


class WritesIntoItsInput(Net):
    """Normalises the images in place."""

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(2).sub_(1)
        return super().forward(images)


def test_layers_called_by_keyword() -> None:
    module = seeded(ByKeyword)
    model = cl.Backbone(module, input_size=SIZE)
    assert model.classifier_name == "head"
    assert_agree(maps(module), maps(seeded(Net)))
    assert_agree(
        model.observe(images()).embedding.detach(), module.middle(module.trunk(images())).mean((2, 3)).detach()
    )


@pytest.mark.parametrize("rule", ["grad_cam", "score_cam", "random"])
def test_a_module_that_writes_into_its_input(rule: str) -> None:
    given = images()
    found = maps(seeded(WritesIntoItsInput), rule, given=given)
    assert torch.equal(given, images()), "the caller's tensor is changed"
    if rule != "random":  # which is seeded by the images
        expected = maps(seeded(Net), rule, given=images() * 2 - 1)
        if rule == "grad_cam":  # Score-CAM masks before the module doubles
            assert_agree(found, expected)
    assert torch.equal(found, maps(seeded(WritesIntoItsInput), rule, given=given))


class Recurrent(nn.Module):
    """Reads the rows of its cells one after another."""

    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.LSTM, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.ReLU())
        self.memory: Any = kind(12, 6, 2, batch_first=True, dropout=dropout)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.memory(self.trunk(images).flatten(2).transpose(1, 2))[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_in_the_mode_in_which_cudnn_gives_gradients(kind: type[nn.RNNBase]) -> None:
    module = seeded(Recurrent, kind, 0.5)
    seen: list[tuple[bool, float]] = []
    module.memory.register_forward_hook(lambda part, *_: seen.append((part.training, part.dropout)))
    observation = cl.Backbone(module, input_size=SIZE).observe(images(), "trunk")
    assert set(seen) == {(True, 0.0)}
    assert_agree(observation.logits.detach(), module(images()).detach())
    assert cl.cam(observation, [cl.Logit(1), cl.Logit(2)]).maps.shape == (2, 2, 8, 8)
    memory: Any = module.memory
    assert (memory.dropout, memory.training) == (0.5, False)
    module.train()
    cl.Backbone(module, input_size=SIZE).observe(images(), "trunk")
    assert memory.training is True


class OneAtATime(torch.autograd.Function):
    """A gradient that leaves torch, and so has no batched form."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return values * 3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.from_numpy(gradient.numpy() * 3)


class NoGradient(torch.autograd.Function):
    """An operation whose author has written no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return values * 3


class TestGradients:
    def test_what_has_no_batched_gradient_is_asked_one_question_at_a_time(self) -> None:
        odd = seeded(Net, lambda part, x: part(OneAtATime.apply(x)))
        plain = seeded(Net, lambda part, x: part(x * 3))
        assert_agree(maps(odd, layer="trunk"), maps(plain, layer="trunk"))

    def test_an_operation_without_a_gradient_is_refused_and_rules_without_one_work(self) -> None:
        module = seeded(Net, lambda part, x: part(NoGradient.apply(x)))
        layers = ("trunk",)
        observation = cl.Backbone(module, layers=layers, classifier="head", input_size=SIZE).observe(images())
        with pytest.raises(
            cl.InputError, match=r"torch takes no gradient at layer 'trunk' .*; choose another layer, or"
        ):
            cl.cam(observation, 1)
        for rule in ("score_cam", "eigen_cam", "score_cam_fast"):
            assert cl.cam(observation, 1, rule).maps.amax() > 0

    def test_values_that_are_not_finite_are_refused(self) -> None:
        model = cl.Backbone(seeded(Net).half(), input_size=SIZE)
        observation = model.observe(images() * 3e4, "trunk")
        for rule in cl.RULES:
            with pytest.raises(cl.InputError, match=r"'trunk' gave NaN or infinite values of type float16; check the"):
                cl.cam(observation, lambda found: found.output.nan_to_num()[:, 0], rule)


class FixedBatch(Net):
    """Takes two images at a time, no more and no fewer."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.trunk(images)).reshape(2, 12, -1).mean(2))


def test_a_batch_of_one_size_alone() -> None:
    model = cl.Backbone(seeded(FixedBatch), layers=("middle",), input_size=SIZE)
    observation = model.observe(images())
    assert cl.cam(observation, 1).maps.amax() > 0
    with pytest.raises(cl.InputError, match=r"gives 2 answers for \d+ images; it takes batches of one size alone"):
        cl.cam(observation, 1, "score_cam")


def _exported() -> nn.Module:
    return torch.export.export(seeded(Net), (images(),)).module()


def _inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


def _part_on_meta() -> nn.Module:
    module = seeded(Net)
    module.head = module.head.to("meta")
    return module


def _lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))


UNREADY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a lazy layer": (_lazy, r"weights whose shape is not known yet \(3.weight of a lazy layer\); run it once"),
    "weights on meta": (lambda: Net().to("meta"), r"weights without values \(trunk.0.weight is on the meta device\)"),
    "a part on meta": (_part_on_meta, r"weights without values \(head.weight is on the meta device\); load its"),
    "inference mode": (_inference, r"weights that were made in inference mode \(trunk.0.weight\)"),
    "no forward": (lambda: nn.ModuleDict({"a": Net()}), "net is a ModuleDict without a forward"),
    "exported": (_exported, "comes from torch.export, whose layers cannot be watched; give the nn.Module"),
}


@pytest.mark.parametrize(("make", "sentence"), UNREADY.values(), ids=UNREADY)
def test_a_module_that_cannot_be_observed_is_refused_at_once(make: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(cl.InputError, match=sentence) as caught:
        cl.Backbone(make(), "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [None, "trunk"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_part_is_watched_from_outside(layer: str | None) -> None:
    module, plain = seeded(Net), seeded(Net)
    module.trunk = torch.jit.script(module.trunk)
    assert_agree(maps(module, layer=layer), maps(plain, layer=layer))


def everything(module: nn.Module, given: Tensor) -> list[Tensor]:
    """Return the maps of every rule and of LoCE."""
    mask = torch.ones(32, 32, dtype=torch.bool, device="cpu").triu().numpy()
    observation = cl.Backbone(module, input_size=SIZE).observe(given)
    return [*(cl.cam(observation, 1, rule).maps for rule in cl.RULES), cl.loce(observation, mask).maps]


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_another_default_precision(kind: torch.dtype) -> None:
    module, given = seeded(Net), images(1)
    expected = everything(module, given)
    try:
        torch.set_default_dtype(kind)
        found = everything(module, given)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert_agree(one, other)


def test_another_default_device() -> None:
    """The device "meta" holds no values: whatever is made there by default cannot be used."""
    module, given = seeded(Net), images(1)
    expected = everything(module, given)
    try:
        torch.set_default_device("meta")
        found = everything(module, given)
    finally:
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        assert_agree(one, other)
