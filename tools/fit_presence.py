"""Fit the weights of presence on judged photos: `python tools/fit_presence.py` prints what `presence.py` holds.

The rows are the judged words of the photos marked `fit`, and, at a tenth of the weight, words of the vocabulary that
were not judged and that no likely class shows, taken as absent. It needs the photos and judgements of CONCEPTLENS_DATA.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.cams.concept_target import similarity
from conceptlens.concept_regions.concept_scores import encode_concepts
from conceptlens.concepts.vocabulary import base_rate, vocabulary
from conceptlens.explainer.calibration import find_calibration
from conceptlens.explainer.presence import FITTED_ON, PresenceWeights, fit_presence, presence_features
from conceptlens.model.class_concepts import rate_of

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from judged_photos import judged_photos

BACKGROUND, BACKGROUND_WEIGHT, MAX_BACKGROUND_IMPLIED = 100, 0.1, 0.05


def rows(with_z_scores: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return features `row feature`, labels and weights of the photos that weights are fitted on."""
    model = cl.load_model()
    known, calibration, words = model.class_concepts, find_calibration(model), vocabulary()
    assert known is not None
    assert calibration is not None
    texts = encode_concepts(model.language, words)
    rates = torch.tensor([base_rate(word) or 0.0 for word in words])
    index = {word.label: i for i, word in enumerate(words)}
    generator = torch.Generator().manual_seed(0)
    features, labels, weights = [], [], []
    for photo in judged_photos("fit", with_further=False):
        observation = model.observe(photo.file)
        scores = similarity(observation.embedding.detach().float(), texts, model.language)
        z_scores = calibration.z_scores(scores, texts, model.language) if with_z_scores else None
        implied = rate_of(known.implied(observation.logits.detach()), known, words)
        every = presence_features(words, implied, z_scores, rates, 1)[0]
        judged = [index[word] for word in sorted(photo.present | photo.absent) if word in index]
        listed = {index[word] for word in photo.present | photo.absent | photo.unclear if word in index}
        pool = [i for i in range(len(words)) if i not in listed and implied[0, i] < MAX_BACKGROUND_IMPLIED]
        chosen = [pool[i] for i in torch.randperm(len(pool), generator=generator)[:BACKGROUND].tolist()]
        features.append(every[judged + chosen])
        labels.append(torch.tensor([float(words[i].label in photo.present) for i in judged] + [0.0] * len(chosen)))
        weights.append(torch.tensor([1.0] * len(judged) + [BACKGROUND_WEIGHT] * len(chosen)))
    return torch.cat(features), torch.cat(labels), torch.cat(weights)


def main() -> None:
    for with_z_scores in (True, False):
        features, labels, weights = rows(with_z_scores)
        found = fit_presence(features, labels, weights)
        print(f"{len(labels)} rows, {int(labels.sum())} present; {PresenceWeights.from_vector(found, FITTED_ON)}")


if __name__ == "__main__":
    main()
