"""CE-FAM's masking curves: a concept's contribution to a class, and its association with a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.concept_target import similarity
from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.concept_scores import ConceptScores, encode_concepts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import everyday_words
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

STEPS = 20  # of the masking curve: as many channels are masked, one after the other
BATCH_VARIANTS = 64  # masked variants that run through the rest of the model at once
MAX_LOGITS = 2**24  # numbers that the closed form holds at once
MAX_SCORES = 2**24  # numbers that the scores of one chunk of masked branch inputs hold at once


def masking_contributions(
    observation: Observation,
    weights: Float[Tensor, "image question channel"],
    target: Int[Tensor, "image"],
    against: Int[Tensor, "image"] | None = None,
    layer: str | None = None,
    selected: Bool[Tensor, "image question"] | None = None,
) -> Float[Tensor, "image question"]:
    """Return the mean relative drop of a class's probability while a concept's channels are masked one by one.

    CE-FAM (ICCV 2025, section 3): channels are ordered by `v_k = beta_k mean(A_k)`; after masking the first `j` the
    probability is `p_j`, and the contribution is `sum_j ((p - p_j) / p) / 20`. Positive: the concept speaks for the
    class; negative: against it. A masked channel takes its own spatial mean; where the cells reach the logits through
    their mean alone that would change nothing, so it takes the mean of the whole layer.

    The drop is divided by `p`, or by chance (one over the number of classes compared) where `p` is smaller: the
    relative drop of a class that the model all but excludes has no meaning. Chance of a label that excludes no other
    is 1/2.

    Args:
        observation: Photos observed at `layer`.
        weights: Channel weights `beta` of each concept.
        target: Index of the class, for each image.
        against: Index of a second class; `p` is then `sigmoid(y_target - y_against)`, of two classes from one logit
            that of the class.
        layer: Layer whose channels are masked; by default the observation's.
        selected: The concepts to compute; the others are left at 0.

    Returns:
        One share for each image and concept, at most 1.

    Raises:
        InputError: The model gives quantities, which have no probability.
    """
    feature = observation.feature(layer)
    order = (weights * feature.mean((2, 3))[:, None]).topk(min(STEPS, feature.shape[1]), dim=2).indices
    matrix = observation.readout(observation.logits, layer)
    before = _probability(observation, observation.logits.detach()[:, None], target[:, None], _column(against))
    if matrix is None:
        after = _curve_by_rerun(observation, order, target, against, layer, selected)
    else:
        after = _curve_in_closed_form(observation, matrix, order, target, against, layer)
    alone = against is None and observation.answer.rivals
    chance = 1.0 / observation.logits.shape[1] if alone else 0.5
    found = ((before[..., None] - after) / before.clamp_min(chance)[..., None]).mean(2)
    return found if selected is None else found * selected


def _curve_in_closed_form(
    observation: Observation, matrix: Tensor, order: Tensor, target: Tensor, against: Tensor | None, layer: str | None
) -> Float[Tensor, "image question step"]:
    """Mask pooled values and follow the linear readout, without a forward pass."""
    feature = observation.feature(layer)
    means, mask_value = feature.mean((2, 3)), feature.mean((1, 2, 3))
    logits = observation.logits.detach()
    curves = []
    for chunk in order.split(max(1, MAX_LOGITS // (logits.numel() * order.shape[2])), dim=1):
        change = mask_value[:, None, None] - means[:, None].expand(-1, chunk.shape[1], -1).gather(2, chunk)
        moved = (change[..., None] * matrix.T[chunk]).cumsum(2)
        masked = logits[:, None, None] + moved
        curves.append(_probability(observation, masked, target[:, None, None], _column(against, 2)))
    return torch.cat(curves, dim=1)


def _curve_by_rerun(
    observation: Observation,
    order: Tensor,
    target: Tensor,
    against: Tensor | None,
    layer: str | None,
    selected: Tensor | None,
) -> Float[Tensor, "image question step"]:
    """Mask cells and run the rest of the model, a variant for each question and step."""
    feature = observation.feature(layer)
    mask_value = feature.mean((1, 2, 3) if _all_cells_alike(observation, layer) else (2, 3), keepdim=True).expand_as(
        feature
    )
    curves = []
    for i in range(len(feature)):
        questions = range(order.shape[1]) if selected is None else selected[i].nonzero()[:, 0].tolist()
        curve = observation.logits.new_zeros(order.shape[1:], dtype=torch.float32)
        steps = [(q, j) for q in questions for j in range(1, order.shape[2] + 1)]
        logits = []
        for start in range(0, len(steps), BATCH_VARIANTS):
            chunk = steps[start : start + BATCH_VARIANTS]
            variants = feature[i].repeat(len(chunk), 1, 1, 1)
            for row, (q, j) in enumerate(chunk):
                masked = order[i, q, :j]
                variants[row, masked] = mask_value[i, masked]
            logits.append(observation.rerun(variants, i, layer).logits.detach())
        if steps:
            other = None if against is None else against[i]
            values = _probability(observation, torch.cat(logits), target[i], other)
            curve[list(questions)] = values.reshape(-1, order.shape[2])
        curves.append(curve)
    return torch.stack(curves)


def _all_cells_alike(observation: Observation, layer: str | None) -> bool:
    """Whether the logits have the same gradient at every cell: they read the cells through their mean alone.

    So it is before a pooling whose result is normalised or bent before the classifier (ConvNeXt, a ViT that averages).
    """
    if not observation.logits.requires_grad:
        return False
    direction = torch.randn(
        observation.logits.shape[1], generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    ).to(observation.logits)
    gradient = observation.pull(observation.logits, direction.expand(len(observation.logits), 1, -1), layer)
    spread = (gradient - gradient.mean((-2, -1), keepdim=True)).abs().max()
    return bool(spread <= 1e-5 * gradient.abs().max())


def _probability(observation: Observation, logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Return `p_c`, or `sigmoid(y_c - y_d)`, over the last axis of `logits`; indices broadcast over the others."""
    answer = observation.answer
    lead = logits.shape[:-1]
    if against is None:
        shares = answer.probabilities(logits.float(), observation.model.name)
        return shares.gather(-1, target.expand(lead)[..., None])[..., 0]
    values = answer.competing(logits.float())
    own = values.gather(-1, target.expand(lead)[..., None])[..., 0]
    other = values.gather(-1, against.expand(lead)[..., None])[..., 0]
    return (own - other).sigmoid()


def _column(index: Tensor | None, axes: int = 1) -> Tensor | None:
    return None if index is None else index.reshape(-1, *[1] * axes)


def associations(
    observation: Observation,
    translator: Translator,
    weights: Mapping[str, Float[Tensor, "image question channel"]],
    scored: ConceptScores,
    chosen: Int[Tensor, "image question"],
) -> Float[Tensor, "image question layer"]:
    """Return the mean relative drop of a concept's probability while a layer's channels are masked one by one.

    CE-FAM (ICCV 2025, section 3.3): a layer's channels are ordered by `v_k = beta_k mean(A_k)`; the pooled values of
    the first `j` are replaced by the layer's mean pooled value in the *branch*, the concept's probability becomes
    `s_j`, and the score is `sum_j ((s - s_j) / s) / 20`. The layer of the highest score holds the concept.

    `s` is a softmax over the concept and the package's vocabulary (CLIP), so that it does not depend on the other
    concepts, or a sigmoid (SigLIP). The drop is divided by `s`, or by chance where `s` is smaller.

    Args:
        observation: Photos observed at `translator.layers`.
        translator: The trained branch.
        weights: Channel weights of the chosen concepts, by layer; other layers are left out.
        scored: Scores of all concepts.
        chosen: Indices of the chosen concepts.

    Returns:
        One score for each image, concept and layer, in the order of `translator.layers`.
    """
    known = everyday_words()
    rest = encode_concepts(translator, known).to(scored.text_vectors)
    row_of = {concept: i for i, concept in enumerate(known)}
    own_index = torch.tensor([row_of.get(concept, -1) for concept in scored.concepts], device=chosen.device)[chosen]
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
        columns.append(_association_curve(translator, inputs, part, order, scored, chosen, rest, own_index))
    return torch.stack(columns[::-1], dim=2)


def _association_curve(
    translator: Translator,
    inputs: Tensor,
    part: slice,
    order: Tensor,
    scored: ConceptScores,
    chosen: Tensor,
    rest: Tensor,
    own_index: Tensor,
) -> Float[Tensor, "image question"]:
    """Return one layer's association scores."""
    mask_value = inputs[:, part].mean(1)
    steps = order.shape[2]
    rows = []
    for i, vector in enumerate(inputs):
        scores = []
        at_once = max(1, MAX_SCORES // ((steps + 1) * max(len(rest), len(vector))))
        of_chunk = (values.split(at_once) for values in (order[i], scored.text_vectors[chosen[i]], own_index[i]))
        for ranked, texts, rows_of_chunk in zip(*of_chunk, strict=True):
            variants = vector.repeat(len(ranked), steps + 1, 1)
            for step in range(steps):
                masked = ranked[:, step : step + 1] + part.start
                variants[:, step + 1 :].scatter_(2, masked[:, None].expand(-1, steps - step, 1), float(mask_value[i]))
            scores.append(_concept_probabilities(translator, variants, texts, rest, rows_of_chunk))
        before, after = torch.cat(scores).split([1, steps], dim=1)
        chance = 0.5 if translator.bias else 1 / len(rest)
        rows.append(((before - after) / before.clamp_min(chance)).mean(1))
    return torch.stack(rows)


def _concept_probabilities(
    translator: Translator, variants: Tensor, texts: Tensor, rest: Tensor, own_index: Tensor
) -> Float[Tensor, "question variant"]:
    """Return the probability of each question's concept for its own variants of the branch's input.

    `own_index` is the row of a question's concept in `rest`, where it is no rival of itself; -1 where it is not there.
    """
    vectors = translator.branch(variants.flatten(0, 1)).float()
    by_question = zip(vectors.unflatten(0, variants.shape[:2]), texts, strict=True)
    own = torch.cat([similarity(vector, text[None], translator) for vector, text in by_question], dim=1).T
    if translator.bias:
        return (own + translator.bias).sigmoid()
    others = similarity(vectors, rest, translator).unflatten(0, variants.shape[:2])
    known = (own_index >= 0).nonzero()[:, 0]
    others[known, :, own_index[known]] = -torch.inf
    return (own - torch.logaddexp(own, others.logsumexp(2))).exp()
