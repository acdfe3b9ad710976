"""A target fixed on one observation: a question with a label and a score for every image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from conceptlens.model.forward import full_precision
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation
from conceptlens.model.score_checks import check_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class BoundTarget:
    """A target fixed on one observation: one question, with a label and a score for every image.

    `root` reads a tensor `row dimension` from any output of the model; `measure(root, rows)` turns it into one score
    per row, where `rows` says which image of the observation each row is a variant of. So the same question can be
    put to a masked image, and its gradient is one vector at the root, whatever layers lie below.

    Args:
        labels: What the question is called, for each image.
        root: From a `ModelOutput` to the tensor `row dimension` that the score depends on, such as the logits.
        measure: From that tensor and the image index of each row to the score of each row.
        kind: What the question is about: "class", "contrast", "concept", "detection" or a word of your own.
        placed: The question is about one place of the image, such as one detection's box.
        classes: The index of the class that the question is about, for each image: of a contrast its target's; `None`
            where it is about something else.
    """

    labels: tuple[str, ...]
    root: Callable[[ModelOutput], Tensor]
    measure: Callable[[Tensor, Tensor], Tensor]
    kind: str = "class"
    placed: bool = False
    classes: tuple[int, ...] | None = None

    def score(self, output: ModelOutput, rows: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the score of every row of another output of the model.

        Args:
            output: Another output of the model.
            rows: The index of the image that each of its rows is a variant of.

        Returns:
            `scores[row]`, in the graph of `output`.
        """
        return self.measure(self.root(output), rows)

    def score_and_gradient(
        self, observation: Observation
    ) -> tuple[Tensor, Float[Tensor, "image"], Float[Tensor, "image dimension"]]:
        """Return the root in the graph of `observation`, the score of each image, and its gradient at the root.

        Args:
            observation: The observation that the target was bound to.

        Returns:
            The root `(image, dimension)` in the graph; the score of each image and its gradient at the root, both
            detached.
        """
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
            root = self.root(observation)
            check_kind(root, observation.model_name)
            rows = torch.arange(len(self.labels), device=root.device)
            point = root.detach().clone().requires_grad_()  # a copy, since the model may have made it in inference mode
            with full_precision(point):
                scores = self.measure(point, rows)
                (cotangent,) = torch.autograd.grad(scores.sum(), point, materialize_grads=True, allow_unused=True)
        return root, scores.detach(), cotangent


class Target(Protocol):
    """Anything that can be fixed on an observation as a question."""

    def bind(self, observation: Observation) -> BoundTarget:
        """Return this target as a question about `observation`.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with a label and a score for every image.
        """
        ...


def logits_of(output: ModelOutput) -> Tensor:
    """The root of targets that read class scores."""
    return output.logits


def embedding_of(output: ModelOutput) -> Tensor:
    """The root of targets that read the model's embedding."""
    return output.embedding
