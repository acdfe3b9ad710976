"""Settings as JSON and back, with what JSON does not know: tuples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conceptlens.io.errors import InputError

_TUPLE = "(tuple)"  # JSON has lists only


def told(value: Any, what: str) -> Any:
    """Return `value` as JSON has it, tuples marked; raises `InputError` about `what` where it cannot be told."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [told(one, what) for one in value]}
    if isinstance(value, list):
        return [told(one, what) for one in value]
    if isinstance(value, Mapping) and _TUPLE not in value and all(isinstance(name, str) for name in value):
        return {name: told(one, what) for name, one in value.items()}
    raise InputError(
        f"the {what} have {value!r} of type {type(value).__name__}, which a store cannot keep; give texts, numbers, "
        "truths, None, and tuples, lists or mappings of them"
    )


def untold(value: Any) -> Any:
    """Return what `told` was given; mappings become plain dicts."""
    if isinstance(value, list):
        return [untold(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(untold(one) for one in value[_TUPLE])
    return {name: untold(one) for name, one in value.items()}
