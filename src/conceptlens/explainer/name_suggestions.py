"""Words that may name discovered concepts: present where one is strong, rarer elsewhere, and in the same cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.concept_regions.concept_scores import score_concepts
from conceptlens.concepts.vocabulary import ConceptName, vocabulary
from conceptlens.discovery.concept_places import Place, Suggestion
from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
from conceptlens.explainer.calibration import ScoreCalibration, find_calibration
from conceptlens.explainer.presence import MIN_PRESENCE, presence
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.progress import progress
from conceptlens.model.photo_reading import photos_ahead
from conceptlens.runs.local_engine import batches_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation

# How much likelier a word must be in a concept's photos than in those of other concepts.
MIN_DIFFERENCE = 0.25
# The least correlation of the word's map with the concept's over the cells of a photo, on average.
MIN_AGREEMENT = 0.4
# Words that are compared cell by cell, photos that they are compared in, and words that are kept.
MAX_COMPARED, PHOTOS_COMPARED, MAX_SUGGESTIONS = 12, 6, 3
# The least probability of the model's answer on classes that are known, on average.
MIN_LINKED = 0.5


def suggest_names(
    model: Backbone, discovered: DiscoveredConcepts, calibration: ScoreCalibration | None = None, batch_size: int = 8
) -> DiscoveredConcepts:
    """Return discovered concepts with words of the vocabulary that may name them, and how likely each is present.

    A word is suggested where all of this holds:

    1. Its presence is at least one half on average over the photos of the concept's strongest places.
    2. That is at least 0.25 more than over the photos of the other concepts' strongest places.
    3. Its map, the scores of the photo's cells along the word's direction, correlates with the concept's own by at
       least 0.4 on average over the six strongest photos.

    Often none does: what a concept shows need have no word, or none that the model can tell.

    Args:
        model: The model that the concepts were discovered in.
        discovered: The concepts; the files of their strongest places are read again.
        calibration: The spread of scores over reference photos; by default the model's own, if any.
        batch_size: Photos per forward pass.

    Returns:
        The concepts with at most three suggestions each, the best first; without any where presence is not known.

    Raises:
        InputError: The model is another one.
    """
    discovered.check(model)
    files = list(dict.fromkeys(place.photo for each in discovered.places for place in each))
    calibration = calibration or find_calibration(model)
    likely = _presence(model, discovered, files, calibration, batch_size)
    if likely is None:
        return replace(discovered, suggestions=((),) * len(discovered))
    rows = {file: row for row, file in enumerate(files)}
    found = []
    for each in progress(discovered.places, len(discovered), "comparing words with concepts"):
        own = torch.zeros(len(files), dtype=torch.bool)
        own[[rows[place.photo] for place in each]] = True
        found.append(_suggestions(model, discovered.layer, each, likely, own))
    return replace(discovered, suggestions=tuple(found))


def _suggestions(
    model: Backbone,
    layer: str,
    places: Sequence[Place],
    likely: Float[Tensor, "photo word"],
    own: Tensor,
) -> tuple[Suggestion, ...]:
    """Return the words that qualify for one concept, whose photos are `own` among those of `likely`."""
    known = likely.isfinite().all(1)
    if not bool((own & known).any()) or not bool((~own & known).any()):
        return ()
    here, elsewhere = likely[own & known].mean(0), likely[~own & known].mean(0)
    ahead = here - elsewhere
    chosen = torch.where(here >= MIN_PRESENCE, ahead, torch.full_like(ahead, -1.0)).topk(MAX_COMPARED).indices
    chosen = chosen[(here[chosen] >= MIN_PRESENCE) & (ahead[chosen] >= MIN_DIFFERENCE)]
    if not len(chosen):
        return ()
    words = vocabulary()
    agreement = _agreement(model, layer, places[:PHOTOS_COMPARED], [words[i] for i in chosen.tolist()])
    order = (ahead[chosen] * agreement).argsort(descending=True).tolist()
    return tuple(
        Suggestion(
            words[int(chosen[i])].label, float(here[chosen[i]]), float(elsewhere[chosen[i]]), float(agreement[i])
        )
        for i in order
        if agreement[i] >= MIN_AGREEMENT
    )[:MAX_SUGGESTIONS]


def _presence(
    model: Backbone,
    discovered: DiscoveredConcepts,
    files: Sequence[str],
    calibration: ScoreCalibration | None,
    batch_size: int,
) -> Float[Tensor, "photo word"] | None:
    """Return how likely each word of the vocabulary is in each photo; NaN for a photo that is gone, None if unknown."""
    fitted = None if calibration is None else calibration.presence
    classes = model.class_concepts if fitted is not None or model.text is None else None
    if (classes is None and fitted is None) or not _reads_texts(model):
        return None
    words = vocabulary()
    found = torch.full((len(files), len(words)), torch.nan)
    linked = []
    batches = _observed(model, discovered.layer, files, batch_size)
    for rows, observation in progress(batches, len(files), "looking for words in photos", batch_size):
        evidence = score_concepts(observation, model.language, words)
        z_scores = None
        if calibration is not None:
            z_scores = calibration.z_scores(evidence.scores.cpu(), evidence.text_vectors.cpu(), model.language)
        logits = None if classes is None else observation.answer.competing(observation.logits.detach()).cpu()
        if classes is not None and logits is not None:
            linked.append(classes.linked_probability(logits))
        likely = presence(words, classes, logits, z_scores, fitted)
        if likely is None:
            return None
        found[rows] = likely.probability
    return None if linked and float(torch.cat(linked).mean()) < MIN_LINKED else found


def _reads_texts(model: Backbone) -> bool:
    try:
        return model.language is not None
    except InputError:  # no text encoder, and none can be built
        return False


def _agreement(
    model: Backbone, layer: str, places: Sequence[Place], words: Sequence[ConceptName]
) -> Float[Tensor, "word"]:
    """Return the mean correlation of each word's map with the concept's over the photos of some places."""
    found = []
    for rows, observation in _observed(model, layer, [place.photo for place in places], len(places)):
        maps = _word_maps(observation, layer, words).cpu()
        own = torch.stack([places[row].activations for row in rows])[:, None]
        found.append((_standardised(maps) * _standardised(own)).mean((2, 3)))
    return torch.cat(found).mean(0) if found else torch.zeros(len(words))


def _word_maps(
    observation: Observation, layer: str, words: Sequence[ConceptName]
) -> Float[Tensor, "image word height width"]:
    """Return the scores of cells along the direction of each word: by its text and, where known, by its classes."""
    evidence = score_concepts(observation, observation.model.language, words)
    root, feature = evidence.image_vectors, observation.feature(layer)
    if not observation.reaches(root, layer):  # the patches of a transformer's last block
        return feature.new_zeros(len(feature), len(words), *feature.shape[2:])
    vectors = [evidence.score_gradients(evidence.all_indices())]
    classes, rows = observation.model.class_concepts, getattr(evidence.language, "rows", None)
    if classes is not None and rows is not None:
        vectors.append(classes.directions(words, rows).expand(len(root), -1, -1))
    maps = [
        _standardised((observation.pull(root, vector.to(root), layer) * feature[:, None]).sum(2)) for vector in vectors
    ]
    return torch.stack(maps).mean(0)


def _observed(
    model: Backbone, layer: str, files: Sequence[str], batch_size: int
) -> Iterator[tuple[list[int], Observation]]:
    """Yield observations of photo files with their indices; files that cannot be read any more are left out."""
    batches = batches_of(len(files), batch_size)
    for batch, read in zip(batches, photos_ahead(model, files, batch_size, keep=False), strict=True):
        good = {row: one for row, one in zip(batch, read, strict=True) if not isinstance(one, Failure)}
        if good:
            yield [*good], model.observe_ready([*good.values()], [layer])


def _standardised(maps: Float[Tensor, "image map height width"]) -> Float[Tensor, "image map height width"]:
    centred = maps - maps.mean((2, 3), keepdim=True)
    return centred / centred.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
