"""Questions about one place of each image: the scores of classes at a box, or over a region."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from conceptlens.cams.asked_classes import take
from conceptlens.cams.bound_target import BoundTarget
from conceptlens.model.answer import wide
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class AskedPlaces(ABC):
    """One place in each image of an observation, and the class that is asked about there.

    Args:
        classes: The class of each image.
        labels: What the question is called, for each image.
    """

    classes: Int[Tensor, "asked"]
    labels: tuple[str, ...]

    @abstractmethod
    def read(self, output: ModelOutput) -> Float[Tensor, "row dimension"]:
        """Return the scores of every class at every asked place, `row (asked class)`: the root of the question.

        Args:
            output: An output of the model, of the images or of variants of one.
        """

    def logits(self, root: Float[Tensor, "row dimension"], rows: Int[Tensor, "row"]) -> Float[Tensor, "row class"]:
        """Return the scores of every class at the place of each row's image.

        Args:
            root: What `read` returned.
            rows: The image that each row is a variant of.
        """
        return wide(own_part(root, rows, len(self.labels)))

    def bound(self, kind: str) -> BoundTarget:
        """Return the question about the score of each image's class.

        Args:
            kind: What it is about, in a word.
        """
        return BoundTarget(
            self.labels,
            self.read,
            lambda root, rows: take(self.logits(root, rows), self.classes[rows]),
            kind,
            placed=True,
        )


@runtime_checkable
class PlaceTarget(Protocol):
    """A target that is about one place of each image, so that classes can be compared there."""

    def ask(self, observation: Observation) -> AskedPlaces:
        """Return the place of each image.

        Args:
            observation: One forward pass of a batch.
        """
        ...


def own_part(root: Float[Tensor, "row dimension"], rows: Int[Tensor, "row"], asked: int) -> Tensor:
    """Return of `row (asked dimension)` what each row's own image asks for.

    Args:
        root: Values for every asked place.
        rows: The image that each row is a variant of.
        asked: How many places there are.
    """
    return root.unflatten(1, (asked, -1))[torch.arange(len(rows), device=rows.device), rows]
