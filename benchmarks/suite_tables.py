"""Results of `conceptlens benchmark` that are committed, and the tables of docs/benchmark-results.md that show them.

`python benchmarks/suite_tables.py` writes the tables into the page; a test holds it to them. `python
benchmarks/suite_tables.py NAME RUN COMMAND` first keeps a run's numbers as `docs/results/benchmark_NAME.json`, under
the command that is given.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conceptlens.io.atomic import write_json

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmark-results.md"
# Where the page has the table of a result: a comment, a blank line, the lines of the table.
PLACE = re.compile(r"(?P<mark><!-- result: (?P<name>\w+) -->\n\n)(?:\|.*\n)*\n*")
HEAD = {"command": "conceptlens fit head --data cub:CUB_200_2011 --crop-mode squash --out-dir HEAD"}
LAYERS = "blocks.2,blocks.4,blocks.6,bn2"
EMBED = f"conceptlens embed --data coco_panoptic:COCO --layers {LAYERS} --mode MODE --min-area 0.005"
FIT = "conceptlens fit loc-cbm --data cub:CUB_200_2011 --recipe {0} {1}--crop-mode squash --cache cells --out-dir {0}"
LOCATED = "--locator-layers blocks.4,blocks.5,bn2 "


def _bottleneck(recipe: str, accuracy: float, more: str = "") -> dict[str, Any]:
    """Return how a bottleneck was fitted, and how often it was right on held-out train photos."""
    command = FIT.format(recipe, more)
    return {"command": command, "holdout_accuracy": accuracy, "concepts": 275, "train_photos": 1500}


# What a command is given that another command makes.
FITS: dict[str, Any] = {
    "loc-cbm": _bottleneck("loc-cbm", 0.725, LOCATED),
    "label-free": _bottleneck("label-free", 0.6833),
    "ridge": _bottleneck("ridge", 0.7283),
    "HEAD": HEAD,
    "STORE": {"command": f"{EMBED} --out-dir STORE", "MODE": ["mean_difference", "exact", "mean"]},
}
DROPS = ("relative_drop_5", "relative_drop_10", "deletion")
# Metrics that each table shows; where there are fills, as `mean / blur`.
TABLES: dict[str, tuple[str, ...]] = {
    "faithfulness_nips2017": (*DROPS, "insertion", "road", "average_drop"),
    "faithfulness_cub50": (*DROPS, "insertion", "road", "average_drop"),
    "finer_cam_nips2017": DROPS,
    "finer_cam_cub50": (*DROPS, "pointing_energy"),
    "ce_fam_coco": ("ranked_area_corrected", "hit", "pointing_energy", "pixel_precision", "concept_deletion"),
    "faithfulness_score_cam_cub50": ("insertion", "deletion", "road"),
    "faithfulness_rules_cub50": ("relative_drop_5", "deletion", "insertion"),
    "faithfulness_more_nips2017": (
        "sufficiency", "comprehensiveness", "infidelity", "max_sensitivity", "contrastive_class_score",
        "contrastive_group_score",
    ),
    "loce_coco": ("average_precision", "average_precision_above_chance", "precision_at_1"),
    "loc_cbm": (
        "keypoint_error", "keypoint_pointing", "keypoint_own", "keypoint_swap", "pointing_energy", "accuracy",
        "accuracy_at_peaks",
    ),
}  # fmt: skip


def keep(name: str, run: Path, command: str) -> None:
    """Write a run's numbers to the folder of results, with the command as a reader can repeat it.

    Protocols are kept under the hashes that the run's rows carry, with the command's names for model and data.
    """
    found = json.loads((run / "benchmark.json").read_text("utf-8"))
    words = shlex.split(command)
    found["command"] = command
    for one in (found, *found["protocols"].values()):
        one["model"] = "head:HEAD" if str(one["model"]).startswith("head:") else one["model"]
        one["data"] = "STORE" if "STORE" in words else one["data"]
    found["fits"] = {word: made for word, made in FITS.items() if word in words}
    write_json(DOCS / "results" / f"benchmark_{name}.json", found)


def tables() -> dict[str, str]:
    """Return every table of committed results in Markdown, by the name of the result."""
    made = {}
    for name, metrics in TABLES.items():
        file = DOCS / "results" / f"benchmark_{name}.json"
        if file.is_file():
            made[name] = table(json.loads(file.read_text("utf-8")), metrics)
    return made


def page() -> str:
    """Return the page of results with the tables of what is committed."""
    made = tables()
    return PLACE.sub(lambda place: f"{place['mark']}{made[place['name']]}\n\n", PAGE.read_text("utf-8"))


def table(found: dict[str, Any], metrics: Sequence[str]) -> str:
    """Return the table of one result: methods by metrics, controls in italics, fills one after the other."""
    fills = {one: list(dict.fromkeys(c["fill"] for c in found["columns"] if c["metric"] == one)) for one in metrics}
    titles = {column["metric"]: column for column in found["columns"]}
    arrows = [f"{titles[one]['title']} {'↑' if titles[one]['higher_is_better'] else '↓'}" for one in metrics]
    lines = [f"| | {' | '.join(arrows)} |", f"| --- |{' ---: |' * len(metrics)}"]
    rows: dict[str, list[str]] = {}  # methods whose numbers are all equal share a row
    for method in found["methods"]:
        cells = {(cell["metric"], cell["fill"]): cell for cell in method["cells"]}
        shown = " | ".join(" / ".join(_number(cells.get((one, fill))) for fill in fills[one]) for one in metrics)
        rows.setdefault(shown, []).append(f"*{method['title']}*" if method["control"] else method["title"])
    return "\n".join(lines + [f"| {'; '.join(titles)} | {shown} |" for shown, titles in rows.items()])


def _number(cell: dict[str, Any] | None) -> str:
    """Return a mean with its marks: better or worse than what it stands against, and not above every control."""
    if cell is None or cell["score"] is None or cell["score"]["mean"] is None:
        return "–"
    against = cell["difference"]
    mark = ("▲" if against["better"] else "▼") if against is not None and against["real"] else ""
    mean = f"{cell['score']['mean']:.3f}".replace("-", "−")
    return mean + mark + ("°" if cell["unbeaten_controls"] else "")


def main() -> None:
    """Keep a run where one is named, and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="what the result is called")
    parser.add_argument("run", nargs="?", type=Path, help="the folder of the run")
    parser.add_argument("command", nargs="?", help="the command, without paths of this machine")
    asked = parser.parse_args()
    if asked.command:
        keep(asked.name, asked.run, asked.command)
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
