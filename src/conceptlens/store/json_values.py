"""Values of settings as JSON and back; tuples are kept as tuples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conceptlens.io.errors import InputTypeError

_TUPLE = "(tuple)"  # JSON has lists only


def to_json(value: Any, what: str) -> Any:
    """Return `value` as JSON has it, tuples marked; raises `InputError` about `what` where it cannot be kept."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(one, what) for one in value]}
    if isinstance(value, list):
        return [to_json(one, what) for one in value]
    if isinstance(value, Mapping) and _TUPLE not in value and all(isinstance(name, str) for name in value):
        return {name: to_json(one, what) for name, one in value.items()}
    raise InputTypeError(
        f"the {what} have {value!r} of type {type(value).__name__}, which a store cannot keep; give texts, numbers, "
        "truths, None, and tuples, lists or mappings of them"
    )


def from_json(value: Any) -> Any:
    """Return what `to_json` was given; mappings become plain dicts."""
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(from_json(one) for one in value[_TUPLE])
    return {name: from_json(one) for name, one in value.items()}
