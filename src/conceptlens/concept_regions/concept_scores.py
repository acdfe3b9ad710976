"""Scores of concepts on images, and their gradients at the image vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.concept_target import similarity
from conceptlens.concepts.random_directions import RandomDirection, random_vectors
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, prompt
from conceptlens.io.errors import InputError
from conceptlens.model.model_output import ModelOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.model.encoders import VisionLanguage

# Two concepts whose text vectors, less the mean one, have a larger cosine count as synonyms; the better one is kept.
MAX_TEXT_COSINE = 0.9


@dataclass(frozen=True, eq=False)
class ConceptScores:
    """Scores `S = scale <e, t>` of concepts on images. (CE-FAM, ICCV 2025, section 3.2.)

    Args:
        image_vectors: Image vectors `e`, in the graph of the model where there is one.
        text_vectors: Text vector `t` of each concept.
        scores: Score of each image and concept; of unit vectors where the pair compares unit vectors.
        concepts: Names and types of the concepts.
        language: The vision-language pair that scores.
    """

    image_vectors: Float[Tensor, "image dimension"]
    text_vectors: Float[Tensor, "concept dimension"]
    scores: Float[Tensor, "image concept"]
    concepts: tuple[ConceptName, ...]
    language: VisionLanguage

    def score_gradients(self, chosen: Int[Tensor, "image question"]) -> Float[Tensor, "image question dimension"]:
        """Return `dS/dx` at the image vectors `x`.

        Args:
            chosen: Indices of concepts, for each image.

        Returns:
            `scale t` for plain vectors, `scale (t - cos e) / |x|` for unit vectors `e = x / |x|`; float32.
        """
        texts = self.text_vectors.float()[chosen]
        if not self.language.normalised:
            return self.language.scale * texts
        vectors = self.image_vectors.detach().float()
        length = vectors.norm(dim=1).clamp_min(1e-12)[:, None, None]
        unit = vectors[:, None] / length
        texts = F.normalize(texts, dim=2)
        cosine = (texts * unit).sum(2, keepdim=True)
        return self.language.scale * (texts - cosine * unit) / length

    def all_indices(self) -> Int[Tensor, "image question"]:
        """Return the indices of all concepts in their order, the same for each image.

        Returns:
            `[image concept]`, from 0.
        """
        return torch.arange(len(self.concepts), device=self.scores.device).expand(len(self.scores), -1)

    def top_indices(
        self, top: int, rank: Float[Tensor, "image concept"] | None = None
    ) -> Int[Tensor, "image question"]:
        """Return the indices of the best concepts of each image, the best first, without synonyms of a better one.

        Args:
            top: Largest number of concepts.
            rank: What concepts are ranked by; by default the scores.

        Returns:
            As many indices for each image as the image with the fewest concepts left has.

        Raises:
            InputError: Where `top` is below 1.
        """
        if top < 1:
            raise InputError(f"top is {top}; expected at least one concept")
        units = F.normalize(self.text_vectors.float() - self.text_vectors.float().mean(0), dim=1)
        rows = []
        for order in (self.scores if rank is None else rank).argsort(dim=1, descending=True):
            kept: list[int] = []
            for index in order.tolist():
                if len(kept) == top:
                    break
                if not kept or float((units[kept] @ units[index]).max()) < MAX_TEXT_COSINE:
                    kept.append(index)
            rows.append(torch.tensor(kept, device=self.scores.device))
        count = min(len(row) for row in rows)
        return torch.stack([row[:count] for row in rows])

    def labels(self, chosen: Int[Tensor, "image question"]) -> tuple[tuple[str, ...], ...]:
        """Return the label of each chosen concept.

        Args:
            chosen: Indices of concepts, for each image.

        Returns:
            Labels, a tuple for each image.
        """
        return tuple(tuple(self.concepts[int(c)].label for c in row) for row in chosen)

    def types(self, chosen: Int[Tensor, "image question"]) -> tuple[tuple[str, ...], ...]:
        """Return the type of each chosen concept.

        Args:
            chosen: Indices of concepts, for each image.

        Returns:
            Types, a tuple for each image.
        """
        return tuple(tuple(self.concepts[int(c)].type for c in row) for row in chosen)


def score_concepts(output: ModelOutput, language: VisionLanguage, concepts: Sequence[ConceptName]) -> ConceptScores:
    """Score every concept on every image.

    Args:
        output: An observation, or what the model gave for a batch.
        language: The vision-language pair that encodes images and texts.
        concepts: Names and types of the concepts.

    Returns:
        The scores `[image concept]`, with the image vectors in the graph of `output`.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has turned off
        vectors = language.encode_image(output)
    texts = encode_concepts(language, concepts).to(vectors.device)
    scores = similarity(vectors.detach().float(), texts, language)
    return ConceptScores(vectors, texts, scores, tuple(concepts), language)


def encode_concepts(language: VisionLanguage, concepts: Sequence[ConceptName]) -> Float[Tensor, "concept dimension"]:
    """Return the text vector of each concept, in the prompt of its type; those of random directions are drawn."""
    words = [concept for concept in concepts if not isinstance(concept, RandomDirection)]
    found = language.encode_text([prompt(word) for word in words or everyday_words()[:1]])
    if len(words) == len(concepts):
        return found
    drawn, rows = random_vectors(found.shape[1]).to(found), iter(found)
    each = [drawn[one.number] if isinstance(one, RandomDirection) else next(rows) for one in concepts]
    return torch.stack(each)
