"""Classes, photos, pairs and errors of a bottleneck as its page shows them: numbers as texts, bars, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.report.bottleneck_sentences import adding_up, known_briefly
from conceptlens.concepts.short_names import short_name, short_names
from conceptlens.pages.number_format import counted, number, signed

if TYPE_CHECKING:
    from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
    from conceptlens.bottleneck.evaluate.case_contributions import ClassCase, ErrorCase, PairCase, PhotoCase
    from conceptlens.bottleneck.evaluate.case_selection import SelectedCases
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.bottleneck.report.case_images import CaseImages

MAX_CONFUSIONS = 8  # confusions that are listed


@dataclass(frozen=True, eq=False)
class CaseView:
    """Turns cases into what the template shows: texts, bars and embedded images."""

    bottleneck: Bottleneck
    result: BottleneckResult
    images: CaseImages

    def of_class(self, case: ClassCase) -> dict[str, Any]:
        """Return a class: its heaviest concepts, a bar for each weight, and prototypical regions."""
        one, name = self.result.classes[case.index], self._class(case.index)
        bars = _bars([term.weight for term in case.terms])
        return {
            "name": name,
            "full_name": self.bottleneck.classes[case.index],
            "photos": counted(one.photos, "photo"),
            "right": None if one.accuracy is None else f"{one.accuracy:.0%}",
            "confused": None if one.confused_with is None else f"{short_name(one.confused_with)} ({one.confused})",
            "concepts": case.n_concepts,
            "rows": [
                {
                    **self._concept(term.concept),
                    "weight": signed(term.weight),
                    "bar": bar,
                    "contribution": signed(term.contribution),
                    "speaks": "for" if term.weight > 0 else "against",
                    "tiles": [self._tile(row, term.concept) for row in rows],
                }
                for term, bar, rows in zip(case.terms, bars, case.prototypes, strict=True)
            ],
        }

    def of_photo(self, case: PhotoCase) -> dict[str, Any]:
        """Return a photo and the sum that makes its score."""
        rows, summary = self._summed(case, case.logit)
        return {
            **summary,
            "right": case.truth == case.predicted,
            "second": self._class(case.second),
            "second_logit": number(case.second_logit),
            "rows": [{**row, "weight": signed(term.weight)} for term, row in zip(case.terms, rows, strict=True)],
        }

    def of_pair(self, case: PairCase) -> dict[str, Any]:
        """Return two classes and what separates them."""
        parts, summary = _sum([term.difference for term in case.terms], case.rest, case.n_other, case.total)
        names = [self._class(index) for index in case.classes]
        confused = [
            f"Of {counted(photos, 'photo')} of {name}, {times} {'is' if times == 1 else 'are'} taken for {other}."
            for photos, name, times, other in zip(case.photos, names, case.confused, names[::-1], strict=True)
        ]
        return {
            **summary,
            "names": names,
            "confused": confused,
            "photos": [self._whole(row) for row in case.rows if row is not None],
            "rows": [
                {
                    **self._concept(term.concept),
                    **part,
                    "weights": [signed(value) if value else "0" for value in term.weights],
                    "means": [_deviations(value) for value in term.means],
                    "maps": [self.images.overlay(row, term.concept) for row in case.rows if row is not None],
                }
                for term, part in zip(case.terms, parts, strict=True)
            ],
        }

    def of_error(self, case: ErrorCase) -> dict[str, Any]:
        """Return a wrong photo, the sum that misled, and what setting concepts to their averages changes."""
        rows, summary = self._summed(case, case.margin)
        return {
            **summary,
            "rows": [
                {**row, "without": self._without(case, term.predicted_without)}
                for term, row in zip(case.terms, rows, strict=True)
            ],
            "without_all": self._without(case, case.predicted_without_all) if len(case.terms) > 1 else None,
        }

    def confusions(self, cases: SelectedCases) -> list[dict[str, Any]]:
        """Return the commonest confusions."""
        return [
            {"truth": self._class(a), "predicted": self._class(b), "times": times, "of": self.result.classes[a].photos}
            for a, b, times in cases.confusions[:MAX_CONFUSIONS]
        ]

    def misleading(self, cases: SelectedCases) -> list[dict[str, Any]]:
        """Return the concepts that misled most often."""
        return [
            {
                **self._concept(one.concept),
                "errors": one.errors,
                "corrected": one.corrected,
                "fixed": one.fixed,
                "broken": one.broken,
            }
            for one in cases.misleading.concepts
        ]

    def _summed(self, case: PhotoCase | ErrorCase, total: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return a row for each concept of a photo's sum, and the photo with the texts before and after them."""
        (start, *parts), summary = _sum(
            [case.bias, *(term.contribution for term in case.terms)], case.rest, case.n_other, total
        )
        rows = [
            {
                **self._concept(term.concept),
                **part,
                "standardized": _deviations(term.standardized),
                "map": self.images.overlay(case.row, term.concept),
            }
            for term, part in zip(case.terms, parts, strict=True)
        ]
        return rows, {
            **summary,
            "start": start,
            "image": self.images.photo(case.row),
            "photo": self._named(case.row),
            "truth": self._class(case.truth),
            "predicted": self._class(case.predicted),
        }

    def _without(self, case: ErrorCase, predicted: int) -> dict[str, Any]:
        kind = "right" if predicted == case.truth else "still" if predicted == case.predicted else "other"
        return {"kind": kind, "name": self._class(predicted)}

    def _concept(self, concept: int) -> dict[str, Any]:
        one = self.bottleneck.concepts[concept]
        return {"concept": one.label, "part": one.part or "", "known": known_briefly(self.result.map_evidence[concept])}

    def _class(self, index: int) -> str:
        """Return the short name of a class; records and tooltips have the full one."""
        return short_names(self.bottleneck.classes)[index]

    def _named(self, row: int) -> str:
        return self.result.table.names[row]

    def _whole(self, row: int) -> dict[str, Any]:
        return {**self.images.photo(row), "photo": self._named(row)}

    def _tile(self, row: int, concept: int) -> dict[str, Any]:
        index = int(self.result.table.classes[row])
        return {**self.images.crop(row, concept), "photo": self._named(row), "of": self._class(index)}


def _sum(
    values: Sequence[float], rest: float, n_other: int, total: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return each value as a text and a bar; and the total, with the sum of `n_other` concepts as one value."""
    every = [*values, rest] if n_other > 0 else list(values)
    texts, whole = adding_up(every, total)
    parts = [{"contribution": text, "bar": bar} for text, bar in zip(texts, _bars(every), strict=True)]
    others = counted(n_other, "other concept") + (" together" if n_other > 1 else "")
    left = {**parts.pop(), "others": others} if n_other > 0 else None
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
