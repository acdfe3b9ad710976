"""Keeping what layers put out in one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.forward import Watch


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
            with torch.enable_grad():
                self._raw[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                return self._raw[name].clone()  # an in-place operation downstream must not touch what is kept

        return watch
