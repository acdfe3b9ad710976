"""CE-FAM's masking curves: a concept's contribution to a class, and its association with a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.targets import similarity
from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.concept_scores import Evidence, gather_texts
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import vocabulary
from conceptlens.model.observation import Observation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

STEPS = 20
# How many masked variants run through the rest of the model at once.
VARIANTS = 64
# How many logits the closed form may hold at once.
LOGITS = 2**24
# How many numbers the scores of one chunk of silenced variants may hold at once.
SCORES = 2**24


def contributions(
    observation: Observation,
    weights: Float[Tensor, "image question channel"],
    target: Int[Tensor, "image"],
    against: Int[Tensor, "image"] | None = None,
    layer: str | None = None,
    asked: Bool[Tensor, "image question"] | None = None,
) -> Float[Tensor, "image question"]:
    """Return by how much the class's probability falls when a concept's channels are silenced, averaged over 20 steps.

    CE-FAM (ICCV 2025, section 3): channels are ordered by `v_k = beta_k mean(A_k)`; after silencing the first `j`
    the probability is `p_j`, and the contribution is `sum_j ((p - p_j) / p) / 20`. Positive: the concept speaks for
    the class; negative: against it. A silenced channel takes its own spatial mean; where the cells reach the logits
    through their mean alone that would change nothing, so it takes the mean of the whole layer.

    With `against`, `p` is the probability of the class when only the two are compared: `sigmoid(y_c - y_d)`.
    The drop is divided by `p`, or by chance (one over the number of classes compared) where `p` is smaller: a class
    that the model all but excludes has no meaningful relative drop. Where only some questions are `asked`, the others
    are left at 0.
    """
    feature = observation.feature(layer)
    order = (weights * feature.mean((2, 3))[:, None]).topk(min(STEPS, feature.shape[1]), dim=2).indices
    matrix = observation.readout(observation.logits, layer)
    before = _probability(observation.logits.detach()[:, None], target[:, None], _column(against))
    if matrix is None:
        after = _curve_by_rerun(observation, order, target, against, layer, asked)
    else:
        after = _curve_in_closed_form(observation, matrix, order, target, against, layer)
    chance = 0.5 if against is not None else 1.0 / observation.logits.shape[1]
    found = ((before[..., None] - after) / before.clamp_min(chance)[..., None]).mean(2)
    return found if asked is None else found * asked


def _curve_in_closed_form(
    observation: Observation, matrix: Tensor, order: Tensor, target: Tensor, against: Tensor | None, layer: str | None
) -> Float[Tensor, "image question step"]:
    """Silence pooled values and follow the linear readout: no forward pass at all."""
    feature = observation.feature(layer)
    means, silence = feature.mean((2, 3)), feature.mean((1, 2, 3))
    logits = observation.logits.detach()
    curves = []
    for chunk in order.split(max(1, LOGITS // (logits.numel() * order.shape[2])), dim=1):
        change = silence[:, None, None] - means[:, None].expand(-1, chunk.shape[1], -1).gather(2, chunk)
        moved = (change[..., None] * matrix.T[chunk]).cumsum(2)
        silenced = logits[:, None, None] + moved
        curves.append(_probability(silenced, target[:, None, None], _column(against, 2)))
    return torch.cat(curves, dim=1)


def _curve_by_rerun(
    observation: Observation,
    order: Tensor,
    target: Tensor,
    against: Tensor | None,
    layer: str | None,
    asked: Tensor | None,
) -> Float[Tensor, "image question step"]:
    """Silence cells and run the rest of the model, a variant per question and step."""
    feature = observation.feature(layer)
    silence = feature.mean((1, 2, 3) if _all_cells_alike(observation, layer) else (2, 3), keepdim=True).expand_as(
        feature
    )
    curves = []
    for i in range(len(feature)):
        questions = range(order.shape[1]) if asked is None else asked[i].nonzero()[:, 0].tolist()
        curve = observation.logits.new_zeros(order.shape[1:], dtype=torch.float32)
        steps = [(q, j) for q in questions for j in range(1, order.shape[2] + 1)]
        logits = []
        for start in range(0, len(steps), VARIANTS):
            chunk = steps[start : start + VARIANTS]
            variants = feature[i].repeat(len(chunk), 1, 1, 1)
            for row, (q, j) in enumerate(chunk):
                silenced = order[i, q, :j]
                variants[row, silenced] = silence[i, silenced]
            logits.append(observation.rerun(variants, i, layer).logits.detach())
        if steps:
            other = None if against is None else against[i]
            values = _probability(torch.cat(logits), target[i], other)
            curve[list(questions)] = values.reshape(-1, order.shape[2])
        curves.append(curve)
    return torch.stack(curves)


def _all_cells_alike(observation: Observation, layer: str | None) -> bool:
    """Whether the logits have the same gradient at every cell: they read the cells through their mean alone.

    So it is before a pooling whose result is normalised or bent before the classifier (ConvNeXt, a ViT that averages).
    """
    if not observation.logits.requires_grad:
        return False
    direction = torch.randn(observation.logits.shape[1], generator=torch.Generator().manual_seed(0)).to(
        observation.logits
    )
    gradient = observation.pull(observation.logits, direction.expand(len(observation.logits), 1, -1), layer)
    spread = (gradient - gradient.mean((-2, -1), keepdim=True)).abs().max()
    return bool(spread <= 1e-5 * gradient.abs().max())


def _probability(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Return `p_c`, or `sigmoid(y_c - y_d)`, over the last axis of `logits`; indices broadcast over the others."""
    values = logits.float()
    lead = values.shape[:-1]
    own = values.gather(-1, target.expand(lead)[..., None])[..., 0]
    if against is None:
        return (own - values.logsumexp(-1)).exp()
    other = values.gather(-1, against.expand(lead)[..., None])[..., 0]
    return (own - other).sigmoid()


def _column(index: Tensor | None, axes: int = 1) -> Tensor | None:
    return None if index is None else index.reshape(-1, *[1] * axes)


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
        columns.append(_association_curve(translator, inputs, part, order, evidence, chosen, rest, own_place))
    return torch.stack(columns[::-1], dim=2)


def _association_curve(
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
            scores.append(_concept_probabilities(translator, variants, texts, rest, own_place))
        before, after = torch.cat(scores).split([1, steps], dim=1)
        chance = 0.5 if translator.bias else 1 / len(rest)
        rows.append(((before - after) / before.clamp_min(chance)).mean(1))
    return torch.stack(rows)


def _concept_probabilities(
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
