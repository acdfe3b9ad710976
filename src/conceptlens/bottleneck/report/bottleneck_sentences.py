"""The results of a bottleneck in sentences; and numbers that add up as they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.evaluate.metric_result import CONTROLS, MetricResult
from conceptlens.bottleneck.map_evidence import PHOTOS, MapEvidence, evidence_lines
from conceptlens.pages.number_format import counted, number, signed

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_selection import SelectedCases
    from conceptlens.statistics.bootstrap import Interval

SHARES = ("share of photos", "share of maps", "share of the map", "share of the cells", "share of the diagonal")
BETTER, WORSE, EQUAL = "better", "worse", "no clear difference"


def adding_up(parts: Sequence[float], total: float) -> tuple[list[str], str]:
    """Return numbers with their signs that add up to the total as they stand, each at most 0.01 off.

    Those with the largest rounding errors give way, as where seats are shared out.
    """
    whole = [math.floor(part * 100) for part in parts]
    missing = round(total * 100) - sum(whole)
    order = sorted(range(len(parts)), key=lambda at: whole[at] - parts[at] * 100)
    for turn in range(abs(missing)):
        whole[order[turn % len(parts)] if missing > 0 else order[-1 - turn % len(parts)]] += 1 if missing > 0 else -1
    return [signed(value / 100) for value in whole], number(round(total * 100) / 100)


def shown(metric: MetricResult, value: Interval | None) -> dict[str, Any]:
    """Return a value and its interval in the unit of a metric, shares in per cent.

    There is a digit more where the ends of the interval would look alike.
    """
    if value is None:
        return {"value": "–", "spread": None}
    write = _percent if metric.description.unit in SHARES else _plain
    if value.low is None or value.high is None or value.low == value.high:
        return {"value": write(value.mean), "spread": None}
    texts: list[str] = []
    for more in range(2):
        texts = [write(one, more) for one in (value.mean, value.low, value.high)]
        if len(set(texts)) == len(texts):
            break
    return {"value": texts[0], "spread": f"{texts[1]} to {texts[2]}"}


def plainly(metric: MetricResult, value: Interval | None) -> str:
    """Return a value of a metric without its interval."""
    return "–" if value is None else (_percent if metric.description.unit in SHARES else _plain)(value.mean)


def verdict(metric: MetricResult, difference: Interval | None) -> str:
    """Return whether the bottleneck is surely better or worse than a control, as far as one is better at all."""
    if difference is None or difference.low is None or difference.high is None or not metric.description.better:
        return ""
    if difference.low <= 0 <= difference.high:
        return EQUAL
    return BETTER if (difference.mean > 0) == (metric.description.better == "higher") else WORSE


def known_briefly(one: MapEvidence) -> list[dict[str, Any]]:
    """Return in a few words whether the place of a map was checked and what it was learned from; which are doubts."""
    return [
        {"text": one.place_briefly, "doubt": one.place_in_doubt},
        {"text": one.learned_briefly, "doubt": one.targets != PHOTOS},
    ]


def opening(
    result: BottleneckResult, cases: SelectedCases, labels: Sequence[str], record: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the findings in short, each with the section that has the details; `record` is that of the fit."""
    return [
        {"to": "metrics", "question": "How accurate is it?", "answer": _right(result, record)},
        {"to": "concepts", "question": "How many concepts does a class use?", "answer": _many(result, labels)},
        {"to": "concepts", "question": "Do concepts mean what they are called?", "answer": _meant(result)},
        {"to": "metrics", "question": "Do maps point at what they name?", "answer": _pointing(result)},
        {"to": "concepts", "question": "Were all maps checked?", "answer": _known(result)},
        {"to": "errors", "question": "What misleads it?", "answer": misleading_sentence(cases, labels)},
    ]


def _right(result: BottleneckResult, record: Mapping[str, Any]) -> str:
    one = result.metric("accuracy")
    text = shown(one, one.value)
    common = one.control("commonest")
    other = f" Always the commonest class: {plainly(one, common.value)}." if common else ""
    own, probe = record.get("holdout_accuracy"), record.get("holdout_accuracy_of_linear_probe")
    if isinstance(own, float) and isinstance(probe, float):
        then = "before its last stage was trained, it had" if record.get("finetune") else "it had"
        other += (
            f" Of the training photos held out while fitting, {then} {_percent(own)} right; the same features without "
            f"concepts, {_percent(probe)}."
        )
    return f"{_value(text)} of {counted(result.photos, 'photo')} are right.{other}"


def _many(result: BottleneckResult, labels: Sequence[str]) -> str:
    value = result.metric("concepts_per_class").value
    mean = "" if value is None else number(value.mean)
    return f"{mean} of {len(labels)} for each class on average; the others have a weight of exactly 0 there."


def _meant(result: BottleneckResult) -> str:
    one = result.metric("concept_auroc")
    if one.value is None:
        return f"Not measured: {one.reason}."
    if result.labels_of == "photos":
        return (
            "Of two photos, one that shows a concept and one that does not, the concept is more active in the first "
            f"with a probability of {_value(shown(one, one.value))}; guessing has 0.5. Labels are of single photos."
        )
    return (
        "Of two photos, one of a class that has a concept and one of a class that has not, the concept is more active "
        f"in the first with a probability of {_value(shown(one, one.value))}; guessing has 0.5. Labels are of classes, "
        "so this speaks of classes and not of single photos."
    )


def _pointing(result: BottleneckResult) -> str:
    one = result.metric("keypoint_pointing")
    if one.value is None:
        return f"Not measured: {one.reason}."
    controls = [f"{CONTROLS[own.name]} {plainly(one, own.value)}" for own in one.controls if own.value]
    swap = result.metric("keypoint_swap").value
    parts = ""
    if swap is not None and swap.low is not None:
        parts = (
            " Maps differ from part to part." if swap.low > 0 else " It is not sure that maps differ from part to part."
        )
    maps = f"{_value(shown(one, one.value))} of {counted(one.value.count, 'map')}"
    return (
        f"{maps} have their highest point at the part that they speak of, within a tenth of the photo's diagonal. "
        f"For comparison: {', '.join(controls)}.{parts}"
    )


def _known(result: BottleneckResult) -> str:
    """Return of which concepts maps were checked, and what they were learned from."""
    lines = evidence_lines([one.label for one in result.concepts], result.map_evidence)
    return " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines)


def misleading_sentence(cases: SelectedCases, labels: Sequence[str]) -> str:
    """Return which concepts mislead in the errors, and how many are right without them."""
    if not cases.wrong:
        return "No photo is wrong."
    found = cases.misleading
    first = found.concepts[0]
    wrong = f"{counted(cases.wrong, 'photo')} {'is' if cases.wrong == 1 else 'are'} wrong"
    return (
        f"{wrong}. With the one concept that misled most in each set to its average, "
        f"{found.corrected} of them are right; with one drawn at random, {found.corrected_at_random}. "
        f"Most often it is “{labels[first.concept]}” ({first.errors})."
    )


def _value(text: dict[str, Any]) -> str:
    return text["value"] + (f" ({text['spread']})" if text["spread"] else "")


def _percent(value: float, more: int = 0) -> str:
    """Return a share in per cent, with a digit more below ten."""
    return f"{number(100 * value, more + (abs(value) < 0.0995))}%"


def _plain(value: float, more: int = 0) -> str:
    return number(value, more + (2 if abs(value) < 99.95 else 0))
