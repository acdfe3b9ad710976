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


def first_line(error: BaseException) -> str:
    """Return the first line of an error of other people's code, with its kind, for a sentence.

    Args:
        error: The error.
    """
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {message}"[:300]


def near(name: str, known: Iterable[str], what: str = "names", max_names: int | None = None) -> str:
    """Return the end of an error sentence about an unknown name: all names, or "near names" where they are not all.

    Names that contain `name` come first, then names of a similar spelling. Where nothing resembles it all of `known`
    are listed, or the first few with an ellipsis.

    Args:
        name: A name that is unknown.
        known: The names that there are.
        what: What they are called where all are listed, such as "metrics"; it stands before a colon.
        max_names: How many are listed at most; by default all.
    """
    known = list(dict.fromkeys(known))
    limit = len(known) if max_names is None else max_names
    similar = _similar(name, known, limit)
    if similar and len(similar) < len(known):
        return f"near names: {_listed(similar)}"
    return f"{what}: {_listed(similar or known[:limit], len(known) > limit) or 'none'}"


def listed_near(name: str, known: Iterable[str], max_names: int = 5) -> str:
    """Return `known` names that resemble `name`, as a list in words, for a sentence that calls them near.

    Args:
        name: A name that is unknown.
        known: The names that there are; the first few are listed where nothing resembles it.
        max_names: How many are listed at most.
    """
    known = list(dict.fromkeys(known))
    return _listed(_similar(name, known, max_names)) or _listed(known[:max_names], len(known) > max_names)


def near_names(name: str, known: Iterable[str], max_names: int = 5) -> str:
    """Return the end of an error sentence about an unknown name: which names are near it, or that none is.

    Args:
        name: A name that is unknown.
        known: The names that there are; all of them are listed where none is near and they are few.
        max_names: How many are listed at most.
    """
    known = list(dict.fromkeys(known))
    similar = _similar(name, known, max_names)
    if similar:
        return f"near names: {_listed(similar)}"
    return f"names: {_listed(known)}" if 0 < len(known) <= max_names else "no name is near"


def _similar(name: str, known: list[str], max_names: int) -> list[str]:
    """Return the names that contain `name`, then those of a similar spelling."""
    lowered = name.strip().lower()
    holds = [k for k in known if lowered and lowered in k.lower()]
    spelled = difflib.get_close_matches(lowered, [k.lower() for k in known], n=max(1, max_names), cutoff=0.5)
    similar = [k for s in spelled for k in known if k.lower() == s]
    return list(dict.fromkeys([*holds, *similar]))[:max_names]


def _listed(names: list[str], more: bool = False) -> str:
    """Return names with commas between, or with semicolons where a name holds a comma."""
    comma = "; " if any("," in name for name in names) else ", "
    return comma.join([*names, *["…"] * more])
