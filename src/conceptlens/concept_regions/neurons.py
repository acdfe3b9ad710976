"""Labels of single neurons by CLIP-Dissect and by WWW, and the regions where labelled neurons are active."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import islice, repeat, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from conceptlens.cams.class_activation import project, source
from conceptlens.io.errors import InputError, near
from conceptlens.io.images import as_photo
from conceptlens.io.progress import progress_bar
from conceptlens.record import Explanation
from conceptlens.runs.local_engine import read_ahead

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.encoders import VisionLanguage
    from conceptlens.model.image_batch import Photo
    from conceptlens.model.observation import Observation

MIN_PHOTOS = 10
# At most this share of the probe photos are examples of a neuron: where all are, every neuron has the same ones.
MAX_EXAMPLE_SHARE = 0.2
BATCH_NEURONS, BATCH_PHOTOS = 64, 16
KEPT_SHARE = 0.95  # of a neuron's best similarity, above which WWW gives it a label
# CLIP-Dissect's probability that a neuron's first and its last example really are examples of it.
FIRST_MEMBERSHIP, LAST_MEMBERSHIP = 0.998, 0.97


@dataclass(frozen=True, eq=False)
class ProbedNeurons:
    """A layer's neurons and a vision-language pair on the same probe photos.

    Args:
        activations: Spatial mean of every channel.
        vectors: The pair's image vectors, of length 1.
        layer: Name of the layer.
        model: The model whose neurons they are.
        language: The vision-language pair.
    """

    activations: Float[Tensor, "photo neuron"]
    vectors: Float[Tensor, "photo dimension"]
    layer: str
    model: Backbone
    language: VisionLanguage = field(repr=False)

    def cosines(self, texts: Sequence[str]) -> Float[Tensor, "photo text"]:
        """Return the cosine of every photo and text."""
        words = F.normalize(self.language.encode_text(texts).double().cpu(), dim=1)
        return self.vectors @ words.T

    def n_examples(self, limit: int) -> int:
        """Return the number of examples of a neuron: `limit`, but at most a fifth of the photos."""
        if limit < 1:
            raise InputError(f"{limit} examples of each neuron are given; give at least 1")
        return min(limit, max(1, int(MAX_EXAMPLE_SHARE * len(self.vectors))))


@dataclass(frozen=True, eq=False)
class NeuronLabels:
    """Similarities of concepts and neurons of one layer.

    Args:
        similarity: Higher is better.
        concepts: Names and types of the concepts.
        method: Name of the labelling, such as `clip_dissect`.
        model: Name of the model.
        layer: Name of the layer.
        language: Name of the vision-language pair that scored the probe photos.
        keep: A neuron has every label above this share of its best similarity; `None`: its best label alone.
    """

    similarity: Float[Tensor, "concept neuron"]
    concepts: tuple[ConceptName, ...]
    method: str
    model: str
    layer: str
    language: str
    keep: float | None = None

    def assigned(self) -> Bool[Tensor, "concept neuron"]:
        """Return which concepts are labels of each neuron.

        Returns:
            A bool for each concept and neuron.
        """
        best = self.similarity.amax(0)
        if self.keep is None:
            return self.similarity == best
        return self.similarity > self.keep * best  # none where even the best is negative

    def best(
        self, concepts: Sequence[ConceptName], count: int = 1
    ) -> tuple[Int[Tensor, "concept count"], Float[Tensor, "concept count"]]:
        """Return the `count` neurons of the highest similarity to each concept, the best first, and these similarities.

        Args:
            concepts: Concepts out of those of the labels.
            count: From 1 to the number of neurons.

        Returns:
            Indices of neurons and similarities, both `[concept count]`.

        Raises:
            InputError: `count` is out of range, or a concept is not among those of the labels.
        """
        if not 1 <= count <= self.similarity.shape[1]:
            raise InputError(f"count is {count}; give 1 to {self.similarity.shape[1]}")
        found = self.similarity[self._rows(concepts)].topk(count, dim=1)
        return found.indices, found.values

    def matched(self, concepts: Sequence[ConceptName]) -> tuple[bool, ...]:
        """Return for each concept whether it is a label of any neuron.

        Args:
            concepts: Concepts out of those of the labels.

        Returns:
            A bool for each of them.

        Raises:
            InputError: A concept is not among those of the labels.
        """
        return tuple(self.assigned().any(1)[self._rows(concepts)].tolist())

    def _rows(self, concepts: Sequence[ConceptName]) -> Int[Tensor, "concept"]:
        row_of = {concept: i for i, concept in enumerate(self.concepts)}
        missing = [concept for concept in concepts if concept not in row_of]
        if missing:
            known = near(missing[0].label, [concept.label for concept in self.concepts], "known", 5)
            raise InputError(f"these labels have no concept '{missing[0].label}' ({missing[0].type}); {known}")
        return torch.tensor([row_of[concept] for concept in concepts], dtype=torch.long)


def probe_neurons(
    model: Backbone,
    photos: Iterable[Photo],
    vlm: Backbone | None = None,
) -> ProbedNeurons:
    """Run probe photos through a model and a vision-language pair, once for every labelling.

    Args:
        model: The model whose neurons are labelled.
        photos: At least 10 photos, which are read as they are needed.
        vlm: Model whose vision-language pair scores the photos; by default `model` itself.

    Returns:
        The neurons of the model's last default layer.

    Raises:
        InputError: There are fewer than 10 photos.
    """
    scorer, name = vlm or model, model.default_layers[-1]
    activations, vectors, total = [], [], len(photos) if isinstance(photos, Sized) else None
    with progress_bar("the network on probe photos", total) as update:
        update(0, None, None)
        for batch in _batches(photos):
            observation = model.observe(batch, layers=name)
            activations.append(observation.feature(name).flatten(2).mean(2).double().cpu())
            output = observation if scorer is model else scorer.observe(batch)
            vectors.append(scorer.language.encode_image(output).detach().double().cpu())
            update(sum(map(len, vectors)), None, None)
    count = sum(len(part) for part in vectors)
    if count < MIN_PHOTOS:
        raise InputError(f"{count} probe photos were given; neuron labels need at least {MIN_PHOTOS}")
    units = F.normalize(torch.cat(vectors), dim=1)
    return ProbedNeurons(torch.cat(activations), units, name, model, scorer.language)


def _batches(photos: Iterable[Photo]) -> Iterator[list[Photo]]:
    """Yield photos in batches; the next ones are read meanwhile."""
    stream = iter(photos)

    def read(size: int) -> list[Photo]:
        return [as_photo(one) if isinstance(one, (str, Path)) else one for one in islice(stream, size)]

    return takewhile(bool, read_ahead(read, repeat(BATCH_PHOTOS)))


def fit_clip_dissect(probed: ProbedNeurons, concepts: Sequence[ConceptName], top: int = 100) -> NeuronLabels:
    """Label neurons by CLIP-Dissect (Oikarinen & Weng, ICLR 2023) with its soft-WPMI; defaults as in its code.

    Args:
        probed: The neurons on probe photos.
        concepts: Candidate labels; words are encoded without a prompt.
        top: Examples of each neuron, at most a fifth of the probe photos; the paper has 100 of tens of thousands.

    Returns:
        The labels; each neuron has its best one.
    """
    words = probed.cosines([concept.label for concept in concepts])
    return _labels(probed, "clip_dissect", concepts, soft_wpmi(words, probed.activations, probed.n_examples(top)), None)


def fit_www(probed: ProbedNeurons, concepts: Sequence[ConceptName], examples: int = 40) -> NeuronLabels:
    """Label neurons by WWW (Ahn et al., CVPR 2024): how much more its examples resemble a word than no word.

    `similarity = sum over examples of cos(photo, "a photo of a w") - cos(photo, "a photo of a")`.

    Args:
        probed: The neurons on probe photos.
        concepts: Candidate labels.
        examples: Examples of each neuron, at most a fifth of the probe photos; the paper has 40 of 50,000.

    Returns:
        The labels; each neuron has every one above 0.95 of its best similarity.
    """
    template = "a photo of a"
    cosines = probed.cosines([template, *(f"{template} {concept.label}" for concept in concepts)])
    risen = cosines[:, 1:] - cosines[:, :1]
    chosen = probed.activations.topk(probed.n_examples(examples), dim=0).indices
    parts = [risen[part].sum(0) for part in chosen.split(BATCH_NEURONS, dim=1)]
    return _labels(probed, "www", concepts, torch.cat(parts).T, KEPT_SHARE)


def soft_wpmi(
    cosines: Float[Tensor, "photo concept"],
    activations: Float[Tensor, "photo neuron"],
    top: int = 100,
    sharpness: float = 10.0,
    prior: float = 1.0,
) -> Float[Tensor, "concept neuron"]:
    """Return CLIP-Dissect's soft weighted pointwise mutual information of every concept and neuron.

    `log p(t|k) - prior log p(t)` with `p(t|k) = prod over the neuron's top photos x of 1 + m_x (P[x, t] - 1)`,
    `P = softmax over concepts of sharpness * cosines`, `m_x` falling from 0.998 to 0.97 along the rank of x, and `p(t)`
    the mean of `p(t|k)` over neurons. (Section 3 of the paper.)

    Args:
        cosines: Cosine of every photo and concept.
        activations: Activation of every neuron on every photo.
        top: Examples of each neuron.
        sharpness: Factor of the cosines before the softmax.
        prior: Weight of `log p(t)`.
    """
    table = (sharpness * cosines).softmax(1)
    chosen = activations.topk(top, dim=0).indices
    member = FIRST_MEMBERSHIP - torch.arange(top, dtype=table.dtype) / top * (FIRST_MEMBERSHIP - LAST_MEMBERSHIP)
    parts = [
        (1 + member[:, None, None] * (table[part] - 1) + 1e-7).log().sum(0)
        for part in chosen.split(BATCH_NEURONS, dim=1)
    ]
    given = torch.cat(parts)
    anyway = given.logsumexp(0) - torch.log(torch.tensor(float(len(given))))
    return (given - prior * anyway).T


def neuron_region(
    observation: Observation, labels: NeuronLabels, concepts: Sequence[ConceptName], count: int = 1
) -> Explanation:
    """Return the region of the neuron that fits each concept best: `ReLU(A_k)`, k = argmax of the similarity.

    Args:
        observation: Photos observed at the layer of the labels.
        labels: Similarities of concepts and neurons.
        concepts: Concepts to find, out of those of the labels.
        count: With more than 1, `components` are the regions of the best, the second best ... neuron.

    Returns:
        Maps and, as `scores`, similarities; `source.settings["matched"]` says of each concept whether it is a label of
        any neuron.

    Raises:
        InputError: Where the labels belong to a layer of another width, or lack a concept.
    """
    channels = observation.feature(labels.layer).shape[1]
    if channels != labels.similarity.shape[1]:
        raise InputError(
            f"these labels are of {labels.similarity.shape[1]} neurons of {labels.model}, and layer {labels.layer} of "
            f"{observation.model.name} has {channels}; fit them for this model"
        )
    best, values = labels.best(concepts, count)
    settings = {"language": labels.language, "matched": labels.matched(concepts)}
    parts = [_region(observation, labels, concepts, best[:, i], values[:, i], settings) for i in range(count)]
    return parts[0] if count == 1 else replace(parts[0], components=tuple(parts))


def _region(
    observation: Observation,
    labels: NeuronLabels,
    concepts: Sequence[ConceptName],
    neurons: Tensor,
    values: Tensor,
    settings: dict[str, object],
) -> Explanation:
    feature = observation.feature(labels.layer)
    images = len(feature)
    weights = F.one_hot(neurons.to(feature.device), feature.shape[1]).to(feature.dtype)
    weights = weights[None, :, :, None, None].expand(images, -1, -1, -1, -1)
    return Explanation(
        maps=project(weights, feature).relu(),
        weights=weights,
        scores=values.to(feature).expand(images, -1),
        labels=(tuple(concept.label for concept in concepts),) * images,
        source=source(observation, labels.layer, labels.method, {**settings, "neurons": tuple(neurons.tolist())}),
        concept_types=(tuple(concept.type for concept in concepts),) * images,
    )


def _labels(
    probed: ProbedNeurons, method: str, concepts: Sequence[ConceptName], similarity: Tensor, keep: float | None
) -> NeuronLabels:
    values, model, language = similarity.float().contiguous(), probed.model.name, probed.language.name
    return NeuronLabels(values, tuple(concepts), method, model, probed.layer, language, keep)
