"""The bottleneck: cells to concept maps, maps to activations, activations to class scores; and nothing beside them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from conceptlens.bottleneck.edit import Edit
from conceptlens.bottleneck.locator import Locator, resized
from conceptlens.io.cache import identity
from conceptlens.io.errors import InputError, near
from conceptlens.model.forward import full_precision
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float

    from conceptlens.concepts.concept_set import BottleneckConcept
    from conceptlens.model.backbone import Backbone, Photo
    from conceptlens.model.observation import Observation
    from conceptlens.record import Explanation


@dataclass(frozen=True, eq=False)
class Reading:
    """What a bottleneck reads in a batch.

    - `maps[image concept height width]`: the mean over the cells of each is the concept's activation.
    - `activations[image concept]`: as the maps give them, or as `intervene` set them; before edits.
    - `standard[image concept]`: after edits for all classes, less the training mean, over the training deviation.
    - `logits[image class]`: `sum_concept weight standard + bias`, edits for one class included.
    """

    logits: Float[Tensor, "image class"]
    activations: Float[Tensor, "image concept"]
    standard: Float[Tensor, "image concept"]
    maps: Float[Tensor, "image concept height width"]


@dataclass(frozen=True, eq=False)
class Base:
    """The network under a bottleneck: its name, the fingerprint of its weights, how photos enter it.

    `changed` are the weights and statistics that were trained together with the bottleneck, by their names in the
    module.
    """

    name: str
    identity: str
    view: Preprocess | None = None
    changed: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, model: Backbone) -> Backbone:
        """Return `model` as the bottleneck needs it, with its view of a photo and its changed weights.

        Raises `InputError` for a model with other weights. The model that was given is left as it is.
        """
        self._recognise(model)
        module = model.module
        if self.changed:
            sizes = {name: value.shape for name, value in module.state_dict().items()}
            wrong = [name for name, value in self.changed.items() if sizes.get(name) != value.shape]
            if wrong:
                raise InputError(f"this bottleneck has another {wrong[0]} than {model.name}; fit it again")
            module = copy.deepcopy(module)
            module.load_state_dict(dict(self.changed), strict=False)
        view = self.view or model.transform
        size = self.view.size if self.view else model.input_size
        return dataclasses.replace(model, module=module, transform=view, input_size=size)

    def check(self, model: Backbone) -> None:
        """Refuse the model of an observation that is not what `of` returns.

        Where weights were changed, they are what is compared: the fingerprint is of the model before.
        """
        if not self.changed:
            return self._recognise(model)
        own = model.module.state_dict()
        if any(name not in own or not torch.equal(own[name].to(v), v) for name, v in self.changed.items()):
            raise InputError(
                f"this bottleneck was trained together with weights of {self.name}, and {model.name} was observed "
                "without them; use bottleneck.observe(model, photo)"
            )
        return None

    def _recognise(self, model: Backbone) -> None:
        found = identity(model.module)
        if found != self.identity:
            raise InputError(
                f"this bottleneck was trained on {self.name} with weights {self.identity}, and {model.name} with "
                f"weights {found} was given; load that model, or fit a bottleneck for this one"
            )


class Bottleneck(nn.Module):
    """A concept bottleneck whose concepts have maps. (Loc-CBM, ICCV 2025 poster; label-free CBM, ICLR 2023.)

    With cells `F` of the layer `values`, concept vectors `w_i` (a 1 x 1 convolution without bias) and a locator's masks
    `m_i`, which sum to 1:

        A_i(u) = <w_i, F(u)>        map M_i = cells m_i A_i        activation c_i = mean_u M_i(u) = sum_u m_i(u) A_i(u)
        logit_k = sum_i W_ki (c_i - mean_i) / deviation_i + b_k

    `values`, `channels`: the layer and its width. `grid`: rows and columns of the maps; products are brought there
    bilinearly. A freshly made one has zero weights, means 0 and deviations 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        concepts: Sequence[BottleneckConcept],
        classes: Sequence[str],
        values: str,
        channels: int,
        locator: Locator,
        grid: tuple[int, int],
        base: Base,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.concepts, self.classes = tuple(concepts), tuple(classes)
        self.values, self.grid, self.base = values, (int(grid[0]), int(grid[1])), base
        self.training_record = dict(training or {})
        self._edits: tuple[Edit, ...] = ()
        if not self.concepts or len(self.classes) < 2:
            raise InputError(
                f"a bottleneck of {len(self.concepts)} concepts and {len(self.classes)} classes was asked for; "
                "give at least one concept and two classes"
            )
        if min(self.grid) < 1:
            raise InputError(f"maps of {self.grid[0]} x {self.grid[1]} cells were asked for; give at least one cell")
        self.locator = locator
        self.weight = nn.Parameter(torch.zeros(len(self.concepts), channels))
        self.register_buffer("mean", torch.zeros(len(self.concepts)))
        self.register_buffer("deviation", torch.ones(len(self.concepts)))
        self.head = nn.Linear(len(self.concepts), len(self.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def labels(self) -> tuple[str, ...]:
        """The concepts' labels, in order."""
        return tuple(concept.label for concept in self.concepts)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are read, the one whose cells carry the values last."""
        return tuple(dict.fromkeys([name for name in self.locator.layers if name != self.values] + [self.values]))

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The lasting edits, in the order in which they apply: those for all classes, then those for one."""
        return self._edits

    @edits.setter
    def edits(self, edits: Iterable[Edit]) -> None:
        kept = tuple(edits)
        for edit in kept:
            self.concept_index(edit.concept)
            self.class_index(edit.target or 0)
        self._edits = kept

    @overload
    def forward(self, cells: Observation) -> Explanation: ...
    @overload
    def forward(self, cells: Mapping[str, Float[Tensor, "image channel rows columns"]]) -> Reading: ...
    def forward(self, cells: Observation | Mapping[str, Tensor]) -> Explanation | Reading:
        """Return logits, activations and maps from the cells of `layers`; of an observation, an explanation."""
        if not isinstance(cells, Mapping):
            return self.explain(cells)
        with full_precision(self.weight):
            maps = self.concept_maps(cells)
            return self.read(maps, maps.mean((2, 3)))

    def concept_maps(self, cells: Mapping[str, Tensor]) -> Float[Tensor, "image concept height width"]:
        """Return the maps, whose mean over the cells is the activation."""
        plain = self.plain_maps(cells)
        return plain * self.locator(plain, cells) * (self.grid[0] * self.grid[1])

    def plain_maps(self, cells: Mapping[str, Tensor]) -> Float[Tensor, "image concept height width"]:
        """Return `A`, the products at every cell, before the locator."""
        values = cells[self.values].to(self.weight.dtype)
        if values.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"layer '{self.values}' has {values.shape[1]} channels; the bottleneck reads {self.weight.shape[1]}"
            )
        return resized(torch.einsum("nchw,kc->nkhw", values, self.weight), self.grid)

    def read(self, maps: Tensor, activations: Tensor) -> Reading:
        """Return what follows from activations: edits, standardisation, class scores."""
        standard = (self.edited(activations) - self.mean) / self.deviation
        logits = self.head(standard)
        for target in sorted({edit.target for edit in self.edits if edit.target is not None}):
            shift = ((self._standard_for(activations, target) - standard) * self.head.weight[target]).sum(1)
            logits = logits.index_add(1, torch.tensor([target], device=logits.device), shift[:, None])
        return Reading(logits, activations, standard, maps)

    def contributions(self, reading: Reading, target: Tensor) -> Float[Tensor, "image concept"]:
        """Return `W_ki z_i` for the class `target[image]` of each image: with the bias they add up to its logit."""
        standard = reading.standard.clone()
        for one in {edit.target for edit in self.edits if edit.target is not None}:
            rows = target == one
            standard[rows] = self._standard_for(reading.activations[rows], one)
        return standard * self.head.weight[target]

    def explain(
        self, observation: Observation, target: str | int | Sequence[str | int] | None = None, top: int | None = None
    ) -> Explanation:
        """Return maps, activations and contributions of concepts for a class: see `explain_bottleneck`."""
        from conceptlens.bottleneck.explanation import explain_bottleneck

        return explain_bottleneck(self, observation, target, top)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `bottleneck.safetensors` and `config.json`, each atomically, and return the folder."""
        from conceptlens.bottleneck.bottleneck_folder import save_bottleneck

        return save_bottleneck(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Bottleneck:
        """Read what `save_pretrained` wrote; on the same kind of processor, logits are equal to the last bit."""
        from conceptlens.bottleneck.bottleneck_folder import load_bottleneck

        return load_bottleneck(folder)

    def observe(self, model: Backbone, photos: Photo | Tensor | Sequence[Photo]) -> Observation:
        """Look at photos as this bottleneck needs them: its layers, its view, its changed weights."""
        return self.base.of(model).observe(photos, layers=self.layers)

    def concept_index(self, label: str | int) -> int:
        """Return the place of a concept; near labels are offered where there is none."""
        return _index(label, self.labels, "concept")

    def class_index(self, name: str | int) -> int:
        """Return the place of a class; near names are offered where there is none."""
        return _index(name, self.classes, "class")

    def edited(self, activations: Tensor, target: int | None = None) -> Tensor:
        """Return activations within the bounds of the edits for `target` (`None`: for all classes)."""
        chosen = [edit for edit in self.edits if edit.target == target]
        if not chosen:
            return activations
        edited = activations.clone()
        for edit in chosen:
            edited[:, edit.concept] = edited[:, edit.concept].clamp(edit.low, edit.high)
        return edited

    def _standard_for(self, activations: Tensor, target: int) -> Tensor:
        """Return the standardised activations that one class sees."""
        return (self.edited(self.edited(activations), target) - self.mean) / self.deviation


def _index(name: str | int, names: Sequence[str], kind: str) -> int:
    if isinstance(name, int):
        if not 0 <= name < len(names):
            raise InputError(f"{kind} {name} was asked for; there are {len(names)}, from 0")
        return name
    wanted = " ".join(name.split()).casefold()
    found = [place for place, one in enumerate(names) if one.casefold() == wanted]
    if not found:
        raise InputError(f"no {kind} '{name}' in this bottleneck; near names: {near(name, names)}")
    return found[0]
