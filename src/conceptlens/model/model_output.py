"""What one forward pass gives: the raw output, class scores, an embedding, and the output of single layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.answer import Answer
from conceptlens.model.layout import Grid

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The result of one forward pass: what a callable target and a text encoder read.

    Args:
        model_name: The name of the model, for messages.
        output: What the module returned, untouched.
        class_scores: Scores `(image, class)`, as `meaning` reads them, where the model has them: before the softmax.
        vector: The embedding `(image, dimension)`, where the model has one.
        meaning: What the answer means, where it is known; `answer` gives the same or refuses.
    """

    model_name: str
    output: Any
    class_scores: Tensor | None
    vector: Tensor | None
    meaning: Answer | None

    @property
    def logits(self) -> Float[Tensor, "image class"]:
        """Class scores before the softmax, in the graph of the forward pass.

        Raises:
            InputError: The model has no class scores.
        """
        if self.class_scores is None:
            raise self._no_class_scores()
        return self.class_scores

    @property
    def answer(self) -> Answer:
        """What the class scores mean: their probabilities, their unit, whether the classes exclude one another.

        Raises:
            InputError: The model has no class scores.
        """
        if self.class_scores is None or self.meaning is None:
            raise self._no_class_scores()
        return self.meaning

    @property
    def embedding(self) -> Float[Tensor, "image dimension"]:
        """The vector that enters the classifier, or the output of a model that embeds, in the graph.

        Raises:
            InputError: The model has no linear classifier and does not embed.
        """
        if self.vector is None:
            raise InputError(
                f"{self.model_name} has no embedding: no linear classifier was found at its end; "
                "name it with Backbone(..., classifier=...)"
            )
        return self.vector

    def _no_class_scores(self) -> InputError:
        return InputError(
            f"{self.model_name} gives no class scores (image class); ask with cl.Concept or a callable target, "
            "give a CLIP model class names with class_names= (--class-names), "
            "or say how to read scores with Backbone(..., output=)"
        )


@dataclass(frozen=True)
class LayerOutput:
    """One layer's output, kept with its graph, and how to read its cells.

    Args:
        raw: The tensor that the layer returned, in its own layout.
        grid: Where the cells of each image lie in it.
    """

    raw: Tensor
    grid: Grid

    @property
    def cells(self) -> Float[Tensor, "image channel height width"]:
        """The cells of every image, in the graph, whatever the layout of the layer."""
        return self.grid.read(self.raw)


def output_tensor(output: Any) -> Tensor | None:
    """Return the tensor a model's output is about: itself, its logits, an image embedding or a pooled output."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output", "last_hidden_state"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, (tuple, list)) and output:
        return output_tensor(output[0])
    return None
