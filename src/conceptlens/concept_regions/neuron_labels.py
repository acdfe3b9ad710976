"""Similarities of concepts and neurons, saved in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class NeuronLabels:
    """Similarities of concepts and neurons of one layer.

    Args:
        similarity: Higher is better.
        concepts: Names and types of the concepts.
        method: Name of the labelling, such as `clip_dissect`.
        model: Name of the model.
        identity: Fingerprint of its weights.
        layer: Name of the layer.
        language: Name of the vision-language pair that scored the probe photos.
        photos: Number of probe photos.
        keep: A neuron has every label above this share of its best similarity; `None`: its best label alone.
        settings: Settings of the labelling.
    """

    similarity: Float[Tensor, "concept neuron"]
    concepts: tuple[ConceptName, ...]
    method: str
    model: str
    identity: str
    layer: str
    language: str
    photos: int
    keep: float | None = None
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is one row for each concept."""
        if self.similarity.ndim != 2 or len(self.similarity) != len(self.concepts) or not self.concepts:
            raise InputError(
                f"similarity has shape {tuple(self.similarity.shape)} for {len(self.concepts)} concepts; "
                "expected concept neuron, with at least one concept"
            )

    def assigned(self) -> Bool[Tensor, "concept neuron"]:
        """Return which concepts are labels of each neuron."""
        best = self.similarity.amax(0)
        if self.keep is None:
            return self.similarity == best
        return self.similarity > self.keep * best  # none where even the best is negative

    def labels_of(self, neuron: int) -> tuple[ConceptName, ...]:
        """Return the labels of one neuron, the best first."""
        order = self.similarity[:, neuron].argsort(descending=True, stable=True)
        assigned = self.assigned()[:, neuron]
        return tuple(self.concepts[i] for i in order.tolist() if assigned[i])

    def best(
        self, concepts: Sequence[ConceptName], count: int = 1
    ) -> tuple[Int[Tensor, "concept count"], Float[Tensor, "concept count"]]:
        """Return the `count` neurons that fit each concept best, and how well they do."""
        if not 1 <= count <= self.similarity.shape[1]:
            raise InputError(f"count is {count}; give 1 to {self.similarity.shape[1]}")
        found = self.similarity[self._rows(concepts)].topk(count, dim=1)
        return found.indices, found.values

    def matched(self, concepts: Sequence[ConceptName]) -> tuple[bool, ...]:
        """Return for each concept whether it is a label of any neuron."""
        return tuple(self.assigned().any(1)[self._rows(concepts)].tolist())

    def check(self, model: Backbone) -> None:
        """Refuse a model that these labels were not made for: the same name with other weights is another model."""
        found = weights_fingerprint(model.module)
        if found != self.identity:
            raise InputError(
                f"these labels were made for {self.model} ({self.identity}), and {model.name} ({found}) was given; "
                "fit them for this model"
            )

    def save(self, file: str | Path) -> Path:
        """Write a safetensors file, atomically."""
        metadata = {name: getattr(self, name) for name in _FIELDS}
        metadata |= {"settings": dict(self.settings), "concepts": [[c.label, c.type] for c in self.concepts]}
        with replacing(file) as temporary:
            save_file({"similarity": self.similarity.cpu().contiguous()}, temporary, {"labels": json.dumps(metadata)})
        return Path(file)

    @classmethod
    def load(cls, file: str | Path) -> NeuronLabels:
        """Read a file written by `save`."""
        try:
            with safe_open(str(file), framework="pt") as stored:
                metadata = json.loads(stored.metadata()["labels"])
                similarity = stored.get_tensor("similarity")
            concepts = tuple(ConceptName(label, kind) for label, kind in metadata.pop("concepts"))
            return cls(similarity, concepts, **metadata)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"cannot read neuron labels from {file} ({reason}); give a file that save wrote") from None

    def _rows(self, concepts: Sequence[ConceptName]) -> Int[Tensor, "concept"]:
        row_of = {concept: i for i, concept in enumerate(self.concepts)}
        missing = [concept for concept in concepts if concept not in row_of]
        if missing:
            known = near(missing[0].label, [concept.label for concept in self.concepts])
            raise InputError(f"these labels have no concept '{missing[0].label}' ({missing[0].type}); known: {known}")
        return torch.tensor([row_of[concept] for concept in concepts], dtype=torch.long)


_FIELDS = ("method", "model", "identity", "layer", "language", "photos", "keep")
