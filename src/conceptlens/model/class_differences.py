"""What photos of one class usually show and photos of another do not, by class knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptlens.concepts.class_knowledge import RATES, UNNAMED_RATE, is_broader
from conceptlens.concepts.vocabulary import ConceptName, base_rate
from conceptlens.model.class_names import class_index

if TYPE_CHECKING:
    from conceptlens.model.class_concepts import ClassConcepts

# The rates of a concept of the one class and of the other: often against hardly ever.
MIN_DIFFERENCE = RATES["often"] - UNNAMED_RATE
# Rates of the table are float32.
ROUNDING = 1e-6


def class_differences(
    known: ClassConcepts, target: str | int, against: str | int, count: int = 6
) -> tuple[tuple[ConceptName, ...], tuple[ConceptName, ...]]:
    """Return what photos of a class usually show and those of another do not, and the other way round.

    A concept is listed where its rates differ by at least `MIN_DIFFERENCE`, that of *often* and *hardly ever*: those
    that differ most first, of equal ones the rarer in everyday photos. Of a chain the most specific is listed
    (*striped fur*, not also *fur*), and a class's own name never.

    Args:
        known: What photos of each class show, such as `model.class_concepts`. It says nothing of the model itself.
        target: A class by index or name.
        against: Another class.
        count: How many concepts to return for each class at most.

    Returns:
        The concepts of `target` and those of `against`; none where one of them is not linked.

    Raises:
        InputError: No class or several have that name.
        InputTypeError: A class is neither a name nor an integer.
    """
    names = tuple(link.class_name for link in known.links)
    one, other = (class_index(name, names, "the class knowledge") for name in (target, against))
    if "none" in (known.links[one].way, known.links[other].way):
        return (), ()
    return _shown_by_one(known, one, other)[:count], _shown_by_one(known, other, one)[:count]


def _shown_by_one(known: ClassConcepts, one: int, other: int) -> tuple[ConceptName, ...]:
    here, there = known.rates[one].tolist(), known.rates[other].tolist()
    own = _own_names(known, one)
    found: dict[ConceptName, float] = {}
    for concept, rate, less in zip(known.concepts, here, there, strict=True):
        if rate - less >= MIN_DIFFERENCE - ROUNDING and concept.label.casefold() not in own:
            found[concept] = round(rate - less, 3)
    shown_there = [
        concept for concept, rate in zip(known.concepts, there, strict=True) if rate >= RATES["often"] - ROUNDING
    ]
    kept = [c for c in found if not any(is_broader(c, n, known.broader) for n in (*found, *shown_there))]
    return tuple(sorted(kept, key=lambda concept: (-found[concept], base_rate(concept) or 0.0)))


def _own_names(known: ClassConcepts, number: int) -> frozenset[str]:
    """Return all names of a class, those of its entry in the table included, in lower case."""
    link = known.links[number]
    texts: Sequence[str] = (link.class_name, link.known_as) if link.way == "name" else (link.class_name,)
    return frozenset(part.strip().casefold() for text in texts for part in (text, *text.split(",")))
