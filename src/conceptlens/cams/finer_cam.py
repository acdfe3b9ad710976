"""Finer-CAM at every strength: one gradient per class, kept, answers every gamma and every choice of references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlens.cams.class_activation import find_rule, gradients, project, source
from conceptlens.cams.contrast import Contrast, choose_references, contrast_label
from conceptlens.cams.rules import Rule
from conceptlens.cams.targets import Logit, Probability
from conceptlens.io.errors import InputError, near
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation, Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Rules whose weights are linear in the gradient: their maps mix as their gradients do.
LINEAR = ("grad_cam", "xgrad_cam", "hires_cam")


@dataclass(frozen=True, eq=False)
class Mixture:
    """The raw signed maps of one image's target and references: every contrast of them is a mixture, then a ReLU.

    `maps[1+reference height width]`, `names`, `classes` and `scores` start with the target; `shares` sum to 1.
    """

    maps: Float[Tensor, "class height width"]
    names: tuple[str, ...]
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    shares: tuple[float, ...]
    gamma: float


@dataclass(frozen=True, eq=False)
class Sweep:
    """Gradients of a target and of its references at one layer, detached: any contrast of them without the model.

    - `gradients[image 1+reference channel height width]`: the target's, then each reference's.
    - `scores[image 1+reference]`, `classes[image 1+reference]`, `names[image][1+reference]`.
    - `shares[image reference]`: how references are weighted; they sum to 1.
    """

    gradients: Float[Tensor, "image class channel height width"]
    feature: Float[Tensor, "image channel height width"]
    scores: Float[Tensor, "image class"]
    classes: Int[Tensor, "image class"]
    names: tuple[tuple[str, ...], ...]
    shares: Float[Tensor, "image reference"]
    gamma: float
    rule: Rule
    source: Source

    def at(self, gamma: float | None = None, references: Sequence[int | str] | None = None) -> Explanation:
        """Return the map of `alpha_c - gamma sum_t pi_t alpha_{d_t}` (Finer-CAM, equations 5 to 8).

        `references` are places (0 is the first reference) or class names; their shares are scaled to sum to 1 again.
        `gamma=0` is the base method.
        """
        strength = self.gamma if gamma is None else Contrast(gamma=gamma).gamma
        mixture = self._mixture(strength, references)
        gradient = torch.einsum("nt,ntchw->nchw", mixture, self.gradients)[:, None]
        weights = self.rule.weights(gradient, self.feature[:, None])
        return Explanation(
            maps=project(weights, self.feature).relu(),
            weights=weights,
            scores=(mixture * self.scores).sum(1, keepdim=True),
            labels=tuple((self._label(i, strength, references),) for i in range(len(self.names))),
            target_kinds=("contrast" if strength else "class",),
            source=replace(self.source, settings={**self.source.settings, "gamma": strength}),
        )

    @property
    def baseline(self) -> Explanation:
        """The base method's map: no references."""
        return self.at(0.0)

    def linear_maps(self) -> Float[Tensor, "image class height width"]:
        """Return the raw signed maps of target and references; a contrast is a mixture of them, then a ReLU.

        Only for rules that are linear in the gradient; others are refused.
        """
        if self.rule.name not in LINEAR:
            raise InputError(f"{self.rule.name} is not linear in the gradient; use one of {', '.join(LINEAR)}, or at()")
        weights = self.rule.weights(self.gradients, self.feature[:, None])
        return project(weights, self.feature)

    def of(self, image: int) -> Sweep:
        """Return the sweep of one image of the batch, as a batch of one."""
        one = slice(image, image + 1)
        tensors = {
            name: getattr(self, name)[one] for name in ("gradients", "feature", "scores", "classes", "names", "shares")
        }
        return replace(self, **tensors, source=replace(self.source, image_info=self.source.image_info[one]))

    def mixtures(self) -> tuple[Mixture, ...]:
        """Return the linear maps of every image, without gradients and features: small enough to keep."""
        maps = self.linear_maps()
        return tuple(
            Mixture(
                maps[i].clone(),
                self.names[i],
                tuple(self.classes[i].tolist()),
                tuple(self.scores[i].tolist()),
                tuple(self.shares[i].tolist()),
                self.gamma,
            )
            for i in range(len(maps))
        )

    def _mixture(self, gamma: float, references: Sequence[int | str] | None) -> Tensor:
        shares = self.shares
        if references is not None:
            kept = torch.zeros_like(shares)
            for image in range(len(shares)):
                kept[image, [self._place(image, name) for name in references]] = 1.0
            shares = torch.where((shares * kept).sum(1, keepdim=True) > 0, shares * kept, kept)
            shares = shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        return torch.cat([torch.ones_like(shares[:, :1]), -gamma * shares], dim=1)

    def _place(self, image: int, name: int | str) -> int:
        names = self.names[image][1:]
        if isinstance(name, int) and 0 <= name < len(names):
            return name
        if name not in names:
            raise InputError(f"no reference '{name}' in this sweep; it has: {near(str(name), names, most=len(names))}")
        return names.index(str(name))

    def _label(self, image: int, gamma: float, references: Sequence[int | str] | None) -> str:
        own, *others = self.names[image]
        places = range(len(others)) if references is None else sorted({self._place(image, r) for r in references})
        return contrast_label(own, [others[place] for place in places] if gamma else [])


def sweep(
    observation: Observation, contrast: Contrast | None = None, rule: str | Rule = "grad_cam", layer: str | None = None
) -> Sweep:
    """Return the kept gradients of a contrast: `1 + T` vector-Jacobian products, or none in closed form.

    Works for every rule that reads gradients, and for contrasts of logits or probabilities. Refused for the official
    code's objective, which is not a fixed mixture of class gradients, and for rules that ask the model again.
    """
    asked = contrast or Contrast()
    chosen, name = find_rule(rule), layer or observation.layer
    if chosen.reads != "gradient":
        raise InputError(
            f"{chosen.name} asks the model again for every contrast; use cl.cam(observation, cl.Contrast(...))"
        )
    if asked.objective == "official":
        raise InputError("the official code's objective is not a mixture of class gradients; use objective='paper'")
    index, others, shares = choose_references(observation, asked)
    classes = torch.cat([index[:, None], others], dim=1)
    kind = Probability if asked.of == "probabilities" else Logit
    questions = [kind(column).bind(observation) for column in classes.T]
    scores, pulled = gradients(observation, questions, name)
    names = tuple(tuple(observation.model.class_name(int(c)) for c in row) for row in classes)
    origin = source(observation, name, chosen.name, {"targets": [repr(asked)]})
    return Sweep(pulled, observation.feature(name), scores, classes, names, shares, asked.gamma, chosen, origin)
