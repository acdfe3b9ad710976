"""A model's classes linked to class knowledge: what its answer implies about the concepts in a photo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlens.concepts.class_knowledge import UNNAMED_RATE, ClassKnowledge
from conceptlens.concepts.random_directions import RandomDirection
from conceptlens.concepts.vocabulary import ConceptName, base_rate, prompt, vocabulary
from conceptlens.model.encoders import KeptRows, encode_sentences

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Way = Literal["name", "kind", "sentence", "shared kind", "none"]
# Below it, most links are between words that only look alike: "flycatcher" and "fly" have 0.7.
MIN_SENTENCE_COSINE = 0.85
# Within the kind that the other classes share, a weaker likeness is enough.
MIN_COSINE_WITHIN_KIND = 0.75
# The share of the classes linked by name that must be of one kind for the others to be taken for it too.
MIN_SHARE_OF_KIND = 0.9


@dataclass(frozen=True)
class ClassLink:
    """How a class of a model is linked to a table of class knowledge.

    Args:
        class_name: The class of the model.
        known_as: The class or kind of the table; empty where there is none.
        way: By equal "name", by a "kind" of the table, by the nearest "sentence" vector, by the "shared kind" of the
            other classes, or "none".
        cosine: The cosine of the sentence vectors; 1 for an equal name or kind, 0 for others.
    """

    class_name: str
    known_as: str
    way: Way
    cosine: float


@dataclass(frozen=True, eq=False)
class ClassConcepts:
    """How often a photo of each class of a model shows each concept.

    Args:
        concepts: The concepts of the table.
        rates: How often a photo of each class shows each concept, 0 to 1; 0 in the rows of classes without a link.
        links: How each class is linked.
        source: Where the table comes from.
        broader: The broader kinds of each kind.
    """

    concepts: tuple[ConceptName, ...]
    rates: Float[Tensor, "class concept"]
    links: tuple[ClassLink, ...]
    source: str
    broader: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    _kept: KeptRows = field(default_factory=KeptRows, init=False, repr=False)

    @cached_property
    def linked(self) -> Bool[Tensor, "class"]:
        """Whether each class has a link."""
        return torch.tensor([link.way != "none" for link in self.links], device="cpu")

    @cached_property
    def columns(self) -> Mapping[str, int]:
        """The column of each concept in `rates`, by its label in lower case."""
        return {concept.label.casefold(): i for i, concept in enumerate(self.concepts)}

    def implied(self, logits: Float[Tensor, "image class"]) -> Float[Tensor, "image concept"]:
        """Return the probability of each concept that the model's answer implies: `sum_c p_c rate_c`.

        Classes without a link are left out, and the others' probabilities sum to 1.

        Args:
            logits: The class scores before the softmax (`Answer.competing`).

        Returns:
            Probabilities, float32, on the device of `logits`.
        """
        without = ~self.linked.to(logits.device)
        shares = logits.float().masked_fill(without, -torch.inf).softmax(1)
        return shares.nan_to_num(0.0) @ self.rates.to(logits.device)

    def directions(
        self, concepts: Sequence[ConceptName], classifier: Float[Tensor, "class dimension"]
    ) -> Float[Tensor, "concept dimension"]:
        """Return the direction that tells the classes that show a concept from the others.

        `sum_c (r_c / sum_c r_c - (1 - r_c) / sum_c (1 - r_c)) w_c` over the classes `c` that are linked, with the rows
        `w_c` of the classifier: the gradient of the log-odds of `Concept(..., by="classes")` where all classes are
        equally likely.

        Args:
            concepts: Concepts of any source.
            classifier: The weight of the linear classifier.

        Returns:
            One direction for each concept, float32; 0 where no class is known to show it.
        """
        return self._kept.rows(
            tuple(concepts), classifier, lambda missing: self._among_classes(missing).to(classifier) @ classifier
        ).float()

    def _among_classes(self, concepts: Sequence[ConceptName]) -> Float[Tensor, "concept class"]:
        words = known_words(concepts)
        rates = rate_of(self.rates, self, words).T
        shown = (rates > UNNAMED_RATE).any(1, keepdim=True)
        linked = self.linked.to(rates)
        rates = rates.clamp(UNNAMED_RATE, 1 - UNNAMED_RATE)
        sides = [side * linked / (side * linked).sum(1, keepdim=True).clamp_min(1e-12) for side in (rates, 1 - rates)]
        return (sides[0] - sides[1]) * shown

    def linked_probability(self, logits: Float[Tensor, "image class"]) -> Float[Tensor, "image"]:
        """Return the probability that the model gives to the classes that are linked.

        Args:
            logits: The class scores before the softmax (`Answer.competing`).
        """
        return logits.float().softmax(1)[:, self.linked.to(logits.device)].sum(1)


def link_classes(class_names: Sequence[str], knowledge: ClassKnowledge) -> ClassConcepts:
    """Link the classes of a model to a table, each by the first way that succeeds.

    1. The class names of the table in the same order, or the same name, or one synonym that only one class has.
    2. A kind of the table: "dog" shows what its members show on average. The last words of a name count too, from the
       longest on: "black-footed albatross" is an albatross.
    3. The kind with the nearest sentence vector, at a cosine of at least `MIN_SENTENCE_COSINE`. Where nine in ten of
       the classes found so far share a kind, such as "bird", the nearest bird, or else "bird" itself.

    Args:
        class_names: The classes of the model, in the order of its scores.
        knowledge: What photos of known classes show.

    Returns:
        Rates for every class, and how each was linked.
    """
    in_order = [short.name for short in knowledge.classes] == list(class_names)
    found: list[tuple[tuple[int, ...], ClassLink]] = []
    for number, name in enumerate(class_names):
        if in_order:
            found.append(((number,), ClassLink(name, name, "name", 1.0)))
        else:
            found.append(_by_name(name, knowledge))
    missing = [number for number, (_, link) in enumerate(found) if link.way == "none"]
    if missing:
        shared = _shared_kind([members for members, _ in found if members], knowledge)
        by_sentence = _by_sentence([class_names[number] for number in missing], knowledge, shared)
        for number, link in zip(missing, by_sentence, strict=True):
            found[number] = link
    table = torch.from_numpy(knowledge.rates)
    index = {concept.label.casefold(): i for i, concept in enumerate(knowledge.concepts)}
    rates = torch.zeros(len(class_names), table.shape[1], device="cpu")
    for number, (members, _) in enumerate(found):
        if members:
            rates[number] = table[list(members)].mean(0)
            own = index.get(_plain(class_names[number]))
            if own is not None:
                rates[number, own] = 1.0
    links = tuple(link for _, link in found)
    return ClassConcepts(knowledge.concepts, rates, links, knowledge.source, knowledge.broader)


def _plain(name: str) -> str:
    """Return a class name as data sets write it in plain words: `001.Black_footed_Albatross` is an albatross."""
    return " ".join(re.sub(r"^[\d\W_]+", "", re.sub(r"[_\-]+", " ", name)).split()).casefold()


def _by_name(name: str, knowledge: ClassKnowledge) -> tuple[tuple[int, ...], ClassLink]:
    for part in (name, *name.split(",")):
        number = knowledge.index(part)
        if number is not None:
            return (number,), ClassLink(name, knowledge.classes[number].name, "name", 1.0)
    for part in map(_plain, name.split(",")):
        words = part.split(" ")
        for start in range(len(words)):
            ending = " ".join(words[start:])
            number = knowledge.index(ending)
            if number is not None and start == 0:
                return (number,), ClassLink(name, knowledge.classes[number].name, "name", 1.0)
            members = knowledge.members(ending) or (() if number is None else (number,))
            if members:
                return members, ClassLink(name, ending, "kind", 1.0)
    return (), ClassLink(name, "", "none", 0.0)


def _shared_kind(found: Sequence[tuple[int, ...]], knowledge: ClassKnowledge) -> str | None:
    """Return the most specific kind that most of at least three links share."""
    counts = Counter(
        kind for members in found for kind in set.intersection(*(set(knowledge.classes[i].kinds) for i in members))
    )
    shared = [kind for kind, count in counts.items() if count >= MIN_SHARE_OF_KIND * len(found)]
    return min(shared, key=lambda kind: len(knowledge.members(kind))) if shared and len(found) >= 3 else None


def _by_sentence(
    names: Sequence[str], knowledge: ClassKnowledge, shared: str | None
) -> list[tuple[tuple[int, ...], ClassLink]]:
    entries = [
        kind
        for kind in dict.fromkeys(kind for known in knowledge.classes for kind in known.kinds)
        if shared is None or kind == shared or shared in knowledge.broader[kind]
    ]
    if not entries:
        return [((), ClassLink(name, "", "none", 0.0)) for name in names]
    theirs = encode_sentences([prompt(ConceptName(entry)) for entry in entries])
    cosines = encode_sentences([prompt(ConceptName(_plain(name) or name)) for name in names]) @ theirs.T
    least = MIN_SENTENCE_COSINE if shared is None else MIN_COSINE_WITHIN_KIND
    found = []
    for name, row in zip(names, cosines, strict=True):
        cosine, entry = float(row.max()), entries[int(row.argmax())]
        if cosine >= least:
            found.append((knowledge.members(entry), ClassLink(name, entry, "sentence", cosine)))
        elif shared is not None:
            found.append((knowledge.members(shared), ClassLink(name, shared, "shared kind", 0.0)))
        else:
            found.append(((), ClassLink(name, "", "none", 0.0)))
    return found


def known_words(concepts: Sequence[ConceptName]) -> tuple[ConceptName, ...]:
    """Return the vocabulary's word for each concept: itself, or the one that means nearly the same.

    *airplane* is the vocabulary's *aeroplane*: the nearest sentence vector, at a cosine of at least
    `MIN_SENTENCE_COSINE`. A concept that has none stays as it is.

    Args:
        concepts: Concepts of any source.
    """
    return _nearest_words(tuple(concepts))


@lru_cache(maxsize=64)
def _nearest_words(concepts: tuple[ConceptName, ...]) -> tuple[ConceptName, ...]:
    words_only = (concept for concept in concepts if not isinstance(concept, RandomDirection))
    unknown = [concept for concept in words_only if base_rate(concept) is None]
    if not unknown:
        return concepts
    words = vocabulary()
    theirs = encode_sentences([prompt(word) for word in words])
    cosines = encode_sentences([prompt(concept) for concept in unknown]) @ theirs.T
    found = {
        concept: words[int(row.argmax())] if float(row.max()) >= MIN_SENTENCE_COSINE else concept
        for concept, row in zip(unknown, cosines, strict=True)
    }
    return tuple(found.get(concept, concept) for concept in concepts)


def rate_of(rates: Float[Tensor, "image concept"], known: ClassConcepts, concepts: Sequence[ConceptName]) -> Tensor:
    """Return the columns of `rates` that belong to concepts; `UNNAMED_RATE` for those that no class shows.

    Args:
        rates: A value for each image and concept of `known`.
        known: Whose concepts the columns are.
        concepts: The concepts to read, by label.
    """
    found = [known.columns.get(concept.label.casefold(), -1) for concept in concepts]
    columns = torch.tensor(found, dtype=torch.long, device=rates.device)
    chosen = rates[:, columns.clamp_min(0)]
    unnamed = columns < 0
    return torch.where(unnamed, torch.full_like(chosen, UNNAMED_RATE), chosen)
