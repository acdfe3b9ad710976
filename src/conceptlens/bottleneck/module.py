"""The bottleneck: cells to concept maps, maps to activations, activations to class scores; and nothing beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.bottleneck_folder import read_folder, read_parts, refusing, write_folder
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.locator import Locator, Parts, resized
from conceptlens.bottleneck.map_evidence import MapEvidence, read_evidence
from conceptlens.bottleneck.output import BottleneckOutput, bottleneck_explanation
from conceptlens.cams.class_activation import source
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.io.errors import InputError, near_names
from conceptlens.model.forward import full_precision
from conceptlens.model.observation import Observation, check_observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.image_batch import Photo
    from conceptlens.record import Explanation


class Bottleneck(nn.Module):
    """A concept bottleneck whose concepts have maps. (Loc-CBM, ICCV 2025 poster; label-free CBM, ICLR 2023.)

    With cells `F` of the layer `layer`, concept vectors `w_i` (a 1 x 1 convolution without bias) and a locator's masks
    `m_i`, which sum to 1:

        A_i(u) = <w_i, F(u)>        map M_i = cells m_i A_i        activation c_i = mean_u M_i(u) = sum_u m_i(u) A_i(u)
        logit_k = sum_i W_ki (c_i - mean_i) / std_i + b_k

    A freshly made one has zero weights, means 0 and standard deviations 1.

    Args:
        concepts: What each map stands for, in order.
        classes: The names of the classes, in the order of the logits.
        layer: The layer whose cells carry the concepts.
        channels: The width of that layer.
        locator: Gives each concept its mask over the cells.
        grid: Rows and columns of the maps; the products are resized to it bilinearly.
        backbone: The network whose cells are read.
        training: The record of the fit.

    Raises:
        InputError: There are no concepts, fewer than two classes, or an empty grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        concepts: Sequence[BottleneckConcept],
        classes: Sequence[str],
        layer: str,
        channels: int,
        locator: Locator,
        grid: tuple[int, int],
        backbone: BackboneReference,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.concepts, self.classes = tuple(concepts), tuple(classes)
        self.layer, self.grid, self.backbone = layer, (int(grid[0]), int(grid[1])), backbone
        self.training_record = dict(training or {})
        self._edits: tuple[Edit, ...] = ()
        if not self.concepts or len(self.classes) < 2:
            raise InputError(
                f"a bottleneck of {len(self.concepts)} concepts and {len(self.classes)} classes was given; "
                "give at least one concept and two classes"
            )
        if min(self.grid) < 1:
            raise InputError(f"maps of {self.grid[0]} x {self.grid[1]} cells were given; give at least one cell")
        self.locator = locator
        self.weight = nn.Parameter(torch.zeros(len(self.concepts), channels))
        self.register_buffer("mean", torch.zeros(len(self.concepts)))
        self.register_buffer("std", torch.ones(len(self.concepts)))
        self.head = nn.Linear(len(self.concepts), len(self.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def labels(self) -> tuple[str, ...]:
        """The concepts' labels, in order."""
        return tuple(concept.label for concept in self.concepts)

    @property
    def map_evidence(self) -> tuple[MapEvidence, ...]:
        """How far each concept's map can be trusted, in order: what it was learned from, how its place was checked."""
        parts = self.locator.part.tolist() if isinstance(self.locator, Parts) else [-1] * len(self.labels)
        return read_evidence(self.training_record, self.labels, [part >= 0 for part in parts])

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are read, the one whose cells carry the concepts last."""
        return tuple(dict.fromkeys([name for name in self.locator.layers if name != self.layer] + [self.layer]))

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
    def forward(self, cells: Mapping[str, Float[Tensor, "image channel rows columns"]]) -> BottleneckOutput: ...
    def forward(self, cells: Observation | Mapping[str, Tensor]) -> Explanation | BottleneckOutput:
        """Return logits, activations and maps from the cells of `layers`; of an observation, an explanation."""
        if not isinstance(cells, Mapping):
            return self.explain(cells)
        with full_precision(self.weight):
            maps = self.concept_maps(cells)
            return self.classify(maps, maps.mean((2, 3)))

    def concept_maps(self, cells: Mapping[str, Tensor]) -> Float[Tensor, "image concept height width"]:
        """Return the maps, whose mean over the cells is the activation.

        Args:
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `maps[image concept height width]` on `grid`.

        Raises:
            InputError: The layer has another number of channels.
        """
        plain = self.unmasked_maps(cells)
        return plain * self.locator(plain, cells) * (self.grid[0] * self.grid[1])

    def unmasked_maps(self, cells: Mapping[str, Tensor]) -> Float[Tensor, "image concept height width"]:
        """Return `A`, the products at every cell, before the locator.

        Args:
            cells: Cells of `layers`, `[image channel rows columns]` by layer.

        Returns:
            `A[image concept height width]` on `grid`.

        Raises:
            InputError: The layer has another number of channels.
        """
        values = cells[self.layer].to(self.weight.dtype)
        if values.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"layer '{self.layer}' has {values.shape[1]} channels; the bottleneck reads {self.weight.shape[1]}"
            )
        return resized(torch.einsum("nchw,kc->nkhw", values, self.weight), self.grid)

    def classify(self, maps: Tensor, activations: Tensor) -> BottleneckOutput:
        """Return what follows from activations: edits, standardisation, class scores.

        Args:
            maps: Concept maps, `[image concept height width]`, which are handed on.
            activations: Activations before edits, `[image concept]`.

        Returns:
            Logits `[image class]` with everything they are computed from.
        """
        standardized = (self.edited(activations) - self.mean) / self.std
        logits = self.head(standardized)
        for target in sorted({edit.target for edit in self.edits if edit.target is not None}):
            shift = ((self.standardized(activations, target) - standardized) * self.head.weight[target]).sum(1)
            logits = logits.index_add(1, torch.tensor([target], device=logits.device), shift[:, None])
        return BottleneckOutput(logits, activations, standardized, maps)

    def contributions(self, output: BottleneckOutput, target: Tensor) -> Float[Tensor, "image concept"]:
        """Return `W_ki z_i` for the class `target[image]` of each image: with the bias they add up to its logit.

        Args:
            output: What the bottleneck computed.
            target: The index of a class for each image, `[image]`.

        Returns:
            `[image concept]`, in the unit of the logits.
        """
        standardized = output.standardized.clone()
        for one in {edit.target for edit in self.edits if edit.target is not None}:
            rows = target == one
            standardized[rows] = self.standardized(output.activations[rows], one)
        return standardized * self.head.weight[target]

    @torch.no_grad()
    def explain(
        self, observation: Observation, target: str | int | Sequence[str | int] | None = None, top: int | None = None
    ) -> Explanation:
        """Return each concept's map, activation (`scores`) and contribution to the logit of a class.

        Args:
            observation: Images observed with `observe`.
            target: A class of the bottleneck, or one for each image; by default the class with the highest logit.
            top: Keep the concepts with the largest absolute contributions, for each image; by default all.

        Returns:
            An explanation whose `maps` are `cells m_i A_i`: their mean over the cells is the activation. Its
            `components` hold the maps before the locator, `A_i = <w_i, F>`, where the equation holds with `weights`.
            `contributions` and the class's `bias` add up to its `logit`; with `top`, so does `rest`. All three are in
            `source.settings`, one for each image. There too, by label: `map_evidence`, whether the place of the map was
            ever checked and what the concept was learned from, in words. `diagnostics["pointing"]`: how often the map's
            highest point was at the concept's part in photos with keypoints; NaN where it was never checked.

        Raises:
            InputError: A layer was not observed, or the observation is of another model.
        """
        if top is not None and top < 1:
            raise InputError(f"the top {top} concepts were given; give at least 1, or leave it out for all")
        output = self.output(observation)
        index = self._targets(output, target)
        names = tuple(self.classes[k] for k in index.tolist())
        settings = {
            "target": list(names),
            "bias": self.head.bias[index].tolist(),
            "logit": output.logits.gather(1, index[:, None])[:, 0].tolist(),
            "locator": type(self.locator).__name__.lower(),
        }
        with full_precision(self.weight):
            unmasked = self.unmasked_maps(self._cells(observation))
        origin = source(observation, self.layer, "loc_cbm", settings)
        contributions = self.contributions(output, index)
        return bottleneck_explanation(
            output, unmasked, contributions, names, self.weight.detach(), self.labels, self.map_evidence, origin, top
        )

    def output(self, observation: Observation) -> BottleneckOutput:
        """Return what the bottleneck computes from an observation of its layers by its own model.

        Args:
            observation: Images observed with `observe`.

        Returns:
            Logits, activations and maps of every image.

        Raises:
            InputError: A layer was not observed, the observation is of another model, or it is on another device.
        """
        cells = self._cells(observation)
        self.backbone.check(observation.model)
        return self(cells)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `bottleneck.safetensors` and `config.json`, each atomically, and return the folder.

        Args:
            folder: The folder to write; it is made where there is none.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be written.
        """
        about = {
            "concepts": [dataclasses.asdict(concept) for concept in self.concepts],
            "classes": list(self.classes),
            "layer": self.layer,
            "channels": self.weight.shape[1],
            "grid": list(self.grid),
            "training": self.training_record,
        }
        return write_folder(Path(folder), self.state_dict(), about, self.backbone, self.locator, self.edits)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Bottleneck:
        """Read what `save_pretrained` wrote; on the same kind of processor, logits are equal to the last bit.

        Args:
            folder: A folder written by `save_pretrained`.

        Returns:
            The bottleneck in evaluation mode, without gradients, on the CPU.

        Raises:
            InputError: The folder holds no whole bottleneck.
        """
        about, state, changed = read_folder(Path(folder))
        with refusing(Path(folder)):
            backbone, locator, edits = read_parts(about, changed)
            concepts = [BottleneckConcept(**one) for one in about["concepts"]]
            layer, channels, (rows, columns) = about["layer"], about["channels"], about["grid"]
            made = cls(
                concepts, about["classes"], layer, channels, locator, (rows, columns), backbone, about["training"]
            )
            made.edits = edits
            _ = made.map_evidence  # a record that is broken is refused
            made.load_state_dict(state)
        return made.eval().requires_grad_(False)

    def observe(self, model: Backbone, photos: Photo | Tensor | Sequence[Photo]) -> Observation:
        """Observe photos as this bottleneck needs them: its layers, its preprocessing, its changed weights.

        Args:
            model: The network that the bottleneck was fitted to; it stays as it is.
            photos: As in `Backbone.observe`.

        Returns:
            An observation of `layers`, ready for `explain` and `output`.

        Raises:
            InputError: The model is another one, or a photo cannot be read.
        """
        return self.backbone.prepare(model).observe(photos, layers=self.layers)

    def _cells(self, observation: Observation) -> dict[str, Tensor]:
        """Return the cells of the layers that are read."""
        check_observation(observation)
        missing = [name for name in self.layers if name not in observation.layer_outputs]
        if missing:
            raise InputError(
                f"the bottleneck reads {', '.join(self.layers)}, and {', '.join(missing)} was not observed; "
                "use bottleneck.observe(model, photo)"
            )
        if observation.images.device != self.weight.device:
            raise InputError(
                f"the bottleneck is on {self.weight.device} and the photos were observed on "
                f"{observation.images.device}; "
                f"move it there with bottleneck.to('{observation.images.device}')"
            )
        return {name: observation.feature(name) for name in self.layers}

    def _targets(
        self, output: BottleneckOutput, target: str | int | Sequence[str | int] | None
    ) -> Int[Tensor, "image"]:
        """Return the index of the class that is explained in each image."""
        images = len(output.logits)
        if target is None:
            return output.logits.argmax(1)
        several = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else [target] * images
        if len(several) != images:
            raise InputError(f"{len(several)} classes are given for {images} photos; give one, or one for each")
        return torch.tensor([self.class_index(one) for one in several], device=output.logits.device)

    def concept_index(self, label: str | int) -> int:
        """Return the index of a concept; near labels are offered where there is none.

        Args:
            label: A label in any case and spacing, or an index.

        Returns:
            The index, from 0.

        Raises:
            InputError: There is no such concept.
        """
        return _index(label, self.labels, "concept")

    def class_index(self, name: str | int) -> int:
        """Return the index of a class; near names are offered where there is none.

        Args:
            name: A class name in any case and spacing, or an index.

        Returns:
            The index, from 0.

        Raises:
            InputError: There is no such class.
        """
        return _index(name, self.classes, "class")

    def edited(self, activations: Tensor, target: int | None = None) -> Tensor:
        """Return activations within the bounds of the edits for `target` (`None`: for all classes).

        Args:
            activations: Activations, `[image concept]`.
            target: The index of the class whose edits apply; `None` for the edits for all classes.

        Returns:
            `[image concept]`; the given activations themselves where there is no edit.
        """
        chosen = [edit for edit in self.edits if edit.target == target]
        if not chosen:
            return activations
        edited = activations.clone()
        for edit in chosen:
            edited[:, edit.concept] = edited[:, edit.concept].clamp(edit.low, edit.high)
        return edited

    def standardized(self, activations: Tensor, target: int) -> Tensor:
        """Return the standardised activations with the edits for one class.

        Args:
            activations: Activations before edits, `[image concept]`.
            target: The index of the class.

        Returns:
            `[image concept]`, in standard deviations of the training images.
        """
        return (self.edited(self.edited(activations), target) - self.mean) / self.std


def _index(name: str | int, names: Sequence[str], kind: str) -> int:
    if isinstance(name, int):
        if not 0 <= name < len(names):
            raise InputError(f"{kind} {name} was given; there are {len(names)}, from 0")
        return name
    wanted = " ".join(name.split()).casefold()
    found = [index for index, one in enumerate(names) if one.casefold() == wanted]
    if not found:
        raise InputError(f"no {kind} '{name}' in this bottleneck; {near_names(name, names)}")
    return found[0]
