"""Class names in the short form that pages, figures and messages show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def short_name(name: str) -> str:
    """Return the first synonym of a class name, for pages; records and tooltips keep the full name.

    ImageNet names a class by all words of its WordNet synset, separated by commas.

    Args:
        name: A class name, such as "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca".

    Returns:
        The text before the first comma ("giant panda"); the whole name where there is none.

    Examples:
        >>> short_name("giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca")
        'giant panda'
    """
    return next((part.strip() for part in name.split(",") if part.strip()), name)


def short_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a short name for every class, so that two classes share one only where their full names are equal.

    ImageNet has "maillot" and "maillot, tank suit": the first synonym that no other class begins with is taken, and
    the full name where there is none.

    Args:
        class_names: The names of all classes, in the order of the logits.

    Returns:
        One short name per class, in the same order.
    """
    taken = Counter(short_name(name).lower() for name in class_names)

    def own(name: str) -> str:
        if taken[short_name(name).lower()] == 1:
            return short_name(name)
        others = [part.strip() for part in name.split(",")[1:]]
        return next((part for part in others if part and part.lower() not in taken), name)

    return tuple(own(name) for name in class_names)
