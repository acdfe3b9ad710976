"""What one map of a photo costs: passes that are counted, operations, time and memory beside a plain forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from conceptlens.io.torchvision_operators import mend_torchvision

mend_torchvision()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import conceptlens as cl  # noqa: E402
from conceptlens.bottleneck.backbone_reference import BackboneReference  # noqa: E402
from conceptlens.bottleneck.locator import Peaks  # noqa: E402
from conceptlens.bottleneck.module import Bottleneck  # noqa: E402
from conceptlens.concepts.concept_set import BottleneckConcept  # noqa: E402
from conceptlens.io.fingerprint import weights_fingerprint  # noqa: E402
from measure import flops, growth, median_seconds, seconds  # noqa: E402

CONCEPTS = 72
SIZE = 224
# Seconds from which a call is timed once.
LONG = 2.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A network whose maps are timed, and the first and last of its layers, whose calls are counted."""

    name: str
    model: cl.Backbone
    first: str
    last: str


@dataclass
class Passes:
    """What was counted: images through the first and the last layer, and gradients of a score at the layer."""

    first: int = 0
    last: int = 0
    backward: int = 0

    def to_json(self) -> dict[str, int]:
        """Return whole forward passes, those of the part behind the layer alone, and backward passes."""
        return {"forward": self.first, "behind": self.last - self.first, "backward": self.backward}


def subjects() -> list[Subject]:
    """Return the embedded classifier, and a transformer that reads its class token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = cl.Backbone(timm.create_model("vit_tiny_patch16_224").eval(), "vit_tiny", "blocks.11.norm1")
    return [
        Subject("EfficientNet-Lite0", cl.load_model(), "conv_stem", "classifier"),
        Subject("ViT-Tiny", vit, "patch_embed", "head"),
    ]


@contextlib.contextmanager
def counted(subject: Subject) -> Iterator[Passes]:
    """Count images that pass the first and the last layer, and gradients that torch is asked for."""
    passes, plain = Passes(), torch.autograd.grad

    def watch(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, given: setattr(passes, name, getattr(passes, name) + len(given[0]))

    def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> Any:
        passes.backward += len(grad_outputs) if options.get("is_grads_batched") else 1
        return plain(outputs, inputs, grad_outputs, **options)

    module: Any = subject.model.module
    handles = [
        module.get_submodule(layer).register_forward_pre_hook(watch(name))
        for name, layer in (("first", subject.first), ("last", subject.last))
    ]
    torch.autograd.grad = grad  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield passes
    finally:
        torch.autograd.grad = plain
        for handle in handles:
            handle.remove()


# From a prepared photo to a map.
Call = Callable[[Tensor], Any]


def costed_methods(model: cl.Backbone) -> dict[str, Call]:
    """Return every method by the name of its card, as it is called for one photo and one question."""

    def rule(name: str) -> Call:
        return lambda photo: cl.cam(model.observe(photo), cl.Logit(3), name)

    bottleneck, concept = _bottleneck(model), _concept(model)
    mask = np.zeros((1, 1, SIZE, SIZE), bool)
    mask[..., 60:160, 60:160] = True
    return {
        **{name: rule(name) for name in cl.RULES},
        "finer_cam": lambda photo: cl.cam(model.observe(photo), cl.Contrast(3)),
        "ce_fam": lambda photo: cl.cam(model.observe(photo), concept),
        "loc_cbm": lambda photo: bottleneck.explain(model.observe(photo)),
        "loce": lambda photo: cl.loce(model.observe(photo), mask),
    }


def _concept(model: cl.Backbone) -> cl.Concept:
    """Return a direction in the model's image vectors: what a text becomes."""
    width = model.observe(torch.zeros(1, 3, SIZE, SIZE)).embedding.shape[1]
    return cl.Concept(direction=torch.randn(width, generator=torch.Generator().manual_seed(0)))


def _bottleneck(model: cl.Backbone) -> Bottleneck:
    """Return an untrained bottleneck: what it costs does not depend on its weights."""
    name = model.default_layers[-1]
    cells = model.observe(torch.zeros(1, 3, SIZE, SIZE)).feature(name)
    concepts = [BottleneckConcept(f"concept {i}") for i in range(CONCEPTS)]
    reference = BackboneReference(model.name, weights_fingerprint(model.module))
    grid = (cells.shape[2], cells.shape[3])
    made = Bottleneck(concepts, ("one", "other"), name, cells.shape[1], Peaks(1.0), grid, reference)
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(0))
    return made.eval()


def measure_costs() -> dict[str, list[dict[str, Any]]]:
    """Return each method's cost on each network: one map of one prepared photo, observation included, one thread."""
    photo = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found: dict[str, list[dict[str, Any]]] = {}
    for subject in subjects():
        plain = partial(torch.no_grad()(subject.model.module), photo)
        plain()
        work, memory, took = flops(plain), growth(plain, "cpu"), median_seconds(plain, "cpu")
        for name, method in costed_methods(subject.model).items():
            call = partial(method, photo)
            with counted(subject) as passes:
                spent = flops(call)
            row = {"network": subject.name, **passes.to_json(), "operations": round(spent / work, 2)}
            row |= _time_and_memory(call, took, memory)
            found.setdefault(name, []).append(row)
            print(name, row, flush=True)
    return found


def _time_and_memory(call: Callable[[], Any], forward_seconds: float, forward_memory: float) -> dict[str, float]:
    """Return a call's time and growth of memory, in those of a plain forward pass; a long call runs once."""
    took: list[float] = []
    grown = growth(lambda: took.append(seconds(call, "cpu")), "cpu")
    time = took[0] if took[0] > LONG else median_seconds(call, "cpu")
    return {"time": round(time / forward_seconds, 1), "memory": round(grown / forward_memory, 1)}
