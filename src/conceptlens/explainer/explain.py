"""The main job: what is in a photo, where it is, and how much it counts for a class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from conceptlens.cams.class_activation import gradients
from conceptlens.cams.rules import grad_cam
from conceptlens.cams.targets import ClassName, Logit, class_indices
from conceptlens.concept_regions.ce_fam import ce_fam, layer_regions
from conceptlens.concept_regions.competition import competing
from conceptlens.concept_regions.concept_scores import gather_evidence
from conceptlens.concept_regions.contribution import contributions
from conceptlens.concept_regions.translator import Translator
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts, vocabulary
from conceptlens.explainer.calibration import Reference, find_reference
from conceptlens.io.errors import InputError
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

Regions = Literal["official", "competing"]


def explain(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName] | None = None,
    target: ClassName | Sequence[ClassName] | None = None,
    top: int = 8,
    against: ClassName | Sequence[ClassName] | None = None,
    layer: str | None = None,
    reference: Reference | None = None,
    branch: Translator | None = None,
    regions: Regions = "official",
) -> Explanation:
    """Return what concepts each image shows, where they are, and how much they count for a class.

    - *what*: `scores[image question]`, the similarity of image and concept, and `z_scores[image question]`, how many
      standard deviations that lies above the concept's own mean over reference photos (`None` where the model has no
      reference: see `conceptlens calibrate`). Without `concepts`, the `top` most unusual of the vocabulary, or the
      highest scores where there is no reference, one of each group that says the same.
    - *where*: `maps`, `ReLU(sum_k beta_k A_k)` with `beta_k = mean_ij dS/dA_k` (CE-FAM, ICCV 2025, section 3).
    - *how much*: `contributions`, by the masking curve (see `contributions`), to `target`, by default the predicted
      class. With `against=` another class they are contributions to the difference of the two: positive speaks for
      `target`, negative for `against`, and the `top` are those that count most among the concepts that stand out; the
      maps then keep only the channels through which a concept speaks for its side.
      `None` for a model without classes.

    With a trained `branch`, all of it comes from `ce_fam`: its teacher's words, the layer that holds each concept, no
    `z_scores`. With `regions="competing"` the maps are those of `compete`, sharper and slower; the rest stays.
    """
    if regions not in get_args(Regions):
        raise InputError(f"regions are '{regions}'; expected {' or '.join(get_args(Regions))}")
    if branch is not None:
        if against is not None:
            raise InputError("both branch and against are given; a branch explains one class, so leave one of them out")
        found = ce_fam(observation, branch, concepts, target, top, layer)
    else:
        found = _by_own_pair(observation, concepts, target, top, against, layer, reference)
    return found if regions == "official" else competing(observation, found, branch, layer)


def _by_own_pair(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName] | None,
    target: ClassName | Sequence[ClassName] | None,
    top: int,
    against: ClassName | Sequence[ClassName] | None,
    layer: str | None,
    reference: Reference | None,
) -> Explanation:
    """Explain with the model's own vision-language pair, in one layer."""
    name, language = layer or observation.layer, observation.model.language
    given = None if concepts is None else parse_concepts(concepts)
    known = vocabulary() if given is None else given
    evidence = gather_evidence(observation, language, known)
    scores = evidence.scores
    reference = reference or find_reference(observation.model)
    z_scores = None
    if reference is not None:
        z_scores = reference.z_scores(scores.cpu(), evidence.texts.cpu(), language).to(scores)
    index = None if target is None and observation.class_scores is None else class_indices(observation, target)
    other = None if against is None else class_indices(observation, against)
    wanted = top if other is None else 2 * top
    chosen = evidence.strongest(wanted, z_scores) if given is None else evidence.all()
    weights = grad_cam(
        observation.pull(evidence.root, evidence.cotangents(chosen), name), observation.feature(name)[:, None]
    )
    counts = None if index is None else contributions(observation, weights[..., 0, 0], index, other, name)
    if given is None and other is not None and counts is not None:
        best = counts.abs().topk(min(top, counts.shape[1]), dim=1).indices
        chosen, counts = chosen.gather(1, best), counts.gather(1, best)
        weights = weights.gather(1, best[..., None, None, None].expand(-1, -1, *weights.shape[2:]))
    if other is not None and index is not None and counts is not None:
        weights = weights * _through(observation, name, weights, counts, index, other)
    settings = {"text": language.name, "target": repr(target), "against": repr(against), "top": top}
    return replace(
        layer_regions(observation, name, weights[..., 0, 0], evidence, chosen, settings),
        contributions=counts,
        z_scores=None if z_scores is None else z_scores.gather(1, chosen),
        explained_classes=() if index is None else tuple(_counts_for(observation, index, other)),
    )


def _through(
    observation: Observation, layer: str, weights: Tensor, counts: Tensor, index: Tensor, other: Tensor
) -> Float[Tensor, "image question channel 1 1"]:
    """Return 1 for channels whose part in `y_target - y_against` has the sign of the concept's contribution, else 0."""
    sides = [Logit(classes.tolist()).bind(observation) for classes in (index, other)]
    _, pulled = gradients(observation, sides, layer)
    difference = (pulled[:, :1] - pulled[:, 1:]).mean((-2, -1), keepdim=True)
    return (weights * difference * counts[..., None, None, None] > 0).to(weights.dtype)


def _counts_for(observation: Observation, index: Tensor, other: Tensor | None) -> list[str]:
    names = [observation.model.class_name(int(i)) for i in index]
    if other is None:
        return names
    return [f"{n} / {observation.model.class_name(int(o))}" for n, o in zip(names, other, strict=True)]
