"""Sentences about the classes asked about and the model's answer, the same for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptlens.cams.contrast_choice import NONE_CHOSEN
from conceptlens.io.rounded_number import percent, rounded

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.model.predictions import Prediction


def other_answer(result: PhotoResult) -> str:
    """Say what the model's answer is where it is neither the target nor a class compared with.

    Args:
        result: One explained photo.

    Returns:
        Such as "The model's answer is giant panda (94%), neither of the two"; empty where there is nothing to say.
    """
    if result.answered is not False or result.predicted is None or result.target is None:
        return ""
    likely = [one for one in result.predictions if one.probability is not None and one.probability >= 0.5]
    if result.answer is not None and not result.answer.rivals and likely:
        answer = f"The model's labels are {', '.join(map(with_share, likely))}"
    else:
        answer = f"The model's answer is {with_share(result.predicted)}"
    return f"{answer}, {_none_of(1 + len(result.compared)) or f'not {result.target.short_name}'}"


def answered_otherwise(results: Sequence[PhotoResult]) -> str:
    """Count the photos whose answer is neither the target nor a class compared with.

    Args:
        results: The photos of one run.

    Returns:
        Such as "2 of 5 photos are answered with neither of the two"; empty where there are none.
    """
    other = [result for result in results if result.answered is False]
    return otherwise_words(other[0], len(other), len(results)) if other else ""


def otherwise_words(first: PhotoResult, other: int, photos: int) -> str:
    """Say how many photos are answered with neither the target nor a class compared with.

    Args:
        first: The first of them.
        other: How many they are.
        photos: How many photos there are in all.

    Returns:
        Such as "2 of 5 photos are answered with neither of the two"; empty for a model without classes.
    """
    if first.target is None:
        return ""
    classes = _none_of(1 + len(first.compared)) or f"another class than {first.target.short_name}"
    of = f"{other} of {photos} photo{'s' * (photos != 1)}"
    return f"{of} {'is' if other == 1 else 'are'} answered with {classes}"


def choice_words(result: PhotoResult) -> str:
    """Say what the contrast of a photo was chosen by, or why there is none.

    Args:
        result: One explained photo.

    Returns:
        Such as "The contrast with tabby was chosen for this photo: gamma 0.6 by rank, with a relative drop of 0.06;
        the class alone has 0.03"; empty where nothing was chosen by photo.
    """
    if result.choice is None:
        return ""
    if result.none_chosen:
        alone = rounded(result.choice.alone, 2)
        return f"{NONE_CHOSEN[:1].upper()}{NONE_CHOSEN[1:]}; the map of the class alone has {alone}"
    drop, alone = result.choice.relative_drop, result.choice.alone
    against = result.references[0].prediction.short_name
    chosen = f"The contrast with {against} was chosen for this photo: {result.choice.words}"
    return f"{chosen}, with a relative drop of {rounded(drop, 2)}; the class alone has {rounded(alone, 2)}"


def differences(result: PhotoResult) -> str:
    """Say what photos of the target and of the class compared with usually show; it is not said of the model.

    Args:
        result: One explained photo.

    Returns:
        Such as "Photos of espresso, not of cup, usually show: coffee; the other way round: tea"; empty where no two
        classes are compared or nothing is known of one of them.
    """
    if result.target is None or result.against is None or result.differs_by is None:
        return ""
    names = (result.target.short_name, result.against.short_name)
    if not any(result.differs_by):
        return f"Photos of {names[0]} and of {names[1]}: nothing is known to tell them apart"
    (one, shown), (other, reverse) = sorted(zip(names, result.differs_by, strict=True), key=lambda side: not side[1])
    words = ", ".join(concept.label for concept in shown)
    back = ", ".join(concept.label for concept in reverse) or "nothing known"
    return f"Photos of {one}, not of {other}, usually show: {words}; the other way round: {back}"


def with_share(one: Prediction) -> str:
    """Return a class with its probability, `giant panda (94%)`, or with its score where it has none.

    Args:
        one: A predicted class.
    """
    return f"{one.short_name} ({f'{one.logit:.4g}' if one.probability is None else percent(one.probability)})"


def _none_of(classes: int) -> str:
    """Return the words for none of several classes; empty for a single one."""
    return "" if classes == 1 else "neither of the two" if classes == 2 else f"none of the {classes} compared"
