"""Classes, photos, pairs and errors of a bottleneck as its page shows them: numbers as texts, bars, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.report.bottleneck_sentences import adding_up, counted
from conceptlens.pages.number_format import number, signed

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_cases import Cases
    from conceptlens.bottleneck.evaluate.error_cases import ErrorCase
    from conceptlens.bottleneck.evaluate.measures import BottleneckMeasures
    from conceptlens.bottleneck.evaluate.sums import ClassCase, PairCase, PhotoCase
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.report.pictures import Pictures

LISTED = 8  # confusions that are listed


@dataclass(frozen=True, eq=False)
class CaseView:
    """What cases are shown with: the bottleneck's names, what was measured, the pictures."""

    bottleneck: Bottleneck
    measures: BottleneckMeasures
    pictures: Pictures

    def of_class(self, case: ClassCase) -> dict[str, Any]:
        """Return a class: its heaviest concepts, a bar for each weight, and prototypical regions."""
        one, name = self.measures.classes[case.place], self._class(case.place)
        bars = _bars([term.weight for term in case.terms])
        return {
            "name": name,
            "photos": counted(one.photos, "photo"),
            "right": None if one.accuracy is None else f"{one.accuracy:.0%}",
            "taken": None if one.taken_for is None else f"{one.taken_for} ({one.times})",
            "concepts": case.concepts,
            "rows": [
                {
                    **self._concept(term.concept),
                    "weight": signed(term.weight),
                    "bar": bar,
                    "adds": signed(term.adds),
                    "speaks": "for" if term.weight > 0 else "against",
                    "tiles": [self._tile(row, term.concept) for row in rows],
                }
                for term, bar, rows in zip(case.terms, bars, case.prototypes, strict=True)
            ],
        }

    def of_photo(self, case: PhotoCase) -> dict[str, Any]:
        """Return a photo and the sum that makes its score."""
        rows, told = self._summed(case, case.score)
        return {
            **told,
            "right": case.truth == case.answer,
            "second": self._class(case.second),
            "second_score": number(case.second_score),
            "rows": [{**row, "weight": signed(term.weight)} for term, row in zip(case.terms, rows, strict=True)],
        }

    def of_pair(self, case: PairCase) -> dict[str, Any]:
        """Return two classes and what separates them."""
        parts, told = _sum([term.apart for term in case.terms], case.rest, case.others, case.total)
        names = [self._class(place) for place in case.places]
        taken = [
            f"Of {counted(photos, 'photo')} of {name}, {times} {'is' if times == 1 else 'are'} taken for {other}."
            for photos, name, times, other in zip(case.photos, names, case.taken, names[::-1], strict=True)
        ]
        return {
            **told,
            "names": names,
            "taken": taken,
            "pictures": [self._whole(row) for row in case.rows if row is not None],
            "rows": [
                {
                    **self._concept(term.concept),
                    **part,
                    "weights": [signed(value) if value else "0" for value in term.weights],
                    "means": [_deviations(value) for value in term.means],
                    "maps": [self.pictures.laid(row, term.concept) for row in case.rows if row is not None],
                }
                for term, part in zip(case.terms, parts, strict=True)
            ],
        }

    def of_error(self, case: ErrorCase) -> dict[str, Any]:
        """Return a wrong photo, the sum that misled, and what setting concepts to their averages changes."""
        rows, told = self._summed(case, case.margin)
        return {
            **told,
            "rows": [
                {**row, "then": self._then(case, term.answer)} for term, row in zip(case.terms, rows, strict=True)
            ],
            "together": self._then(case, case.together) if len(case.terms) > 1 else None,
        }

    def confusions(self, cases: Cases) -> list[dict[str, Any]]:
        """Return the commonest confusions."""
        return [
            {"truth": self._class(a), "answer": self._class(b), "times": times, "of": self.measures.classes[a].photos}
            for a, b, times in cases.confusions[:LISTED]
        ]

    def leaders(self, cases: Cases) -> list[dict[str, Any]]:
        """Return the concepts that misled most often."""
        return [
            {
                **self._concept(one.concept),
                "errors": one.errors,
                "righted": one.righted,
                "fixed": one.fixed,
                "broken": one.broken,
            }
            for one in cases.misled.leaders
        ]

    def _summed(self, case: PhotoCase | ErrorCase, total: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return a row for each concept of a photo's sum, and the photo with what stands before and after them."""
        (start, *parts), told = _sum([case.bias, *(term.adds for term in case.terms)], case.rest, case.others, total)
        rows = [
            {
                **self._concept(term.concept),
                **part,
                "standard": _deviations(term.standard),
                "map": self.pictures.laid(case.row, term.concept),
            }
            for term, part in zip(case.terms, parts, strict=True)
        ]
        return rows, {
            **told,
            "start": start,
            "picture": self.pictures.photo(case.row),
            "photo": self._named(case.row),
            "truth": self._class(case.truth),
            "answer": self._class(case.answer),
        }

    def _then(self, case: ErrorCase, answer: int) -> dict[str, Any]:
        kind = "right" if answer == case.truth else "still" if answer == case.answer else "other"
        return {"kind": kind, "name": self._class(answer)}

    def _concept(self, concept: int) -> dict[str, Any]:
        one = self.bottleneck.concepts[concept]
        return {"concept": one.label, "part": one.part or ""}

    def _class(self, place: int) -> str:
        return self.bottleneck.classes[place]

    def _named(self, row: int) -> str:
        return self.measures.table.names[row]

    def _whole(self, row: int) -> dict[str, Any]:
        return {**self.pictures.photo(row), "photo": self._named(row)}

    def _tile(self, row: int, concept: int) -> dict[str, Any]:
        place = int(self.measures.table.classes[row])
        return {**self.pictures.cut(row, concept), "photo": self._named(row), "of": self._class(place)}


def _sum(
    values: Sequence[float], rest: float, others: int, total: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return each value as a text and a bar; and the total, with what the `others` add, where there are any, as one."""
    every = [*values, rest] if others > 0 else list(values)
    texts, whole = adding_up(every, total)
    parts = [{"adds": text, "bar": bar} for text, bar in zip(texts, _bars(every), strict=True)]
    left = {**parts.pop(), "others": counted(others, "other concept")} if others > 0 else None
    return parts, {"rest": left, "total": whole}


def _bars(values: Sequence[float]) -> list[dict[str, str]]:
    """Return where the bars of some values begin and how wide they are, in per cent, on one scale with one zero."""
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    zero = 100 * -low / span
    return [
        {
            "x": f"{min(zero, zero + 100 * value / span):.2f}%",
            "width": f"{100 * abs(value) / span:.2f}%",
            "zero": f"{zero:.2f}%",
            "kind": "for" if value >= 0 else "against",
        }
        for value in values
    ]


def _deviations(value: float) -> str:
    return "–" if math.isnan(value) else signed(value, 1)
