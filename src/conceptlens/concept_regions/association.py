"""Which layer holds a concept: CE-FAM's association score, on the branch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.targets import similarity
from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.concept_scores import Evidence, gather_texts
from conceptlens.concept_regions.contribution import STEPS
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import vocabulary
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# How many numbers the scores of one chunk of silenced variants may hold at once.
SCORES = 2**24


def associations(
    observation: Observation,
    translator: Translator,
    weights: Mapping[str, Float[Tensor, "image question channel"]],
    evidence: Evidence,
    chosen: Int[Tensor, "image question"],
) -> Float[Tensor, "image question layer"]:
    """Return by how much a concept's probability falls when a layer's channels for it are silenced, over 20 steps.

    CE-FAM (ICCV 2025, section 3.3): a layer's channels are ordered by `v_k = beta_k mean(A_k)`; the pooled values of
    the first `j` are replaced by the layer's mean pooled value in the *branch*, the concept's probability becomes
    `s_j`, and the score is `sum_j ((s - s_j) / s) / 20`. The layer of the highest score holds the concept.

    `s` is a softmax over the concept and the package's vocabulary (CLIP), so that it does not depend on what else is
    asked, or a sigmoid (SigLIP). The drop is divided by `s`, or by chance where `s` is smaller: the probability of a
    concept that is all but excluded has no meaningful relative drop.
    """
    known = vocabulary()
    rest = gather_texts(translator, known).to(evidence.texts)
    place = {concept: i for i, concept in enumerate(known)}
    own_place = torch.tensor([place.get(concept, -1) for concept in evidence.concepts], device=chosen.device)[chosen]
    inputs = pooled(observation, translator.layers).detach().float()
    columns, start = [], 0
    for name in reversed(translator.layers):  # the deepest stands first in the branch's input
        width = observation.layer_output(name).grid.channels
        part = slice(start, start + width)
        start += width
        if name not in weights:
            continue
        own = inputs[:, part]
        order = (weights[name] * own[:, None]).topk(min(STEPS, width), dim=2).indices
        columns.append(_curve(translator, inputs, part, order, evidence, chosen, rest, own_place))
    return torch.stack(columns[::-1], dim=2)


def _curve(
    translator: Translator,
    inputs: Tensor,
    part: slice,
    order: Tensor,
    evidence: Evidence,
    chosen: Tensor,
    rest: Tensor,
    places: Tensor,
) -> Float[Tensor, "image question"]:
    """Return one layer's association scores."""
    silence = inputs[:, part].mean(1)
    steps = order.shape[2]
    rows = []
    for i, vector in enumerate(inputs):
        scores = []
        at_once = max(1, SCORES // ((steps + 1) * max(len(rest), len(vector))))
        of_chunk = (values.split(at_once) for values in (order[i], evidence.texts[chosen[i]], places[i]))
        for ranked, texts, own_place in zip(*of_chunk, strict=True):
            variants = vector.repeat(len(ranked), steps + 1, 1)
            for step in range(steps):
                silenced = ranked[:, step : step + 1] + part.start
                variants[:, step + 1 :].scatter_(2, silenced[:, None].expand(-1, steps - step, 1), float(silence[i]))
            scores.append(_probabilities(translator, variants, texts, rest, own_place))
        before, after = torch.cat(scores).split([1, steps], dim=1)
        chance = 0.5 if translator.bias else 1 / len(rest)
        rows.append(((before - after) / before.clamp_min(chance)).mean(1))
    return torch.stack(rows)


def _probabilities(
    translator: Translator, variants: Tensor, texts: Tensor, rest: Tensor, places: Tensor
) -> Float[Tensor, "question variant"]:
    """Return the probability of each question's concept for its own variants of the branch's input.

    `places` say where a question's concept stands in `rest`, so that it is not its own rival; -1 where it does not.
    """
    vectors = translator.branch(variants.flatten(0, 1)).float()
    by_question = zip(vectors.unflatten(0, variants.shape[:2]), texts, strict=True)
    own = torch.cat([similarity(vector, text[None], translator) for vector, text in by_question], dim=1).T
    if translator.bias:
        return (own + translator.bias).sigmoid()
    others = similarity(vectors, rest, translator).unflatten(0, variants.shape[:2])
    known = (places >= 0).nonzero()[:, 0]
    others[known, :, places[known]] = -torch.inf
    return (own - torch.logaddexp(own, others.logsumexp(2))).exp()
