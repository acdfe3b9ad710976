"""What differs between the settings of a run and those of the one that it is to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

N_CHANGES = 3  # of those that differ, that many are named


def changed_settings(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return in words which settings differ, such as `seed was 0 and is 1`; empty where none does.

    Args:
        known: Those of the run that is there.
        wanted: Those that it is to go on with.
    """
    names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
    more = f" (and {len(names) - N_CHANGES} more)" if len(names) > N_CHANGES else ""
    return "; ".join(f"{name} was {known.get(name)} and is {wanted.get(name)}" for name in names[:N_CHANGES]) + more
