"""Which contrast a photo bears: gamma and reference chosen for each photo by what the model says without the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.cams.asked_classes import Classes, class_indices
from conceptlens.cams.class_activation import cam
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.contrast_references import choose_references
from conceptlens.cams.image_scoring import scored_images
from conceptlens.cams.targets import Logit
from conceptlens.io.errors import InputError
from conceptlens.metrics.relative_drops import relative_drop_curves
from conceptlens.model.observation import Observation, check_observation

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from conceptlens.cams.contrast_references import By
    from conceptlens.cams.rules import Rule
    from conceptlens.record import Explanation

# The contrasts that are tried: how the one reference is chosen, and gamma. Those by weight need a linear classifier.
TRIED: tuple[tuple[By, float], ...] = (("rank", 0.3), ("rank", 0.6), ("rank", 1.0), ("weight", 0.6), ("weight", 1.0))
# The share of pixels that a trial removes, what stands in their place, and by how much a contrast must do better than
# the class alone: tuned on train photos of CUB-50 and on half of nips2017, see docs/finer-cam.md.
SHARE, FILL, MARGIN = 0.05, "blur", 0.02
ALONE = "the class alone"
NONE_CHOSEN = f"no contrast has a relative drop more than {MARGIN:g} larger on cells as active"


@dataclass(frozen=True, eq=False)
class ContrastCandidate:
    """A contrast that is tried: one reference class for each image, and gamma.

    `words` say what it is, `by` how the references were chosen; `None` for references of your own.
    """

    words: str
    references: Int[Tensor, "image"]
    gamma: float
    by: By | None = None


@dataclass(frozen=True)
class TriedContrast:
    """What one image's trial of a contrast gave.

    Attributes:
        words: What was tried.
        gamma: Its gamma; 0 for the class alone.
        by: How its reference was chosen; `None` for the class alone and for references of your own.
        reference: The index of its reference class; `None` for the class alone.
        relative_drop: The relative drop of its map (RD@5, a blurred fill).
        on_activation: The layer's mean activation under its map, over its mean in the image.
        taken: Whether it is what was chosen.
        why_not: Why it was not taken, in words; empty where it was.
    """

    words: str
    gamma: float
    by: By | None
    reference: int | None
    relative_drop: float
    on_activation: float
    taken: bool
    why_not: str


@dataclass(frozen=True)
class DropsOfChoice:
    """Relative drops (RD@5, a blurred fill) of the chosen map and of the class alone; `words` say what was chosen.

    `tried` says of everything that was tried why it was taken or was not, first of the class alone.
    """

    relative_drop: float
    alone: float
    words: str
    tried: tuple[TriedContrast, ...] = ()


@dataclass(frozen=True, eq=False)
class ContrastChoice:
    """The contrast chosen for each photo, and what was tried.

    Args:
        contrast: What `cl.cam` takes: one reference and one gamma for each image. Gamma 0, the class alone, where no
            contrast did better.
        gammas: Its gammas.
        references: Its references, class indices.
        tried: What was tried, in words: first the class alone.
        relative_drops: What the relative drop of each map was, `RD@5` with a blurred fill; the class alone first.
        on_activation: How active the layer is where each map lies, over its mean; the class alone first.
        picked: Which of them was chosen.
        candidates: The contrasts that were tried, the class alone left out.
    """

    contrast: Contrast
    gammas: Float[Tensor, "image"]
    references: Int[Tensor, "image"]
    tried: tuple[str, ...]
    relative_drops: Float[Tensor, "image candidate"]
    on_activation: Float[Tensor, "image candidate"]
    picked: Int[Tensor, "image"]
    candidates: tuple[ContrastCandidate, ...] = ()

    def drops_of(self, image: int) -> DropsOfChoice:
        """Return the relative drops that one image's choice rests on.

        Args:
            image: Its index.
        """
        drops, best = self.relative_drops[image], int(self.picked[image])
        tried = tuple(self._tried_in(image, place) for place in range(len(self.tried)))
        return DropsOfChoice(float(drops[best]), float(drops[0]), self.tried[best], tried)

    def _tried_in(self, image: int, place: int) -> TriedContrast:
        candidate = self.candidates[place - 1] if place else None
        return TriedContrast(
            words=self.tried[place],
            gamma=0.0 if candidate is None else candidate.gamma,
            by=None if candidate is None else candidate.by,
            reference=None if candidate is None else int(candidate.references[image]),
            relative_drop=float(self.relative_drops[image, place]),
            on_activation=float(self.on_activation[image, place]),
            taken=place == int(self.picked[image]),
            why_not=self._why_not(image, place),
        )

    def _why_not(self, image: int, place: int) -> str:
        drops, active = self.relative_drops[image], self.on_activation[image]
        if place == int(self.picked[image]):
            return ""
        if place == 0:
            return f"a contrast on cells as active has a relative drop more than {MARGIN:g} larger"
        if active[place] < active[0]:
            return "its map lies on less active cells than that of the class alone"
        if drops[place] <= drops[0] + MARGIN:
            return f"its relative drop is not more than {MARGIN:g} larger than that of the class alone"
        return "another contrast has a relative drop as large or larger"


def choose_contrast(
    observation: Observation,
    target: Classes = None,
    rule: str | Rule | None = None,
    layer: str | None = None,
) -> ContrastChoice:
    """Choose gamma and reference of Finer-CAM for each photo, from the photo and the model alone.

    Five contrasts are tried: with the most probable other class (gamma 0.3, 0.6, 1) and with the class whose row of the
    classifier is most alike (0.6, 1). One is taken where, with its highest 5 % of the pixels blurred, the class loses
    more against the most probable other class than with those of the class's own map, by more than `MARGIN`; and where
    its map lies on cells that are as active as those of the class's own map, so that it does not slip off the object.
    Else the class's own map is kept: gamma 0.

    Args:
        observation: One forward pass of a batch.
        target: The class, as in `cl.Logit`; by default that which each image is predicted as.
        rule: The rule that makes the maps; by default "grad_cam".
        layer: An observed layer; by default the last one.

    Returns:
        The contrast for `cl.cam(observation, choice.contrast, rule, layer)`, and what was tried. It takes six forward
        passes, and one of the whole image.

    Raises:
        InputError: A class is unknown, the model gives no probabilities of at least two classes, or the rule or layer
            is unknown.
        InputTypeError: `observation` is no `Observation`.

    Examples:
        >>> chosen = cl.choose_contrast(observation)
        >>> cl.cam(observation, chosen.contrast).labels
    """
    check_observation(observation)
    if observation.logits.shape[1] < 2 and observation.answer.task != "regression":
        raise InputError(f"{observation.model.name} has one class; a contrast needs at least two")
    index = class_indices(observation, target)
    candidates = [
        ContrastCandidate(f"gamma {gamma:g} by {by}", _nearest(observation, index, by), gamma, by)
        for by, gamma in TRIED
        if by != "weight" or observation.class_rows is not None
    ]
    return choose_among(observation, index, candidates, rule, layer)


def choose_among(
    observation: Observation,
    index: Int[Tensor, "image"],
    candidates: Sequence[ContrastCandidate],
    rule: str | Rule | None = None,
    layer: str | None = None,
) -> ContrastChoice:
    """Choose among contrasts of your own as `choose_contrast` does, such as those with random classes as a control.

    Args:
        observation: One forward pass of a batch.
        index: The class of each image.
        candidates: The contrasts.
        rule: The rule that makes the maps.
        layer: An observed layer.
    """
    against = [Contrast(index, one.references[:, None], gamma=one.gamma) for one in candidates]
    questions = [Logit(index), *against]
    explained = cam(observation, questions, rule, layer)
    drops = relative_drop_curves(explained, scored_images(observation, questions), (SHARE,), FILL).scores[..., 0]
    active = _activation_under(explained, observation.feature(layer or observation.layer))
    best = _best(drops, active)
    gammas = torch.tensor([0.0, *(one.gamma for one in candidates)], dtype=torch.float64)[best]
    several = torch.stack([candidates[0].references, *(one.references for one in candidates)], 1).cpu()
    references = several.gather(1, best[:, None])[:, 0]
    contrast = Contrast(index, references[:, None], gamma=gammas)
    tried = (ALONE, *(one.words for one in candidates))
    return ContrastChoice(contrast, gammas, references, tried, drops, active, best, tuple(candidates))


def _nearest(observation: Observation, index: Tensor, by: By) -> Int[Tensor, "image"]:
    return choose_references(observation, Contrast(index, nearest=1, by=by))[1][:, 0]


def _activation_under(
    explained: Explanation, feature: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "image candidate"]:
    """Return the mean activation of the layer, weighted by each map, over its mean in the image; 0 without a map."""
    activation = feature.detach().double().abs().sum(1)[:, None]
    maps = explained.maps.double()
    under = (maps * activation).sum((2, 3)) / maps.sum((2, 3)).clamp_min(torch.finfo(torch.float64).tiny)
    return (under / activation.mean((2, 3)).clamp_min(torch.finfo(torch.float64).tiny)).cpu()


def _best(drops: Float[Tensor, "image candidate"], active: Float[Tensor, "image candidate"]) -> Int[Tensor, "image"]:
    """Return the contrast with the largest drop among those that lie on active cells; 0 where none is worth it."""
    allowed = active >= active[:, :1]
    allowed[:, 0] = True
    worth = torch.where(allowed, drops, -torch.inf)
    worth[:, 0] += MARGIN
    return worth.argmax(1)
