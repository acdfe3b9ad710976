"""A CLIP tower with class names: a zero-shot classifier like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.io.errors import InputError
from conceptlens.model.backbone import Backbone
from conceptlens.model.model_output import output_tensor

if TYPE_CHECKING:
    from jaxtyping import Float


class ZeroShot(nn.Module):
    """`logits = scale <E(x) / |E(x)|, t / |t|> + bias`: an image tower followed by the text vectors of its classes."""

    def __init__(self, tower: nn.Module, texts: Float[Tensor, "class dimension"], scale: float, bias: float) -> None:
        super().__init__()
        self.tower = tower
        self.classifier = nn.Linear(texts.shape[1], texts.shape[0], device="meta")  # draws no random numbers
        self.classifier.weight = nn.Parameter(scale * F.normalize(texts, dim=1))
        self.classifier.bias = nn.Parameter(texts.new_full((texts.shape[0],), bias))

    def forward(self, images: Float[Tensor, "image colour rows columns"]) -> Float[Tensor, "image class"]:
        """Return the scores of every class, of the unit image vector that enters `classifier`."""
        embedding = output_tensor(self.tower(images), "embedding", "the image tower")
        if embedding is None:
            raise InputError("the image tower gave no tensor; expected image dimension")
        return self.classifier(F.normalize(embedding, dim=-1))


def with_class_names(tower: Backbone, class_names: Sequence[str], prompt: str = "a photo of a {}") -> Backbone:
    """Return a backbone that embeds, as a zero-shot classifier over `class_names`.

    Args:
        tower: A backbone that embeds and has a text encoder.
        class_names: At least two.
        prompt: The sentence that a class name is put into.

    Raises:
        InputError: There are fewer than two class names, or one text.
    """
    if isinstance(class_names, str) or len(class_names) < 2:
        raise InputError(
            f"a zero-shot classifier needs at least two class names, a list of texts; given: {class_names!r}"
        )
    language = tower.language
    texts = language.encode_text([prompt.format(label) for label in class_names]).to(tower.parameter)
    bias = getattr(language, "bias", 0.0)  # only SigLIP has one
    module = ZeroShot(tower.module, texts, language.scale, bias).eval()
    layers = tuple(f"tower.{name}" for name in tower.layers)
    return dataclasses.replace(
        tower,
        module=module,
        class_names=tuple(class_names),
        task="single_label",
        classifier="classifier",
        layers=layers,
    )
