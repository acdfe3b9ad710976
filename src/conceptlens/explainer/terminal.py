"""One photo's findings as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.explainer.explain_numbers import concept_numbers, contrast_numbers

if TYPE_CHECKING:
    from conceptlens.explainer.run import Finding
    from conceptlens.record import Explanation


def print_finding(finding: Finding, console: Console | None = None) -> None:
    """Print what, where and how much; or, without concepts, the class against its look-alikes."""
    console = console or Console()
    target = finding.target
    about = f" against {finding.against.name}" if finding.against else ""
    console.print(f"\n[bold]{_safe(finding.picture.name)}[/bold]")
    console.print(
        f"{_safe(target.name)}{_safe(about)}: {target.probability:.1%} (logit {target.score:.2f})", highlight=False
    )
    console.print(f"[dim]{_safe(finding.model)}, layer {_safe(finding.layer)}[/dim]", highlight=False)
    console.print(_contrast(finding) if finding.named is None else _concepts(finding, finding.named))


def place_in_words(peak: list[float], area: float) -> str:
    """Return `upper left, 12 %` for a peak `[x, y]` and an area, both as shares of the photo."""
    row = ("upper", "middle", "lower")[min(2, int(peak[1] * 3))]
    column = ("left", "centre", "right")[min(2, int(peak[0] * 3))]
    place = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    return f"{place}, {area:.0%}" if area >= 0.005 or area == 0 else f"{place}, under 1%"


def _concepts(finding: Finding, named: Explanation) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, justify in (("concept", "left"), ("type", "left"), ("score", "right"), ("z_score", "right"),
                          ("contribution", "right"), ("where", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for row in concept_numbers(finding.picture, named):
        table.add_row(
            _safe(row["label"]),
            row["type"],
            f"{row['score']:.2f}",
            "-" if row["z_score"] is None else f"{row['z_score']:+.1f}",
            "-" if row["contribution"] is None else f"{row['contribution']:+.2f}",
            place_in_words(row["peak"], row["area"]),
        )
    return table


def _contrast(finding: Finding) -> Table:
    numbers: dict[str, Any] = contrast_numbers([finding], [])["images"][0]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("map", "where"):
        table.add_column(name)
    table.add_row(_safe(finding.target.name), place_in_words(numbers["plain"]["peak"], numbers["plain"]["area"]))
    names = ", ".join(r["name"].split(",")[0] for r in numbers["references"])
    against = f"against {names} (gamma {numbers['gamma']:g})"
    table.add_row(_safe(against), place_in_words(numbers["contrast"]["peak"], numbers["contrast"]["area"]))
    return table


def _safe(text: str) -> str:
    """Return text that rich prints as it is."""
    return text.replace("[", "\\[")
