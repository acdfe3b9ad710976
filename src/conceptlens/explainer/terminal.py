"""One photo's result as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from conceptlens.cams.contrast_choice import NONE_CHOSEN
from conceptlens.explainer.answer_words import differences, other_answer
from conceptlens.explainer.explain_json import (
    concepts_json,
    contrasted_json,
    detections_json,
    margin_json,
    random_level_of,
)
from conceptlens.io.rounded_number import percent, rounded
from conceptlens.record.display import UNKNOWN

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult
    from conceptlens.model.answer import Answer
    from conceptlens.model.predictions import Prediction
    from conceptlens.record import Explanation


NONE_LIKELY = "no concept of the vocabulary is likely in this photo; name concepts to see where they would be"


def print_result(result: PhotoResult, console: Console | None = None) -> None:
    """Print the concepts of one photo, or, without concepts, its class against the reference classes.

    Args:
        result: The explained photo.
        console: Where to print; by default standard output.
    """
    console = console or Console(soft_wrap=True)  # lines that a program reads stay whole
    console.print(f"\n[bold]{_safe(result.image_info.name)}[/bold]")
    if result.target is not None:
        compared = () if result.none_chosen else result.compared
        against = " against " * bool(compared) + ", ".join(_class_words(one, result.answer) for one in compared)
        console.print(_safe(_class_words(result.target, result.answer) + against), highlight=False)
        if other := other_answer(result):
            console.print(f"[yellow]{_safe(other)}[/yellow]", highlight=False)
        if words := differences(result):
            console.print(_safe(words), highlight=False)
    console.print(f"[dim]{_safe(result.model)}, layer {_safe(result.layer)}[/dim]", highlight=False)
    concepts = result.concepts
    if result.detections is not None:
        console.print(_detections(result) if result.detections else _safe(result.undetected), highlight=False)
        if any(one["peak"] is None for one in detections_json(result)):
            console.print(
                f"nowhere: no evidence in layer {_safe(result.layer)}; another may have it (--layer)", highlight=False
            )
        return
    if concepts is not None and concepts.maps.shape[1] == 0:
        console.print(NONE_LIKELY, highlight=False)
    else:
        console.print(_contrast(result) if concepts is None else _concepts(result, concepts))
        if concepts is None and result.none_chosen:
            console.print(NONE_CHOSEN, highlight=False)
    if concepts is not None and (margin := margin_json(concepts)) is not None:
        console.print(margin_text(result, margin), highlight=False)
    if concepts is not None and (level := random_level_of(concepts)) is not None:
        size = f"about {rounded(level, 2)}" if level >= 0.005 else "under 0.01"
        above = " (what is above that stands in parentheses)" * (concepts.contributions_above_random is not None)
        console.print(f"a word drawn at random would get {size}{above}", highlight=False)


def margin_text(result: PhotoResult, margin: Mapping[str, Any]) -> str:
    """Return in one sentence what contributions add up to, and how much of it has a name.

    Args:
        result: The explained photo.
        margin: What `margin_json` says of it.
    """
    names = "the class" if result.target is None else result.target.short_name
    rivals = margin["over"] if result.against is None else result.against.short_name
    over = "" if rivals is None else f" over {_safe(rivals)}"
    parts = [f"named {rounded(margin['named'], 2, sign=True)}"]
    if margin["discovered"]:
        parts.append(f"discovered {rounded(margin['discovered'], 2, sign=True)}")
    parts.append(f"unnamed {rounded(margin['unnamed'], 2, sign=True)}")
    if margin["unplaced"]:
        parts[-1] += f" (of which {rounded(margin['unplaced'], 2, sign=True)} lies in no cell)"
    if abs(margin["residual"]) >= 0.005:
        parts.append(f"residual {rounded(margin['residual'], 2, sign=True)}")
    return f"{_safe(names)}{over}: {rounded(margin['value'], 2, sign=True)} = {', '.join(parts)} ({margin['unit']})"


def _class_words(one: Prediction, answer: Answer | None) -> str:
    if one.probability is None:
        return f"{one.short_name}: {one.logit:.4g}"
    share = "<0.1%" if one.probability < 0.0005 else f"{rounded(100 * one.probability, 1)}%"
    return f"{one.short_name}: {share} ({'logit' if answer is None else answer.score} {rounded(one.logit, 2)})"


def location_text(peak: list[float] | None, area: float) -> str:
    """Return `upper left, 13%` for a peak `[x, y]` and an area, both as shares of the photo; `nowhere` without one."""
    if peak is None:
        return "nowhere"
    row = ("upper", "middle", "lower")[min(2, int(peak[1] * 3))]
    column = ("left", "centre", "right")[min(2, int(peak[0] * 3))]
    location = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    return f"{location}, {percent(area)}"


def _concepts(result: PhotoResult, concepts: Explanation) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, justify in (("concept", "left"), ("type", "left"), ("in the photo", "right"), ("z-score", "right"),
                          ("contribution", "right"), ("where", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for row in concepts_json(concepts):
        if not row["known"]:
            between = [""] * (len(table.columns) - 3)
            table.add_row(_safe(row["label"]), row["type"], *between, UNKNOWN, style="dim")
            continue
        table.add_row(
            _safe(row["label"]),
            row["type"],
            "-" if row["presence"] is None else percent(row["presence"]),
            "-" if row["z_score"] is None else rounded(row["z_score"], 1, sign=True),
            _contribution(row),
            "no clear place" if row.get("place_vague") else location_text(row["peak"], row["area"]),
        )
    return table


def _detections(result: PhotoResult) -> Table:
    rows = detections_json(result)
    table = Table(box=None, header_style="dim", pad_edge=False)
    against = next((row["contrast"]["against"] for row in rows if "contrast" in row), None)
    compared = [] if against is None else [f"rather than {against}"]
    for name in ("detection", "score", "box in pixels", "evidence", *compared):
        table.add_column(_safe(name), justify="right" if name == "score" else "left")
    for row in rows:
        maps = [row, row["contrast"]] if "contrast" in row else [row]
        box = ", ".join(f"{value:.0f}" for value in row["box"])
        where = [location_text(one["peak"], one["area"]) for one in maps]
        table.add_row(_safe(row["short_name"]), rounded(row["score"], 2), box, *where)
    return table


def _contribution(row: Mapping[str, Any]) -> str:
    if row["contribution"] is None:
        return "-"
    above = row.get("contribution_above_random")
    by_chance = "" if above is None else f" ({rounded(above, 2, sign=True)})"
    ends = row["contribution_range"]
    low_high = "" if ends is None else f" [{rounded(ends[0], 2)}, {rounded(ends[1], 2)}]"
    return _safe(f"{rounded(row['contribution'], 2, sign=True)}{low_high}{by_chance}")


def _contrast(result: PhotoResult) -> Table:
    numbers = contrasted_json(result)
    choice, gamma = numbers["choice"], numbers["gamma"]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("map", "where", *(["relative drop"] if choice else [])):
        table.add_column(name)
    rows = [
        (numbers["target"]["short_name"], numbers["class_map"], "relative_drop_of_class"),
        (_against(numbers), numbers["contrast_map"], "relative_drop"),
    ]
    for words, place, drop in rows if gamma or not choice else rows[:1]:
        table.add_row(_safe(words), location_text(**place), *([rounded(choice[drop], 2)] if choice else []))
    return table


def _against(numbers: Mapping[str, Any]) -> str:
    names = ", ".join(r["short_name"] for r in numbers["references"])
    return f"against {names} (gamma {numbers['gamma']:g})"


def _safe(text: str) -> str:
    """Return text that rich prints as it is."""
    return text.replace("[", "\\[")
