"""One way to say no: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class InputError(ValueError):
    """The caller gave something that cannot be used; the message is one sentence that says what to do.

    The command line prints it and ends with exit code 2.
    """


class InputTypeError(InputError, TypeError):
    """An argument has a type that the function does not take; an `InputError` that is a `TypeError` too."""


@dataclass(frozen=True)
class Failure:
    """A photo that could not be used, and why, so that the others go on."""

    name: str
    reason: str


def near(name: str, known: Iterable[str], max_names: int = 5) -> str:
    """Return `known` names that resemble `name`, comma-separated, for the end of an error sentence.

    Names that contain `name` come first, then names of a similar spelling; the first few of `known` where
    nothing resembles it.

    Args:
        name: A name that is unknown.
        known: The names that there are.
        max_names: How many are returned at most.
    """
    known = list(dict.fromkeys(known))
    lowered = name.lower()
    holds = [k for k in known if lowered and lowered in k.lower()]
    spelled = difflib.get_close_matches(lowered, [k.lower() for k in known], n=max(1, max_names), cutoff=0.5)
    similar = [k for s in spelled for k in known if k.lower() == s]
    found = list(dict.fromkeys([*holds, *similar]))[:max_names]
    if found:
        return ", ".join(found)
    return ", ".join(known[:max_names]) + (", …" if len(known) > max_names else "")
