"""Numbers as pages and terminals show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from conceptlens.io.rounded_number import rounded

if TYPE_CHECKING:
    from conceptlens.statistics.bootstrap import Interval


def number(value: float | None, digits: int = 2) -> str:
    """Return a number as text.

    Args:
        value: The number.
        digits: Digits after the point.

    Returns:
        The number with a true minus sign, and none before zero; a dash for `None`.
    """
    if value is None:
        return "–"
    text = rounded(value, digits)
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number as `number` does, and with a plus sign where it is above zero."""
    text = number(value, digits)
    return text if value is None or text.startswith("−") or float(text) == 0 else f"+{text}"


def counted(count: int, what: str) -> str:
    """Return a number of things in words, such as `1 photo` or `1 389 photos`.

    Args:
        count: How many they are.
        what: What one of them is called.
    """
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{ending}".replace(",", " ")


def interval_text(
    value: Interval | None, write: Callable[[float | None], str] = number, flip: bool = False
) -> dict[str, Any]:
    """Return a mean and its interval as texts for a template.

    Args:
        value: The mean with its interval.
        write: Writes one number, such as `number` or `signed`.
        flip: Whether the sign of all three numbers is turned.

    Returns:
        `value`, and `spread`, which is `None` where there is no interval.
    """
    if value is None:
        return {"value": "–", "spread": None}
    sign = -1 if flip else 1
    low, high = (value.high, value.low) if flip else (value.low, value.high)
    spread = None if low is None or high is None else f"{write(sign * low)} to {write(sign * high)}"
    return {"value": write(sign * value.mean), "spread": spread}
