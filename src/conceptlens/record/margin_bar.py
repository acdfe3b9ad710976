"""The margin of a class as a bar that adds up: contributions with their signs, and what has no name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.io.rounded_number import rounded
from conceptlens.palette import PAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A piece gets its name inside where it has at least this share of the bar for each letter.
LETTER = 0.0065


def draw_margin(
    ax: Any, names: Sequence[str], values: Sequence[float], unnamed: float, margin: float, title: str, unit: str
) -> Axes:
    """Draw one bar: what speaks for the class to the right of zero, what speaks against it to the left.

    Args:
        ax: Axes to draw on; `None` for those of a new figure.
        names: The names of the concepts.
        values: Their contributions.
        unnamed: What has no name, the residual included.
        margin: What all of them add up to.
        title: What the margin is of.
        unit: What contributions and margin are counted in.

    Returns:
        The axes.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(9, 1.5), layout="constrained")[1]
    parts = sorted(zip(names, values, strict=True), key=lambda part: -abs(part[1]))
    pieces = [(name, value, PAGE["for" if value > 0 else "against"][0]) for name, value in parts if value]
    pieces += [("no name", unnamed, PAGE["line"][0])]
    length = sum(abs(value) for _, value, _ in pieces) or 1.0
    ends = {True: 0.0, False: 0.0}
    for number, (name, value, colour) in enumerate(pieces):
        side = value > 0
        hatch = "////" if name == "no name" else None
        ax.barh(
            0, value, left=ends[side], height=0.8, color=colour, alpha=1 if number % 2 == 0 else 0.82, hatch=hatch,
            edgecolor=PAGE["paper"][0] if hatch is None else PAGE["quiet"][0],
        )  # fmt: skip
        lines = [name] if abs(value) / length > LETTER * (len(name) + 1) else name.split()
        if abs(value) / length > LETTER * (max(5, *map(len, lines)) + 1):
            ink = PAGE["ink"][0] if hatch else "white"
            words = "\n".join([*lines, rounded(value, 2, sign=True)])
            ax.text(ends[side] + value / 2, 0, words, ha="center", va="center", fontsize=8, color=ink)
        ends[side] += value
    ax.axvline(0, color=PAGE["ink"][0], linewidth=1.5)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.set_xlabel(unit, fontsize=8)
    ax.tick_params(labelsize=8)
    named = sum(values)
    share = f", {rounded(100 * named / margin)}% of it named" if margin > 0 and 0 <= named <= margin else ""
    ax.set_title(f"{title}: margin {rounded(margin, 2, sign=True)}{share}", fontsize=9, loc="left")
    return ax
