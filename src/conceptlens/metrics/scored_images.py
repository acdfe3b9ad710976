"""Images as a network takes them, and what scores variants of them: all that a metric of a map and a model needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.metrics.given_maps import classes_in, held, tensor_of
from conceptlens.metrics.training_mode import check_eval, only_in_eval_mode
from conceptlens.record import ImageInfo

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    Scorer = Callable[
        [Float[Tensor, "variant colour rows columns"], Int[Tensor, "variant"]], Float[Tensor, "variant number"]
    ]

# What rounding may add to a probability, and to the sum of those of all classes in half precision.
ROUNDING, ROUNDING_OF_SUM = 1e-3, 1e-2


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Images, and a function that scores variants of them: any network, measured without knowing what it is.

    `conceptlens.cams.image_scoring.scored_images` makes one from an observation, `score_module` from any module. Where
    cells of a layer stand in the place of `images`, channels in that of colours, concepts' channels can be removed.

    Args:
        images: The images as the network takes them, floating and finite.
        score: From variants of the images and, for each, the index of the image that it was made from, to the score of
            each question: a probability for most metrics. The questions are those of the maps, in their order.
        black: What black is in the network's input, one value for each colour; `None` where it is not known.
        probabilities: As `score`, to the probability of every class; `None` where there are none.
        classes: The class that each question is about; `None` where they are not about classes.
        image_info: Which photos these are and which part of them the network sees; explanations of others are refused.

    Raises:
        InputTypeError: The images are no floating tensor, or a function cannot be called.
        InputError: A shape does not fit, or a value is not finite.

    Examples:
        >>> scored = ScoredImages(batch, lambda images, rows: net(images).softmax(1)[:, [3, 7]])
        >>> deletion(maps, scored).mean()
    """

    images: Float[Tensor, "image colour rows columns"]
    score: Scorer
    black: Float[Tensor, "colour"] | None = None
    probabilities: Scorer | None = None
    classes: Int[Tensor, "image question"] | None = None
    image_info: tuple[ImageInfo, ...] = ()

    def __post_init__(self) -> None:
        """Check types, shapes and values."""
        images = check_images(self.images)
        object.__setattr__(self, "images", images.detach())
        for name in ("score", "probabilities"):
            given = getattr(self, name)
            if not callable(given) and not (given is None and name == "probabilities"):
                raise InputTypeError(f"{name} is a {type(given).__name__}; expected a function of variants and rows")
        if self.black is not None:
            black = tensor_of(self.black, "black")
            if tuple(black.shape) != (images.shape[1],) or not bool(torch.isfinite(black).all()):
                raise InputError(f"black has shape {tuple(black.shape)}; expected one value for each colour, finite")
            object.__setattr__(self, "black", black)
        if self.classes is not None:
            classes = classes_in(self.classes, "classes")
            if classes.ndim != 2 or len(classes) != len(images):
                raise InputError(f"classes have shape {tuple(classes.shape)}; expected image question")
            object.__setattr__(self, "classes", classes)
        if self.image_info and len(self.image_info) != len(images):
            raise InputError(f"image_info names {len(self.image_info)} images; there are {len(images)}")

    def run(
        self, variants: Float[Tensor, "variant colour rows columns"], rows: Int[Tensor, "variant"]
    ) -> Float[Tensor, "variant question"]:
        """Return the scores of variants, checked, without a graph.

        Args:
            variants: Variants of the images.
            rows: The index of the image that each was made from.

        Returns:
            Scores in float32 or better.

        Raises:
            InputError: They are no floating tensor `variant question`, or not finite, or a network in training mode
                made them.
        """
        return _checked(self.score, variants, rows, "question")

    def run_classes(
        self, variants: Float[Tensor, "variant colour rows columns"], rows: Int[Tensor, "variant"]
    ) -> Float[Tensor, "variant class"]:
        """Return the probability of every class, checked, without a graph.

        Args:
            variants: Variants of the images.
            rows: The index of the image that each was made from.

        Returns:
            Probabilities, in float32 or better.

        Raises:
            InputError: There are none, they lie outside 0..1 as logits do, or there is one class alone.
        """
        if self.probabilities is None:
            raise InputError("the probabilities of all classes are not known; give ScoredImages(..., probabilities=)")
        found = check_probabilities(_checked(self.probabilities, variants, rows, "class"))
        if found.shape[1] < 2:
            raise InputError("there is one class alone; a class and its most similar other one need at least two")
        return found


def check_images(images: object) -> Float[Tensor, "image colour rows columns"]:
    """Return images as a network takes them, and refuse others.

    Args:
        images: What was given.

    Raises:
        InputTypeError: It is no floating tensor.
        InputError: It has other axes, holds nothing or no values, or a value is not finite.
    """
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise InputTypeError(f"images are {given}; expected a floating tensor, image colour rows columns")
    if images.ndim != 4 or not images.numel():
        raise InputError(f"images have shape {tuple(images.shape)}; expected image colour rows columns")
    if not bool(torch.isfinite(held(images, "images")).all()):
        raise InputError("images hold NaN or infinite values; expected finite image colour rows columns")
    return images


def check_scored(scored: object) -> None:
    """Refuse what says nothing of how a network scores variants.

    Args:
        scored: What was given.

    Raises:
        InputTypeError: It is no `ScoredImages`.
    """
    if not isinstance(scored, ScoredImages):
        raise InputTypeError(
            f"a {type(scored).__name__} was given as the scored images; expected cl.scored_images(observation), or "
            "cl.metrics.score_module(net, batch, classes)"
        )


def check_probabilities(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return scores that are probabilities, and refuse others.

    Args:
        scores: What a network gave.

    Raises:
        InputError: A score lies outside 0..1.
    """
    low, high = float(scores.min()), float(scores.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"scores from {low:.3g} to {high:.3g} are no probabilities, which this metric takes; give those after the "
            "softmax: targets cl.Probability(...), or net(images).softmax(1)"
        )
    return scores


def score_module(
    module: nn.Module,
    images: Float[Tensor, "image colour rows columns"],
    classes: Int[Tensor, "image question"],
    black: Float[Tensor, "colour"] | None = None,
) -> ScoredImages:
    """Return how a module that gives one logit for each class scores images: the softmax of each question's class.

    Args:
        module: The module, in eval mode, on the device of the images; it returns logits `image class`.
        images: Its inputs.
        classes: The class that each question of each image is about.
        black: What black is in its input.

    Raises:
        InputTypeError: It is no module.
        InputError: The module is in training mode, where the same image gets other scores in another batch, gives
            something else than logits of two classes or more, such as probabilities, has no such class, or as in
            `ScoredImages`.

    Examples:
        >>> scored = score_module(net.eval(), batch, net(batch).argmax(1)[:, None])
        >>> deletion(maps, scored).mean()
    """
    if not isinstance(module, nn.Module):
        given = type(module).__name__
        raise InputTypeError(f"the module is a {given}; expected an nn.Module, or use ScoredImages(...)")
    check_eval(module)
    asked = classes_in(classes, "classes").to(check_images(images).device)

    def probabilities(variants: Tensor, rows: Tensor) -> Tensor:
        check_eval(module)
        logits = _run(module, variants)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise InputError(f"the module gives {given}; expected logits of two classes or more, image class")
        wrong = asked[(asked < 0) | (asked >= logits.shape[1])]
        if len(wrong):
            raise InputError(f"a class is {int(wrong[0])}; the module gives logits of {logits.shape[1]} classes")
        _check_logits(held(logits, "the logits of the module"))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)

    def score(variants: Tensor, rows: Tensor) -> Tensor:
        return probabilities(variants, rows).gather(1, asked[rows])

    return ScoredImages(images, score, black, probabilities, asked)


def _check_logits(logits: Float[Tensor, "variant class"]) -> None:
    """Refuse what a softmax gave, of which another softmax would give a number too."""
    within = bool(((logits >= 0) & (logits <= 1 + ROUNDING)).all())
    if within and bool(((logits.double().sum(1) - 1).abs() <= ROUNDING_OF_SUM).all()):
        raise InputError(
            "the module gives probabilities already, 0 to 1 and 1 in each row's sum, and score_module takes the "
            "softmax of logits; give ScoredImages(images, lambda images, rows: net(images).gather(1, classes[rows]), "
            "probabilities=lambda images, rows: net(images), classes=classes)"
        )


def _run(module: nn.Module, variants: Tensor) -> object:
    """Run a module; where it fails and has weights of another kind than the images, say that."""
    try:
        return module(variants)
    except RuntimeError as error:
        kinds = {(one.dtype, one.device) for one in module.parameters() if one.is_floating_point()}
        if not kinds or (variants.dtype, variants.device) in kinds:
            raise
        dtype, device = next(iter(kinds))
        raise InputError(
            f"the module has weights of type {dtype} on {device}, and the images are {variants.dtype} on "
            f"{variants.device}; give images.to({str(device)!r}, {dtype})"
        ) from error


def _checked(function: Scorer, variants: Tensor, rows: Tensor, axis: str) -> Tensor:
    with torch.no_grad(), only_in_eval_mode():
        found = function(variants, rows)
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        given = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputTypeError(f"scores are {given}; expected a floating tensor, variant {axis}")
    if found.ndim != 2 or len(found) != len(variants):
        raise InputError(
            f"scores have shape {tuple(found.shape)} for {len(variants)} variants; expected variant {axis}"
        )
    if not bool(torch.isfinite(held(found, "scores")).all()):
        raise InputError("the network gave NaN or infinite scores, of which nothing can be measured")
    return found.detach().to(torch.promote_types(found.dtype, torch.float32))
