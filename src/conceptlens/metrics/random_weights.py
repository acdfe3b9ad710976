"""Do maps depend on what the network has learned? Weights replaced by random ones, from the output down.

A map that stays as it was while the network forgets everything was never about the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from conceptlens.io.argument_kinds import check_function, check_names, check_type
from conceptlens.io.errors import InputError, near
from conceptlens.metrics.map_map import SimilarityName, map_similarity
from conceptlens.metrics.map_pairs import whole_maps
from conceptlens.metrics.training_mode import check_eval
from conceptlens.statistics.random_seed import check_seed, seeded_generator
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Maps

# How weights are replaced: drawn from a normal distribution with the mean and deviation of the tensor's own values, or
# by the layer's own `reset_parameters`, as before training.
Redraw = Literal["own_scale", "reset"]


def cascade_similarity(
    explain: Callable[[nn.Module], Maps],
    module: nn.Module,
    layers: Sequence[str] | None = None,
    similarity: SimilarityName = "map_spearman",
    redraw: Redraw = "own_scale",
    seed: int = 0,
) -> Score:
    """Return how alike maps stay while weights become random, layer by layer from the output; lower is better.

    Cascading randomisation of Adebayo et al., NeurIPS 2018: stage 1 has random weights in the first of `layers`, stage
    2 in the first two, and so on, in a copy of the module. A map that ignores the weights gets 1 at every stage, a map
    of unrelated noise the similarity's chance.

    Args:
        explain: From a module to maps of fixed images and fixed questions; not of the predicted class, which changes.
        module: The network, in eval mode; it is left as it is.
        layers: Names of modules from the output down, each randomised with all that it holds; by default
            `cascade_layers(module)`.
        similarity: A name of `MAP_MAP_METRICS`.
        redraw: `"own_scale"` draws each tensor of weights from a normal distribution with its own mean and standard
            deviation, which any module allows and which keeps the size of activations; one whose values are all equal
            stays. `"reset"` calls the layers' own `reset_parameters`, as the published experiment draws weights anew;
            for batch norm it forgets the running statistics too.
        seed: Draws the weights.

    Returns:
        `values[image question stage]`; a stage does not apply where a map is the same everywhere.

    Raises:
        InputError: The module is in training mode, a layer is unknown or cannot be reset, `redraw` is unknown, or maps
            are not finite or change their shape.
        InputTypeError: `explain` cannot be called, or `module` is none.
    """
    check_function(explain, "explain", "from a module to maps")
    check_type(module, nn.Module, "the module", "an nn.Module")
    check_eval(module)
    _check_redraw(redraw)
    seed = check_seed(seed)
    changed = copy.deepcopy(module)
    parts = _named(changed, cascade_layers(module) if layers is None else layers)
    before = whole_maps(explain(changed)).clone()  # a map may be a view of what the module holds
    stages = []
    for stage, (name, part) in enumerate(parts):
        _randomise(name, part, redraw, seed + stage)
        stages.append(map_similarity(similarity, before, whole_maps(explain(changed))))
    return Score(torch.stack([s.values for s in stages], 2), torch.stack([s.applies for s in stages], 2))


def with_random_weights(module: nn.Module, redraw: Redraw = "own_scale", seed: int = 0) -> nn.Module:
    """Return a copy of a network whose weights are all random: the last stage of `cascade_similarity`, as a control.

    Args:
        module: The network; it is left as it is.
        redraw: How weights are drawn, as in `cascade_similarity`.
        seed: Draws the weights.

    Raises:
        InputError: `redraw` is unknown, or a layer cannot be reset.
        InputTypeError: `module` is none.
    """
    if not isinstance(module, nn.Module):
        raise InputTypeError(f"the module is a {type(module).__name__}; expected an nn.Module")
    _check_redraw(redraw)
    changed = copy.deepcopy(module)
    _randomise("", changed, redraw, check_seed(seed))
    return changed


def cascade_layers(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that hold weights of their own, the last first, as they were registered.

    For nearly all networks that is from the output down; where it is not, name the layers yourself. The empty name is
    the module itself, where it holds weights such as a class token.

    Args:
        module: The network.

    Raises:
        InputError: It holds no weights.
    """
    check_type(module, nn.Module, "the module", "an nn.Module")
    names = [name for name, part in module.named_modules() if any(True for _ in part.parameters(recurse=False))]
    if not names:
        raise InputError(f"{type(module).__name__} holds no weights; there is nothing to make random")
    return tuple(reversed(names))


def _check_redraw(redraw: str) -> None:
    if redraw not in get_args(Redraw):
        raise InputError(f"no redraw '{redraw}'; there are: {', '.join(get_args(Redraw))}")


def _named(module: nn.Module, layers: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Return modules by their names, each of which holds weights."""
    known = dict(module.named_modules())
    listed = check_names(layers, "layers", "names of modules from the output down")
    if not listed:
        raise InputError("layers are empty; expected names of modules from the output down, at least one")
    for name in listed:
        if name not in known:
            raise InputError(f"no layer '{name}'; {near(str(name), [one for one in known if one], 'there are', 5)}")
        if not any(True for _ in known[name].parameters()):
            raise InputError(f"layer '{name}' holds no weights; leave it out")
    return [(name, known[name]) for name in listed]


@torch.no_grad()
def _randomise(name: str, part: nn.Module, redraw: Redraw, seed: int) -> None:
    """Replace the weights of a module and of all that it holds."""
    if redraw == "own_scale":
        generator = seeded_generator(seed)
        for weights in part.parameters():
            if weights.numel() > 1 and weights.is_floating_point():
                drawn = torch.randn(weights.shape, generator=generator, dtype=torch.float64, device="cpu")
                own = weights.double()
                weights.copy_(drawn.to(own.device) * own.std(correction=0) + own.mean())
        return
    holders = [one for one in part.modules() if any(True for _ in one.parameters(recurse=False))]
    for one in holders:
        if not callable(getattr(one, "reset_parameters", None)):
            raise InputError(f"{type(one).__name__} in layer '{name}' has no reset_parameters; use redraw='own_scale'")
    devices = sorted({weights.device.index or 0 for weights in part.parameters() if weights.is_cuda})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for one in holders:
            one.reset_parameters()  # pyright: ignore[reportCallIssue]
