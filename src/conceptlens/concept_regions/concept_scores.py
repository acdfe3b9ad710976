"""How well each concept fits each image, and the gradients of these scores at the image vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.targets import similarity
from conceptlens.concepts.vocabulary import ConceptName, prompt
from conceptlens.io.errors import InputError
from conceptlens.model.observation import ModelOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.model.encoders import VisionLanguage

# Two concepts of the vocabulary whose text vectors are closer than this say the same; the stronger one is shown.
SAME = 0.9


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of concepts on images: `S = scale <e, t>`, with what their gradients need.

    `root[image dimension]` is the image vector, in the graph where there is one.
    """

    root: Float[Tensor, "image dimension"]
    texts: Float[Tensor, "text dimension"]
    scores: Float[Tensor, "image text"]
    concepts: tuple[ConceptName, ...]
    language: VisionLanguage

    def cotangents(self, chosen: Int[Tensor, "image question"]) -> Float[Tensor, "image question dimension"]:
        """Return `dS/dx`: `scale t` for plain vectors, `scale (t - cos e) / |x|` for unit vectors `e = x / |x|`."""
        texts = self.texts.float()[chosen]
        if not self.language.normalised:
            return self.language.scale * texts
        point = self.root.detach().float()
        length = point.norm(dim=1).clamp_min(1e-12)[:, None, None]
        unit = point[:, None] / length
        texts = torch.nn.functional.normalize(texts, dim=2)
        cosine = (texts * unit).sum(2, keepdim=True)
        return self.language.scale * (texts - cosine * unit) / length

    def all(self) -> Int[Tensor, "image question"]:
        """Choose every concept, in its order."""
        return torch.arange(len(self.concepts), device=self.scores.device).expand(len(self.scores), -1)

    def strongest(self, top: int, rank: Float[Tensor, "image text"] | None = None) -> Int[Tensor, "image question"]:
        """Choose the `top` concepts of each image by `rank`, by default the scores.

        Concepts that say the same as a better one are left out.
        """
        if top < 1:
            raise InputError(f"top is {top}; expected at least one concept")
        units = torch.nn.functional.normalize(self.texts.float() - self.texts.float().mean(0), dim=1)
        rows = []
        for order in (self.scores if rank is None else rank).argsort(dim=1, descending=True):
            kept: list[int] = []
            for index in order.tolist():
                if len(kept) == top:
                    break
                if not kept or float((units[kept] @ units[index]).max()) < SAME:
                    kept.append(index)
            rows.append(torch.tensor(kept, device=self.scores.device))
        fewest = min(len(row) for row in rows)
        return torch.stack([row[:fewest] for row in rows])

    def labels(self, chosen: Int[Tensor, "image question"]) -> tuple[tuple[str, ...], ...]:
        """Return what each chosen concept is called."""
        return tuple(tuple(self.concepts[int(c)].label for c in row) for row in chosen)

    def types(self, chosen: Int[Tensor, "image question"]) -> tuple[tuple[str, ...], ...]:
        """Return each chosen concept's type."""
        return tuple(tuple(self.concepts[int(c)].type for c in row) for row in chosen)


def gather_evidence(answer: ModelOutput, language: VisionLanguage, concepts: Sequence[ConceptName]) -> Evidence:
    """Score every concept on every image of an answer."""
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
        root = language.encode_image(answer)
    texts = gather_texts(language, concepts).to(root.device)
    scores = similarity(root.detach().float(), texts, language)
    return Evidence(root, texts, scores, tuple(concepts), language)


def gather_texts(language: VisionLanguage, concepts: Sequence[ConceptName]) -> Float[Tensor, "text dimension"]:
    """Return the text vector of each concept, asked about by its type."""
    return language.encode_text([prompt(concept) for concept in concepts])
