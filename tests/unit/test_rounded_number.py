"""A half is rounded as browsers round it, in terminals and on pages that Python writes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from conceptlens.explainer.terminal import location_text
from conceptlens.io.rounded_number import percent, rounded
from conceptlens.pages.number_format import number, signed


# What `toFixed` gives; Python's format gives the even digit for all but those that are no halves in binary.
@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.125, 2, "0.13"), (-0.125, 2, "-0.13"), (12.5, 0, "13"), (2.5, 0, "3"), (6.25, 1, "6.3"), (0.5, 0, "1"),
        (1.005, 2, "1.00"), (0.145, 2, "0.14"), (1.45, 1, "1.4"), (8.345, 2, "8.35"), (0.0, 2, "0.00"),
        (1e-9, 2, "0.00"), (-0.001, 2, "-0.00"), (12345678.5, 0, "12345679"), (math.inf, 2, "inf"),
    ],
)  # fmt: skip
def test_a_half_goes_away_from_zero(value: float, digits: int, text: str) -> None:
    assert rounded(value, digits) == text
    assert rounded(np.float64(value), digits) == text


def test_it_is_the_nearest_number_of_so_many_digits() -> None:
    drawn = np.random.default_rng(0).normal(size=500) * 100
    for value in [*drawn, *(np.arange(-40, 40) / 16)]:
        for digits in (0, 1, 2):
            scaled = abs(Fraction(float(value))) * 10**digits
            nearest = math.floor(scaled + Fraction(1, 2))
            expected = (-1 if value < 0 else 1) * Fraction(nearest, 10**digits)
            assert Fraction(rounded(float(value), digits)) == expected


def test_terminals_and_pages_say_the_same() -> None:
    assert percent(0.125) == "13%"
    assert location_text([0.1, 0.1], 0.125) == "upper left, 13%"
    assert [percent(share) for share in (0, 0.0004, 0.0625, 0.0995, 1)] == ["0%", "<0.1%", "6.3%", "10%", "100%"]
    assert (number(0.125), number(-0.125), number(-0.001), signed(0.125)) == ("0.13", "−0.13", "0.00", "+0.13")
    assert rounded(0.125, 2, sign=True) == "+0.13"
