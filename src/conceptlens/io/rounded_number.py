"""Numbers as text: a half is rounded away from zero, as browsers do it, so that pages and terminals say the same."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal


def rounded(value: float, digits: int = 0, sign: bool = False) -> str:
    """Return a number with some digits after the point, as JavaScript's `toFixed` writes it.

    Python's own formats round a half to the even digit: 12.5 to 12.

    Args:
        value: The number.
        digits: Digits after the point.
        sign: Whether a plus stands before it where it is not below 0.
    """
    if not math.isfinite(value):
        return f"{value:{'+' if sign else ''}}"
    return f"{Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):{'+' if sign else ''}f}"


def percent(share: float) -> str:
    """Return a share in per cent: whole from 9.95 on, else one digit after the point, as `explain.js` does.

    Args:
        share: The share, 0 to 1.
    """
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    return f"{rounded(value, 0 if value >= 9.95 or value == 0 else 1)}%"
