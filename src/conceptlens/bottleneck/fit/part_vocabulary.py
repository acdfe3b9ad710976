"""Which properties of which parts the concepts name, and the targets of these for each photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.concepts.concept_set import BottleneckConcept


@dataclass(frozen=True)
class PartVocabulary:
    """Which properties of which parts the concepts name.

    - `parts`, `properties`: their names; only properties of at least two parts are read.
    - `index[concept]`: `(part, property)` of each concept that takes part, by the concept's number.
    - `regions`: for each region of several parts, their numbers.
    """

    parts: tuple[str, ...]
    properties: tuple[str, ...]
    index: Mapping[int, tuple[int, int]]
    regions: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, concepts: Sequence[BottleneckConcept]) -> PartVocabulary:
        """Read the structure of concepts; refused where there is none to learn from."""
        properties_of_parts = [
            (i, c.part, (c.kind, c.property)) for i, c in enumerate(concepts) if c.part and c.property
        ]
        parts = tuple(dict.fromkeys(c.part for c in concepts if c.part))
        parts_of: dict[tuple[str | None, str | None], set[str | None]] = {}
        for _, part, word in properties_of_parts:
            parts_of.setdefault(word, set()).add(part)
        words = tuple(word for word, of in parts_of.items() if len(of) > 1)
        if len(parts) < 2 or not words:
            raise InputError(
                f"parts are found where concepts say one property of several parts ('yellow belly', 'yellow wing'); "
                f"these name {len(parts)} parts and {len(words)} shared properties; use locator='peaks'"
            )
        index = {
            i: (parts.index(str(part)), words.index(word)) for i, part, word in properties_of_parts if word in words
        }
        homes: dict[str, list[int]] = {}
        for concept in concepts:
            if concept.part and concept.region:
                homes.setdefault(concept.region, []).append(parts.index(concept.part))
        regions = tuple(tuple(sorted(set(home))) for home in homes.values() if len(set(home)) > 1)
        return cls(parts, tuple(str(word[1]) for word in words), index, regions)

    def part_labels(self, targets: Float[Tensor, "image concept"]) -> tuple[Tensor, Tensor]:
        """Return `t[image part property]`, and which pairs some concept speaks of, from targets from 0 to 1."""
        table = torch.zeros(len(targets), len(self.parts), len(self.properties))
        times = torch.zeros(table.shape[1:])
        for concept, (part, word) in self.index.items():  # of several, such as upper and under tail, the mean
            table[:, part, word] += targets[:, concept]
            times[part, word] += 1
        return table / times.clamp_min(1), times > 0
