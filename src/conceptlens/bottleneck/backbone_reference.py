"""The network under a bottleneck: which one it is, how photos enter it, which of its weights were changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class BackboneReference:
    """The network under a bottleneck.

    Args:
        name: Its name, such as `timm:resnet50`.
        identity: The fingerprint of its weights.
        preprocess: How photos enter it; `None` for the network's own transform.
        changed_weights: Weights that were trained together with the bottleneck, by their names in the module.
    """

    name: str
    identity: str
    preprocess: Preprocess | None = None
    changed_weights: Mapping[str, Tensor] = field(default_factory=dict)

    def prepare(self, model: Backbone) -> Backbone:
        """Return `model` as the bottleneck needs it, with its preprocessing and its changed weights.

        Raises `InputError` for a model with other weights. The model that was given is left as it is.
        """
        self._recognise(model)
        module = model.module
        if self.changed_weights:
            sizes = {name: value.shape for name, value in module.state_dict().items()}
            wrong = [name for name, value in self.changed_weights.items() if sizes.get(name) != value.shape]
            if wrong:
                raise InputError(f"this bottleneck has another {wrong[0]} than {model.name}; fit it again")
            module = copy.deepcopy(module)
            module.load_state_dict(dict(self.changed_weights), strict=False)
        preprocess = self.preprocess or model.transform
        size = self.preprocess.size if self.preprocess else model.input_size
        return dataclasses.replace(model, module=module, transform=preprocess, input_size=size)

    def check(self, model: Backbone) -> None:
        """Refuse the model of an observation that is not what `prepare` returns.

        Where weights were changed, they are what is compared: the fingerprint is of the model before.
        """
        if not self.changed_weights:
            return self._recognise(model)
        own = model.module.state_dict()
        if any(name not in own or not torch.equal(own[name].to(v), v) for name, v in self.changed_weights.items()):
            raise InputError(
                f"this bottleneck was trained together with weights of {self.name}, and {model.name} was observed "
                "without them; use bottleneck.observe(model, photo)"
            )
        return None

    def _recognise(self, model: Backbone) -> None:
        found = weights_fingerprint(model.module)
        if found != self.identity:
            raise InputError(
                f"this bottleneck was trained on {self.name} with weights {self.identity}, and {model.name} with "
                f"weights {found} was given; load that model, or fit a bottleneck for this one"
            )
