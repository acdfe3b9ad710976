"""Ordinary modules of every make: each question about them is answered with finite maps, or refused in one sentence.

Nothing else may come out, and the module stays as it was. Which modules are refused, and with which words, stands here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured
from transformers import ViTConfig, ViTForImageClassification

import conceptlens as cl

SIZE = (32, 32)


class Net(nn.Module):
    """A trunk and a head."""

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(colours, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.head: nn.Module = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.trunk(images).mean((2, 3)))


def net(change: Callable[[Net], Any] = lambda module: None, colours: int = 3) -> nn.Module:
    module = Net(colours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own older forms
        change(module)
    return module


def instead(forward: Callable[[Net, Tensor], Any]) -> nn.Module:
    """Return the same network with another forward."""
    return type("Changed", (Net,), {"forward": lambda self, images: forward(self, images)})()


def plain(module: Net, images: Tensor) -> Tensor:
    return module.head(module.trunk(images).mean((2, 3)))


def under(context: Callable[[], Any], whole: bool) -> nn.Module:
    """Return a network of which the trunk, or all of it, runs under a context of torch."""

    def forward(module: Net, images: Tensor) -> Tensor:
        with context():
            cells = module.trunk(images)
            if whole:
                return module.head(cells.mean((2, 3)))
        return module.head(cells.clone().mean((2, 3)))

    return instead(forward)


class Tokens(nn.Module):
    """A transformer of torch's own parts, with the fast path of its attention."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(12, 2, 24, batch_first=batch_first), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(12, 5)
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2)
        cells = self.blocks(tokens.transpose(1, 2) if self.batch_first else tokens.permute(2, 0, 1))
        return self.head(cells.mean(1 if self.batch_first else 0))


def twice() -> nn.Module:
    module = instead(lambda n, x: n.head(n.tied(n.tied(n.trunk(x))).mean((2, 3))))  # pyright: ignore[reportCallIssue]
    module.tied = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU())
    return module


def in_place() -> nn.Module:
    parts = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def vit(checkpointing: bool = False) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    config = ViTConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, id2label={i: str(i) for i in range(5)})
    module: Any = ViTForImageClassification(config)
    if checkpointing:
        module.activation_checkpointing_enable()
        module.train()
    return module


def with_buffers_only(module: Net) -> None:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.data)


def with_own_hooks(module: Net) -> None:
    module.trunk[2].register_forward_hook(lambda *given: given[2] * 2)
    module.head.register_forward_pre_hook(lambda _part, inputs: (inputs[0] + 1,))
    module.trunk.register_forward_hook(lambda *given: given[3] + 0, with_kwargs=True)


def with_parametrizations(module: Net) -> None:
    nn.utils.parametrizations.weight_norm(module.head)
    nn.utils.parametrizations.spectral_norm(module.trunk[0])
    nn.utils.weight_norm(module.trunk[2])


def with_low_rank(module: Net) -> None:
    head, down, up = module.head, nn.Linear(12, 2, bias=False), nn.Linear(2, 5, bias=False)
    module.head = type("LowRank", (nn.Module,), {"forward": lambda self, x: head(x) + up(down(x))})()
    module.head.parts = nn.ModuleList([head, down, up])


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another library for it
        return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)


RIGHT: dict[str, Callable[[], Any]] = {
    "plain": net,
    **{f"{colours} channels": lambda colours=colours: net(colours=colours) for colours in (1, 2, 4, 13)},
    "half precision": lambda: net(lambda n: n.half()),
    "bfloat16": lambda: net(lambda n: n.bfloat16()),
    "double precision": lambda: net(lambda n: n.double()),
    "buffers alone": lambda: net(with_buffers_only),
    "hooks of its own": lambda: net(with_own_hooks),
    "parametrized": lambda: net(with_parametrizations),
    "pruned": lambda: net(lambda n: l1_unstructured(n.trunk[2], "weight", 0.3)),
    "low rank beside the head": lambda: net(with_low_rank),
    "compiled parts": lambda: net(lambda n: setattr(n, "trunk", torch.compile(n.trunk, backend="eager"))),
    "compiled in place": lambda: net(lambda n: n.trunk.compile(backend="eager")),
    "compiled whole": lambda: torch.compile(Net(), backend="eager"),
    "traced part": lambda: net(lambda n: setattr(n, "trunk", torch.jit.trace(n.trunk, torch.zeros(1, 3, 32, 32)))),
    "a graph of fx": lambda: torch.fx.symbolic_trace(Net()),
    "an average of weights": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "in place": in_place,
    "tied, run twice": twice,
    "autocast within": lambda: under(lambda: torch.autocast("cpu", dtype=torch.bfloat16), True),
    "a trunk under no_grad": lambda: under(torch.no_grad, False),
    "attention's fast path": Tokens,
    "tokens first": lambda: Tokens(False),
    "timm": lambda: timm.create_model("test_resnet", num_classes=5),
    "transformers": vit,
    "transformers, checkpointing": lambda: vit(True),
    "a training mode": lambda: net(lambda n: n.train()),
    "a named output": lambda: instead(lambda n, x: {"logits": plain(n, x), 3: None}),
}


def observed(module: nn.Module) -> tuple[cl.Observation[Any], Tensor]:
    """Return an observation of two images, and the images."""
    torch.manual_seed(1)
    first = next(tensor for tensor in module.state_dict().values() if tensor.ndim == 4)
    images = torch.randn(2, first.shape[1], *SIZE)
    return cl.Backbone(module, "net", input_size=SIZE).observe(images), images


def state(module: nn.Module) -> list[Any]:
    """Return what a question may not change."""
    parts = [
        (p.training, list(p._forward_hooks), list(p._forward_pre_hooks), "forward" in vars(p)) for p in module.modules()
    ]
    return [parts, [(p.requires_grad, p.grad is None, p._version) for p in module.parameters()]]


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_every_question_is_answered(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    before = state(module)
    found, images = observed(module)
    for rule in cl.RULES:
        maps = cl.cam(found, None, rule).maps
        assert maps.shape[:2] == (2, 1)
        assert bool(maps.isfinite().all())
    several = cl.cam(found, [cl.Logit(0), cl.Logit(1), cl.Contrast(nearest=2), cl.Probability(2)], signed=True)
    assert bool(several.maps.isfinite().all())
    assert float(several.maps.abs().amax()) > 0
    assert bool(cl.loce(found, torch.ones(2, 1, *SIZE, dtype=torch.bool).triu().numpy()).maps.isfinite().all())
    assert "net" in repr(found)
    assert state(module) == before
    own = module.eval()(images.to(found.images.dtype))
    own = own["logits"] if isinstance(own, dict) else getattr(own, "logits", own)
    torch.testing.assert_close(found.logits.detach(), own.detach(), atol=2e-2, rtol=2e-2, check_dtype=False)


NO_GRADIENT: dict[str, Callable[[], nn.Module]] = {
    "quantised": quantised,
    "under no_grad": lambda: under(torch.no_grad, True),
    "under inference_mode": lambda: under(torch.inference_mode, True),
    "a detached answer": lambda: instead(lambda n, x: plain(n, x).detach()),
    "by way of numpy": lambda: instead(lambda n, x: torch.from_numpy(plain(n, x).detach().numpy())),
}


@pytest.mark.parametrize("make", NO_GRADIENT.values(), ids=NO_GRADIENT)
def test_without_any_gradient_the_rules_that_need_none_work(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    found, _ = observed(make())
    for name, rule in cl.RULES.items():
        if rule.reads == "gradient":
            with pytest.raises(cl.InputError, match=r"no gradient reaches layer 'trunk': .*, such as score_cam"):
                cl.cam(found, 1, name)
        else:
            assert bool(cl.cam(found, 1, name).maps.isfinite().all())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no layer with weights": (lambda: instead(lambda n, x: x.mean((2, 3))), "no layer of this model has a grid"),
    "functions alone": (
        lambda: instead(lambda n, x: F.conv2d(x, torch.ones(5, 3, 3, 3)).mean((2, 3))),
        "no layer of this model has a grid of cells",
    ),
    "image by image": (
        lambda: instead(lambda n, x: torch.cat([plain(n, one[None]) for one in x])),
        "no layer of this model has a grid of cells|runs more than once",
    ),
    "an argmax": (
        lambda: instead(lambda n, x: F.one_hot(plain(n, x).argmax(1), 5)),
        "gives scores of type int64; expected floating scores, as they are before an argmax|has a grid",
    ),
    "another size": (
        lambda: instead(lambda n, x: n.trunk(x).flatten(1) @ torch.ones(48, 5)),
        r"net cannot be run on images of shape .* x 3 x 32 x 32",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make: Callable[[], nn.Module], sentence: str) -> None:
    torch.manual_seed(0)
    module = make()
    before = state(module)
    with pytest.raises(cl.InputError, match=sentence) as caught:
        cl.cam(observed(module)[0], 1)
    assert "\n" not in str(caught.value)
    assert state(module) == before
