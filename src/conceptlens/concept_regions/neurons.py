"""What single neurons stand for, and where they fire: the labels of CLIP-Dissect and of WWW."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from conceptlens.cams.class_activation import project, source
from conceptlens.concept_regions.neuron_labels import NeuronLabels
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.backbone import Backbone, Photo
    from conceptlens.model.encoders import VisionLanguage
    from conceptlens.model.observation import Observation

FEWEST = 10
# Of the probe photos, at most this share counts as a neuron's own: where all do, every neuron has the same ones.
SHARE = 0.2
NEURONS_AT_ONCE = 64
# How sure CLIP-Dissect is that a neuron's first and its last photo are really its own.
FIRST, LAST = 0.998, 0.97


@dataclass(frozen=True, eq=False)
class Probed:
    """What a layer's neurons, and a vision-language pair, make of the same photos.

    - `activations[photo neuron]`: the spatial mean of every channel.
    - `vectors[photo dimension]`: the pair's image vectors, of length 1.
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

    def most(self, asked: int) -> int:
        """Return how many photos count as a neuron's own: as many as asked, but at most a fifth of all."""
        if asked < 1:
            raise InputError(f"{asked} photos for each neuron were asked for; give at least 1")
        return min(asked, max(1, int(SHARE * len(self.vectors))))


def probe_neurons(
    model: Backbone,
    photos: Iterable[Photo],
    layer: str | None = None,
    by: Backbone | None = None,
    batch_size: int = 16,
) -> Probed:
    """Show photos to `model`, and to the pair of `by` (by default the model's own), in one pass for every labelling.

    Photos are read as they are needed. Raises `InputError` for fewer than 10.
    """
    judge = by or model
    activations, vectors, name = [], [], layer or model.default_layers[-1]
    for batch in _batches(photos, batch_size):
        observation = model.observe(batch, layers=name)
        activations.append(observation.feature(name).flatten(2).mean(2).double().cpu())
        answer = observation if judge is model else judge.observe(batch)
        vectors.append(judge.language.encode_image(answer).detach().double().cpu())
    count = sum(len(part) for part in vectors)
    if count < FEWEST:
        raise InputError(f"{count} probe photos were given; what a neuron stands for needs at least {FEWEST}")
    units = F.normalize(torch.cat(vectors), dim=1)
    return Probed(torch.cat(activations), units, name, model, judge.language)


def fit_clip_dissect(
    probed: Probed, concepts: Sequence[ConceptName], top: int = 100, sharpness: float = 10.0, prior: float = 1.0
) -> NeuronLabels:
    """Label neurons by CLIP-Dissect (Oikarinen & Weng, ICLR 2023) with its soft-WPMI; defaults as in its code.

    Words stand alone, without a prompt. `top` is at most a fifth of the probe photos, where the paper has 100 of tens
    of thousands.
    """
    own = probed.most(top)
    words = probed.cosines([concept.label for concept in concepts])
    similarity = soft_wpmi(words, probed.activations, own, sharpness, prior)
    settings = {"top": own, "sharpness": sharpness, "prior": prior}
    return _labels(probed, "clip_dissect", concepts, similarity, None, settings)


def fit_www(probed: Probed, concepts: Sequence[ConceptName], examples: int = 40, keep: float = 0.95) -> NeuronLabels:
    """Label neurons by WWW (Ahn et al., CVPR 2024): what its example photos have more than "a photo of a" has.

    `similarity = sum over examples of cos(photo, "a photo of a w") - cos(photo, "a photo of a")`; a neuron bears every
    concept above `keep` times its best. `examples` are at most a fifth of the probe photos, where the paper has 40 of
    50,000.
    """
    own = probed.most(examples)
    template = "a photo of a"
    cosines = probed.cosines([template, *(f"{template} {concept.label}" for concept in concepts)])
    risen = cosines[:, 1:] - cosines[:, :1]
    chosen = probed.activations.topk(own, dim=0).indices
    parts = [risen[part].sum(0) for part in chosen.split(NEURONS_AT_ONCE, dim=1)]
    return _labels(probed, "www", concepts, torch.cat(parts).T, keep, {"examples": own})


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
    """
    table = (sharpness * cosines).softmax(1)
    chosen = activations.topk(top, dim=0).indices
    member = FIRST - torch.arange(top, dtype=table.dtype) / top * (FIRST - LAST)
    parts = [
        (1 + member[:, None, None] * (table[part] - 1) + 1e-7).log().sum(0)
        for part in chosen.split(NEURONS_AT_ONCE, dim=1)
    ]
    given = torch.cat(parts)
    anyway = given.logsumexp(0) - torch.log(torch.tensor(float(len(given))))
    return (given - prior * anyway).T


def neuron_region(
    observation: Observation, labels: NeuronLabels, concepts: Sequence[ConceptName], count: int = 1
) -> Explanation:
    """Return where the neuron that fits each concept best is active: `ReLU(A_k)`, k = argmax of the similarity.

    With `count` above 1, `components` are the regions of the best, the second best ... neuron. `scores` are
    similarities; `source.settings["matched"]` says of each concept whether any neuron bears it as a label.
    """
    channels = observation.feature(labels.layer).shape[1]
    if channels != labels.similarity.shape[1]:
        raise InputError(
            f"these labels are of {labels.similarity.shape[1]} neurons of {labels.model}, and layer {labels.layer} of "
            f"{observation.model.name} has {channels}; fit them for this model"
        )
    best, values = labels.best(concepts, count)
    told = {"language": labels.language, "matched": labels.matched(concepts)}
    parts = [_region(observation, labels, concepts, best[:, i], values[:, i], told) for i in range(count)]
    return parts[0] if count == 1 else replace(parts[0], components=tuple(parts))


def _region(
    observation: Observation,
    labels: NeuronLabels,
    concepts: Sequence[ConceptName],
    neurons: Tensor,
    values: Tensor,
    told: dict[str, object],
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
        source=source(observation, labels.layer, labels.method, {**told, "neurons": tuple(neurons.tolist())}),
        concept_types=(tuple(concept.type for concept in concepts),) * images,
    )


def _labels(
    probed: Probed,
    method: str,
    concepts: Sequence[ConceptName],
    similarity: Tensor,
    keep: float | None,
    settings: dict[str, float],
) -> NeuronLabels:
    return NeuronLabels(
        similarity=similarity.float().contiguous(),
        concepts=tuple(concepts),
        method=method,
        model=probed.model.name,
        identity=weights_fingerprint(probed.model.module),
        layer=probed.layer,
        language=probed.language.name,
        photos=len(probed.vectors),
        keep=keep,
        settings=settings,
    )


def _batches(photos: Iterable[Photo], size: int) -> Iterator[list[Photo]]:
    stream = iter(photos)
    while batch := list(islice(stream, size)):
        yield batch
