"""Finer-CAM for every gamma and every choice of references, from one kept gradient per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.class_activation import find_rule, gradients, project, source
from conceptlens.cams.contrast import Contrast, contrast_label, gammas_of
from conceptlens.cams.contrast_references import choose_references
from conceptlens.cams.rules import Rule
from conceptlens.cams.targets import Logit, Probability
from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.model.observation import Observation, check_observation
from conceptlens.record import Explanation, Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Rules whose weights are linear in the gradient: their maps mix as their gradients do.
LINEAR = ("grad_cam", "xgrad_cam", "hires_cam")


@dataclass(frozen=True, eq=False)
class ContrastMaps:
    """The raw signed maps of one image's target and references: every contrast of them is a mixture, then a ReLU.

    `maps[1+reference height width]`, `names`, `classes` and `scores` start with the target; `reference_weights` sum
    to 1.
    """

    maps: Float[Tensor, "class height width"]
    names: tuple[str, ...]
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    reference_weights: tuple[float, ...]
    gamma: float


@dataclass(frozen=True, eq=False)
class ContrastSweep:
    """Gradients of a target and of its references at one layer, detached: any contrast of them without the model.

    - `gradients[image 1+reference channel height width]`: the target's, then each reference's.
    - `scores[image 1+reference]`, `classes[image 1+reference]`, `names[image][1+reference]`.
    - `reference_weights[image reference]`: how references are weighted; they sum to 1.
    - `gammas[image]`: those of the contrast.
    """

    gradients: Float[Tensor, "image class channel height width"]
    feature: Float[Tensor, "image channel height width"]
    scores: Float[Tensor, "image class"]
    classes: Int[Tensor, "image class"]
    names: tuple[tuple[str, ...], ...]
    reference_weights: Float[Tensor, "image reference"]
    gammas: Float[Tensor, "image"]
    rule: Rule
    source: Source

    def explanation(self, gamma: float | None = None, references: Sequence[int | str] | None = None) -> Explanation:
        """Return the map of `alpha_c - gamma sum_t pi_t alpha_{d_t}` (Finer-CAM, equations 5 to 8).

        Args:
            gamma: How strongly references count, 0 or more; by default that of the contrast. 0 is the base method.
            references: Which references count, by index (0 is the first) or class name; by default all. Their weights
                are scaled to sum to 1 again.

        Returns:
            An `Explanation` with one question: `maps[image 1 height width]`, after the ReLU.

        Raises:
            InputError: `gamma` is negative or not finite, or there is no such reference.
        """
        strengths = self.gammas if gamma is None else gammas_of(Contrast(gamma=gamma), len(self.names))
        coefficients = self._coefficients(strengths, references)
        gradient = torch.einsum("nt,ntchw->nchw", coefficients, self.gradients)[:, None]
        weights = self.rule.weights(gradient, self.feature[:, None])
        return Explanation(
            maps=project(weights, self.feature).relu(),
            weights=weights,
            scores=(coefficients * self.scores).sum(1, keepdim=True),
            labels=tuple((self._label(i, float(strengths[i]), references),) for i in range(len(self.names))),
            target_kinds=("contrast" if bool(strengths.any()) else "class",),
            target_classes=tuple((own,) for own in self.classes[:, 0].tolist()),
            source=replace(self.source, settings={**self.source.settings, "gamma": _one_or_all(strengths)}),
        )

    def linear_maps(self) -> Float[Tensor, "image class height width"]:
        """Return the raw signed maps of target and references; a contrast is a mixture of them, then a ReLU.

        Only for rules that are linear in the gradient; others are refused.

        Returns:
            `maps[image 1+reference height width]`, the target first.

        Raises:
            InputError: The rule is not linear in the gradient.
        """
        if self.rule.name not in LINEAR:
            raise InputError(
                f"{self.rule.name} is not linear in the gradient; use one of {', '.join(LINEAR)}, "
                "or explanation(gamma, references)"
            )
        weights = self.rule.weights(self.gradients, self.feature[:, None])
        return project(weights, self.feature)

    def contrast_maps(self) -> tuple[ContrastMaps, ...]:
        """Return the linear maps of every image, without gradients and features: small enough to keep.

        Returns:
            One `ContrastMaps` for each image.

        Raises:
            InputError: The rule is not linear in the gradient.
        """
        maps = self.linear_maps()
        return tuple(
            ContrastMaps(
                maps[i].clone(),
                self.names[i],
                tuple(self.classes[i].tolist()),
                tuple(self.scores[i].tolist()),
                tuple(self.reference_weights[i].tolist()),
                float(self.gammas[i]),
            )
            for i in range(len(maps))
        )

    def _coefficients(self, gammas: Tensor, references: Sequence[int | str] | None) -> Tensor:
        """Return the factor of every class's gradient: 1 for the target, `-gamma pi_t` for each reference."""
        weights = self.reference_weights
        if references is not None:
            kept = torch.zeros_like(weights)
            for image in range(len(weights)):
                kept[image, [self._reference_index(image, name) for name in references]] = 1.0
            weights = torch.where((weights * kept).sum(1, keepdim=True) > 0, weights * kept, kept)
            weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return torch.cat([torch.ones_like(weights[:, :1]), -gammas.to(weights)[:, None] * weights], dim=1)

    def _reference_index(self, image: int, name: int | str) -> int:
        names = self.names[image][1:]
        if isinstance(name, int) and 0 <= name < len(names):
            return name
        if name not in names:
            raise InputError(f"no reference '{name}' in this sweep; {near(str(name), names, 'it has')}")
        return names.index(str(name))

    def _label(self, image: int, gamma: float, references: Sequence[int | str] | None) -> str:
        own, *others = self.names[image]
        if references is not None:
            others = [others[i] for i in sorted({self._reference_index(image, r) for r in references})]
        return contrast_label(own, others if gamma else [])


def sweep(
    observation: Observation, contrast: Contrast | None = None, rule: str | Rule = "grad_cam", layer: str | None = None
) -> ContrastSweep:
    """Return the gradients of a contrast's classes, from which every gamma and choice of references follows.

    `1 + T` vector-Jacobian products for `T` references, or none where the closed form holds.

    Args:
        observation: One forward pass of a batch.
        contrast: Target, references and gamma; by default the predicted class and its three nearest.
        rule: A rule that reads gradients.
        layer: An observed layer; by default the last one.

    Returns:
        A `ContrastSweep`; its `explanation(gamma, references)` equals `cam` with that `Contrast`.

    Raises:
        InputError: The rule runs the model again, or the objective is the official code's, which is not a fixed
            mixture of class gradients.
        InputTypeError: `observation` is no `Observation`, or `contrast` no `Contrast`.

    Examples:
        >>> swept = cl.sweep(observation, cl.Contrast("tiger cat"))
        >>> [swept.explanation(gamma).scores for gamma in (0.0, 0.3, 0.6)]
    """
    check_observation(observation)
    if contrast is not None and not isinstance(contrast, Contrast):
        raise InputTypeError(f"a {type(contrast).__name__} was given as the contrast; expected cl.Contrast(target)")
    contrast = contrast or Contrast()
    chosen, name = find_rule(rule), layer or observation.layer
    if chosen.reads != "gradient":
        raise InputError(
            f"{chosen.name} runs the model again for every contrast; use cl.cam(observation, cl.Contrast(...))"
        )
    if contrast.objective == "official":
        raise InputError("the official code's objective is not a mixture of class gradients; use objective='paper'")
    index, others, weights = choose_references(observation, contrast)
    classes = torch.cat([index[:, None], others], dim=1)
    kind = Probability if contrast.of == "probabilities" else Logit
    questions = [kind(column).bind(observation) for column in classes.T]
    scores, pulled = gradients(observation, questions, name)
    names = tuple(tuple(observation.model.class_name(int(c)) for c in row) for row in classes)
    origin = source(observation, name, chosen.name, {"targets": [repr(contrast)]})
    feature = observation.feature(name)
    return ContrastSweep(
        pulled, feature, scores, classes, names, weights, gammas_of(contrast, len(index)), chosen, origin
    )


def _one_or_all(gammas: Float[Tensor, "image"]) -> float | list[float]:
    """Return the gamma of all images as one number, or that of each."""
    values = gammas.tolist()
    return values[0] if len(set(values)) == 1 else values
