"""The tables of docs/finer-cam.md, from docs/results/finer_cam.json: `python benchmarks/finer_cam_tables.py`.

A test holds the page to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
DATA = {"cub-whole": "CUB-50, whole photos", "cub-box": "CUB-50, birds cut out", "nips2017": "nips2017"}
TITLES = {
    "grad_cam": "Grad-CAM", "layer_cam": "Layer-CAM", "hires_cam": "HiResCAM", "score_cam": "Score-CAM",
}  # fmt: skip
ALL, CONFUSABLE = "all", "confusable"
# Part of the study, rules whose maps are shown, and columns: metric and which photos.
TABLES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "settings": (
        ("grad_cam", "layer_cam"),
        (("RD@5 mean", ALL), ("RD@5 blur", ALL), ("RD@5 mean", CONFUSABLE), ("box energy", ALL)),
    ),
    "earlier": (
        ("hires_cam of blocks.4", "layer_cam of blocks.4"),
        (
            ("RD@5 mean", ALL),
            ("RD@5 mean", CONFUSABLE),
            ("RD@5 blur", CONFUSABLE),
            ("deletion mean", ALL),
            ("box energy", ALL),
        ),
    ),
    "chosen": (
        ("grad_cam", "layer_cam"),
        (("RD@5 mean", ALL), ("RD@5 mean", CONFUSABLE), ("RD@5 black", ALL), ("box energy", ALL)),
    ),
    "score-cam": (
        ("score_cam of blocks.6", "grad_cam of blocks.6"),
        (("RD@5 mean", ALL), ("RD@5 mean", CONFUSABLE), ("RD@5 blur", ALL), ("box energy", ALL)),
    ),
}


def table(part: str, data: str, found: dict[str, Any]) -> str:
    """Return one table: a plain map's mean, and of every other map by how much it differs from it."""
    rules, columns = TABLES[part]
    cells = {(row["map"], row["metric"], row["photos_are"]): row for row in found["rows"]}
    columns = tuple(one for one in columns if (f"{rules[0]}: plain", *one) in cells)
    photos, some = found["photos"], round(found["confusable"] * found["photos"])
    lines = [
        f"{DATA[data]}: {photos} photos, {some} of them confusable.",
        "",
        f"| Map | {' | '.join(f'{metric}, {which}' for metric, which in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for name in dict.fromkeys(row["map"] for row in found["rows"]):
        rule, setting = name.split(": ")
        if rule in rules:
            own, *layer = rule.split(" of ")
            title = f"{TITLES[own]}{''.join(f' of `{one}`' for one in layer)}"
            shown = f"**{title}**" if setting == "plain" else f"{title}, {setting}"
            lines.append(f"| {shown} | {' | '.join(_cell(cells.get((name, *one))) for one in columns)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if "less_plain" not in row:
        return f"**{row['mean']:.3f}**"
    mean, low, high = (f"{value:+.3f}".replace("-", "−") for value in row["less_plain"])
    return f"{mean} [{low}, {high}]{' ▲▼'[1 if row['less_plain'][0] > 0 else 2] if row['p_corrected'] <= 0.05 else ''}"


def tables() -> dict[str, str]:
    """Return every table by its name."""
    measured = json.loads((DOCS / "results" / "finer_cam.json").read_text("utf-8"))["tables"]
    return {name: table(*name.split(", "), found) for name, found in measured.items()}


if __name__ == "__main__":
    for name, made in tables().items():
        print(f"\n{name}\n\n{made}")
