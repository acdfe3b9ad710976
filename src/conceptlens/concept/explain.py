"""The main job: what is in a photo, where it is, and how much it counts for a class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.activation_map import gradients, project, source
from conceptlens.concept.contribution import contributions
from conceptlens.concept.reference import Reference, find_reference
from conceptlens.error import InputError
from conceptlens.observe import Observation
from conceptlens.record import Explanation
from conceptlens.rule import grad_cam
from conceptlens.target import ClassName, Logit, class_indices, similarity
from conceptlens.text.vocabulary import ConceptName, parse_concepts, prompt, vocabulary

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.text.encoder import VisionLanguage

# Two concepts of the vocabulary whose text vectors are closer than this say the same; the stronger one is shown.
SAME = 0.9


def explain(
    seen: Observation,
    concepts: str | Iterable[str | ConceptName] | None = None,
    target: ClassName | Sequence[ClassName] | None = None,
    top: int = 8,
    against: ClassName | Sequence[ClassName] | None = None,
    layer: str | None = None,
    reference: Reference | None = None,
) -> Explanation:
    """Return what concepts each image shows, where they are, and how much they count for a class.

    - *what*: `scores[image question]`, the similarity of image and concept, and `unusual[image question]`, how many
      standard deviations that lies above the concept's own mean over reference photos (`None` where the model has no
      reference: see `conceptlens calibrate`). Without `concepts`, the `top` most unusual of the vocabulary, or the
      highest scores where there is no reference, one of each group that says the same.
    - *where*: `maps`, `ReLU(sum_k beta_k A_k)` with `beta_k = mean_ij dS/dA_k` (CE-FAM, ICCV 2025, section 3).
    - *how much*: `contributions`, by the masking curve (see `contributions`), to `target`, by default the predicted
      class. With `against=` another class they are contributions to the difference of the two: positive speaks for
      `target`, negative for `against`, and the `top` are those that count most among the concepts that stand out; the
      maps then keep only the channels through which a concept speaks for its side.
      `None` for a model without classes.
    """
    name, language = layer or seen.layer, seen.model.language
    given = None if concepts is None else parse_concepts(concepts)
    known = vocabulary() if given is None else given
    texts = language.encode_text([prompt(c) for c in known]).to(seen.images.device)
    root = language.encode_image(seen)
    scores, cotangents = _similarities(root, texts, language)
    reference = reference or find_reference(seen.model)
    unusual = None if reference is None else reference.unusual(scores.cpu(), texts.cpu(), language).to(scores)
    index = None if target is None and seen.class_scores is None else class_indices(seen, target)
    other = None if against is None else class_indices(seen, against)
    if given is None:
        chosen = _most_telling(scores if unusual is None else unusual, texts, top if other is None else 2 * top)
    else:
        chosen = torch.arange(len(known), device=scores.device).expand(len(scores), -1)
    weights = grad_cam(seen.pull(root, cotangents(chosen), name), seen.feature(name)[:, None])
    counts = None if index is None else contributions(seen, weights[..., 0, 0], index, other, name)
    if given is None and other is not None and counts is not None:
        best = counts.abs().topk(min(top, counts.shape[1]), dim=1).indices
        chosen, counts = chosen.gather(1, best), counts.gather(1, best)
        weights = weights.gather(1, best[..., None, None, None].expand(-1, -1, *weights.shape[2:]))
    if other is not None and index is not None and counts is not None:
        weights = weights * _through(seen, name, weights, counts, index, other)
    settings = {"text": language.name, "target": repr(target), "against": repr(against), "top": top}
    return Explanation(
        maps=project(weights, seen.feature(name)).relu(),
        weights=weights,
        scores=scores.gather(1, chosen),
        labels=tuple(tuple(known[int(c)].label for c in row) for row in chosen),
        source=source(seen, name, "ce_fam", settings),
        contributions=counts,
        unusual=None if unusual is None else unusual.gather(1, chosen),
        counts_for=() if index is None else tuple(_counts_for(seen, index, other)),
        types=tuple(tuple(known[int(c)].type for c in row) for row in chosen),
    )


def _similarities(root: Tensor, texts: Tensor, language: VisionLanguage) -> tuple[Tensor, _Cotangents]:
    point = root.detach().float()
    return similarity(point, texts, language), _Cotangents(point, texts, language)


@dataclass(frozen=True)
class _Cotangents:
    """Gradients of chosen similarities at the image vector, in closed form."""

    point: Float[Tensor, "image dimension"]
    texts: Float[Tensor, "text dimension"]
    language: VisionLanguage

    def __call__(self, chosen: Int[Tensor, "image question"]) -> Float[Tensor, "image question dimension"]:
        """`scale t` for plain vectors; `scale (t - cos e) / |x|` for unit vectors `e = x / |x|`."""
        texts = self.texts.float()[chosen]
        if not self.language.normalised:
            return self.language.scale * texts
        length = self.point.norm(dim=1).clamp_min(1e-12)[:, None, None]
        unit = self.point[:, None] / length
        texts = torch.nn.functional.normalize(texts, dim=2)
        cosine = (texts * unit).sum(2, keepdim=True)
        return self.language.scale * (texts - cosine * unit) / length


def _most_telling(
    rank: Float[Tensor, "image text"], texts: Float[Tensor, "text dimension"], top: int
) -> Int[Tensor, "image question"]:
    """Return the `top` texts of each image, leaving out those that say the same as a better one."""
    if top < 1:
        raise InputError(f"top is {top}; expected at least one concept")
    units = torch.nn.functional.normalize(texts.float() - texts.float().mean(0), dim=1)
    rows = []
    for order in rank.argsort(dim=1, descending=True):
        kept: list[int] = []
        for index in order.tolist():
            if len(kept) == top:
                break
            if not kept or float((units[kept] @ units[index]).max()) < SAME:
                kept.append(index)
        rows.append(torch.tensor(kept, device=rank.device))
    fewest = min(len(row) for row in rows)
    return torch.stack([row[:fewest] for row in rows])


def _through(
    seen: Observation, layer: str, weights: Tensor, counts: Tensor, index: Tensor, other: Tensor
) -> Float[Tensor, "image question channel 1 1"]:
    """Return 1 for channels whose part in `y_target - y_against` has the sign of the concept's contribution, else 0."""
    sides = [Logit(classes.tolist()).question(seen) for classes in (index, other)]
    _, pulled = gradients(seen, sides, layer)
    difference = (pulled[:, :1] - pulled[:, 1:]).mean((-2, -1), keepdim=True)
    return (weights * difference * counts[..., None, None, None] > 0).to(weights.dtype)


def _counts_for(seen: Observation, index: Tensor, other: Tensor | None) -> list[str]:
    names = [seen.model.class_name(int(i)) for i in index]
    if other is None:
        return names
    return [f"{n} / {seen.model.class_name(int(o))}" for n, o in zip(names, other, strict=True)]
