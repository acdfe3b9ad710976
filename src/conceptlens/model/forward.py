"""Running somebody's module without leaving a trace: the only file with hooks."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.containers import first_tensor, map_tensors, with_tensor
from conceptlens.model.model_input import ModelInput
from conceptlens.model.module_lock import MODULE_LOCK
from conceptlens.model.passed_checkpoints import passed_checkpoints

Watch = Callable[[Tensor], Tensor | None]


def forward(
    module: nn.Module, given: ModelInput, outputs: Mapping[str, Watch], inputs: Mapping[str, Watch] | None = None
) -> Any:
    """Run `module` in eval mode with its parameters frozen, watching layers by name; leave it as found.

    Each watch sees its layer's output (or input) tensor and may return another one to be used in its place. Nothing
    builds a graph until a watch returns a tensor that requires grad: the trunk below costs no memory. Threads take
    turns, and a watch sees the passes of its own thread alone.

    Args:
        module: The module; its modes, `requires_grad` and the random state are given back.
        given: What it is called with.
        outputs: For each layer's name, what sees its output.
        inputs: For each layer's name, what sees its input.

    Returns:
        What the module returns, untouched.
    """
    with ExitStack() as stack:
        stack.enter_context(frozen(module))
        stack.enter_context(_recurrent_with_gradient(module))
        stack.enter_context(passed_checkpoints())
        if "torch._dynamo" in sys.modules:  # only then is anything compiled; compiled code does not expect watches
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, watch in outputs.items():
            # as any module's: TorchScript has hidden the method in its own, although such hooks work
            handle = nn.Module.register_forward_hook(module.get_submodule(name), _on_output(watch))
            stack.callback(handle.remove)
        for name, watch in (inputs or {}).items():
            part = module.get_submodule(name)
            handle = nn.Module.register_forward_pre_hook(part, _on_input(watch), with_kwargs=True)
            stack.callback(handle.remove)
        return given.call(module)


def in_graph(tensor: Tensor) -> Tensor:
    """Return a tensor as it is where it has a gradient, else the start of a graph with its values.

    Args:
        tensor: What a layer returned; outside of inference mode now.
    """
    if tensor.requires_grad:
        return tensor
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()


class LayerKeeper:
    """Keeps the raw output of layers in one forward pass, each of which must run once.

    With `graph`, the graph begins at the first of them.
    """

    def __init__(self, layers: tuple[str, ...], graph: bool = True) -> None:
        self._layers, self._graph = layers, graph
        self._raw: dict[str, Tensor] = {}

    @property
    def watches(self) -> dict[str, Watch]:
        """What is given to `Backbone.run`."""
        return {name: self._watch(name) for name in self._layers}

    def raw(self) -> dict[str, Tensor]:
        """Return what each layer gave, after the forward pass.

        Raises:
            InputError: A layer did not run, or gave no tensor.
        """
        missing = [name for name in self._layers if name not in self._raw]
        if missing:
            raise InputError(f"layer '{missing[0]}' gave no tensor in this forward pass; choose another layer")
        return {name: self._raw[name] for name in self._layers}

    def _watch(self, name: str) -> Watch:
        def watch(tensor: Tensor) -> Tensor:
            if name in self._raw:
                raise InputError(f"layer '{name}' runs more than once in one forward pass; choose one that runs once")
            if not self._graph:
                self._raw[name] = tensor.detach()
                return tensor.clone()
            # A trunk may turn gradients off, or run in inference mode.
            with torch.inference_mode(False), torch.enable_grad():
                self._raw[name] = in_graph(tensor)
                return self._raw[name].clone()  # an in-place operation downstream must not touch what is kept

        return watch


def unwrap(module: nn.Module) -> nn.Module:
    """Take `torch.compile`, `DataParallel` and `DistributedDataParallel` off; refuse what hooks cannot enter."""
    if not isinstance(module, nn.Module):
        raise InputTypeError(f"a {type(module).__name__} was given; expected a torch.nn.Module")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a TorchScript module was given, whose layers cannot be watched; give the original nn.Module")
    inner = getattr(module, "_orig_mod", None)
    if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return module if inner is None else unwrap(inner)


@contextmanager
def trunk_kept(module: nn.Module, given: ModelInput, layer: str) -> Iterator[None]:
    """Within, a call of `module` runs only what follows `layer`: the parts before it give back what they gave once.

    A part that is called twice runs each time, and so does what stands between the parts. Other threads that call
    the module meanwhile run all of it.

    Args:
        module: The module, in eval mode.
        given: The inputs of every call within.
        layer: The name of the layer after which parts run again.
    """
    with ExitStack() as stack:
        stack.enter_context(MODULE_LOCK)
        for part, output in _outputs_until(module, given, layer).items():
            part.forward = _giving_back(part, output)
            stack.callback(delattr, part, "forward")
        yield


def _giving_back(part: nn.Module, output: Any) -> Callable[..., Any]:
    """Return a `forward` that gives `output` in this thread, and runs the part in others."""
    owner, own = threading.get_ident(), part.forward

    def forward(*inputs: Any, **named: Any) -> Any:
        return map_tensors(output, Tensor.clone) if threading.get_ident() == owner else own(*inputs, **named)

    return forward


def _outputs_until(module: nn.Module, given: ModelInput, layer: str) -> dict[nn.Module, Any]:
    """Return what each part gave by the time that `layer` had run, of parts within parts the outer one's."""
    end = module.get_submodule(layer)
    outputs: dict[nn.Module, Any] = {}
    calls: Counter[nn.Module] = Counter()

    owner = threading.get_ident()

    def keep(part: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != owner:
            return
        if not calls[end]:
            outputs[part] = map_tensors(output, Tensor.clone)  # what follows may work in place
        calls[part] += 1

    with ExitStack() as stack, torch.no_grad():
        for part in module.modules():
            if "forward" not in vars(part) and not isinstance(part, torch.jit.ScriptModule):
                stack.callback(part.register_forward_hook(keep).remove)
        forward(module, given, {})
    once = {part: output for part, output in outputs.items() if calls[part] == 1}
    inner = {child for part in once for child in part.modules() if child is not part}
    return {part: output for part, output in once.items() if part not in inner}


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Keep the package's own arithmetic as precise as its tensors, where the caller lets models round (autocast)."""
    return torch.autocast(like.device.type, enabled=False)


def _on_output(watch: Watch) -> Callable[..., Any]:
    owner = threading.get_ident()

    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        tensor = first_tensor(output) if threading.get_ident() == owner else None
        replacement = None if tensor is None else watch(tensor)
        return None if tensor is None or replacement is None else with_tensor(output, tensor, replacement)

    return hook


def _on_input(watch: Watch) -> Callable[..., Any]:
    owner = threading.get_ident()

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if threading.get_ident() != owner:
            return None
        tensor = next((value for value in (*inputs[:1], *named.values()) if isinstance(value, Tensor)), None)
        replacement = None if tensor is None else watch(tensor)
        if tensor is None or replacement is None:
            return None
        return with_tensor(inputs, tensor, replacement), with_tensor(named, tensor, replacement)

    return hook


@contextmanager
def _recurrent_with_gradient(module: nn.Module) -> Iterator[None]:
    """Hold recurrent layers of a frozen module in training mode without dropout, which computes the same.

    cuDNN gives no gradient of a recurrent layer that has run in eval mode.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    rates = [layer.dropout for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.dropout = True, 0.0
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.training, layer.dropout = False, rate


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Hold `module` in eval mode and frozen, and give back its modes, `requires_grad` and the random state.

    Other threads that ask for this or another module wait meanwhile.
    """
    with ExitStack() as stack:
        stack.enter_context(MODULE_LOCK)
        modes = {m: m.training for m in module.modules()}
        parameters = list(module.parameters())
        learning = [p for p in parameters if p.requires_grad and not p.is_inference()]
        devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            if any(modes.values()):  # each pass of a long run comes by here, and to walk through all parts takes time
                module.eval()
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
            for part, mode in modes.items():
                if part.training != mode:
                    part.training = mode
