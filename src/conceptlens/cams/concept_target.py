"""A concept as a target: the similarity to a text or a direction, or the log-odds of the classes that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.cams.bound_target import BoundTarget, embedding_of, logits_of
from conceptlens.concepts.class_knowledge import UNNAMED_RATE
from conceptlens.concepts.vocabulary import parse_concepts, prompt
from conceptlens.io.errors import InputError
from conceptlens.model.answer import wide
from conceptlens.model.class_concepts import rate_of
from conceptlens.model.encoders import knows, unknown_words
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.class_concepts import ClassConcepts
    from conceptlens.model.encoders import VisionLanguage


@dataclass(frozen=True)
class Concept:
    """The similarity of an image to a text, or to a direction of your own: `scale <E(x), t>`.

    CE-FAM, ICCV 2025, section 3: `S^t`. A text is put into the sentence of its concept type, as in `explain`:
    "striped fur:texture" names the type.

    Args:
        text: What to look for; encoded by the model's own vision-language pair, or by `by`.
        direction: A vector `(dimension,)` in the space of the model's embedding, used as it is instead of a text.
        by: The pair that encodes image and text, where it is not the model's own; or "classes": the log-odds of the
            classes whose photos show the concept against those whose photos do not,
            `log sum_c r_c e^{y_c} - log sum_c (1 - r_c) e^{y_c}`, where `r_c` is how often photos of class `c` show it
            (see `ClassKnowledge`). It is the contrast of two sets of classes.
        prompt: A sentence of your own, with {} for the text.

    Raises:
        InputError: The model has no text encoder and none was given, or no embedding; or, by classes, nothing is known
            of its classes, or none of them shows the concept.

    Examples:
        >>> cl.cam(observation, cl.Concept("striped fur:texture"))
        >>> cl.cam(observation, cl.Concept("whiskers", by="classes"))
        >>> cl.cam(observation, cl.Concept("my probe", direction=vector))
    """

    text: str = ""
    direction: Tensor | None = None
    by: VisionLanguage | Literal["classes"] | None = None
    prompt: str | None = None

    def bind(self, observation: Observation) -> BoundTarget:
        """Encode the text once; the same vector serves every image.

        Args:
            observation: One forward pass of a batch.

        Returns:
            One question, with the same label for every image; its scores are `scale <E(x), t>`, or `E(x) . direction`.

        Raises:
            InputError: The model has no text encoder and none was given, or does not know the text.
        """
        if self.direction is not None:
            labels = (self.text or "direction",) * len(observation.images)
            vector = torch.as_tensor(self.direction)
            return BoundTarget(labels, embedding_of, lambda e, rows: wide(e) @ vector.to(wide(e)), "concept")
        if self.by == "classes":
            return self._by_classes(observation)
        language = self.by or observation.model.language
        (concept,) = parse_concepts([self.text])
        if not knows(language, [concept.label])[0]:
            raise InputError(unknown_words(language, [concept.label]))
        sentence = prompt(concept) if self.prompt is None else self.prompt.format(concept.label)
        vector = language.encode_text([sentence])[0]
        return BoundTarget(
            (concept.label,) * len(observation.images),
            language.encode_image,
            lambda e, rows: similarity(e, vector.to(e.device)[None], language)[:, 0],
            "concept",
        )

    def _by_classes(self, observation: Observation) -> BoundTarget:
        """Ask for the log-odds of the classes that show the concept."""
        (concept,) = parse_concepts([self.text])
        model = observation.model
        known = linked_classes(model)
        if not shown_by_classes(model, [concept])[0]:
            raise InputError(f"no class of {model.name} is known to show '{concept.label}'")
        rates = rate_of(known.rates, known, [concept])[:, 0].clamp(max=1 - UNNAMED_RATE)
        shown, hidden = (
            r.log().masked_fill(~known.linked, -torch.inf).to(observation.images.device) for r in (rates, 1 - rates)
        )

        answer = observation.answer

        def log_odds(logits: Tensor, rows: Tensor) -> Tensor:
            scores = answer.competing(logits)
            return (scores + shown).logsumexp(1) - (scores + hidden).logsumexp(1)

        return BoundTarget((concept.label,) * len(observation.images), logits_of, log_odds, "concept")


def linked_classes(model: Backbone) -> ClassConcepts:
    """Return what is known of a model's classes, and refuse a model of whose classes nothing is known.

    Args:
        model: The model.

    Raises:
        InputError: Nothing is known of any of its classes.
    """
    known = model.class_concepts
    if known is None or not bool(known.linked.any()):
        raise InputError(
            f"nothing is known of the classes of {model.name}, so no concept can be asked about by "
            "them; give a table of what their photos show: Backbone(..., knowledge=cl.read_knowledge(file))"
        )
    return known


def shown_by_classes(model: Backbone, concepts: Sequence[ConceptName]) -> list[bool]:
    """Return for each concept whether photos of some class of a model are known to show it.

    Args:
        model: The model.
        concepts: The concepts.

    Raises:
        InputError: Nothing is known of any of its classes.
    """
    known = linked_classes(model)
    rates = rate_of(known.rates, known, concepts).clamp(max=1 - UNNAMED_RATE)
    return (rates[known.linked] > UNNAMED_RATE).any(0).tolist()


def similarity(
    images: Float[Tensor, "image dimension"], texts: Float[Tensor, "text dimension"], language: VisionLanguage
) -> Float[Tensor, "image text"]:
    """Return `scale <image, text>`, of unit vectors where the pair is trained so; in float32 or better.

    Args:
        images: Image vectors.
        texts: Text vectors.
        language: The pair that made them.
    """
    images = wide(images)
    texts = texts.to(images)
    if language.normalised:
        images, texts = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (images, texts))
    return language.scale * images @ texts.T
