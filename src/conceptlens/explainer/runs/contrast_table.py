"""Contrasts as one flat table: a row for each photo, with its classes, gamma, and where the evidence lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conceptlens.explainer.explain_json import contrasted_json
from conceptlens.explainer.runs.result_table import ResultTable

if TYPE_CHECKING:
    from conceptlens.explainer.photo_result import PhotoResult

_TEXT, _NUMBER = pa.string(), pa.float64()
COLUMNS = pa.schema(
    [
        ("photo", _TEXT),
        ("model", _TEXT),
        ("target", _TEXT),
        ("target_probability", _NUMBER),
        ("predicted", _TEXT),
        ("answered", pa.bool_()),
        ("against", _TEXT),
        ("gamma", _NUMBER),
        ("margin", _NUMBER),
        ("peak_x", _NUMBER),
        ("peak_y", _NUMBER),
        ("area", _NUMBER),
        ("class_peak_x", _NUMBER),
        ("class_peak_y", _NUMBER),
        ("class_area", _NUMBER),
        ("relative_drop", _NUMBER),
        ("relative_drop_of_class", _NUMBER),
        ("layer", _TEXT),
        ("failure", _TEXT),
    ]
)


def _rows(result: PhotoResult) -> list[dict[str, Any]]:
    """Return the row of a photo, in the words of `contrasted_json`."""
    found = contrasted_json(result)
    target, predicted = found["target"] or {}, found["predicted"] or {}
    choice = found.get("choice") or {}
    return [{
        **{name: found.get(name) for name in ("model", "answered", "gamma", "margin", "layer")},
        "photo": found["image"],
        "target": target.get("name"),
        "target_probability": target.get("probability"),
        "predicted": predicted.get("name"),
        "against": " / ".join(one["name"] for one in found.get("references", ())),
        **_place("", found.get("contrast_map")),
        **_place("class_", found.get("class_map")),
        **{name: choice.get(name) for name in ("relative_drop", "relative_drop_of_class")},
        "failure": "",
    }]  # fmt: skip


def _place(start: str, found: dict[str, Any] | None) -> dict[str, Any]:
    """Return where a map peaks and how large it is; nothing where there is no map, no peak where it has no evidence."""
    if found is None:
        return {}
    across, down = found["peak"] or (None, None)
    return {f"{start}peak_x": across, f"{start}peak_y": down, f"{start}area": found["area"]}


CONTRAST_TABLE = ResultTable(COLUMNS, _rows)
