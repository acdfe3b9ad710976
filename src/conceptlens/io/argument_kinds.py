"""Numbers, sizes, names and functions as arguments: refused in a sentence where they are of another kind."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from conceptlens.io.errors import InputError, InputTypeError


def said(given: object) -> str:
    """Return what was given, for a sentence: a number, a text or `None` as it is, anything else by its type.

    Args:
        given: What was given.
    """
    plain = given is None or isinstance(given, (numbers.Number, str))
    return repr(given) if plain else f"of type {type(given).__name__}"


def check_integer(given: object, name: str, least: int = 1) -> int:
    """Return an integer.

    Args:
        given: What was given.
        name: What it is called.
        least: The lowest that is taken.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is below `least`.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise InputTypeError(f"{name} is {said(given)}; expected an integer, at least {least}")
    if given < least:
        raise InputError(f"{name} is {given}; expected an integer, at least {least}")
    return int(given)


def check_number(given: object, name: str, expected: str, taken: Callable[[float], bool] = math.isfinite) -> float:
    """Return a number.

    Args:
        given: What was given.
        name: What it is called.
        expected: Which numbers are taken, in words.
        taken: Whether a number is; NaN should not be. By default all that are finite.

    Raises:
        InputTypeError: It is no number.
        InputError: It is not taken.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise InputTypeError(f"{name} is {said(given)}; expected {expected}")
    if not taken(float(given)):
        raise InputError(f"{name} is {given}; expected {expected}")
    return float(given)


def check_flag(given: object, name: str) -> bool:
    """Return `True` or `False`, and refuse what only counts as one of them.

    Args:
        given: What was given.
        name: What it is called.

    Raises:
        InputTypeError: It is neither.
    """
    if not isinstance(given, bool):
        raise InputTypeError(f"{name} is {said(given)}; expected True or False")
    return given


def check_size(given: object, name: str) -> tuple[int, int]:
    """Return rows and columns.

    Args:
        given: What was given.
        name: What it is called.

    Raises:
        InputTypeError: They are no two integers.
        InputError: One is below 1.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputTypeError(f"{name} is {said(given)}; expected rows and columns, such as (7, 7)")
    for side in given:
        if isinstance(side, bool) or not isinstance(side, numbers.Integral):
            raise InputTypeError(f"{name} is {given}; expected rows and columns, both integers")
    if min(given) < 1:
        raise InputError(f"{name} is {tuple(given)}; expected rows and columns, both at least 1")
    return int(given[0]), int(given[1])


def check_names(given: object, name: str, expected: str = "a list of texts") -> tuple[str, ...]:
    """Return names in their order.

    Args:
        given: What was given.
        name: What they are called.
        expected: What is taken, in words.

    Raises:
        InputTypeError: They are no texts, or in no order.
    """
    listed = in_order(given, name, expected)
    wrong = next((one for one in listed if not isinstance(one, str)), None)
    if wrong is not None:
        raise InputTypeError(f"{name} hold something {said(wrong)}; expected {expected}")
    return tuple(str(one) for one in listed)


def in_order(given: object, name: str, expected: str) -> tuple[object, ...]:
    """Return what a list, an array or a generator holds; one text, a set or a dictionary is refused.

    Args:
        given: What was given.
        name: What they are called.
        expected: What is taken, in words.

    Raises:
        InputTypeError: It is something else.
    """
    if isinstance(given, (str, bytes, Mapping, AbstractSet)) or not isinstance(given, Iterable):
        raise InputTypeError(f"{name} are {said(given)}; expected {expected}")
    return tuple(given)


def check_function(given: object, name: str, expected: str) -> None:
    """Refuse what cannot be called.

    Args:
        given: What was given.
        name: What it is called.
        expected: From what to what it is a function, in words.

    Raises:
        InputTypeError: It cannot be called.
    """
    if not callable(given):
        raise InputTypeError(f"{name} is {said(given)}; expected a function {expected}")


def check_type(given: object, kind: type, name: str, expected: str) -> None:
    """Refuse what is no object of a class.

    Args:
        given: What was given.
        kind: The class.
        name: What it is called.
        expected: What is taken, in words.

    Raises:
        InputTypeError: It is of another type.
    """
    if not isinstance(given, kind):
        raise InputTypeError(f"{name} is {said(given)}; expected {expected}")
