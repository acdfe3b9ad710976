"""The tables of a card's results: drawn scenes, runs of `conceptlens benchmark`, benchmarks of concepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from card_results import METRICS, benchmark_lines, benchmark_runs, read_result
from card_texts import CardText, sentence

TITLES = {
    "pointing_energy": "Energy inside", "ranked_area_corrected": "NRA above chance", "pointing_game": "Peak inside",
    "road_mean": "ROAD, fill mean", "road_blur": "ROAD, fill blur",
}  # fmt: skip
CONTROL = "control: "
# The published ways to read concepts, and what they are to be compared with.
LOCALIZATION_CONTROLS = ("Grad-CAM of the prediction", "centre", "random", "random, *oracle* of 4")
FITS = (
    "label-free, 224", "random concepts, 224", "mse, mean", "mse, peaks of radius 1", "mse, peaks shrinking linearly",
    "parts from words, 224",
)  # fmt: skip
EMBEDDINGS = tuple(f"{layer} {mode}" for layer in ("blocks.5", "bn2") for mode in ("paper", "exact", "mean_difference"))
# Of Finer-CAM a suite has many lines; the first ones are on Grad-CAM.
LINES = 6


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        head: The titles of the columns.
        rows: The cells.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def result_tables(text: CardText, measured: dict[str, Any]) -> list[str]:
    """Return what is known of a method's results: paragraphs and tables, or that nothing was measured.

    Args:
        text: The card's words.
        measured: What `docs/results/cards.json` holds.
    """
    return [_on_scenes(text, measured["scenes"]), *_of_benchmarks(text), *_of_concepts(text)]


def scene_score(name: str, metric: str, found: dict[str, Any]) -> str:
    """Return the mean of a metric on drawn scenes, marked where it does not beat every control.

    Args:
        name: The method or control.
        metric: The metric.
        found: What was measured on drawn scenes.
    """
    scores = found["methods"][name]
    return f"{scores[metric][0]:.2f}" + ("°" if scores.get("unbeaten", {}).get(metric) else "")


def controls_of(found: dict[str, Any]) -> list[str]:
    """Return the names of the controls on drawn scenes.

    Args:
        found: What was measured on drawn scenes.
    """
    return [name for name in found["methods"] if name.startswith(CONTROL)]


def _on_scenes(text: CardText, found: dict[str, Any]) -> str:
    if text.name not in found["methods"]:
        return sentence("oracle")
    names = {text.name: f"**{text.title}**"}
    names |= {"grad_cam": "Grad-CAM"} if text.name not in ("grad_cam", "random") else {}
    names |= {name: name for name in controls_of(found)}
    names |= {"random": f"{CONTROL}random weights"} if text.name != "random" else {}
    rows = [(title, *(_scene_cell(found, name, metric) for metric in METRICS)) for name, title in names.items()]
    head = ("", *(TITLES[metric] for metric in METRICS))
    return sentence("scenes", scenes=found["scenes"]) + "\n\n" + table(head, rows)


def _scene_cell(found: dict[str, Any], name: str, metric: str) -> str:
    _, low, high = found["methods"][name][metric]
    return f"{scene_score(name, metric, found)} [{low:.2f}, {high:.2f}]"


def _score(values: Sequence[float | None]) -> str:
    mean, low, high = values
    return f"{mean:.2f}" if low is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _of_benchmarks(text: CardText) -> list[str]:
    """Return a table for each run of `conceptlens benchmark` that holds the method."""
    if text.name in ("random", "ce_fam", "loc_cbm", "loce"):
        return []
    found = [(file, run, benchmark_lines(run, text.name)) for file, run in benchmark_runs()]
    tables = [_benchmark_table(file, run, lines) for file, run, lines in found if lines]
    return tables or [sentence("no_photos")]


def _benchmark_table(file: str, run: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
    own = [line for line in lines if not line["control"]][:LINES]
    shown = [*own, *(line for line in lines if line["control"])]
    rows = []
    for place, column in enumerate(run["columns"]):
        fill = f", fill {column['fill']}" if column["fill"] else ""
        better = "higher" if column["higher_is_better"] else "lower"
        cells = (_benchmark_cell(line, place, column) for line in shown)
        rows.append([f"{column['title']}{fill} ({better} is better)", *cells])
    head = ("", *((CONTROL if line["control"] else "") + line["title"] for line in shown))
    known = {name: run[name] for name in ("photos", "data", "model", "suite")}
    return sentence("benchmark", **known, file=file) + "\n\n" + table(head, rows)


def _benchmark_cell(line: dict[str, Any], place: int, column: dict[str, Any]) -> str:
    cell = line["cells"][place]
    if cell["score"] is None:
        return "-"
    shown, gain = _score([cell["score"][name] for name in ("mean", "low", "high")]), cell["difference"]
    if gain is not None and gain["real"]:
        shown += " ▲" if gain["better"] else " ▼"
    return shown + ("°" if cell["unbeaten_controls"] and not line["control"] else "")


def _of_concepts(text: CardText) -> list[str]:
    """Return what the benchmarks of concepts say of the method."""
    makers = {"ce_fam": _localization, "loc_cbm": _bottlenecks, "loce": _embeddings}
    return [makers[text.name]()] if text.name in makers else []


def _localization() -> str:
    found = read_result("localization.json").get("val2017")
    if found is None:
        return sentence("no_photos")
    rows = [
        (row["method"], row["ranked_area_corrected"], row["right_minus_wrong"], f"{row['hit']:.2f}",
         f"{row['pointing_energy']:.2f}")
        for row in found["methods"]
        if row["method"].startswith("CE-FAM") or row["method"] in LOCALIZATION_CONTROLS
    ]  # fmt: skip
    head = ("Method", "NRA above chance", "Right less wrong concept", "Hit", "Energy inside")
    return sentence("localization", photos=found["photos"]) + "\n\n" + table(head, rows)


def _bottlenecks() -> str:
    found = read_result("loc_cbm.json")
    if not found:
        return sentence("no_photos")
    kept = {row["row"]: row for row in (*found["main"], *found["ablation"])}
    keys = ("error", "pointing", "swap")
    rows = [
        (name, *(f"{kept[name][key]:.2f} ± {kept[name][f'{key}_spread']:.2f}" for key in (*keys, "accuracy")))
        for name in FITS
    ]
    rows += [
        (CONTROL + name, *(f"{row[key]:.2f}" for key in keys), "-") for name, row in found["controls"].items()
    ]  # fmt: skip
    return sentence("bottlenecks", **found["counts"]) + "\n\n" + table(("Fit", *map(str.title, keys), "Accuracy"), rows)


def _embeddings() -> str:
    found = read_result("loce_quality.json").get("val2017, Lite0")
    if found is None:
        return sentence("no_photos")
    kept = {row["embedding"]: row for row in found["rows"]}
    rows = [
        (name, *(_score([kept[name][key], *kept[name][f"{key}_interval"]]) for key in ("precision", "transfer")),
         f"{kept[name]['selectivity']:.2f}", f"{kept[name]['iou']:.2f}")
        for name in EMBEDDINGS
    ]  # fmt: skip
    head = ("Layer and mode", "Retrieval, mAP", "Transfer, NRA above chance", "Selectivity", "Own IoU")
    return sentence("embeddings", **found["counts"]) + "\n\n" + table(head, rows)
