"""What a bottleneck's numbers say, in sentences; and numbers that add up as they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.figure import CONTROLS, Figure
from conceptlens.pages.number_format import number

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_cases import Cases
    from conceptlens.bottleneck.evaluate.measures import BottleneckMeasures
    from conceptlens.statistics.bootstrap import Interval

SHARES = ("share of photos", "share of maps", "share of the map", "share of the cells", "share of the diagonal")
BETTER, WORSE, EQUAL = "better", "worse", "not told apart"


def adding_up(parts: Sequence[float], total: float, digits: int = 2) -> tuple[list[str], str]:
    """Return numbers with their signs that add up to the total as they stand, each at most one last digit off.

    Those with the largest rounding errors give way, as where seats are shared out.
    """
    scale = 10**digits
    whole = [math.floor(part * scale) for part in parts]
    missing = round(total * scale) - sum(whole)
    order = sorted(range(len(parts)), key=lambda at: whole[at] - parts[at] * scale)
    for turn in range(abs(missing)):
        whole[order[turn % len(parts)] if missing > 0 else order[-1 - turn % len(parts)]] += 1 if missing > 0 else -1
    return [_signed(value / scale, digits) for value in whole], number(round(total * scale) / scale, digits)


def counted(count: int, what: str) -> str:
    """Return `1 photo` or `1 389 photos`."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{ending}".replace(",", " ")


def shown(figure: Figure, value: Interval | None) -> dict[str, Any]:
    """Return a value of a figure and its interval in the figure's unit, shares in per cent, with a digit more where
    the ends of the interval would look alike."""
    if value is None:
        return {"value": "–", "spread": None}
    write = _percent if figure.kind.unit in SHARES else _plain
    if value.low is None or value.high is None or value.low == value.high:
        return {"value": write(value.mean), "spread": None}
    told: list[str] = []
    for more in range(2):
        told = [write(one, more) for one in (value.mean, value.low, value.high)]
        if len(set(told)) == len(told):
            break
    return {"value": told[0], "spread": f"{told[1]} to {told[2]}"}


def plainly(figure: Figure, value: Interval | None) -> str:
    """Return a value of a figure without its interval."""
    return "–" if value is None else (_percent if figure.kind.unit in SHARES else _plain)(value.mean)


def verdict(figure: Figure, gain: Interval | None) -> str:
    """Return whether the bottleneck is surely better or worse than a control, as far as one is better at all."""
    if gain is None or gain.low is None or gain.high is None or not figure.kind.better:
        return ""
    if gain.low <= 0 <= gain.high:
        return EQUAL
    return BETTER if (gain.mean > 0) == (figure.kind.better == "higher") else WORSE


def opening(
    measures: BottleneckMeasures, cases: Cases, labels: Sequence[str], record: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the answers in short, each with the section that tells more; `record` is that of the fit."""
    return [
        {"to": "figures", "question": "Is it right?", "answer": _right(measures, record)},
        {"to": "concepts", "question": "How many concepts decide?", "answer": _many(measures, labels)},
        {"to": "concepts", "question": "Are concepts what they are called?", "answer": _meant(measures)},
        {"to": "figures", "question": "Do maps point at what they name?", "answer": _pointing(measures)},
        {"to": "errors", "question": "What misleads it?", "answer": misled(cases, labels)},
    ]


def _right(measures: BottleneckMeasures, record: Mapping[str, Any]) -> str:
    one = measures.figure("accuracy")
    said = shown(one, one.value)
    common = one.control("commonest")
    other = f" Always saying the commonest class: {plainly(one, common.value)}." if common else ""
    own, probe = record.get("holdout_accuracy"), record.get("holdout_accuracy_of_linear_probe")
    if isinstance(own, float) and isinstance(probe, float):
        then = "before its last stage was trained, it had" if record.get("finetune") else "it had"
        other += (
            f" Of the training photos held out while fitting, {then} {_percent(own)} right; the same features without "
            f"concepts, {_percent(probe)}."
        )
    return f"In {_value(said)} of {counted(measures.photos, 'photo')}.{other}"


def _many(measures: BottleneckMeasures, labels: Sequence[str]) -> str:
    value = measures.figure("concepts_per_class").value
    most = "" if value is None else number(value.mean, 1)
    return f"{most} of {len(labels)} for each class on average; the others have a weight of exactly 0 there."


def _meant(measures: BottleneckMeasures) -> str:
    one = measures.figure("concept_auroc")
    if one.value is None:
        return f"Not measured: {one.reason}."
    return (
        "Of two photos, one of a class that has a concept and one of a class that has not, the concept is more active "
        f"in the first with a probability of {_value(shown(one, one.value))}; guessing has 0.5. Labels are of classes, "
        "so this speaks of classes and not of single photos."
    )


def _pointing(measures: BottleneckMeasures) -> str:
    one = measures.figure("keypoint_pointing")
    if one.value is None:
        return f"Not measured: {one.reason}."
    others = [f"{CONTROLS[own.name]} {plainly(one, own.value)}" for own in one.controls if own.value]
    swap = measures.figure("keypoint_swap").value
    parts = ""
    if swap is not None and swap.low is not None:
        parts = " It knows parts apart." if swap.low > 0 else " It does not surely know parts apart."
    maps = f"{_value(shown(one, one.value))} of {counted(one.value.count, 'map')}"
    return (
        f"{maps} have their highest point at the part that they speak of, within a tenth of the photo's diagonal. "
        f"For comparison: {', '.join(others)}.{parts}"
    )


def misled(cases: Cases, labels: Sequence[str]) -> str:
    """Return what misled in all errors, and what it would take to be right."""
    if not cases.wrong:
        return "No photo is wrong."
    led = cases.misled
    first = led.leaders[0]
    wrong = f"{counted(cases.wrong, 'photo')} {'is' if cases.wrong == 1 else 'are'} wrong"
    return (
        f"{wrong}. With the one concept that misled most in each set to its average, "
        f"{led.righted} of them are right; with one drawn at random, {led.by_chance}. "
        f"Most often it is “{labels[first.concept]}” ({first.errors})."
    )


def _value(said: dict[str, Any]) -> str:
    return said["value"] + (f" ({said['spread']})" if said["spread"] else "")


def _percent(value: float, more: int = 0) -> str:
    """Return a share in per cent, with a digit more below ten."""
    return f"{number(100 * value, more + (abs(value) < 0.0995))}%"


def _plain(value: float, more: int = 0) -> str:
    return number(value, more + (2 if abs(value) < 99.95 else 0))


def _signed(value: float, digits: int) -> str:
    text = number(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"
