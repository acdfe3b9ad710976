"""Results with controls: measured here on drawn scenes, and read from the committed results of other benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.data.drawn_scene import Scene, random_scene
from conceptlens.metrics.control_maps import centre_maps, edge_maps, random_maps
from drawn_network import NAMES, SIDE
from golden_maps import Case, golden_methods

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SCENES = 60
FIRST_SCENE = 3_000_000
# What a mask chose, and so is not set beside what was not.
ORACLES = ("loce",)
METRICS = ("pointing_energy", "ranked_area_corrected", "pointing_game", "road_mean", "road_blur")
BENCHMARK_SCHEMA = "conceptlens.benchmark/1"


@dataclass(frozen=True)
class AskedScenes:
    """Scenes of several shapes, and for each one name that it shows: a colour and a kind in turn."""

    cases: list[Case]

    @property
    def masks(self) -> Tensor:
        """`masks[scene 1 row column]`."""
        return torch.stack([torch.from_numpy(case.mask) for case in self.cases])[:, None]


def asked_scenes(count: int = SCENES) -> AskedScenes:
    """Return the first scenes after `FIRST_SCENE` that show two or three shapes: one shape needs no finding."""
    cases, seed = [], FIRST_SCENE
    while len(cases) < count:
        scene = random_scene(seed, SIDE)
        if len(scene.shapes) > 1:
            cases.append(_asked(scene, len(cases)))
        seed += 1
    return AskedScenes(cases)


def _asked(scene: Scene, turn: int) -> Case:
    """Return a scene that is asked for its first shape, and what Finer-CAM holds it against: the next name."""
    first = scene.shapes[0]
    name = first.colour if turn % 2 else first.kind
    names = NAMES[:6] if turn % 2 else NAMES[6:]
    return Case(scene, name, names[(names.index(name) + 1) % len(names)])


def measure_on_scenes(model: cl.Backbone) -> dict[str, Any]:
    """Return each method's scores on drawn scenes with their intervals, and the controls that it does not beat."""
    scenes = asked_scenes()
    scored = _by_method(model, scenes)
    controls = {name: scores for name, scores in scored.items() if name.startswith("control: ") or name == "random"}
    rows = {}
    for name, scores in scored.items():
        rows[name] = {metric: _interval(scores[metric]) for metric in METRICS}
        if name not in controls:
            rows[name]["unbeaten"] = {
                metric: list(
                    cl.metrics.beats_controls(
                        scores[metric], {c: of[metric] for c, of in controls.items()}, True, comparisons=len(controls)
                    ).unbeaten
                )
                for metric in METRICS
            }
    return {"scenes": len(scenes.cases), "first_seed": FIRST_SCENE, "methods": rows}


def _by_method(model: cl.Backbone, scenes: AskedScenes) -> dict[str, dict[str, Any]]:
    """Return every method's and control's scores of each metric, by scene."""
    seen = model.observe([case.scene.image for case in scenes.cases])
    scored = cl.scored_images(seen, cl.Logit([case.asked for case in scenes.cases]))
    grid = tuple(seen.feature().shape[2:])
    names = [f"scene {place}" for place in range(len(scenes.cases))]
    maps = {
        name: torch.stack([method(model, case).maps[0].detach() for case in scenes.cases])
        for name, method in golden_methods().items()
        if name not in ORACLES
    }
    maps["control: random map"] = random_maps(names, 1, grid)
    maps["control: centre"] = centre_maps(len(names), 1, grid)
    maps["control: edges"] = edge_maps(seen.images, 1, grid)
    found = {}
    for name, of in maps.items():
        found[name] = {metric: getattr(cl.metrics, metric)(of.relu(), scenes.masks) for metric in METRICS[:3]}
        found[name] |= {f"road_{fill}": cl.metrics.road(of, scored, fill) for fill in ("mean", "blur")}
        print(name, {metric: round(float(score.mean()), 3) for metric, score in found[name].items()}, flush=True)
    return found


def _interval(score: Any) -> list[float]:
    """Return mean, low and high over the scenes where the metric is defined: a map of zeros ranks nothing."""
    known = score.applies[:, 0]
    found = cl.metrics.bootstrap_mean(score.values[known, 0].tolist(), range(int(known.sum())))
    return [round(float(value), 4) for value in (found.mean, found.low, found.high)]


# --- committed results of others


def read_result(name: str) -> dict[str, Any]:
    """Return a committed result by its file's name; empty where there is none."""
    file = RESULTS / name
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def benchmark_runs() -> list[tuple[str, dict[str, Any]]]:
    """Return every run of `conceptlens benchmark` among the committed results, with the name of its file."""
    files = sorted(RESULTS.rglob("*.json"))
    return [(str(file.relative_to(RESULTS)), run) for file in files for run in _runs_in(json.loads(file.read_text()))]


def _runs_in(value: Any) -> Iterator[dict[str, Any]]:
    """Return the runs that a JSON value holds, at any depth."""
    if isinstance(value, dict) and value.get("schema") == BENCHMARK_SCHEMA:
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _runs_in(part)


def benchmark_lines(run: dict[str, Any], rule: str) -> list[dict[str, Any]]:
    """Return the lines of a run that belong to a card, then those of its controls; none where no line does."""
    finer = rule == "finer_cam"
    own = [
        line
        for line in run["methods"]
        if not line["control"] and (" finer" in line["name"].replace("_", " ") if finer else line["name"] == rule)
    ]
    controls = [line for line in run["methods"] if line["control"]]
    return [*own, *controls] if own else []
